"""A run on disk: values back bit for bit, what is lost is noticed, nobody harms anybody."""

import dataclasses
import io
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars
import pytest
import xarray

from segcam_jax import _files
from segcam_jax.methods import METHODS
from segcam_jax.outputs import Meaning
from segcam_jax.runs import open_store, results
from segcam_jax.runs.items import Items
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.store import Store
from segcam_jax.runs.table import COLUMNS, Part
from segcam_jax.types import FileError, InputError
from tests.support import stored_runs as runs


def test_runs_of_one_class_differ_by_the_threshold_that_they_use():
    one, other = (
        runs.manifest(net=runs.network(labels=("cut",), meaning=Meaning(threshold=each)))
        for each in (0.5, 0.3)
    )
    assert one.key != other.key
    assert "the network's 'meaning'" in one.difference(other)
    holds = [each.network.meaning.to_json(1) for each in (one, other)]
    assert [each["threshold"] for each in holds] == [0.5, 0.3]
    assert one.network.meaning.to_json(2)["threshold"] is None


def test_values_come_back_bit_for_bit(tmp_path):
    runs.write(tmp_path / "run.zarr")
    run = open_store(tmp_path / "run.zarr")
    assert run.taps == ("body", "input")
    assert run.methods("body") == ("grad_cam", "ablation_cam", runs.WINDOWS)
    for row in (0, 3, 7, 8):
        extent = runs.EXTENTS[row // 2]
        cells = (extent[0] // 2, extent[1] // 2)
        maps = runs.values_of(row, "map.body", (2, *cells))
        run.map(row, "body", "grad_cam")[:] = 7  # Whoever has it may change it.
        np.testing.assert_array_equal(run.map(row, "body", "grad_cam"), maps[0])
        np.testing.assert_array_equal(run.map(row, "body", "ablation_cam"), maps[1])
        np.testing.assert_array_equal(
            run.map(row, "input", "gradient"), runs.values_of(row, "map.input", (1, *extent))[0]
        )
        windows = runs.values_of(row, "windows", (3, 2))
        np.testing.assert_array_equal(run.map(row, "body", runs.WINDOWS), windows)
        weights = runs.values_of(row, "weight.body", (2, 3))
        np.testing.assert_array_equal(run.weights(row, "body", "grad_cam"), weights[0])
        assert run.weights(row, "body", "ablation_cam") is None
        assert run.weights(row, "input", "gradient") is None
        region = run.region(row)
        np.testing.assert_array_equal(region, runs.values_of(row, "region", extent) > 0)
        assert run.prediction(row).dtype == np.int16
        assert run.row(row)["score"] == float(runs.values_of(row, "score", ()))
    assert run.drops(0, "body", "grad_cam") is None
    assert run.attribution(0, "input", "gradient") is None
    assert run.image(0) is None


def test_the_table_has_a_row_for_every_target_and_fixed_columns(tmp_path):
    finished = runs.write(tmp_path / "run.zarr").finished
    table = open_store(tmp_path / "run.zarr").table
    assert table["row"].to_list() == list(range(10))
    assert dict(list(table.schema.items())[: len(COLUMNS)]) == dict(COLUMNS)
    assert table.columns[len(COLUMNS) :] == sorted(table.columns[len(COLUMNS) :])
    failed = table.filter(polars.col("error").is_not_null())
    assert failed["item"].to_list() == [2, 2]
    assert failed["extent"].to_list() == [None, None]
    # Eight rows of four maps; two programs for each of two extents.
    assert dataclasses.asdict(finished) == {
        "items": 5, "explanations": 32, "failures": 2, "programs": 4
    }  # fmt: skip


def test_xarray_opens_it_without_our_code(tmp_path):
    runs.write(tmp_path / "run.zarr")
    found = xarray.open_zarr(tmp_path / "run.zarr", group="8x8", consolidated=False)
    assert found["map.body"].dims == ("row", "method.body", "y.body", "x.body")
    assert found.sizes["row"] == 10
    one = found["map.body"].sel({"method.body": "ablation_cam"}).values
    expected = np.full((10, 4, 4), np.nan, np.float32)
    for row in (0, 1, 2, 3, 6, 7):
        expected[row] = runs.values_of(row, "map.body", (2, 4, 4))[1]
    np.testing.assert_array_equal(one, expected)
    # Rows that were not written: of a failure, and of another extent.
    np.testing.assert_array_equal(found["prediction"].values[[4, 8]], -1)
    np.testing.assert_array_equal(found["prediction"].values[[3, 7]], 1)
    assert found["region"].dtype == bool
    other = xarray.open_zarr(tmp_path / "run.zarr", group="4x6", consolidated=False)
    np.testing.assert_array_equal(np.isfinite(other["score"].values), np.arange(10) >= 8)


def test_the_same_bytes_in_any_order_of_shards_and_blocks(tmp_path):
    runs.write(tmp_path / "one")
    with Store.create(tmp_path / "other", runs.manifest()) as store:
        assert store.finish() is None
        store.write(2, runs.blocks(2), runs.rows(2))
    with Store.create(tmp_path / "other", runs.manifest()) as store:
        for shard in (1, 0):
            blocks = runs.blocks(shard, one_by_one=True)
            store.write(shard, blocks[::-1], runs.rows(shard)[::-1])
        assert store.finish() is not None
    assert runs.contents(tmp_path / "one") == runs.contents(tmp_path / "other")


def test_a_tap_with_slashes_is_no_group(tmp_path):
    value = np.ones((4, 1, 2, 2), np.float32)
    axes = ("row", "method.a/b", "y.a/b", "x.a/b")
    variable = runs.Variable("map.a/b", axes, value, {"tap": "a/b", "methods": ["grad_cam"]})
    with Store.create(tmp_path / "run.zarr", runs.manifest(items=2)) as store:
        store.write(0, [runs.Block("8x8", np.arange(4), (variable,))], runs.rows(0))
    run = open_store(tmp_path / "run.zarr")
    assert run.taps == ("a/b",)
    np.testing.assert_array_equal(run.map(3, "a/b", "grad_cam"), value[0, 0])
    found = xarray.open_zarr(tmp_path / "run.zarr", group="8x8", consolidated=False)
    (name,) = found.data_vars
    assert found[name].sizes["row"] == 4
    assert found[name].coords["method.a%2Fb"].values.tolist() == ["grad_cam"]


def test_images_of_another_extent_may_have_other_layers(tmp_path):
    run = open_store(runs.write_uneven(tmp_path / "run.zarr"))
    assert run.taps == ("body", "input", "neck")
    assert run.methods("neck") == ("grad_cam", "ablation_cam", runs.WINDOWS)
    for row, tap, cells in ((0, "body", (4, 4)), (9, "neck", (2, 3))):
        expected = runs.values_of(row, "map.body", (2, *cells))[1]
        np.testing.assert_array_equal(run.map(row, tap, "ablation_cam"), expected)
        expected = runs.values_of(row, "weight.body", (2, 3))[0]
        np.testing.assert_array_equal(run.weights(row, tap, "grad_cam"), expected)
        assert run.drops(row, tap, "grad_cam") is None
    assert [run.has_map(row, "neck", "grad_cam") for row in (0, 4, 9)] == [False, False, True]
    for read in (run.map, run.weights, run.drops):
        with pytest.raises(
            InputError, match=r"4x6\) has no map by grad_cam at body; it has grad.* at neck"
        ):
            read(9, "body", "grad_cam")
        with pytest.raises(
            InputError, match=r"8x8\) has no map by grad_cam at neck; it has grad.* at body"
        ):
            read(0, "neck", "grad_cam")


def test_a_run_is_read_while_it_is_written(tmp_path, monkeypatch):
    """A part that is being written is none, nor is one that was removed in this moment."""
    runs.write(tmp_path)
    part = tmp_path / "items" / "00001.parquet"
    part.with_name(".0a1b2c3d.00001.parquet").write_bytes(part.read_bytes()[:99])
    assert open_store(tmp_path).table["row"].to_list() == [*range(10)]
    part.unlink()
    listed = Path.glob

    def glob(folder, pattern):
        return [*listed(folder, pattern), *([part] if folder == part.parent else [])]

    monkeypatch.setattr(Path, "glob", glob)
    run = open_store(tmp_path)
    assert run.table["row"].to_list() == [0, 1, 2, 3, 8, 9]
    with pytest.raises(InputError, match="row 6 is not computed yet"):
        run.map(6, "body", "grad_cam")


def test_an_image_has_one_name_while_a_run_is_written(tmp_path):
    """Shards of several processes end in any order; the third of three cats is never the first."""
    items = Items(["a/cat.png", "b/cat.png", "b/dog.png", "c/Cat.png", "d/cat.png"])
    names = ["cat", "cat-2", "dog", "Cat-3", "cat-4"]
    for shards in ((1,), (1, 2), (1, 2, 0)):
        for item in [items[number] for number in (2 * shards[-1], min(2 * shards[-1] + 1, 4))]:
            row = results.failed_row(item, 1, Failure("it is gone"))
            assert (row["item"], row["name"]) == (item.index, names[item.index])
        folder = tmp_path / "".join(map(str, shards))
        with Store.create(folder, runs.manifest()) as store:
            for shard in shards:
                there = [{**row, "name": names[row["item"]]} for row in runs.rows(shard)]
                store.write(shard, runs.blocks(shard), there)
        known = sorted({row["item"] for shard in shards for row in runs.rows(shard)})
        assert open_store(folder).names == {item: names[item] for item in known}
    runs.write(tmp_path / "old", finish=False)  # Of a version that did not say them.
    assert open_store(tmp_path / "old").names[4] == "image4"


def test_many_equal_names_are_numbered():
    names = _files.unique_names(["image"] * 100_000 + ["IMAGE", "image-7"], ["image-2"])
    assert names[:3] == ["image", "image-3", "image-4"]
    assert names[-3:] == ["image-100001", "IMAGE-100002", "image-7-2"]


def test_a_stored_image_belongs_to_its_item(tmp_path):
    pixels = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    image = runs.Variable("image", ("item", "y", "x", "c"), pixels)
    with Store.create(tmp_path / "run.zarr", runs.manifest()) as store:
        store.write(0, [runs.Block("8x8", np.arange(2), (image,))], runs.rows(0))
    run = open_store(tmp_path / "run.zarr")
    np.testing.assert_array_equal(run.image(1), pixels[1])
    assert run.image(3) is None


def test_a_shard_is_finished_if_its_files_are_those_of_now(tmp_path):
    runs.write(tmp_path, finish=False)
    store = Store.create(tmp_path, runs.manifest())
    assert all(store.finished(shard, runs.files(shard)) for shard in range(3))
    first, second = runs.files(0)
    for changed in (
        [first, dataclasses.replace(second, mtime_ns=124)],
        [dataclasses.replace(first, size=8), second],
        [second, first],
        [first, dataclasses.replace(second, size=None, mtime_ns=None)],
    ):
        assert not store.finished(0, changed)
    digests = {file.path: f"{number}" * 64 for number, file in enumerate(runs.files(0))}
    assert store.finished(0, runs.files(0), digest=lambda file: digests[file.path])
    assert not store.finished(0, runs.files(0), digest=lambda file: "0" * 64)
    store.close()


def test_what_is_lost_or_cut_off_is_noticed_and_made_again(tmp_path):
    runs.write(tmp_path)
    whole = runs.contents(tmp_path)
    store = Store.create(tmp_path, runs.manifest())
    objects = [name for name in whole if "/c/" in name and name.split("/c/")[1][0] == "0"]
    assert len(objects) == 11  # Seven arrays, and the coordinates of two extents.
    broken = ["items/00000.parquet", *(name for name in objects if "method" not in name)]
    for name in broken:
        for cut in (None, len(whole[name]) // 2):
            assert store.finished(0, runs.files(0))
            if cut is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_bytes(whole[name][:cut])
            assert not store.finished(0, runs.files(0)), name
            if cut or not name.startswith("items"):
                with pytest.raises(InputError, match="cut off; the same command computes it"):
                    open_store(tmp_path).map(0, "body", "grad_cam")
            store.write(0, runs.blocks(0), runs.rows(0))
    assert store.finish() is not None
    store.close()
    assert runs.contents(tmp_path) == whole


def test_no_damaged_table_reaches_its_decoder(monkeypatch):
    """Which aborts the process on some, and reads other numbers of others."""
    rows = [{"row": row, "item": row, "path": f"{row}.png", "score": row / 3} for row in range(5)]
    data = Part.of(rows, {"one": 1}, {"one": 7}).encode()
    whole = Part.decode(data)
    assert whole is not None
    assert whole.table["score"].to_list() == [row / 3 for row in range(5)]
    assert (whole.objects, whole.checksums) == ({"one": 1}, {"one": 7})
    monkeypatch.setattr("polars.read_parquet", lambda *_: pytest.fail("it was read"))
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert Part.decode(bytes(changed)) is None, place


def test_a_table_of_before_checksums_is_read(monkeypatch):
    rows = [{"row": 0, "item": 0, "path": "a.png", "score": 0.5}]
    stream = io.BytesIO()
    Part.of(rows, {}, {}).table.write_parquet(stream, metadata={"objects": "{}"})
    old = Part.decode(stream.getvalue())
    assert old is not None
    assert old.table["score"].to_list() == [0.5]


def test_bytes_that_changed_inside_an_object_are_noticed_when_asked(tmp_path):
    runs.write(tmp_path)
    digests = {file.path: f"{number}" * 64 for number, file in enumerate(runs.files(0))}
    there = runs.contents(tmp_path)
    with Store.create(tmp_path, runs.manifest()) as store:
        name = next(name for name in there if "map.body/c/0" in name)
        data = bytearray(there[name])
        data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data)
        assert store.finished(0, runs.files(0))
        assert not store.finished(0, runs.files(0), digest=lambda file: digests[file.path])
        store.write(0, runs.blocks(0), runs.rows(0))
        assert store.finished(0, runs.files(0), digest=lambda file: digests[file.path])
        store.finish()
    assert runs.contents(tmp_path) == there


def test_a_finished_run_of_which_something_is_made_again_is_not_finished(tmp_path):
    runs.write(tmp_path)
    with Store.create(tmp_path, runs.manifest()) as store:
        assert store.manifest.finished is not None
        store.write(0, runs.blocks(0), later(runs.rows(0)))
        assert open_store(tmp_path).manifest.finished is None
        store.finish()
    assert open_store(tmp_path).manifest.finished.items == 5


def test_maps_of_rows_that_failed_are_none(tmp_path):
    """A map that does not fit into the stored type has numbers in the table, and an error."""
    with Store.create(tmp_path, runs.manifest(items=2)) as store:
        rows = runs.rows(0)
        rows[1] |= {"error": "grad_cam at body overflowed float16"}
        store.write(0, runs.blocks(0), rows)
        finished = store.finish().finished
    assert (finished.explanations, finished.failures) == (3 * 4, 1)


def later(rows):
    """The rows of files that were written again."""
    return [{**row, "mtime_ns": 124} for row in rows]


@pytest.fixture
def behind(tmp_path):
    """A store that was opened before another process finished the run."""
    store = Store.create(tmp_path, runs.manifest())
    runs.write(tmp_path)
    yield store
    store.close()


def killed(*_):
    raise RuntimeError("killed")


def test_what_another_process_has_finished_meanwhile_stays(tmp_path, behind, monkeypatch):
    before = runs.contents(tmp_path)
    monkeypatch.setattr(Store, "_encode", killed)
    for shard in range(3):
        behind.write(shard, runs.blocks(shard), runs.rows(shard))
    assert runs.contents(tmp_path) == before


@pytest.mark.parametrize("change", [{"mtime_ns": 124}, {"sha256": "0" * 64}])
def test_a_run_that_another_process_has_finished_is_not_while_a_shard_is_replaced(
    tmp_path, behind, monkeypatch, change
):
    rows = [{**row, **change} for row in runs.rows(0)]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_encode", killed)
        with pytest.raises(RuntimeError, match="killed"):
            behind.write(0, runs.blocks(0), rows)
    run = open_store(tmp_path)
    assert run.manifest.finished is None
    assert run.table["row"].to_list() == [*range(4, 10)]
    behind.write(0, runs.blocks(0), rows)
    behind.finish()
    assert open_store(tmp_path).manifest.finished.explanations == 32


def test_nothing_is_left_of_an_earlier_version_of_a_shard(tmp_path):
    """Of images that had other extents, and of an array in which it has no values now."""
    one = runs.blocks(0)
    other = [
        runs.Block("4x6", np.arange(2), runs.variables(range(2), (4, 6))),
        runs.Block("6x6", np.arange(2, 4), runs.variables(range(2, 4), (6, 6))),
    ]
    empty = dataclasses.replace(one[0], variables=tuple(map(emptied, one[0].variables)))
    (tmp_path / "one").mkdir()
    for folder, versions in (("one", [other, one, [empty]]), ("new", [[empty]])):
        with Store.create(tmp_path / folder, runs.manifest()) as store:
            for time, blocks in enumerate(versions, 125 - len(versions)):
                rows = [{**row, "mtime_ns": time} for row in runs.rows(0)]
                store.write(0, blocks, rows)
            for shard in (1, 2):
                store.write(shard, runs.blocks(shard), runs.rows(shard))
            store.finish()
    assert runs.contents(tmp_path / "one") == runs.contents(tmp_path / "new")
    assert not (tmp_path / "one" / "6x6").exists()
    found = xarray.open_zarr(tmp_path / "one", group="4x6", consolidated=False)
    np.testing.assert_array_equal(np.isfinite(found["score"].values), np.arange(10) >= 8)
    assert found["method.body"].values.tolist() == ["grad_cam", "ablation_cam"]


def test_arrays_of_an_extent_without_images_stay_while_others_write(tmp_path):
    other = [runs.Block("6x6", np.arange(4), runs.variables(range(4), (6, 6)))]
    with Store.create(tmp_path, runs.manifest(items=2)) as store:
        store.write(0, other, runs.rows(0))
        store.write(0, runs.blocks(0), later(runs.rows(0)))
        with Store.create(tmp_path, runs.manifest(items=2)) as second:
            store.finish()
            assert (tmp_path / "6x6").exists()
            # Both have kept their locks.
            with pytest.raises(InputError, match="is being written by another process"):
                Store.create(tmp_path, runs.manifest(items=2), overwrite=True)
            second.write(0, other, runs.rows(0))
        store.finish()
        assert not (tmp_path / "8x8").exists()
        store.write(0, runs.blocks(0), later(runs.rows(0)))
        store.finish()
    assert not (tmp_path / "6x6").exists()
    np.testing.assert_array_equal(
        open_store(tmp_path).map(3, "body", "grad_cam"), runs.values_of(3, "map.body", (2, 4, 4))[0]
    )


def emptied(variable):
    """All False, if it is boolean."""
    if variable.values.dtype != bool:
        return variable
    return dataclasses.replace(variable, values=np.zeros_like(variable.values))


def other_version():
    return dataclasses.replace(runs.manifest(), version="0.3.9")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            lambda: runs.manifest({"tap": ["body"], "seed": 1}),
            "the option 'seed' is 0 there, and 1",
        ),
        (
            lambda: runs.manifest({"tap": ["body"], "seed": 0, "of": "probabilities"}),
            "the option 'of' is null there, and \"probabilities\" here",
        ),
        (lambda: runs.manifest(net=runs.network(sha256="cd" * 32)), "the digest of the weights is"),
        (lambda: runs.manifest(net=runs.network(labels=("a", "b"))), "the network's 'labels' is"),
        (lambda: runs.manifest(items=6), "the number of images is 5 there, and 6 here"),
        (
            lambda: runs.manifest(digest="others"),
            "the digest of the list of images, masks and truths is",
        ),
        (other_version, "the version of segcam_jax is"),
    ],
)
def test_another_run_is_refused_and_nothing_touched(tmp_path, other, said):
    runs.write(tmp_path, shards=(0,), finish=False)
    (tmp_path / ".0123abcd.left").write_bytes(b"")
    before = runs.contents(tmp_path)
    with pytest.raises(InputError, match=f"holds another run: {said}.*--overwrite"):
        Store.create(tmp_path, other())
    assert runs.contents(tmp_path) == before
    Store.create(tmp_path, other(), overwrite=True).close()
    assert set(runs.contents(tmp_path)) == {"manifest.json"}


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        Store.create(tmp_path / "file", runs.manifest())
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds 'file' and is not a run"):
            Store.create(tmp_path, runs.manifest(), overwrite=overwrite)
    assert os.listdir(tmp_path) == ["file"]
    for path, said in (("file", "is a file"), ("none", "does not exist"), (".", "is not a run")):
        with pytest.raises(InputError, match=said):
            open_store(tmp_path / path)
    runs.write(tmp_path / "inside")
    with pytest.raises(InputError, match="give the run in it, '.*inside'"):
        open_store(tmp_path)


def test_without_locks_nothing_is_taken_for_left_over(tmp_path, monkeypatch):
    """Some file systems have none: whoever writes there may be alive."""
    monkeypatch.setattr("segcam_jax.runs.folder._lock", lambda folder: None)
    runs.write(tmp_path / "run.zarr")
    (tmp_path / "run.zarr" / ".0123abcd.left").write_bytes(b"")
    runs.write(tmp_path / "run.zarr")
    assert (tmp_path / "run.zarr" / ".0123abcd.left").exists()
    with pytest.raises(InputError, match="holds another run"):
        Store.create(tmp_path / "run.zarr", runs.manifest(digest="others"))


def test_overwriting_leaves_the_files_of_others(tmp_path):
    runs.write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "12x12").mkdir()
    (tmp_path / "12x12" / "mine.png").write_text("mine")
    Store.create(tmp_path, runs.manifest(), overwrite=True).close()
    assert set(runs.contents(tmp_path)) == {"manifest.json", "notes.txt", "12x12/mine.png"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m | {"formt": 1}, "has the unknown key 'formt'"),
        (lambda m: m | {"source": m["source"] | {"itms": 1}}, "has the unknown key 'source.itms'"),
        (
            lambda m: m | {"source": m["source"] | {"items": "5"}},
            "has '5' for 'source.items', which takes a whole number",
        ),
        (lambda m: m | {"targets": 1.5, "seed": 1}, "'targets', which .* number; it has the unkn"),
        (lambda m: m | {"format": 2}, "of form 2, which another version"),
        (
            lambda m: {k: v for k, v in m.items() if k != "network"},
            "lacks the key 'network'",
        ),
        (lambda m: [], "does not belong to a run"),
    ],
)
def test_a_manifest_is_checked_as_a_whole(tmp_path, change, said):
    runs.write(tmp_path)
    file = tmp_path / "manifest.json"
    assert open_store(tmp_path).manifest.network == runs.network()
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=said):
        open_store(tmp_path)
    file.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        Store.create(tmp_path, runs.manifest())


def test_which_methods_weigh_channels_is_told_or_refused(tmp_path):
    runs.write(tmp_path)
    stored = open_store(tmp_path)
    weighs = {(tap, m) for tap in stored.taps for m in METHODS if stored.has_weights(tap, m)}
    assert weighs == {("body", "grad_cam")}
    file = tmp_path / "8x8" / "weight.body" / "zarr.json"
    file.write_text(file.read_text().replace('"weighing": [\n', '"weighing": 3, "else": [\n'))
    with pytest.raises(InputError, match="changed by hand: Expected `array`.*weighing`"):
        open_store(tmp_path).has_weights("body", "grad_cam")


def test_rows_that_are_not_there_say_why(tmp_path):
    runs.write(tmp_path, shards=(0, 1), finish=False)
    run = open_store(tmp_path)
    with pytest.raises(InputError, match="row 8 is not computed yet"):
        run.map(8, "body", "grad_cam")
    with pytest.raises(InputError, match="row 10 is none of 0 to 9"):
        run.row(10)
    with pytest.raises(
        InputError, match=r"row 4 \(image2.npy\) has no results: it is not an image"
    ):
        run.map(4, "body", "grad_cam")
    with pytest.raises(InputError, match="no maps at 'bodi'; it has body, input"):
        run.map(0, "bodi", "grad_cam")
    with pytest.raises(InputError, match="no 'gradcam' at body; it has grad_cam"):
        run.map(0, "body", "gradcam")


CHILD = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, {tests!r})
    from tests.support import stored_runs as runs
    from segcam_jax.runs.store import Store

    print("here", flush=True)
    sys.stdin.readline()
    store = Store.create({folder!r}, runs.manifest())
    for shard in (2, 1, 0):
        store.write(shard, runs.blocks(shard), runs.rows(shard))
    store.finish()
    print("done", flush=True)
    sys.stdin.readline()
""")


def test_two_processes_write_one_run(tmp_path):
    """Both write all of it at once; while one lives, the other's half-written files stay."""
    folder = tmp_path / "run.zarr"
    code = CHILD.format(tests=str(Path(__file__).parents[2]), folder=str(folder))
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "here\n"
        print("", file=child.stdin, flush=True)
        for _ in range(3):
            runs.write(folder, shards=(0, 1, 2))
        assert child.stdout.readline() == "done\n"
        left = folder / "8x8" / "map.body" / "c" / ".0123abcd.1"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
        Store.create(folder, runs.manifest()).close()
        assert left.exists()
        with pytest.raises(InputError, match="is being written by another process"):
            Store.create(folder, runs.manifest(), overwrite=True)
        with pytest.raises(InputError, match="written by another process; wait until it ends"):
            Store.create(folder, runs.manifest(), single=True)
        child.kill()
    Store.create(folder, runs.manifest(), single=True).close()
    Store.create(folder, runs.manifest()).close()
    assert not left.exists()
    runs.write(tmp_path / "alone")
    assert runs.contents(folder) == runs.contents(tmp_path / "alone")


def test_a_full_disk_is_one_line_and_nothing_is_finished(tmp_path):
    """The kernel refuses to write files beyond a size, as it does on a disk that is full."""
    big = np.random.default_rng(0).normal(size=(4, 1, 200, 200)).astype(np.float32)
    axes = ("row", "method.body", "y.body", "x.body")
    variable = runs.Variable("map.body", axes, big, {"tap": "body", "methods": ["grad_cam"]})
    blocks = [runs.Block("8x8", np.arange(4), (variable,))]
    store = Store.create(tmp_path, runs.manifest(items=2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(FileError, match="cannot be written: File too large") as found:
            store.write(0, blocks, runs.rows(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(found.value)
    assert not store.finished(0, runs.files(0))
    assert not [name for name in runs.contents(tmp_path) if "/." in name]
    store.write(0, blocks, runs.rows(0))
    assert store.finished(0, runs.files(0))
    store.close()
    np.testing.assert_array_equal(open_store(tmp_path).map(2, "body", "grad_cam"), big[2, 0])
