"""`segcam show` and `segcam export` on a run that was written by hand: no network is there."""

import csv

import numpy as np
import pytest

from segcam_jax import InputError, cli, viz
from segcam_jax.reports import images
from segcam_jax.reports.figures import Look
from segcam_jax.runs import open_store
from tests.support import stored_runs as runs
from tests.support.drawn import prose_of


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture
def folder(tmp_path):
    """A finished run of five images, of which one failed."""
    runs.write(tmp_path / "run.zarr", images=runs.photos(tmp_path / "photos"))
    return tmp_path / "run.zarr"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, by file, instead of the files."""
    found = {}

    def keep(figure, path, mark=None):
        found[path.name] = figure
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a figure")
        return path

    monkeypatch.setattr("segcam_jax.viz.save", keep)
    return found


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def printed(capsys):
    """What stands on stdout, in one line, without the rules of tables."""
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_summary_tells_what_is_there_and_what_failed(folder, capsys):
    assert run("show", folder) == 0
    said = printed(capsys)
    assert "5 (finished)" in said
    assert "8 targets, 2 failures" in said
    assert "body: grad_cam, ablation_cam, fast_ablation_cam; input: gradient" in said
    assert "8x8 (3), 4x6 (1)" in said
    assert "cat (4), dog (4)" in said
    assert "image2 it is not an image file that can be read" in said
    scores = [float(runs.values_of(row, "score", ())) for row in (0, 1, 2, 3, 6, 7, 8, 9)]
    assert f"{min(scores):.4g} to {max(scores):.4g}" in said


def test_a_run_that_is_not_finished_says_how_far_it_is(tmp_path, capsys):
    runs.write(tmp_path / "run.zarr", (1,), finish=False)
    assert run("show", tmp_path / "run.zarr") == 0
    assert "5 (2 are done; the same command resumes)" in capsys.readouterr().out
    runs.write(tmp_path / "lost.zarr")
    (tmp_path / "lost.zarr" / "items" / "00000.parquet").unlink()
    assert run("show", tmp_path / "lost.zarr") == 0
    assert "are done; the same command resumes)" in capsys.readouterr().out


def test_the_first_results_are_drawn(folder, drawn, capsys):
    assert run("show", folder, "--out", folder.parent / "first.png", "--count", 3) == 0
    assert "the first 3 results" in capsys.readouterr().out
    said = prose_of(drawn["first.png"])
    assert said.count("image0") == 2  # Two targets.
    assert said.count("image1") == 1
    assert "Grad-CAM, body" in said
    assert "outlined: the explained pixels" in said
    assert "run.zarr: the first 3 results" in said
    assert "Explained: logits, summed over the outlined pixels." in said


@pytest.mark.parametrize("words", ["3", "image3", "image3.npy", "file"])
def test_an_item_by_number_name_or_file(folder, drawn, capsys, words):
    given = folder.parent / "photos" / "image3.npy" if words == "file" else words
    assert run("show", folder, "--item", given, "--out", folder.parent / "item.png") == 0
    said = printed(capsys)
    assert "image 3: image3" in said
    assert "top1 cat (25 %)" in said
    assert "gradient at input 7 50 %" in said  # The largest value, made up: the row's number.
    assert set(drawn) == {"item.top1.png", "item.top2.png"}
    said = prose_of(drawn["item.top2.png"])
    assert "image3: dog by net; each map on its own scale" in said
    assert "no map" in said  # Gradients have no map at the body.
    assert "Gradient, clipped" in said
    assert "the strongest 1 % of the pixels share one" in said


@pytest.mark.parametrize(
    ("panels", "titles"),
    [
        (6, ("input", "ground truth", "prediction", "raw map, ", "heatmap", "overlay")),
        (4, ("input", "overlay, region outlined", "ground truth", "prediction")),
        (1, ()),
    ],
)
def test_a_map_is_drawn_in_six_panels_or_four_or_one(folder, panels, titles):
    stored = open_store(folder)
    figure = images.map_figure(stored, 8, ("grad_cam", "body"), Look(panels=panels))
    said = prose_of(figure)
    assert [f"({letter}) " in said for letter in "abcdef"] == [n < len(titles) for n in range(6)]
    for letter, title in zip("abcdef", titles, strict=False):
        assert f"({letter}) {title}" in said
    shown = viz.to_array(figure)
    look = Look(panels=panels, outline="magenta")
    given = images.map_figure(stored, 8, ("grad_cam", "body"), look)
    pixels = [np.moveaxis(each.astype(int), -1, 0) for each in (shown, viz.to_array(given))]
    magenta = [((r > 160) & (g < 90) & (b > 160)).sum() for r, g, b in pixels]
    assert magenta[0] == 0
    assert magenta[1] > 20
    for wrong, words in (({"panels": 3}, "give 1, 4 or 6"), ({"outline": "pnk"}, "not a colour")):
        with pytest.raises(InputError, match=words):
            Look(**wrong)


def test_the_panels_of_one_map_show_what_is_stored(folder):
    stored = open_store(folder)
    figure = images.map_figure(stored, 8, ("grad_cam", "body"))
    said = prose_of(figure)
    assert "image4: cat, Grad-CAM at body" in said
    region = stored.region(8)
    # By hand: the prediction is class 1 everywhere, the explained class of the first target.
    assert f"over the {region.sum()} pixels predicted as it" in said
    maps = {image.get_array().shape[:2] for axes in figure.axes for image in axes.images}
    assert (2, 3) in maps  # The raw map.
    other = prose_of(images.map_figure(stored, 9, ("grad_cam", "body")))
    assert f"over {stored.region(9).sum()} pixels, 0 of which are predicted as it" in other


def test_a_classifier_has_its_input_and_overlay(tmp_path):
    photos = runs.photos(tmp_path / "photos")
    made = runs.manifest({"tap": ["body"]}, net=runs.network(classifies=True, background=None))
    with runs.Store.create(tmp_path / "run.zarr", made) as store:
        blocks = [
            runs.Block(b.group, b.rows, tuple(v for v in b.variables if "region" not in v.name
                                              and "prediction" not in v.name))
            for b in runs.blocks(0)
        ]  # fmt: skip
        store.write(0, blocks, runs.rows(0, photos))
    stored = open_store(tmp_path / "run.zarr")
    said = prose_of(images.map_figure(stored, 1, ("grad_cam", "body")))
    assert "image0: explained dog (25 %), predicted cat" in said
    assert "Explained: the logit of dog by net" in said
    assert "at body, 4 x 4" in said
    assert "image0: predicted cat (25 %)" in prose_of(images.row_figure(stored, 0))


def test_best_and_worst_by_a_column(folder, drawn, capsys):
    line = ("show", folder, "--best", "gradient.input.max", "--worst", "score", "--count", 2)
    assert run(*line, "--out", folder.parent / "both.png") == 0
    assert set(drawn) == {"both.largest.png", "both.smallest.png"}
    said = prose_of(drawn["both.largest.png"])
    assert "the 2 results of largest gradient.input.max" in said
    assert "gradient.input.max: 9" in said
    assert "gradient.input.max: 8" in said
    scores = {row: float(runs.values_of(row, "score", ())) for row in (0, 1, 2, 3, 6, 7, 8, 9)}
    worst = sorted(scores, key=scores.get)[:2]
    assert images.best(open_store(folder), "score", 2, worst=True) == worst
    assert f"{scores[worst[0]]:.4g}" in capsys.readouterr().out


def test_rows_of_other_layers_are_shown_and_exported(tmp_path, drawn, capsys):
    photos = runs.photos(tmp_path / "photos")
    folder = runs.write_uneven(tmp_path / "run.zarr", photos)
    assert run("show", folder, "--item", 4, "--out", tmp_path / "item.png") == 0
    said = printed(capsys)
    assert "grad_cam at neck 8 50 %" in said
    assert "body" not in said
    assert "neck" in prose_of(drawn["item.top1.png"])
    assert "body" not in prose_of(drawn["item.top1.png"])
    line = ("show", folder, "--worst", "class_index", "--count", 8, "--out", tmp_path / "page.png")
    assert run(*line) == 0
    # Each extent has three maps that the other has not.
    stored = open_store(folder)
    assert len(images.pairs(stored, range(10))) == 7
    assert prose_of(drawn["page.png"]).count("no map") == 8 * 3
    assert len(images.pairs(stored, [8, 9])) == 4
    out = tmp_path / "files"
    assert run("export", folder, "--out", out, "--items", "3-4", "--what", "npy") == 0
    names = {path.name for path in (out / "image4.top1").iterdir()}
    maps = ["ablation_cam.neck", "fast_ablation_cam.neck", "grad_cam.neck", "gradient.input"]
    assert names == {*(f"{name}.npy" for name in maps), "grad_cam.neck.weights.csv"}
    assert (out / "image3.top1" / "grad_cam.body.npy").exists()


def test_figures_of_one_class_of_two_regions_have_two_names(tmp_path, drawn):
    """A list of images may name a class of an image more than once."""
    photos = runs.photos(tmp_path / "photos")
    with runs.Store.create(tmp_path / "run.zarr", runs.manifest()) as store:
        rows = [{**row, "target": "cat"} for row in runs.rows(0, photos)]
        store.write(0, runs.blocks(0), rows)
    assert run("show", tmp_path / "run.zarr", "--item", 0, "--out", tmp_path / "item.png") == 0
    assert set(drawn) == {"item.cat.png", "item.cat-2.png"}


def test_export_reads_an_image_once_for_each_row(folder, drawn, monkeypatch):
    opened = []
    read = images.read_sample
    monkeypatch.setattr(
        images, "read_sample", lambda path, form: opened.append(path) or read(path, form)
    )
    line = ("export", folder, "--out", folder.parent / "files", "--items", "4", "--what", "png")
    assert run(*line) == 0
    assert len(opened) == 2  # Two targets, of five figures each.


def test_an_image_that_changed_is_not_drawn(folder, capsys):
    file = folder.parent / "photos" / "image0.npy"
    np.save(file, np.zeros((8, 8), np.float32))
    out = folder.parent / "item.png"
    assert run("show", folder, "--item", 0, "--out", out) == 2
    assert "is not the file that was explained (SHA-256)" in capsys.readouterr().err
    file.unlink()
    assert run("show", folder, "--out", out) == 2
    assert "image0.npy' does not exist" in capsys.readouterr().err
    assert not out.exists()


def test_an_image_that_was_stored_is_not_read_again(tmp_path):
    pixels = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    image = runs.Variable("image", ("item", "y", "x", "c"), pixels)
    with runs.Store.create(tmp_path / "run.zarr", runs.manifest()) as store:
        blocks = [*runs.blocks(0), runs.Block("8x8", np.arange(2), (image,))]
        store.write(0, blocks, runs.rows(0))
    subject = images.subject_of(open_store(tmp_path / "run.zarr"), 2)
    np.testing.assert_array_equal(subject.pixels, pixels[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--best", "scor"], "column 'scor' is unknown; the nearest are score"),
        (["--worst", "class"], "column 'class' holds no numbers; the nearest are class_index"),
        (["--item", "image9"], "no image 'image9' in"),
        (["--item", "0", "--best", "score"], "give one of --item and --best or --worst"),
        (["--item", "2", "--out", "x.png"], "image2.npy': it is not an image file"),
        (["--count", "0"], "--count is 0; give 1 to 50"),
        (["--profile", "jet"], "unknown profile 'jet'"),
        (["--colormap", "nonsense"], "'nonsense'"),
    ],
)
def test_what_show_refuses_in_one_line(folder, monkeypatch, capsys, options, said):
    monkeypatch.chdir(folder.parent)
    assert run("show", folder, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_export_writes_maps_figures_and_the_table(folder, drawn, capsys):
    out = folder.parent / "files"
    assert run("export", folder, "--out", out, "--items", "0-1", "image4", "--what", "npy") == 0
    maps = ["ablation_cam.body", "fast_ablation_cam.body", "grad_cam.body", "gradient.input"]
    targets = [f"image{item}.top{target}" for item in (0, 1, 4) for target in (1, 2)]
    names = {str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file()}
    files = [*(f"{name}.npy" for name in maps), "grad_cam.body.weights.csv"]
    assert names == {"record.json", *(f"{each}/{name}" for each in targets for name in files)}
    assert f"{len(names) - 1} files of 6 results" in capsys.readouterr().out
    written = np.load(out / "image4.top2" / "ablation_cam.body.npy")
    np.testing.assert_array_equal(written, runs.values_of(9, "map.body", (2, 2, 3))[1])

    line = ("export", folder, "--out", out, "--items", "4", "--what", "png", "csv")
    assert run(*line, "--overwrite") == 0
    assert set(drawn) == {*(f"{name}.png" for name in maps), "montage.png"}
    assert "11 files of 2 results" in capsys.readouterr().out
    with (out / "items.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 10
    assert table[4]["error"] == "it is not an image file that can be read"
    assert float(table[9]["gradient.input.max"]) == 9


def test_export_asks_before_it_writes_over_files(folder, capsys):
    out = folder.parent / "files"
    assert run("export", folder, "--out", out, "--what", "csv") == 0
    before = (out / "items.csv").read_bytes()
    (out / "items.csv").write_text("mine")
    assert run("export", folder, "--out", out, "--what", "npy", "csv") == 2
    assert "already holds 'items.csv'" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"items.csv", "record.json"}
    (out / "record.json").rename(out / "own.json")
    (out / "items.csv").rename(out / "record.json")
    assert run("export", folder, "--out", out, "--what", "csv") == 2
    assert "already holds 'record.json'" in capsys.readouterr().err
    assert run("export", folder, "--out", out, "--what", "csv", "--overwrite") == 0
    assert (out / "items.csv").read_bytes() == before
    assert run("export", folder, "--out", out, "--what", "npy", "--items", "7-9") == 2
    assert "give numbers from 0 to 4" in capsys.readouterr().err
    assert run("export", out, "--out", folder.parent / "again") == 2
    assert "is not a run" in capsys.readouterr().err


def test_export_refuses_a_folder_of_images_which_would_no_longer_be_read(folder, tmp_path, capsys):
    photos = tmp_path / "own" / "deep"
    photos.mkdir(parents=True)
    (photos / "cat.PNG").write_bytes(b"mine")
    for more in ((), ("--overwrite",)):
        line = ("export", folder, "--out", photos.parent, "--what", "csv", *more)
        assert run(*line) == 2
        assert "holds the image 'deep/cat.PNG', and commands leave out" in capsys.readouterr().err
        assert [*photos.parent.iterdir()] == [photos]
    # Figures of an export are no images of the user's.
    out = tmp_path / "files"
    for items in ("0", "1"):
        assert run("export", folder, "--out", out, "--items", items, "--what", "npy") == 0
