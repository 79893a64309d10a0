"""Runs of many images: what is stored is what single calls give, whatever was interrupted."""

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import polars
import pytest
from PIL import Image

import segcam_jax as segcam
from segcam_jax import engine
from segcam_jax.cli import main
from segcam_jax.engine import many_images
from segcam_jax.engine.devices import local_mesh
from segcam_jax.networks.image_inputs import ImageForm, read_sample
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec
from segcam_jax.reports import processes
from segcam_jax.reports.export import export
from segcam_jax.runs import cost, open_store, results
from segcam_jax.runs.items import check_apart, files_in, list_items
from segcam_jax.runs.programs import ImageKernel, batches
from segcam_jax.runs.reading import Failure, read_ahead
from segcam_jax.runs.store import Store
from segcam_jax.runs.table import part_file
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError
from tests.support.kills import survives

MODEL = '''
import jax, jax.numpy as jnp, numpy as np
import segcam_jax as segcam

def make():
    """A small network of four classes with a bottleneck at half the resolution."""
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(3, 3, 1, 6)), jnp.float32)
    last = jnp.asarray(rng.normal(size=(3, 3, 6, 4)), jnp.float32)

    def convolve(x, kernel, stride):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x[None], kernel, (stride, stride), "SAME", dimension_numbers=numbers
        )[0]

    def fn(params, x):
        hidden = segcam.tap(jax.nn.relu(convolve(x - 0.5, params[0], 2)), "hidden")
        wide = jax.image.resize(hidden, (*x.shape[:2], 6), "nearest")
        return convolve(segcam.tap(wide, "wide"), params[1], 1)

    return fn, [first, last]
'''
METHODS = ("grad_cam", "layer_cam", "ablation_cam", "gradient")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images of two extents and one that is broken, and a network of one's own."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    (folder / "images").mkdir()
    for index in range(9):
        extent = (16, 16) if index % 3 else (12, 20)
        pixels = rng.integers(0, 255, extent).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index:02}.png")
    (folder / "images" / "04.png").write_bytes(b"no image")
    (folder / "own.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        # A network is known by the user's modules, of the current folder too: not by these tests.
        patch.chdir(folder)
        yield folder


def sweep(place, out, *words, images="images", code=3):
    """Runs the command with all methods at both layers, and checks its exit code."""
    given = ["sweep", str(place / images), "--weights", f"{place / 'own.py'}:make"]
    given += ["--tap", "all", "--method", *METHODS, "--shard", "4", "--out", str(out), *words]
    assert main(given) == code
    return out


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    return sweep(place, tmp_path_factory.mktemp("out") / "run.zarr")


def files_of(store):
    """All that a store holds, by name."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def test_stored_maps_are_those_of_single_calls(place, run):
    """Every method at every layer, windows of ablations and batches included."""
    network = open_network(NetworkSpec.parse(f"{place / 'own.py'}:make"))
    stored = open_store(run)
    rows = [row for row in stored.table.iter_rows(named=True) if row["error"] is None]
    assert len(rows) == 8
    for row in rows[:3]:
        sample = read_sample(Path(row["path"]), ImageForm.of(network, "crop"))
        shape = sample.padded.shape
        output = network.logits(sample.padded)
        labels = output.argmax(-1)
        ranked = [k for k in np.bincount(labels.ravel(), minlength=4).argsort()[::-1] if k != 0]
        assert row["class_index"] == ranked[0]
        target = segcam.targets.region(row["class_index"], labels == row["class_index"])
        for method in METHODS:
            for tap in ("input",) if method == "gradient" else ("hidden", "wide"):
                split = network.split(tap, shape)
                function = segcam.methods.METHODS[method].function
                found = function(split, network.params, sample.padded, target)
                kept = stored.map(row["row"], tap, method)
                scale = np.abs(found.map).max()
                np.testing.assert_allclose(kept, found.map, atol=2e-5 * scale)
                if found.weights is not None:
                    weights = stored.weights(row["row"], tap, method)
                    np.testing.assert_allclose(
                        weights, found.weights, atol=2e-5 * np.abs(found.weights).max()
                    )
                assert row[f"{method}.{tap}.max"] == pytest.approx(kept.max(), rel=1e-6)
        assert row["score"] == pytest.approx(float(found.score), rel=1e-4)
        np.testing.assert_array_equal(stored.region(row["row"]), labels == row["class_index"])
        np.testing.assert_array_equal(stored.prediction(row["row"]), labels)


def test_aug_smooth_is_the_mean_of_six_heatmaps(place, tmp_path, capsys):
    """By the command, a repetition from its manifest too, against single calls of the methods."""
    out, methods = tmp_path / "out", ("grad_cam", "ablation_cam")
    images = [str(place / "images" / f"{index:02}.png") for index in (0, 1)]
    words = ["explain", *images, "--weights", f"{place / 'own.py'}:make", "--tap", "hidden"]
    words += ["--method", *methods, "--option", "aug_smooth=true", "--no-figures"]
    counts = []
    for given in (words[:-3] + words[-1:], words):
        assert main([*given, "--dry-run"]) == 0
        counts.append([int(n) for n in re.findall(r"│ +(\d+) │ ", capsys.readouterr().out)])
    assert len(counts[0]) == 2
    assert counts[1] == [6 * count for count in counts[0]]
    assert main([*words, "--out", str(out)]) == 0
    network = open_network(NetworkSpec.parse(f"{place / 'own.py'}:make"))
    for row in open_store(out).table.to_dicts():
        x = read_sample(Path(row["path"]), ImageForm.of(network, "crop")).padded
        region = network.logits(x).argmax(-1) == row["class_index"]
        split = network.split("hidden", x.shape)
        for name in methods:
            function, maps = segcam.methods.METHODS[name].function, []
            for factor in (0.9, 1.0, 1.1):
                for step in (1, -1):
                    target = segcam.targets.region(row["class_index"], region[:, ::step])
                    found = function(split, network.params, x[:, ::step] * factor, target)
                    heat = segcam.heatmap(found.map, x.shape[:2], "pytorch_grad_cam")
                    maps.append(heat[:, ::step])
                    if (factor, step) == (1.0, 1):
                        assert row["score"] == pytest.approx(float(found.score), rel=1e-4)
            kept = open_store(out).map(row["row"], "hidden", name)
            np.testing.assert_allclose(kept, np.mean(maps, 0), atol=1e-4)
            assert np.abs(kept - maps[2]).max() > 0.05
    again = tmp_path / "again"
    assert main(["explain", "--config", str(out), "--out", str(again), "--no-figures"]) == 0
    for path in sorted(out.rglob("*.npy")):
        np.testing.assert_array_equal(np.load(again / path.relative_to(out)), np.load(path))


OPENED: list[str] | None = None


def _note_opened(event, arguments):
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | os.PathLike):
        OPENED.append(os.fspath(arguments[0]))


@pytest.fixture(scope="module")
def audited():
    """Python tells every file that is opened, in whichever way; a hook cannot be taken away."""
    sys.addaudithook(_note_opened)


@pytest.mark.parametrize("command", ["sweep", "explain"])
def test_each_image_file_is_opened_once(place, tmp_path, monkeypatch, audited, command):
    """Of several shards and extents, one that is broken among them; of a finished run the first."""
    images = [str(place / "images" / f"{n:02}.png") for n in (0, 1, 4, 3, 2)]
    given = [command, *images, "--weights", f"{place / 'own.py'}:make", "--method", "grad_cam"]
    given += ["--shard", "2", "--out", str(tmp_path / "run.zarr")]
    for known in (images, images[:1]):
        opened: list[str] = []
        monkeypatch.setitem(globals(), "OPENED", opened)
        assert main(given) == 3
        monkeypatch.setitem(globals(), "OPENED", None)
        assert sorted(each for each in opened if each in images) == sorted(known)


def test_a_broken_image_is_a_row(run):
    (row,) = [row for row in open_store(run).table.iter_rows(named=True) if row["error"]]
    assert row["path"].endswith("04.png")
    assert row["item"] == 4
    assert "not an image file that can be read" in row["error"]


def test_a_finished_run_computes_nothing_again(place, run, monkeypatch, capsys):
    before = files_of(run)
    monkeypatch.setattr(engine, "explain_together", None)
    sweep(place, run)
    assert files_of(run) == before
    assert "9 finished before" in capsys.readouterr().out


def test_a_shard_of_changed_files_is_made_again(place, run, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(place / "images", copy)
    given = ["--weights", f"{place / 'own.py'}:make", "--shard", "4"]
    out = tmp_path / "run.zarr"
    assert main(["sweep", str(copy), *given, "--out", str(out)]) == 3
    before = files_of(out)
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(copy / "05.png")
    assert main(["sweep", str(copy), *given, "--out", str(out)]) == 3
    after = files_of(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert "items/00001.parquet" in changed
    assert all("/c/1" in name or name == "items/00001.parquet" for name in changed), changed


def test_shares_make_the_store_of_one_process(place, run, tmp_path):
    out = tmp_path / "run.zarr"
    # The broken image, item 4, is of the second shard; the last share finishes the run. A share
    # that runs again, with nothing to compute, says the same.
    for share, code in (("2/3", 3), ("2/3", 3), ("1/3", 0), ("1/3", 0), ("3/3", 3)):
        given = ["sweep", str(place / "images"), "--weights", f"{place / 'own.py'}:make"]
        given += ["--tap", "all", "--method", *METHODS, "--shard", "4", "--share", share]
        assert main([*given, "--out", str(out)]) == code
    assert files_of(out) == files_of(run)


@pytest.mark.parametrize(("often", "code"), [(1, 0), (9, 2)])
def test_a_shard_that_another_process_writes_again_is_no_error(
    place, tmp_path, monkeypatch, capsys, often, code
):
    """A process that writes a shard again has removed it when this one looks, once or always."""
    looks, finish = [], Store.finish

    def removed(store):
        if len(looks) < often:
            part_file(store.path, 1).unlink()
        looks.append(store)
        return finish(store)

    given = ["sweep", f"{place}/images/00.png", f"{place}/images/03.png", "--shard", "1"]
    given += ["--method", "gradient", "--weights", f"{place / 'own.py'}:make"]
    assert main([*given, "--out", str(tmp_path / "alone")]) == 0
    monkeypatch.setattr(Store, "finish", removed)
    assert main([*given, "--out", str(tmp_path / "run")]) == code
    if code == 0:
        assert len(looks) == 2
        assert files_of(tmp_path / "run") == files_of(tmp_path / "alone")
    else:
        assert "lacks shards that this process computed 4 times" in capsys.readouterr().err


@pytest.mark.parametrize("delay", [0.0, 0.6])
def test_a_killed_run_goes_on_to_the_same_bytes(place, run, tmp_path, delay):
    """Killed a moment after its first file; the same command ends with the same store."""
    out = tmp_path / "run.zarr"
    given = ["sweep", str(place / "images"), "--weights", f"{place / 'own.py'}:make"]
    given += ["--tap", "all", "--method", *METHODS, "--shard", "4", "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "segcam_jax", *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / "manifest.json").exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (out / ".0badcafe.manifest.json").write_bytes(b"half")
    sweep(place, out)
    assert files_of(out) == files_of(run)


def test_a_killed_explain_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    """Killed while it draws; the same command ends with the same folder, figures and all.

    One process draws what two draw elsewhere.
    """
    files = [str(place / "images" / f"{index:02}.png") for index in (0, 1, 2, 4)]
    given = ["explain", *files, "--weights", f"{place / 'own.py'}:make"]
    given += ["--method", "grad_cam", "--shard", "2", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    with monkeypatch.context() as two:
        two.setattr(processes, "_cores", lambda: 2)
        two.setattr(processes, "FIGURES", 3)
        assert main([*given, str(whole)]) == 3
    child = subprocess.Popen(
        [sys.executable, "-m", "segcam_jax", *given, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / "01" / "montage.png").exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    drawn = (out / "00" / "montage.png").stat().st_mtime_ns
    (out / "02").mkdir(exist_ok=True)
    (out / "02" / ".0badcafe.montage.png").write_bytes(b"half")
    assert main([*given, str(out)]) == 3
    assert files_of(out) == files_of(whole)
    assert (out / "00" / "montage.png").stat().st_mtime_ns == drawn


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kills"), [("sweep", 50), ("explain", 10)])
def test_kills_at_random_moments_change_no_byte(place, tmp_path, command, kills):
    """The same command resumes after each, and leaves no temporary file."""
    given = [sys.executable, "-m", "segcam_jax", command, str(place / "images")]
    given += ["--weights", f"{place / 'own.py'}:make", "--method", "grad_cam", "--shard", "2"]
    survives([*given, "--out"], tmp_path, files_of, kills=kills, code=3)


def test_options_come_from_a_file_or_a_manifest(place, run, tmp_path):
    config = tmp_path / "study.toml"
    # `model` is what an older version wrote.
    words = [f'model = "{place / "own.py"}:make"', 'tap = "all"', "shard = 4"]
    words += [f"method = {json.dumps(METHODS)}"]
    config.write_text("\n".join(words))
    for number, source in enumerate((config, run)):
        out = tmp_path / f"{number}.zarr"
        images = str(place / "images")
        assert main(["sweep", images, "--config", str(source), "--out", str(out)]) == 3
        assert files_of(out) == files_of(run)


def test_a_list_says_what_is_explained_of_each_image(place, tmp_path):
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    images = place / "images"
    rows = ["image,class,mask", f"{images / '01.png'},2,{tmp_path / 'mask.png'}"]
    # Lines that are empty, and rows without a word, are skipped.
    rows += ["", f"{images / '02.png'},1,", ",,", f"{images / '01.png'},3,{tmp_path / 'mask.png'}"]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(rows))
    out = tmp_path / "run.zarr"
    given = ["--weights", f"{place / 'own.py'}:make", "--region", "all"]
    assert main(["sweep", str(listed), *given, "--out", str(out)]) == 0
    stored = open_store(out)
    table = stored.table
    assert table["item"].to_list() == [0, 0, 1]
    assert table["class_index"].to_list() == [2, 3, 1]
    assert table["pixels"].to_list() == [16, 16, 256]
    network = open_network(NetworkSpec.parse(f"{place / 'own.py'}:make"))
    sample = read_sample(images / "01.png", ImageForm.of(network, "crop"))
    split = network.split("hidden", sample.padded.shape)
    target = segcam.targets.region(3, np.eye(16) > 0)
    found = segcam.methods.grad_cam(split, network.params, sample.padded, target).map
    np.testing.assert_allclose(stored.map(1, "hidden", "grad_cam"), found, atol=1e-5)


def test_an_array_is_explained_row_by_row(place, tmp_path):
    zarr = pytest.importorskip("zarr")
    pixels = np.random.default_rng(2).random((5, 16, 16, 1), np.float32)
    zarr.create_array(tmp_path / "images.zarr", data=pixels)
    out, names = tmp_path / "run.zarr", []
    given = ["--weights", f"{place / 'own.py'}:make", "--class", "1", "--region", "all"]
    assert main(["sweep", str(tmp_path / "images.zarr"), *given, "--out", str(out)]) == 0
    stored = open_store(out)
    network = open_network(NetworkSpec.parse(f"{place / 'own.py'}:make"))
    split = network.split("hidden", (16, 16, 1))
    target = segcam.targets.region(1, np.ones((16, 16), bool))
    for row in stored.table.iter_rows(named=True):
        names.append(row["path"].rsplit("#", 1)[-1])
        found = segcam.methods.grad_cam(split, network.params, pixels[row["item"]], target).map
        np.testing.assert_allclose(stored.map(row["row"], "hidden", "grad_cam"), found, atol=1e-5)
    assert names == list("01234")
    # Overwritten in place, an array has the metadata that it had; --verify reads the rows.
    known = stored.table["sha256"].to_list()
    zarr.open_array(tmp_path / "images.zarr")[3] = 1 - pixels[3]
    for words, changed in (([], []), (["--verify"], [3])):
        assert (
            main(["sweep", str(tmp_path / "images.zarr"), *given, *words, "--out", str(out)]) == 0
        )
        found = open_store(out).table["sha256"]
        assert [n for n, digest in enumerate(found) if digest != known[n]] == changed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tap", "hiden"], "hidden"),
        (["--method", "gradcam2"], "grad_cam"),
        (["--class", "9"], "not a class of the model"),
        (["--share", "4/3"], "--share"),
        (["--batch", "3"], "power of two"),
        (["--devices", "64"], "64 devices were asked for"),
        (["--mask-threshold", "3"], "needs masks"),
        (["--region", "mask:nowhere.png"], "nowhere.png' does not exist"),
        (["--config", "nowhere.toml"], "does not exist"),
    ],
)
def test_what_was_given_wrongly_is_one_line(place, tmp_path, capsys, words, said):
    out = tmp_path / "run.zarr"
    given = ["sweep", str(place / "images"), "--weights", f"{place / 'own.py'}:make"]
    assert main([*given, "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not out.exists()


def test_files_of_options_are_checked(place, tmp_path, capsys):
    config, images = tmp_path / "study.toml", str(place / "images")
    for words, said in (
        ("taps = ['hidden']", "has the unknown key 'taps'; the nearest are tap"),
        ("nonsense = 1", "has the unknown key 'nonsense'\n"),
        ("seed = 'one'", "has 'one' for --seed, which takes a whole number"),
        (
            "store = 'float8'\nsedd = 1\nmask-threshold = 'a'",
            "has 'float8' for --store, which takes float32 or float16; it has the unknown key "
            "'sedd'; the nearest are seed; it has 'a' for --mask-threshold, which takes a number",
        ),
        ("size = ['a']", "has ['a'] for --size, which takes a list of whole numbers"),
        ("class = [1]", "has [1] for --class, which takes a list of words"),
        ("batch = 3", "study.toml': --batch was given 3; give a power of two"),
        ("model = 'unet'\nweights = 'x'", "gives 'weights' by two names"),
        ("seed = ", "is not TOML"),
    ):
        config.write_text(words)
        assert main(["sweep", images, "--config", str(config), "--out", str(tmp_path / "x")]) == 2
        assert said in capsys.readouterr().err


def test_lists_that_are_wrong_are_one_line(place, tmp_path, capsys):
    for text, said in (
        ("file,class\na.png,1\n", "unknown column 'file'"),
        ("class\n1\n", "no column 'image'"),
        ("image,class\n", "does not list any image"),
        ("image,class\n\n,\n", "does not list any image"),
        ("image,class\na.png,1\n,2\n", "has a row without an image"),
        ("\ufeffimage,class\na.png,1\n".encode("utf-16-le"), "is binary or UTF-16"),
        ("image\nnowhere.png\n", "neither beside the list"),
        (f"image,region\n{place / 'own.py'},nonsense\n", "own.py': unknown region 'nonsense'"),
    ):
        listed = tmp_path / "list.csv"
        listed.write_bytes(text if isinstance(text, bytes) else text.encode())
        given = ["sweep", str(listed), "--weights", f"{place / 'own.py'}:make"]
        assert main([*given, "--out", str(tmp_path / "x")]) == 2
        assert said in capsys.readouterr().err


def test_a_failure_stops_the_run_where_that_is_asked_for(place, tmp_path, capsys):
    out = tmp_path / "run.zarr"
    sweep(place, out, "--on-error", "stop", code=2)
    assert "04.png" in capsys.readouterr().err
    assert [path.name for path in (out / "items").iterdir()] == ["00000.parquet"]


def test_the_plan_is_told_and_nothing_written(place, tmp_path, capsys):
    out = tmp_path / "run.zarr"
    sweep(place, out, "--dry-run", code=0)
    said = capsys.readouterr().out
    assert "9 images" in said
    assert "3 shards of 4" in said
    assert "ablation_cam" in said
    assert not out.exists()


def test_a_run_that_would_never_end_is_refused_by_its_plan(place, tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(
        cost, "plans", lambda job, plans=cost.plans: made.append(plans(job)) or made[-1]
    )
    line = ["sweep", str(place / "images" / "01.png"), "--weights", f"{place / 'own.py'}:make"]
    line += ["--method", "smooth_grad", "--out", str(tmp_path / "run.zarr"), "--option"]
    monkeypatch.setattr(cost, "_YEAR", 1e-3)
    assert main([*line, "samples=100000000"]) == 2
    (plan,) = made.pop()
    assert plan.evaluations == 10**8
    said = capsys.readouterr().err
    assert f"needs about {cost.flops(plan):.0e} operations" in said
    assert "100,000,000 evaluations by smooth_grad at 'input'" in said
    assert said.endswith("by --option, fewer images or a smaller --size\n")
    assert len(said.splitlines()[-1]) < 300
    assert not (tmp_path / "run.zarr").exists()
    # Of what is cheap enough no plan is made.
    monkeypatch.setattr(cost, "_YEAR", 365 * 24 * 3600)
    assert main([*line, "samples=2"]) == 0
    assert not made


def test_batches_are_of_few_sizes():
    for count in range(1, 40):
        made = list(batches(count, 8))
        rows = itertools.chain.from_iterable(rows for rows, _ in made)
        assert list(dict.fromkeys(rows)) == [*range(count)]
        assert {size for _, size in made} <= {1, 2, 4, 8}
        assert sum(size for _, size in made) < count + max(4, count % 8)
    assert [size for _, size in batches(5, 2, multiple=3)] == [6]


def test_a_changed_mask_is_another_run(place, tmp_path, capsys):
    mask, image = tmp_path / "mask.png", str(place / "images" / "01.png")
    out = str(tmp_path / "run.zarr")
    given = ["sweep", image, "--weights", f"{place / 'own.py'}:make", "--region", f"mask:{mask}"]
    for size in (4, 8):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[:size, :size] = 255
        Image.fromarray(pixels).save(mask)
        code = main([*given, "--class", "1", "--out", out])
        assert code == (0 if size == 4 else 2)
    assert "the digest of the list of images" in capsys.readouterr().err


def test_what_one_kind_of_method_cannot_explain_is_a_row(place, tmp_path):
    """Windows of 9 do not fit a map of 6x10; gradients of that image were started already."""
    out = tmp_path / "run.zarr"
    given = ["--method", "grad_cam", "fast_ablation_cam", "--option", "fast_ablation_cam.window=7"]
    given += ["--weights", f"{place / 'own.py'}:make", "--tap", "hidden", "--region", "all"]
    images = [str(place / "images" / name) for name in ("01.png", "00.png")]
    assert main(["sweep", *images, *given, "--class", "1", "--out", str(out)]) == 3
    first, second = open_store(out).table.iter_rows(named=True)
    assert first["error"] is None
    assert "window" in second["error"]
    assert second["grad_cam.hidden.max"] is None


def test_a_file_that_was_not_whole_yet_is_read_again(place, tmp_path, monkeypatch):
    folder, out = tmp_path / "images", tmp_path / "run.zarr"
    folder.mkdir()
    whole = (place / "images" / "01.png").read_bytes()
    (folder / "a.png").write_bytes(whole)
    (folder / "b.png").write_bytes(whole[:60])
    given = ["sweep", str(folder), "--weights", f"{place / 'own.py'}:make", "--out", str(out)]
    failed = results.failed_row

    def late(*arguments):
        (folder / "b.png").write_bytes(whole)
        return failed(*arguments)

    monkeypatch.setattr(results, "failed_row", late)
    assert main(given) == 3
    assert main(given) == 0
    assert open_store(out).table["error"].to_list() == [None, None]


def test_taps_whose_names_are_alike_in_files_are_kept_apart(tmp_path, monkeypatch):
    source = MODEL.replace('"hidden"', '"a/b"').replace('"wide"', '"a.b"')
    (tmp_path / "own.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("a.png")
    given = ["sweep", "a.png", "--weights", "own.py:make", "--tap", "all", "--class", "1"]
    assert main([*given, "--region", "all", "--out", "run.zarr"]) == 0
    stored = open_store("run.zarr")
    (row,) = stored.table.iter_rows(named=True)
    for tap, extent in (("a/b", (8, 8)), ("a.b", (16, 16))):
        kept = stored.map(0, tap, "grad_cam")
        assert kept.shape == extent
        assert row[f"grad_cam.{tap}.max"] == pytest.approx(kept.max())


def test_a_region_in_a_list_is_refused_for_a_classifier(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("a.png")
    Path("list.csv").write_text('image,region\na.png,"pixel:3,3"\n')
    assert main(["sweep", "list.csv", "--weights", "random:resnet18", "--size", "64"]) == 2
    assert "classifies whole images" in capsys.readouterr().err


def test_a_run_goes_on_in_its_own_shards_though_the_first_image_was_mended(place, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "run.zarr"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    shutil.copy(place / "images" / "01.png", folder / "b.png")
    given = ["sweep", str(folder), "--weights", f"{place / 'own.py'}:make", "--class", "1"]
    given += ["--region", "all", "--out", str(out)]
    assert main(given) == 3
    large = np.zeros((512, 1024), np.uint8)
    Image.fromarray(large).save(folder / "a.png")
    assert main(given) == 0
    assert open_store(out).table["error"].to_list() == [None, None]


def test_files_are_read_ahead_in_order_and_faults_are_values():
    seen = []

    def read(number):
        seen.append(number)
        if number == 3:
            raise InputError("broken")
        return 10 * number

    found = []
    for taken in read_ahead(read, range(20), window=4):
        found.append(taken.read)
        assert len(seen) <= taken.item + 5
    assert found[3] == Failure("broken")
    assert found[:3] + found[4:] == [10 * n for n in range(20) if n != 3]


def test_folders_are_listed_by_name_without_opening_files(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/.hidden.png", ".cache/3.png", "c.txt", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    items = list_items([tmp_path], StudyOptions(weights="x"))
    assert [os.path.relpath(item.path, tmp_path) for item in items] == [
        "a/1.png",
        "b/2.png",
        "d.jpg",
    ]


def test_folders_of_results_are_left_out_of_folders_of_images(run, tmp_path):
    record = {"key": None, "image": "a", "class": "x", "tap": "y", "more": 1}
    for name, text in {
        "a.png": "",
        "own/b.png": "",
        "own/record.json": '{"image": "of another program"}',
        "own/occlusion.csv": "",
        "explained/run.zarr/manifest.json": "{}",
        "explained/a/montage.png": "",
        "occluded/occlusion.csv": "",
        "occluded/occlusion.png": "",
        "killed/a/record.json": json.dumps(record),
        "killed/a/patches.png": "",
        "compared/context.csv": "",
        "compared/scores.png": "",
        "compared/detections.png": "",
        "array.zarr/c.png": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    export(open_store(run), tmp_path / "exported", what=["npy"], items=[0])
    said = []
    found = files_in([tmp_path], said.append)
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        *("a.png", "array.zarr/c.png", "own/b.png")
    ]
    assert sorted(line.split(": ")[0] for line in said) == [
        str(tmp_path / name)
        for name in ("compared", "explained", "exported", "killed/a", "occluded")
    ]
    assert {line.split(": ")[1] for line in said} == {
        "holds results instead of images, so it is left out"
    }


def test_results_do_not_come_among_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/deep/b.png", "photosets/c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    Path("link").symlink_to("photos")
    for given in (Path("photos"), Path("link"), tmp_path / "photos"):
        found = [*map(str, files_in([given]))]
        for out in ("photos", "photos/deep", "photos/../photos", "link/deep"):
            with pytest.raises(InputError, match=f"--out '{out}' holds '[ab].png' .* of '{given}'"):
                check_apart(Path(out), [given], found)
        for out in (".", "photos/new", "link/new", "photos/new/deep", "photosets", "new"):
            check_apart(Path(out), [given], found)
    check_apart(Path("photos"), [Path("photos/a.png")], [str(tmp_path / "photos/a.png")])


def test_the_table_is_read_by_polars_alone(run):
    parts = polars.read_parquet(run / "items" / "*.parquet")
    assert parts["item"].to_list() == sorted([*range(9)])


def test_one_device_gives_what_eight_do(place, run, tmp_path):
    """Up to rounding, for batches are others."""
    alone = open_store(sweep(place, tmp_path / "run.zarr", "--devices", "1"))
    stored = open_store(run)
    assert alone.table["class_index"].to_list() == stored.table["class_index"].to_list()
    for row in stored.table.filter(polars.col("error").is_null())["row"]:
        for tap in ("hidden", "wide"):
            for method in stored.methods(tap):
                expected = stored.map(row, tap, method)
                found = alone.map(row, tap, method)
                np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_eight_devices_do_an_eighth_of_the_work_each(place):
    network = open_network(NetworkSpec.parse(f"{place / 'own.py'}:make"))
    # XLA counts the body of a loop once: no ablations, which run one image after the other.
    options = StudyOptions(weights="x", taps=("all",), methods=("grad_cam", "layer_cam"))
    flops = []
    for count in (1, 8):
        execution = engine.Execution(mesh=local_mesh(count, images=count))
        kernel = ImageKernel(network, options, 1, execution)
        calls = [kernel.call(each, (16, 16, 1)) for each in kernel.places((16, 16, 1))]
        images, classes = np.zeros((16, 16, 16, 1), np.float32), np.zeros((16, 1), np.int32)
        targets = segcam.Target(classes, np.ones((16, 1, 16, 16), bool))
        shared, batch = (network.params, None), (images, targets, None)
        program = functools.partial(many_images._together, tuple(calls), None, execution)
        compiled = jax.jit(program).lower(shared, batch).compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert 8 * flops[1] == pytest.approx(flops[0], rel=0.05)


@pytest.mark.slow
def test_the_job_array_of_the_docs_makes_the_store_of_one_process(place, tmp_path):
    """Run by bash as SLURM does, for two tasks; one of them a second time."""
    script = Path(__file__).parents[2] / "docs" / "slurm.sh"
    (tmp_path / "segcam").write_text(f'#!/bin/sh\nexec {sys.executable} -m segcam_jax "$@"\n')
    (tmp_path / "segcam").chmod(0o755)
    own, images = f"{place / 'own.py'}:make", str(place / "images")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for task, count in (("1", "2"), ("2", "2"), ("2", "1")):
        slurm = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": count, "SHARES": "2"}
        words = ["bash", str(script), images, own, str(tmp_path / "run.zarr")]
        done = subprocess.run(words, env={**os.environ, "PATH": path, **slurm}, check=False)
        assert done.returncode in (0, 3)
    given = ["sweep", images, "--weights", own, "--tap", "all", "--method", "grad_cam", "layer_cam"]
    assert main([*given, "--out", str(tmp_path / "alone.zarr")]) == 3
    assert files_of(tmp_path / "run.zarr") == files_of(tmp_path / "alone.zarr")
