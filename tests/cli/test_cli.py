"""The command line, in process: what it writes, and one line and exit code 2 for every fault."""

import csv
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import segcam_jax
from segcam_jax import _files, cli, engine, viz
from segcam_jax.cli import cache, commands
from segcam_jax.heatmap import PROFILES
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.reports import images, layers
from segcam_jax.runs.items import list_items
from segcam_jax.runs.work import StudyOptions
from tests.support.drawn import prose_of
from tests.support.explained import files_of, manifest_of, rows_of, run_of

CLASSES = ["square", "circle", "background"]
CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """A compilation cache that leaves other tests alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    before = {name: getattr(jax.config, name) for name in CACHE_OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random network of one level, three classes, one channel."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = UNet(UNetConfig(classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(path, model, {"classes": CLASSES})
    return str(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "scan.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def fault(capsys):
    """Runs a command line that must fail: exit code 2 and one line on stderr, which it returns."""

    def check(*arguments):
        capsys.readouterr()
        assert run(*arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("segcam: error: ")]
        assert errors == lines[-1:]
        assert "Traceback" not in "".join(lines)
        return errors[0]

    return check


def test_version_and_help(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"segcam {segcam_jax.__version__}\n"
    assert run("--help") == run() == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "explain", "layers", "methods", "gallery"))
    assert run("explain", "--help") == 0
    assert "--config results/manifest.json" in capsys.readouterr().out


def test_methods_and_layers(capsys, weights):
    assert run("methods") == 0
    out = capsys.readouterr().out
    names = (*segcam_jax.methods.METHODS, *segcam_jax.metrics.METRICS, *PROFILES)
    assert all(f"\n{name}\n" in out for name in names)
    assert max(map(len, out.splitlines())) <= 80
    for method in segcam_jax.methods.METHODS.values():
        assert all(option.about for option in method.options.values()), method.name
    assert "relative=true (true or false): divide by |S|" in out
    # Options of metrics have their defaults as a command line is given them.
    deletion = out[out.index("\ndeletion\n") : out.index("\ninsertion\n")]
    assert "steps=20 (a whole number up to 100,000,000): equal parts of what is" in deletion
    assert "at=input (input or tap)" in deletion
    assert "channel=none" in deletion
    assert "percentiles=10,20,30,40,50,60,70,80,90 (whole numbers such as 2x3 or" in out
    assert "key=" not in out
    assert out.count("at=input") == out.count("at=input (input or tap): ")
    assert run("layers", "--weights", weights, "--size", 16, 11) == 0
    out, err = capsys.readouterr()
    assert re.search(r"bottleneck +│ +8 x 6 +│ +4 │ the bottleneck", out)
    assert "padded to 16 x 12" in err


def test_explain_writes_maps_figures_and_a_manifest(tmp_path, weights, image, capsys):
    out = tmp_path / "out"
    arguments = ("explain", image, "--weights", weights, "--region", "all", "--seed", 4)
    chosen = ("--tap", "bottleneck,decoder1", "--method", "grad-cam", "--method", "smooth_grad")
    chosen = (*chosen, "--option", "samples=3", "--colormap", "jet")
    assert run(*arguments, *chosen, "--out", out) == 0
    assert "3 maps of 1 image: " in capsys.readouterr().out
    assert files_of(out) == [
        "items.csv",
        "manifest.json",
        "scan/grad_cam.bottleneck.npy",
        "scan/grad_cam.bottleneck.png",
        "scan/grad_cam.bottleneck.weights.csv",
        "scan/grad_cam.decoder1.npy",
        "scan/grad_cam.decoder1.png",
        "scan/grad_cam.decoder1.weights.csv",
        "scan/montage.png",
        "scan/smooth_grad.input.attribution.npy",
        "scan/smooth_grad.input.npy",
        "scan/smooth_grad.input.png",
    ]
    manifest = manifest_of(out)
    assert manifest["options"] == {**manifest["options"], "seed": 4, "region": "all"}
    look = {"profile": "auto", "colormap": "jet", "smoothing": 0.0, "panels": 6, "outline": None}
    assert manifest["figures"] == look
    assert manifest["finished"] == {**manifest["finished"], "items": 1, "explanations": 3}
    (row,), stored = rows_of(out), run_of(out)
    (told,) = csv.DictReader((out / "items.csv").read_text().splitlines())
    assert row["pixels"] == int(told["pixels"]) == 16 * 12
    shapes = {"bottleneck": (8, 6), "decoder1": (16, 12), "input": (16, 12)}
    pairs = (("grad_cam", "bottleneck"), ("grad_cam", "decoder1"), ("smooth_grad", "input"))
    for method, tap in pairs:
        raw = np.load(out / f"scan/{method}.{tap}.npy")
        assert (raw.dtype, raw.shape) == (np.float32, shapes[tap])
        assert float(raw.max()) == row[f"{method}.{tap}.max"]
        np.testing.assert_array_equal(raw, stored.map(0, tap, method))

    again = tmp_path / "again"
    assert run("explain", "--config", out / "manifest.json", "--out", again) == 0
    for name in files_of(out):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_figures_are_drawn_once_and_again_for_another_look(tmp_path, weights, image, monkeypatch):
    out, drawn = tmp_path / "out", []
    save = viz.save
    monkeypatch.setattr(viz, "save", lambda *a, **k: drawn.append(a[1].name) or save(*a, **k))
    line = ("explain", image, "--weights", weights, "--region", "all", "--method", "grad_cam")
    assert run(*line, "--no-figures", "--out", out) == 0
    assert not drawn
    files = [f"scan/grad_cam.bottleneck.{end}" for end in ("npy", "weights.csv")]
    assert files_of(out) == ["items.csv", "manifest.json", *files]
    both = ["grad_cam.bottleneck.png", "montage.png"]
    assert run(*line, "--out", out) == 0
    assert drawn == both
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    assert run(*line, "--out", out) == 0
    assert drawn == both
    assert before == {name: (out / name).read_bytes() for name in files_of(out)}
    assert run(*line, "--colormap", "jet", "--out", out) == 0
    assert drawn == 2 * both
    (out / "scan" / both[0]).unlink()
    assert run(*line, "--colormap", "jet", "--out", out) == 0
    assert drawn == 3 * both
    assert manifest_of(out)["figures"]["colormap"] == "jet"


def test_a_run_of_another_version_is_not_gone_on_with(
    tmp_path, weights, image, monkeypatch, fault, capsys
):
    out = tmp_path / "out"
    line = ("explain", image, "--weights", weights, "--region", "all", "--method", "grad_cam")
    version = segcam_jax.__version__
    monkeypatch.setattr(segcam_jax, "__version__", "0.0.9")
    assert run(*line, "--out", out) == 0
    monkeypatch.setattr(segcam_jax, "__version__", version)
    message = fault(*line, "--out", out)
    assert "holds another run: the version of segcam_jax is" in message
    assert f'"0.0.9" there, and "{version}" here' in message
    # Its options are taken, for a run of this version.
    assert run("explain", "--config", out, "--out", tmp_path / "again") == 0
    assert manifest_of(tmp_path / "again")["version"] == version


def test_a_manifest_of_an_older_form_says_what_to_do(tmp_path, weights, image, fault):
    old = tmp_path / "old" / "manifest.json"
    old.parent.mkdir()
    old.write_text('{"manifest": 2, "command": ["segcam", "explain", "a.png", "--top", "2"]}')
    given = fault("explain", "--config", old, "--out", tmp_path / "out")
    assert "was written by an older version of `segcam explain`; run its command again" in given
    assert "segcam explain a.png --top 2" in given
    line = ("explain", image, "--weights", weights, "--out", old.parent)
    assert "already holds 'manifest.json'" in fault(*line)


def test_words_of_an_older_version_name_those_of_today(weights, image, fault):
    line = ("explain", image, "--weights", weights)
    for old, new in (
        *(("--class-index=1", "--class"), ("--top", "--class"), ("--repeat", "--config")),
        *(("--model", "--weights"), ("--samples", "--option"), ("--layers", "--tap")),
    ):
        word = old.partition("=")[0]
        told = f"Unrecognized options: {word}; `segcam explain` has {new}"
        assert fault(*line, old).endswith(told)
    # A command without the new word does not name it.
    assert "has --help" in fault("methods", "--top", "3")


def test_maps_are_those_of_the_library(tmp_path, weights, image):
    out = tmp_path / "out"
    arguments = ("--class", "circle", "--region", "pixel:3,5", "--method", "ablation_cam")
    arguments = (*arguments, "--no-figures")
    assert run("explain", image, "--weights", weights, *arguments, "--out", out) == 0
    model = segcam_jax.models.load(weights)
    x = jax.numpy.asarray(Image.open(image), "float32")[..., None] / 255
    split = segcam_jax.split(model.fn, "bottleneck", model.params, x)
    target = segcam_jax.targets.pixel(1, (3, 5), (16, 12))
    expected = segcam_jax.methods.ablation_cam(split, model.params, x, target).map
    np.testing.assert_allclose(
        np.load(out / "scan/ablation_cam.bottleneck.npy"), expected, rtol=1e-5, atol=1e-6
    )


def test_channel_weights_are_written_and_make_the_map_again(tmp_path, weights, image, fault):
    line = ("explain", image, "--weights", weights, "--region", "all", "--no-figures")
    assert run(*line, "--method", "grad_cam", "--out", tmp_path / "out") == 0
    file = tmp_path / "out" / "scan" / "grad_cam.bottleneck.weights.csv"
    assert run(*line, "--importance", file, "--out", tmp_path / "again") == 0
    first = np.load(file.parent / "grad_cam.bottleneck.npy")
    second = np.load(tmp_path / "again" / "scan" / "given_weights.bottleneck.npy")
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-7)
    # The manifest holds the weights: the file is not needed any more.
    file.unlink()
    config = ("--config", tmp_path / "again" / "manifest.json", "--no-figures")
    assert run("explain", *config, "--out", tmp_path / "third") == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "third" / "scan" / "given_weights.bottleneck.npy"), second
    )
    np.save(tmp_path / "three.npy", np.ones(3))
    out = ("--out", tmp_path / "none")
    assert "has 4 channels" in fault(*line, "--importance", tmp_path / "three.npy", *out)
    both = ("--importance", tmp_path / "three.npy", "--method", "grad_cam")
    assert "no chosen method takes them" in fault(*line, *both, *out)
    assert "needs weights" in fault(*line, "--method", "given_weights", *out)
    assert "is a folder" in fault(*line, "--importance", tmp_path, *out)


def test_several_regions_at_several_layers_are_one_figure(
    tmp_path, weights, image, monkeypatch, fault
):
    out, saved = tmp_path / "out", []
    image = shutil.copy(image, tmp_path)
    save = viz.save
    monkeypatch.setattr(viz, "save", lambda *a, **k: saved.append(a[1].name) or save(*a, **k))
    line = ("explain", image, "--weights", weights, "--class", "circle", "--method", "grad_cam")
    line = (*line, "--tap", "bottleneck", "decoder1", "--region", "all", "pixel:3,5", "--out", out)
    assert run(*line) == 0
    stored = run_of(out)
    assert stored.table["region"].to_list() == ["all", "pixel:3,5"]
    assert stored.table["pixels"].to_list() == [16 * 12, 1]
    names = ["circle.all", "circle.pixel-3-5"]
    assert stored.table["target"].to_list() == names
    # Of a mask the name of its file is told, not its folders.
    masks = [folder / "a.png" for folder in (tmp_path, out)]
    for mask in masks:
        Image.fromarray(np.eye(16, 12, dtype=np.uint8)).save(mask)
    options = StudyOptions(classes=("circle",), region=tuple(f"mask:{mask}" for mask in masks))
    (item,) = list_items([Path(image)], options)
    assert [goal.title for goal in item.goals] == ["circle.mask-a.png", "circle.mask-a.png-2"]
    assert saved.count("scan.grad_cam.layers.png") == 1
    assert (out / f"scan.{names[1]}" / "grad_cam.bottleneck.npy").is_file()
    assert manifest_of(out)["options"]["region"] == ["all", "pixel:3,5"]
    figure = layers.layers_figure(stored, 0, "grad_cam")
    # Two layers of an input and two targets, and the colour bar.
    assert len(figure.axes) == 2 * 3 + 1
    said = prose_of(figure)
    for words in ("circle, all", "circle, pixel:3,5", "bottleneck", "decoder1"):
        assert words in said
    alone = ("--region", "pixel:3,5", "--out", tmp_path / "alone", "--no-figures")
    assert run(*line[:-5], *alone) == 0
    np.testing.assert_allclose(
        stored.map(1, "bottleneck", "grad_cam"),
        run_of(tmp_path / "alone").map(0, "bottleneck", "grad_cam"),
        rtol=1e-5,
        atol=1e-7,
    )
    saved.clear()
    assert run(*line) == 0
    assert not saved
    # It belongs to the run: it goes with it, and with an image that fails; others' stay.
    drawn = "scan.grad_cam.layers.png"
    (out / "mine.layers.png").touch()
    again = ("explain", image, masks[0], *line[2:], "--no-figures", "--seed", 1)
    assert run(*again, "--overwrite") == 0
    assert not (out / drawn).exists()
    (out / drawn).touch()
    Path(image).write_bytes(b"no image")
    assert run(*again) == 3
    assert not list(out.glob("scan*"))
    assert (out / "mine.layers.png").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / drawn).touch()
    assert f"already holds '{drawn}'" in fault(*line[:-1], tmp_path / "other")


def test_a_truth_is_in_the_run_and_in_its_figure(tmp_path, weights, image, fault):
    mask = np.random.default_rng(0).integers(0, 100, (16, 12), dtype=np.uint8)
    mask[4:9, 2:7] = 200
    Image.fromarray(mask).save(tmp_path / "mask.png")
    line = ("explain", image, "--weights", weights, "--region", "all", "--method", "grad_cam")
    line = (*line, "--no-figures", "--class", "circle")
    given = ("background", "--truth", tmp_path / "mask.png", "--truth-threshold", "100")
    assert run(*line, *given, "--out", tmp_path / "out") == 0
    stored = run_of(tmp_path / "out")
    expected = np.full((16, 12), -1)  # The background, or the third class.
    expected[4:9, 2:7] = 1
    np.testing.assert_array_equal(stored.truth(1), np.where(expected == 1, 2, -1))
    np.testing.assert_array_equal(stored.truth(0), expected)
    np.testing.assert_array_equal(images.subject_of(stored, 0).truth, expected)
    labels = np.where(mask > 100, 2, 255).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    given = ("--truth", tmp_path / "labels.png", "--truth-labels")
    assert run(*line, *given, "--out", tmp_path / "two") == 0
    np.testing.assert_array_equal(run_of(tmp_path / "two").truth(0), np.where(expected == 1, 2, -1))
    assert "need --truth" in fault(*line, "--truth-threshold", "9", "--out", tmp_path / "none")
    wrong = ("--truth", tmp_path / "mask.png", "--out", tmp_path / "none")
    assert "--truth-threshold" in fault(*line, *wrong)


def test_a_truth_of_the_only_class_says_what_is_not_of_it(tmp_path, image):
    model = UNet(UNetConfig(classes=1, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(tmp_path / "one.safetensors", model, {"classes": ["lesion"]})
    inside = np.zeros((16, 12), np.uint8)
    inside[4:9, 2:7] = 1
    line = ("explain", image, "--weights", tmp_path / "one.safetensors", "--region", "all")
    line = (*line, "--method", "grad_cam", "--no-figures", "--class", "lesion")
    for scale, *more in ((255,), (1, "--truth-labels")):
        Image.fromarray(scale * inside).save(tmp_path / "truth.png")
        assert run(*line, "--truth", tmp_path / "truth.png", *more, "--out", tmp_path / "out") == 0
        found = run_of(tmp_path / "out")
        np.testing.assert_array_equal(found.truth(0), 1 - inside)
        shown = images.subject_of(found, 0)
        classes = viz.Classes(shown.legend, shown.class_index, shown.background, ignored=None)
        entries = classes.legend(np.zeros((16, 12), int), shown.truth)
        assert [each.get_label() for each in entries] == ["lesion (explained)", "not lesion"]
        line = (*line, "--overwrite")


def test_odd_sizes_are_padded_and_cropped_back(tmp_path, weights, capsys):
    path = tmp_path / "odd.npy"
    np.save(path, np.random.default_rng(1).random((13, 9)))
    out = tmp_path / "out"
    line = ("explain", path, "--weights", weights, "--region", "all", "--no-figures")
    assert run(*line, "--out", out) == 0
    assert "mirrored" in capsys.readouterr().err
    (row,) = rows_of(out)
    assert (row["extent"], row["padded"], row["pixels"]) == ("13x9", "14x10", 13 * 9)
    assert np.load(out / "odd/grad_cam.bottleneck.npy").shape == (7, 5)


def test_conversions_are_said(tmp_path, weights, capsys):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    arguments = ("--method", "grad_cam", "--region", "all", "--out", tmp_path / "out")
    assert run("explain", tmp_path / "rgba.png", "--weights", weights, *arguments) == 0
    err = capsys.readouterr().err
    assert "composited on white" in err
    assert "converted to luminance" in err


def test_equal_names_in_different_folders(tmp_path, weights, image):
    paths = [tmp_path / folder / "scan.png" for folder in ("a", "b")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        pixels = np.random.default_rng(number).integers(0, 256, (16, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    out = tmp_path / "out"
    arguments = ("--weights", weights, "--method", "grad_cam", "--region", "all", "--out", out)
    assert run("explain", *paths, paths[0], *arguments) == 0
    names = list(run_of(out).names.values())
    assert names == ["scan", "scan-2"]
    maps = [np.load(out / name / "grad_cam.bottleneck.npy") for name in names]
    assert not np.array_equal(*maps)


def test_resumes_and_refuses_other_runs(tmp_path, weights, image, monkeypatch, fault, capsys):
    second = tmp_path / "second.png"
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(second)
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    line = ("explain", image, second, "--weights", weights, "--region", "all", "--out", out)
    line = (*line, "--method", "grad_cam", "--shard", 1)
    explain, calls = engine.explain_together, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return explain(*arguments, **options)

    monkeypatch.setattr(engine, "explain_together", interrupted)
    assert run(*line) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("segcam: interrupted")
    assert "manifest.json" not in files_of(out)
    assert not [path for path in out.rglob("*") if _files.is_temporary(path.name)]
    assert run(*line) == 0
    assert len(calls) == 3  # The first image was not explained again.
    assert "1 image finished before" in capsys.readouterr().err

    assert "holds another run" in fault(*line, "--seed", 1)
    foreign = out / "second" / "mine.txt"
    foreign.write_text("keep")
    assert run("explain", image, *line[3:], "--seed", 1, "--overwrite") == 0
    assert foreign.read_text() == "keep"
    assert [name for name in files_of(out) if "second" in name] == ["second/mine.txt"]


def test_one_image_that_fails_does_not_end_the_run(tmp_path, weights, image, capsys):
    corrupt, copy = tmp_path / "corrupt.png", tmp_path / "copy.png"
    corrupt.write_bytes(Path(image).read_bytes()[:60])
    copy.write_bytes(Path(image).read_bytes())
    line = (
        "explain",
        image,
        corrupt,
        copy,
        "--weights",
        weights,
        "--region",
        "all",
        "--no-figures",
    )
    line = (*line, "--method", "grad_cam", "--out", tmp_path / "out")
    assert run(*line) == 3
    said = capsys.readouterr()
    assert "corrupt.png" in said.err
    assert "2 maps of 2 images" in said.out
    told = list(csv.DictReader((tmp_path / "out" / "items.csv").read_text().splitlines()))
    assert [bool(row["error"]) for row in told] == [False, True, False]
    copy.write_bytes(corrupt.read_bytes())  # What was made of it before goes.
    assert run(*line) == 3
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        *("run.zarr", "scan")
    }
    assert run(*line[:-1], tmp_path / "stopped", "--on-error", "stop") == 2


def test_folders_and_lists_are_taken(tmp_path, weights, image):
    (tmp_path / "list.csv").write_text(f"image,class,region\n{image},circle,all\n{image},0,all\n")
    line = ("--weights", weights, "--method", "grad_cam", "--no-figures")
    assert run("explain", tmp_path / "list.csv", *line, "--out", tmp_path / "a") == 0
    assert [row["class_index"] for row in rows_of(tmp_path / "a")] == [1, 0]
    assert (tmp_path / "a" / "scan.circle" / "grad_cam.bottleneck.npy").is_file()
    folder = Path(image).parent
    assert run("explain", folder, *line, "--region", "all", "--out", tmp_path / "b") == 0
    assert [row["path"] for row in rows_of(tmp_path / "b")] == [image]


def test_the_plan_is_told_and_nothing_written(tmp_path, weights, image, capsys):
    out = tmp_path / "no"
    assert run("explain", image, "--weights", weights, "--dry-run", "--out", out) == 0
    printed = capsys.readouterr().out
    for word in ("grad_cam", "ablation_cam", "bottleneck", "evaluations", "FLOP an image"):
        assert word in printed
    assert not out.exists()


def test_foreign_files_are_not_overwritten(tmp_path, weights, image, fault):
    out = tmp_path / "out"
    (out / "scan").mkdir(parents=True)
    (out / "scan" / "montage.png").write_text("mine")
    line = ("explain", image, "--weights", weights, "--region", "all", "--out", out)
    assert "already holds 'scan'" in fault(*line)
    assert files_of(out) == ["scan/montage.png"]
    assert not (out / "run.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tap", "botleneck"), r"unknown layer 'botleneck' of tiny; .* are bottleneck, "),
        (("--method", "gradcm"), r"unknown method 'gradcm'; choose from grad_cam"),
        (("--class", "circel"), r"class 'circel' .*: circle, "),
        (("--class", "3"), r"class '3' is not a class .* 0 to 2"),
        (("--profile", "captm"), r"unknown profile 'captm'; choose from captum"),
        (("--region", "largst"), r"unknown region 'largst'; choose from largest"),
        (("--region", "pixel:3"), r"not of the form pixel:ROW,COL"),
        (("--region", "component:x"), r"'x' is not a number"),
        (("--min-probability", "2"), r"--min-probability was given 2.0; give"),
        (("--region", "all", "--min-probability", "0.5"), r"narrows predicted pixels"),
        (("--colormap", "jett"), r"colormap 'jett' is unknown; .* jet"),
        (("--method", "fast_ablation_cam", "--option", "window=9"), r"window .* does not fit"),
        (("--method", "fast_ablation_cam", "--option", "stride=2"), r"stride"),
        (("--method", "smooth_grad", "--option", "samples=0"), r"smooth_grad at .*samples"),
        (
            ("--method", "smooth_grad", "--option", "sigma=nan"),
            r"sigma was given 'nan'",
        ),
        (("--smoothing", "-1"), r"--smoothing was given -1.0; give"),
        (("--seed", "-1"), r"--seed was given -1; give a number from 0"),
        (("--config", "none.json"), r"'none.json' does not exist"),
    ],
)
def test_bad_options(tmp_path, weights, image, fault, arguments, complaint):
    out = tmp_path / "out"
    assert re.search(
        complaint, fault("explain", image, "--weights", weights, *arguments, "--out", out)
    )
    assert not out.exists()


def test_what_an_image_has_not_is_told_of_it(tmp_path, weights, image, capsys, fault):
    """Each is a row without results, with its reason; what needs no output, a plan says."""
    found = predicted_class(weights, image)
    for number, (arguments, complaint) in enumerate(
        [
            (("--region", "component:99", "--class", found), r"component 99; the region has"),
            (("--region", "pixel:16,0"), r"\(16, 0\) lies outside of the image \(16, 12\)"),
            (("--region", "at:0,-1"), r"lies outside"),
            (("--min-probability", "0.999999"), r"no position is predicted as class .* empty"),
            (("--region", f"mask:{tmp_path / 'empty.npy'}"), r"is empty"),
            (("--region", f"mask:{tmp_path / 'turned.npy'}"), r"extents"),
        ]
    ):
        np.save(tmp_path / "empty.npy", np.zeros((16, 12), bool))
        np.save(tmp_path / "turned.npy", np.ones((12, 16), bool))
        line = ("explain", image, "--weights", weights, "--method", "grad_cam", *arguments)
        if arguments[1].startswith(("pixel", "at", "mask")):
            said = fault(*line, "--dry-run", "--out", tmp_path / "none")
            assert re.search(complaint, said)
            assert said.startswith(f"segcam: error: {image!r}: ")
        assert run(*line, "--out", tmp_path / f"{number}") == 3
        assert re.search(complaint, capsys.readouterr().err)
        assert files_of(tmp_path / f"{number}") == ["items.csv", "manifest.json"]


def predicted_class(weights, image):
    model = segcam_jax.models.load(weights)
    x = np.asarray(Image.open(image), np.float32)[..., None] / 255
    return str(int(np.asarray(model.fn(model.params, x)).argmax(-1)[0, 0]))


def test_bad_files(tmp_path, weights, image, fault):
    out = tmp_path / "out"
    ending = ("--weights", weights, "--out", out)
    assert "no images were given" in fault("explain", *ending)
    assert "no weights were given" in fault("explain", image)
    assert "does not exist" in fault("explain", image, tmp_path / "none.png", *ending)
    assert "a file; name images before" in fault("explain", "--tap", "bottleneck", image, *ending)
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(Path(image).read_bytes()[:60])
    assert "corrupt" in fault("explain", corrupt, *ending)
    four = tmp_path / "four.npy"
    np.save(four, np.zeros((8, 8, 4)))
    assert "4 channels, the network expects 1" in fault("explain", four, *ending)
    np.save(four, np.full((8, 8), np.nan))
    assert "NaN" in fault("explain", four, *ending)
    assert not out.exists()


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segcam_jax", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("segcam_jax", run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"segcam {segcam_jax.__version__}\n"


def test_networks_of_volumes_have_layers_but_no_images(image, fault, capsys):
    assert run("layers", "lesions", "--size", 24, 24, 20) == 0
    said = capsys.readouterr()
    assert "for a volume of 24 x 24 x 24" in said.out
    assert re.search(r"decoder2/up +\W+12 x 12 x 12 +\W+16 ", said.out)
    assert "would be padded" in said.err
    assert "the network is 3D" in fault("layers", "lesions", "--size", 24, 24)
    assert "`segcam instances`" in fault("explain", image, "--weights", "lesions")


def test_bad_weights(tmp_path, weights, image, fault):
    ending = ("--out", tmp_path / "out")
    assert "neither a file nor bundled" in fault("explain", image, "--weights", "none", *ending)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(weights).read_bytes()[:400])
    assert "cannot be read" in fault("explain", image, "--weights", broken, *ending)

    from segcam_jax.weights import store

    tensors, metadata = store.load(weights)
    tensors.pop("head/bias")
    tensors["head/kernel"] = tensors["head/kernel"][..., :1]
    store.save(broken, tensors, metadata)
    message = fault("explain", image, "--weights", broken, *ending)
    assert "2 mismatches:" in message
    assert "head/bias" in message
    assert "head/kernel" in message
    tensors, metadata = store.load(weights)
    tensors["head/bias"] = np.full_like(tensors["head/bias"], np.nan)
    store.save(broken, tensors, metadata)
    assert "weights are broken" in fault("explain", image, "--weights", broken, *ending)


def test_bad_output(tmp_path, weights, image, fault):
    file = tmp_path / "file"
    file.write_text("mine")
    line = ("explain", image, "--weights", weights, "--region", "all", "--out")
    assert "is a file" in fault(*line, file)
    assert "cannot be written" in fault(*line, file / "below")
    assert file.read_text() == "mine"


def test_bad_manifests(tmp_path, weights, image, fault):
    out = tmp_path / "out"
    line = ("--weights", weights, "--region", "all", "--method", "grad_cam", "--out", out)
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(image).read_bytes())
    assert run("explain", copy, *line) == 0
    again = ("explain", "--out", tmp_path / "again", "--config")
    assert "does not exist" in fault(*again, tmp_path / "none.json")
    assert "is not JSON" in fault(*again, weights)
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(copy)
    assert "is not the file of" in fault(*again, out)
    copy.unlink()
    assert "does not exist" in fault(*again, out)
    manifest = manifest_of(out)
    for change, said in (
        ({"figures": {"smoothing": "much"}}, "has 'much' for --smoothing, which takes a number"),
        ({"figures": {"profile": "captm"}}, "unknown profile 'captm'"),
        ({"options": {"sed": 1}}, "unknown key 'sed'"),
    ):
        (out / "manifest.json").write_text(json.dumps({**manifest, **change}))
        assert said in fault(*again, out)


def test_help_says_what_is_there(capsys, monkeypatch):
    """Empty defaults, back-references and lines longer than the terminal stood there."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in commands.COMMANDS:
        assert run(name, "--help") == 0
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 100
        assert "\n\n\n" not in out
        assert "(default: )" not in out
        assert "Likewise" not in out
    assert run("gallery", "--help") == 0
    assert "file.py:factory" in capsys.readouterr().out


def test_every_command_runs_a_function_that_is_there():
    for command in commands.COMMANDS.values():
        module, name = command.runs.split(":")
        assert callable(getattr(importlib.import_module(f"segcam_jax.cli.{module}"), name))


def test_unknown_commands_and_options(fault):
    assert "unknown command 'explian'; choose from explain" in fault("explian")
    assert "Unrecognized options: --bogus" in fault("methods", "--bogus")
    assert "no weights were given" in fault("layers")
    assert fault("methods", "--bogus").count("Unrecognized") == 1
    assert "Unrecognized options: --images; `segcam explain`" in fault("explain", "--images=a.png")
    assert "has --tap" in fault("explain", "--taps", "first")
    assert "unknown command 'evaluate'; choose from" in fault("evaluate")


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch, weights):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    jax.config.update("jax_compilation_cache_dir", None)
    cache.enable()
    assert jax.config.jax_compilation_cache_dir is None  # pyright: ignore
    assert run("layers", "--weights", weights) == 0


def test_platforms_that_jax_does_not_start_are_one_line(capsys, monkeypatch):
    """`AssertionError` is what JAX raises without a plugin for any of `JAX_PLATFORMS`."""

    def failing():
        raise AssertionError

    with pytest.raises(AssertionError):  # A fault of our own is no one's platform.
        cli.code_of(failing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "default_backend", failing)
    assert cli.code_of(failing) == 2
    said = "segcam: error: JAX finds no device for JAX_PLATFORMS='cuda'; set JAX_PLATFORMS=cpu\n"
    assert capsys.readouterr().err == said


def test_repeated_lists_are_gathered():
    several = commands.COMMANDS["explain"].several
    words = ["a.png", "--tap", "x", "--out", "o", "--tap=y", "z", "--range", "-1", "2"]
    gathered = commands.gathered(words, several)
    assert gathered == ["a.png", "--out", "o", "--range", "-1", "2", "--tap", "x", "y", "z"]
    assert several["--class"]
    assert not several["--size"]


def test_one_value_is_given_once(fault):
    """The last one counted, without a word."""
    for words in (("--seed", 1, "--seed", 2), ("--size", 16, "--size", 32), ("--out=a", "--out=b")):
        assert f"{words[0].partition('=')[0]} was given twice" in fault("explain", "a.png", *words)


def test_a_process_ends_with_one_line_and_code_2(tmp_path):
    line = [sys.executable, "-m", "segcam_jax", "explain", "none.png", "--weights", "none"]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("segcam: error: ")
    assert list(tmp_path.iterdir()) == []
