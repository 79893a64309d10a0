"""`segcam instances` and `segcam context`: what they write, how they resume, every bad input."""

import csv
import dataclasses
import errno
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import msgspec
import nibabel
import numpy as np
import polars
import pytest
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import Execution, InputError, cli
from segcam_jax._jaxpr.recent import Recent
from segcam_jax.cli.instances import groups_of
from segcam_jax.cli.volumetric import Context, Instances, chosen
from segcam_jax.data import nifti, scans
from segcam_jax.data.instances import measured
from segcam_jax.data.truths import TruthOptions
from segcam_jax.engine import programs as engine_programs
from segcam_jax.methods import METHODS
from segcam_jax.metrics import randomisation
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNet, MonaiUNetConfig
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.reports import instances as report
from segcam_jax.reports.context import write_overlay
from segcam_jax.runs import instance_studies, open_scans, scored_scans
from segcam_jax.runs.measures import measures
from segcam_jax.runs.scans import ScanRun
from segcam_jax.runs.scored_scans import ScoredScans
from segcam_jax.runs.scores import Scoring
from segcam_jax.volumes import (
    SegmentOptions,
    crop_around,
    instance_maps,
    measure,
    put_back,
    read_input,
    scan_inputs,
    segment,
    segmentation,
)
from segcam_jax.volumes.scan_inputs import VolumeCase
from tests.support.stored_runs import programs_of_all_maps

SHAPE = (16, 14, 12)
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 0, 2, -7], [0, 1.2, 0, 3], [0, 0, 0, 1]])
CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _shared_programs(tmp_path_factory, monkeypatch):
    """One compilation cache, and one network per file, so that each program compiles once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("segcam_jax.cli.instances.open_network", _OPENED)
    before = {name: getattr(jax.config, name) for name in CACHE_OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


_OPENED = functools.cache(open_network)


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def blob(at):
    """A bump of one voxel or two."""
    offsets = np.stack(np.indices(SHAPE)) - np.reshape(at, (3, 1, 1, 1))
    return np.exp(-(offsets**2).sum(0) / 4)


def bright(arrays):
    """The network's tensors changed so that a lesion is what is bright in both modalities."""
    half = np.float32([0.5, 1, 0.5])
    spread = half[:, None, None] * half[:, None] * half
    kernels = [name for name in arrays if name.endswith("kernel")]
    arrays = {**arrays, **{name: 0.1 * arrays[name] for name in kernels}}
    arrays["encoder/0/units/0/conv/kernel"][..., 0] += spread[..., None] * np.float32([0.1, 0.05])
    arrays["decoder/0/up/conv/kernel"][..., 0, 1] += 4 * spread
    arrays["decoder/0/up/conv/bias"] = np.float32([0, -3])
    return arrays


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Two modalities with bumps, a truth, and a network whose class is what is bright in both."""
    folder = tmp_path_factory.mktemp("data") / "cohort" / "one" / "patient"
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(*SHAPE, 2)), (1, 1, 1, 0)).astype(np.float32)
    bumps = blob((5, 6, 5)) + blob((0, 12, 2))
    for index, name in enumerate(("flair", "t1")):
        save(folder / f"{name}.nii.gz", (5 + noise[..., index] + 3 * bumps).astype(np.float32))
    truth = np.zeros(SHAPE, np.uint8)
    truth[4:7, 5:8, 4:7] = 1
    truth[12:14, 11:13, 9:11] = 1
    save(folder / "truth.nii.gz", truth)
    model = MonaiUNet(MonaiUNetConfig(channels=(2, 4), strides=(2,)), rngs=nnx.Rngs(0))
    arrays = {name: np.asarray(leaf[...]) for name, leaf in stored.tensors(model).items()}
    stored.fill(model, bright(arrays))
    stored.save(folder / "net.safetensors", "monai_unet", model, {"classes": ["none", "lesion"]})
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def command(name, case, out, *more, roi=(12,)):
    weights = ("--weights", case / "net.safetensors", "--roi", *roi, "--min-voxels", 3)
    return (name, case / "flair.nii.gz", case / "t1.nii.gz", *weights, "--out", out, *more)


@pytest.fixture(scope="module")
def explained(case, tmp_path_factory):
    """A whole run: every instance by two methods."""
    out = tmp_path_factory.mktemp("runs") / "explained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("segcam_jax.cli.instances.open_network", _OPENED)
        assert run(*arguments(case, out)) == 0
    return out


def arguments(case, out):
    truth = ("--truth", case / "truth.nii.gz")
    chosen = ("--method", "instance_smooth_grad", "grad_cam", "--option", "samples=6", "--features")
    return command("instances", case, out, *truth, *chosen)


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_writes_maps_a_table_and_figures(explained, case):
    rows = table(explained / "instances.csv")
    assert list(rows[0]) == list(report.COLUMNS)
    groups = {row["instance"]: row["group"] for row in rows}
    assert groups == {"1": "FP", "2": "TP", "3": "FN"}
    assert [row["modality"] for row in rows[:3]] == ["flair", "t1", "all"]
    assert {row["instance"] for row in rows if row["touches_border"] == "True"} == {"1"}
    for number in (1, 2, 3):
        folder = explained / "patient" / f"instance-00{number}"
        assert sorted(path.name for path in folder.iterdir()) == [
            "grad_cam.bottleneck.all.nii.gz",
            "grad_cam.bottleneck.png",
            "instance_smooth_grad.flair.nii.gz",
            "instance_smooth_grad.png",
            "instance_smooth_grad.t1.nii.gz",
            "record.json",
        ]
        with Image.open(folder / "instance_smooth_grad.png") as figure:
            assert figure.width > figure.height > 600
    assert (explained / "peaks.instance_smooth_grad.png").is_file()
    manifest = json.loads((explained / "manifest.json").read_text())
    assert all((explained / file).exists() for file in manifest["files"])
    assert manifest["modalities"] == ["flair", "t1"]
    assert manifest["class"] == "lesion"


def test_instances_have_features_in_images_and_maps(explained, case):
    rows, maps = table(explained / "features.csv"), table(explained / "instances.csv")
    kinds = [("image", "", "flair"), ("image", "", "t1")]
    kinds += [(row["method"], row["tap"], row["modality"]) for row in maps[:3]]
    assert [(row["method"], row["tap"], row["modality"]) for row in rows] == kinds * 3
    assert [row["group"] for row in rows[::5]] == ["FP", "TP", "FN"]
    inside = nibabel.load(explained / "patient" / "instances.nii.gz").get_fdata() == 1
    x = scans.zscore(nibabel.load(case / "flair.nii.gz").get_fdata(dtype=np.float32)[..., None])
    assert float(rows[0]["mean"]) == pytest.approx(x[inside].mean(), rel=1e-4)
    assert float(rows[0]["maximum"]) == pytest.approx(x[inside].max(), rel=1e-4)
    told = [float(row["mean_inside"]) for row in maps if row["method"] != "grad_cam"]
    found = [float(row["mean"]) for row in rows if row["method"] == "instance_smooth_grad"]
    assert found == pytest.approx(told, rel=1e-4)


def test_adjusted_iou_is_in_the_tables(explained):
    rows = {row["instance"]: row for row in table(explained / "instances.csv")}
    assert [float(rows[n]["adjusted_iou"]) for n in "13"] == [0, 0]
    assert float(rows["2"]["adjusted_iou"]) == float(rows["2"]["iou"]) > 0
    scan = table(explained / "quality.csv")[0]
    assert float(scan["lesion_adjusted_iou"]) == pytest.approx(
        float(rows["2"]["iou"]) / 2, rel=1e-4
    )
    weak = 0 < float(rows["2"]["iou"]) < 0.25
    assert int(scan["weak"]) == weak


def test_a_truth_gives_a_table_of_quality(explained, case):
    (scan, mean, deviation) = table(explained / "quality.csv")
    assert [row["scan"] for row in (scan, mean, deviation)] == [
        "patient",
        "mean",
        "standard deviation",
    ]
    # Of two lesions one is found, and of two found instances one is none.
    assert [scan[name] for name in ("true", "found", "lesion_tpr", "lesion_fdr", "lesion_f1")] == [
        *("2", "2", "0.5", "0.5", "0.5")
    ]
    folder = explained / "patient"
    predicted = nibabel.load(folder / "instances.nii.gz").get_fdata() > 0
    truth = nibabel.load(case / "truth.nii.gz").get_fdata() > 0
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert float(scan["dice"]) == pytest.approx(dice, rel=1e-5)
    # One scan has no deviation.
    assert (mean["dice"], deviation["dice"]) == (scan["dice"], "")


def test_maps_lie_on_the_grid_of_the_input(explained, case):
    like = nibabel.load(case / "flair.nii.gz")
    for path in explained.rglob("*.nii.gz"):
        image = nibabel.load(path)
        np.testing.assert_array_equal(image.affine, like.affine)
        assert image.shape == SHAPE
    labels = nibabel.load(explained / "patient" / "instances.nii.gz").get_fdata()
    missed = nibabel.load(explained / "patient" / "missed.nii.gz").get_fdata()
    assert set(np.unique(labels)) == {0, 1, 2}
    assert set(np.unique(missed)) == {0, 3}
    probability = nibabel.load(explained / "patient" / "probability.nii.gz").get_fdata()
    kept = probability[labels > 0]
    assert kept.min() > 0.5


def test_values_are_those_of_the_library(explained, case):
    """One instance again: on its window, by one call for all samples."""
    network = _OPENED(NetworkSpec.parse(str(case / "net.safetensors")), OpenOptions(ndims=(3,)))
    x = scans.zscore(
        np.stack([nibabel.load(case / f"{n}.nii.gz").get_fdata() for n in ("flair", "t1")], -1)
    )
    labels = nibabel.load(explained / "patient" / "instances.nii.gz").get_fdata()
    record = json.loads((explained / "patient" / "instance-002" / "record.json").read_text())
    place = tuple(slice(*along) for along in record["maps"][0]["window"])
    cut, mask = x[place], labels[place] == 2
    assert cut.shape == (12, 12, 12, 2)
    found = METHODS["instance_smooth_grad"].function(
        network.split("input", cut.shape),
        network.model.params,
        cut,
        instance_maps.target_of(mask, 1, "logits", tight=False),
        key=jax.random.key(0),
        samples=6,
        first=jnp.int32(0),
        sigma=0.05 * float(np.ptp(x[..., 0])),
        sigma_unit="absolute",
        aggregation="mean",
        execution=Execution(),
    )
    for index, name in enumerate(("flair", "t1")):
        path = explained / "patient" / "instance-002" / f"instance_smooth_grad.{name}.nii.gz"
        values = nibabel.load(path).get_fdata()
        wanted = np.asarray(found.attribution[..., index])
        np.testing.assert_allclose(values[place], wanted, atol=1e-6)
        told = record["maps"][0]["modalities"][index]
        assert told["peak_positive"] == pytest.approx(wanted.max(), rel=1e-4)
        assert told["peak_negative"] == pytest.approx(wanted.min(), rel=1e-4)
        assert told["mean_inside"] == pytest.approx(wanted[mask].mean(), rel=1e-4)
        values[place] = 0
        assert not values.any()


def test_instances_are_scored_as_images_are(explained, case, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(explained, out)
    words = ("--metric", "deletion,rank_accuracy", "--option", "steps=4")
    assert run("score", out, *words) == 0
    assert "each instance counts as an image" in capsys.readouterr().err
    found = polars.read_csv(out / "run.zarr" / "scores" / "ranking.csv")
    stored = open_scans(out)
    known = set(stored.names)
    assert len(known) > 1
    by_rank = found.filter(polars.col("metric") == "rank_accuracy")
    assert by_rank["method"][0] == "mask-shaped map"
    assert by_rank["mean"][0] == 1
    assert set(by_rank["images"]) == {len(known)}
    # Without any input the missed instance scores higher, so its area has no range to divide by.
    by_deletion = found.filter(polars.col("metric") == "deletion")
    assert set(by_deletion["images"]) == {len(known) - 1}
    assert set(by_deletion["undefined"]) == {1}
    assert set(found["worst"].drop_nulls()) <= set(stored.names.values())
    scores = polars.read_parquet(out / "run.zarr/scores/deletion/00000.parquet")
    without = set(scores.filter(polars.col("normalised").is_nan())["row"])
    assert without == set(stored.table.filter(polars.col("group") == "FN")["row"]) & known
    network = _OPENED(NetworkSpec.parse(str(case / "net.safetensors")), OpenOptions(ndims=(3,)))
    files = scans.ScanFiles("one", (case / "flair.nii.gz", case / "t1.nii.gz"), None)
    x = read_input(files, SegmentOptions()).x
    labels = nifti.read_volume(explained / "patient" / "instances.nii.gz").values
    instance = stored.segmented(0).predicted.instances[0]
    crop = crop_around(x, labels == instance.label, instance.box, window=(12, 12, 12))
    split = segcam.split(network.fn, "input", network.params, crop.x)
    target = segcam.targets.region(1, crop.mask, reduce="mean")
    map = np.zeros(crop.mask.shape, np.float32)
    map[crop.place] = stored.map_of(0, instance.label, "grad_cam", "bottleneck")
    want = segcam.metrics.deletion(split, network.params, crop.x, target, map, steps=4)
    row = scores.filter(polars.col("method") == "grad_cam", polars.col("row") == min(known)).row(
        0, named=True
    )
    np.testing.assert_allclose(row["scores"], want.scores, rtol=1e-4, atol=1e-5)
    # Of a window that reaches beyond the scan, the part in the scan alone.
    about = {"scan": 0, "instance": instance.label, "pairs": [("grad_cam", "bottleneck")]}
    assert ScoredScans(stored).inside(about) == crop.place
    beyond = SimpleNamespace(scored=SimpleNamespace(inside=lambda about: (slice(3, 12),) * 3))
    parts = Scoring._without_padding(beyond, about, map, crop.mask)
    for part, whole in zip(parts, (map, crop.mask), strict=True):
        np.testing.assert_array_equal(part, whole[3:, 3:, 3:])
    assert run("score", out, "--metric", "random_class", "--no-controls") == 0
    assert run("score", out, "--metric", "segment_evidence") == 2
    assert "keeps the explained class alone" in capsys.readouterr().err
    kept = Recent(99)
    monkeypatch.setattr(engine_programs, "_PROGRAMS", kept)
    scoring = Scoring(stored, measures(("parameter_randomisation",)))
    scoring.compute()
    # All methods and layers in one, of each extent of a window and of a target.
    pairs, about = stored.manifest.options["pairs"], scoring.scored.shards[0][0]
    programs = programs_of_all_maps(kept)
    assert len(programs) <= len(known)
    assert {len(calls) for ((_, calls),) in programs} == {len(pairs)}
    by_row = scoring.table().filter(polars.col("row") == about["row"])
    key = scoring._key_of(about["row"], "parameter_randomisation")
    for name, tap in pairs:
        method, options = scoring.scored.method(about, name, tap)
        given = scoring.scored.explained(about, tap)
        want = segcam.metrics.parameter_randomisation(*given, method, key=key, options=options)
        found = by_row.filter(polars.col("method") == name)["value"]
        np.testing.assert_allclose(found, [want.last], rtol=1e-4)
    # Scans number their rows each by itself: no two instances of a run are one image.
    other = stored.table.with_columns(polars.col("item") + 1, scan=polars.lit("other"))
    two = open_scans(out)
    two.__dict__["table"] = polars.concat([stored.table, other])
    numbers = [about["row"] for rows in ScoredScans(two).shards.values() for about in rows]
    assert len(set(numbers)) == len(numbers) == 2 * len(known)
    named = [two.names[number] for number in numbers]
    assert len(set(named)) == len(named)
    assert sum(name.startswith("other: instance") for name in named) == len(known)
    monkeypatch.setattr(stored, "map_of", lambda *_: np.zeros((3, 4, 5)))
    scored = ScoredScans(stored)
    with pytest.raises(InputError, match=r"grad_cam at bottleneck .* 3 x 4 x 5 voxels, and its"):
        scored.map(scored.shards[0][0], "grad_cam", "bottleneck")
    context = {"kind": "context"}
    manifest = out / "run.zarr" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | context))
    assert run("score", out) == 2
    assert "has no maps; give a run of `segcam instances`" in capsys.readouterr().err


def test_a_run_is_scored_by_its_network_as_it_was_opened(explained, case, monkeypatch):
    """Its manifest says how; one of an earlier version says nothing."""
    opened = []
    network = _OPENED(NetworkSpec.parse(str(case / "net.safetensors")), OpenOptions(ndims=(3,)))
    monkeypatch.setattr(scored_scans, "open_network", lambda _, how: opened.append(how) or network)
    stored = open_scans(explained)
    how = OpenOptions(checkpoint=Path("a.pth"), layout=("x=dhwc", "y=cn"), mirror=True)
    study = ScoredScans(stored)._study
    cases = (VolumeCase("one", scans.ScanFiles("one", (), None), ()),)
    for opening in (OpenOptions(), how):
        like = dataclasses.replace(network, opening=opening)
        made = ScanRun(like, cases, stored.modalities, SegmentOptions(), study).manifest
        stored.manifest.options.update(msgspec.json.decode(msgspec.json.encode(made.options)))
        ScoredScans(stored)
    words = [(each.checkpoint, each.layout, each.mirror) for each in opened]
    assert words == [*2 * [(None, (), False)], (Path("a.pth").absolute(), how.layout, True)]
    # An nnU-Net of an earlier version may have been mirrored: its digest tells.
    del stored.manifest.options["mirror"]
    record = dataclasses.replace(stored.manifest.network, given="nnunet:model", sha256="mirrored")
    stored.manifest = dataclasses.replace(stored.manifest, network=record)
    for mirrored, found in (("mirrored", "mirrored"), ("other", network.sha256)):
        other = dataclasses.replace(network, sha256=mirrored)
        monkeypatch.setattr(
            scored_scans,
            "open_network",
            lambda _, how, other=other: other if how.mirror else network,
        )
        assert scored_scans._opened(stored).sha256 == found

    def unmirrored(spec, how):
        if how.mirror:
            raise InputError("it was trained without mirroring")
        return network

    monkeypatch.setattr(scored_scans, "open_network", unmirrored)
    assert scored_scans._opened(stored) is network


def test_the_stitched_field_explains_the_segmentation_itself(case, tmp_path, undrawn):
    out, roi = tmp_path / "out", 12
    method = ("--method", "gradient", "--of", "probabilities", "--field", "stitched")
    assert run(*command("instances", case, out, *method)) == 0
    network = _OPENED(NetworkSpec.parse(str(case / "net.safetensors")), OpenOptions(ndims=(3,)))
    x = scans.zscore(
        np.stack([nibabel.load(case / f"{n}.nii.gz").get_fdata() for n in ("flair", "t1")], -1)
    )
    labels = nibabel.load(out / "patient" / "instances.nii.gz").get_fdata()
    record = json.loads((out / "patient" / "instance-001" / "record.json").read_text())

    def score(x):
        blended = segcam.engine.sliding_window(network.fn, network.params, x, roi=roi)
        return jax.nn.softmax(blended)[..., 1][labels == 1].mean()

    wanted, gradient = jax.value_and_grad(score)(jnp.asarray(x))
    assert record["maps"][0]["score"] == pytest.approx(float(wanted), rel=1e-5)
    for index, name in enumerate(("flair", "t1")):
        path = out / "patient" / "instance-001" / f"gradient.{name}.nii.gz"
        found, real = nibabel.load(path).get_fdata(), np.asarray(gradient[..., index])
        np.testing.assert_allclose(found, real, atol=1e-5 * np.abs(real).max())
    scoring = Scoring(open_scans(out), ())
    ((about, *_),) = scoring.scored.shards.values()
    # Only the network is drawn anew: the shares of its windows stay.
    split, params, x, target = scoring.scored.explained(about, "input")
    alone, own = scoring.scored.randomised((split, params, x, target))
    drawn = jax.tree.map(lambda leaf: -leaf, own)
    found = scoring._together(about["row"])(drawn)["gradient", "input"].map
    wanted = segcam.methods.gradient(split, (drawn, *params[1:]), x, target).map
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    window = network.split("input", (roi, roi, roi, 2))
    layers = randomisation.layers_of(window, network.params)
    assert list(randomisation.layers_of(alone, own).items()) == list(layers.items())
    assert len(layers) > 3


def content(out):
    """All bytes of the store, and of what does not tell the time."""
    files = [path for path in out.rglob("*") if path.is_file() and path != out / "manifest.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are empty."""
    monkeypatch.setattr(report, "instance_portrait", lambda *given, **more: Figure())


def test_an_interrupted_run_goes_on_and_loses_no_finished_step(
    explained, case, tmp_path, monkeypatch, capsys
):
    out, done = tmp_path / "out", []
    explain = instance_studies.explain_instance

    def killed(*given, **more):
        if len(done) == 3:  # the first instance by two methods, the second by one
            raise KeyboardInterrupt
        done.append(given)
        return explain(*given, **more)

    monkeypatch.setattr(instance_studies, "explain_instance", killed)
    assert run(*arguments(case, out)) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert len(open_scans(out).table.unique("step")) == 4  # the segmentation is one
    assert not (out / "manifest.json").exists()
    count = []
    monkeypatch.setattr(
        instance_studies,
        "explain_instance",
        lambda *given, **more: count.append(0) or explain(*given, **more),
    )
    assert run(*arguments(case, out)) == 0
    assert len(count) == 3
    assert content(out) == content(explained)
    # Another run does not mix with it.
    assert run(*arguments(case, out), "--option", "sigma=0.1") == 2
    assert "holds another run" in capsys.readouterr().err
    assert content(out) == content(explained)


# Counts the files that are put in place, and dies before one of them is.
DYING = """
import os, sys
from pathlib import Path
from segcam_jax import _files, cli
left, write = int(sys.argv[1]), _files.write_bytes
def dying(path, data):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    write(path, data)
_files.write_bytes = dying
sys.exit(cli.main(sys.argv[2:]))
"""


def killed_at(place, case, out):
    """Runs the command until it has written so many files; returns how it ended."""
    line = [sys.executable, "-c", DYING, place, *arguments(case, out)]
    done = subprocess.run([*map(str, line)], check=False, capture_output=True, timeout=300)
    return done.returncode


def test_a_killed_run_ends_with_the_same_bytes(explained, case, tmp_path):
    out = tmp_path / "out"
    assert killed_at(15, case, out) == 9
    assert run(*arguments(case, out)) == 0
    assert content(out) == content(explained)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_bytes(explained, case, tmp_path):
    out = tmp_path / "out"
    ends = [killed_at(n, case, out) for n in np.random.default_rng(0).integers(1, 16, 10)]
    assert ends.count(9) > 2
    assert run(*arguments(case, out)) == 0
    assert content(out) == content(explained)


def test_a_scan_is_opened_once_to_compute_and_once_to_draw(case, tmp_path, monkeypatch, undrawn):
    opened, read = [], nifti.read_volume
    monkeypatch.setattr(nifti, "read_volume", lambda path: opened.append(path.name) or read(path))
    # Features read it once more.
    line = [each for each in arguments(case, tmp_path / "out") if each != "--features"]
    assert run(*line) == 0
    counts = [opened.count(f"{name}.nii.gz") for name in ("flair", "t1")]
    assert counts == [2, 2]
    opened.clear()
    assert run(*line) == 0
    assert set(opened) == {"truth.nii.gz"}  # What its values are is asked before all else.


def test_figures_on_another_scale_are_drawn_again_and_maps_stay(case, tmp_path, explained, undrawn):
    out = shutil.copytree(explained, tmp_path / "out")
    record = out / "patient" / "instance-001" / "record.json"
    record.write_text(record.read_text().replace('"limits": {', '"limits": {"another": 1,'))
    folder, other = record.parent, record.parents[1] / "instance-002"
    before = {path: path.stat().st_mtime_ns for path in (*folder.iterdir(), *other.iterdir())}
    assert run(*arguments(case, out)) == 0
    changed = [path.name for path in before if path.stat().st_mtime_ns != before[path]]
    assert sorted(changed) == ["grad_cam.bottleneck.png", "instance_smooth_grad.png", "record.json"]
    assert "another" not in record.read_text()


def test_an_instance_that_fails_is_a_row_and_the_others_are_explained(
    case, tmp_path, monkeypatch, capsys, undrawn
):
    explain, out = instance_studies.explain_instance, tmp_path / "out"

    def failing(split, params, crop, method, *given, **more):
        if method == "grad_cam" and crop.mask[0].any():  # the instance at the border
            raise InputError("it overflowed")
        return explain(split, params, crop, method, *given, **more)

    monkeypatch.setattr(instance_studies, "explain_instance", failing)
    assert run(*arguments(case, out)) == 3
    assert "patient: instance 1 failed: it overflowed" in capsys.readouterr().err
    rows = table(out / "instances.csv")
    assert [row["method"] for row in rows if row["instance"] == "1"] == ["instance_smooth_grad"] * 2
    assert [row["method"] for row in rows if row["instance"] == "2"][-1] == "grad_cam"
    assert run("show", out) == 0
    assert "it overflowed" in capsys.readouterr().out
    assert run(*arguments(case, tmp_path / "stopped"), "--on-error", "stop") == 2
    assert "it overflowed" in capsys.readouterr().err


def test_a_stored_run_is_exported_as_it_was_written(explained, tmp_path, capsys, undrawn):
    out = tmp_path / "out"
    assert run("export", explained / "run.zarr", "--out", out) == 0
    written, exported = content(explained), content(out)
    names = {name for name in written if not name.startswith("run.zarr")}
    names.remove("features.csv")  # It is of the scans.
    assert set(exported) == {*names, "record.json"}
    for name in (each for each in names if not each.endswith(".png")):
        assert exported[name] == written[name]
    assert run("export", explained, "--out", out) == 2
    assert "already holds 'instances.csv'" in capsys.readouterr().err
    (tmp_path / "record.json").write_text("mine")
    assert run("export", explained, "--out", tmp_path) == 2
    assert "already holds 'record.json'" in capsys.readouterr().err
    assert run("show", explained, "--item", 0) == 2
    assert "is a run of scans" in capsys.readouterr().err


def test_a_mended_scan_is_done_again_and_the_others_stay(case, tmp_path, capsys, undrawn):
    """A broken second scan fails; when it is mended, the first is not segmented again."""
    for name in ("flair", "t1"):
        for patient in ("a", "b"):
            (tmp_path / patient).mkdir(exist_ok=True)
            data = (case / f"{name}.nii.gz").read_bytes()
            (tmp_path / patient / f"{name}.nii.gz").write_bytes(data)
    broken = tmp_path / "b" / "t1.nii.gz"
    broken.write_bytes(data[:-600])
    files = [tmp_path / p / f"{n}.nii.gz" for p in ("a", "b") for n in ("flair", "t1")]
    out = tmp_path / "out"
    given = ("instances", *files, *command("instances", case, out)[3:], "--option", "samples=6")
    assert run(*given, "--on-error", "stop") == 2
    assert "t1.nii.gz" in capsys.readouterr().err
    part = out / "run.zarr" / "items" / "00000.parquet"
    stamp = part.stat().st_mtime_ns
    assert run(*given) == 3
    said = capsys.readouterr().err.replace("\n", " ")
    assert "b failed: " in said
    assert "tells why 1 failed" in said
    assert {row["scan"] for row in table(out / "instances.csv")} == {"a"}
    first = out / "a" / "record.json"
    written = first.stat().st_mtime_ns
    broken.write_bytes(data)
    (out / "a" / "figure.png").write_bytes(b"somebody else's")
    assert run(*given) == 0
    assert (part.stat().st_mtime_ns, first.stat().st_mtime_ns) == (stamp, written)
    assert (out / "a" / "figure.png").exists()
    rows = table(out / "instances.csv")
    assert {row["scan"] for row in rows} == {"a", "b"}
    assert {row["group"] for row in rows} == {""}

    # Other contents in the same file, in which nothing is found: its instances go.
    volume = nibabel.load(case / "t1.nii.gz")
    for name in ("flair", "t1"):
        save(tmp_path / "b" / f"{name}.nii.gz", np.zeros(SHAPE, np.float32), volume.affine)
    capsys.readouterr()
    assert run(*given) == 0
    said = capsys.readouterr().err
    assert "b: its files have changed, so it is computed again" in said
    assert (
        said.replace("\n", " ").count("all voxels are 0; such a volume tells the network nothing")
        == 2
    )
    assert {row["scan"] for row in table(out / "instances.csv")} == {"a"}
    assert (part.stat().st_mtime_ns, first.stat().st_mtime_ns) == (stamp, written)
    assert not (out / "b" / "instance-001").exists()


def test_another_scan_of_the_same_name_does_not_replace_what_is_there(
    explained, case, tmp_path, capsys
):
    other = tmp_path / "two" / "patient"
    for name in ("flair", "t1", "truth"):
        image = nibabel.load(case / f"{name}.nii.gz")
        values = image.get_fdata(dtype=np.float32)
        save(other / f"{name}.nii.gz", 2 * values, image.affine)
    before = sorted(explained.rglob("*"))
    given = list(arguments(case, explained))
    given = [other / each.name if str(each).endswith(".nii.gz") else each for each in given]
    assert run(*given) == 2
    assert "holds another scan 'patient', of" in capsys.readouterr().err
    given = [
        other / each.name if each == case / "truth.nii.gz" else each
        for each in arguments(case, explained)
    ]
    assert run(*given) == 2
    assert "holds scan 'patient' with another truth, " in capsys.readouterr().err
    assert sorted(explained.rglob("*")) == before


def test_a_full_disk_is_one_line_and_what_is_finished_stays(case, tmp_path, monkeypatch, capsys):
    out, written, write = tmp_path / "out", [], Path.write_bytes

    def full(path, data):
        if not path.name.endswith(".nii.gz"):
            return write(path, data)
        if len(written) == 6:  # the segmentation takes three files, the first instance two or three
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(*arguments(case, out)) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert "cannot be written: No space left on device" in line
    assert (out / "patient" / "instance-001" / "record.json").is_file()
    assert not list(out.rglob(".*.nii.gz"))


def test_an_empty_prediction_is_said(case, tmp_path, capsys):
    empty = command("instances", case, tmp_path / "a", "--min-volume", 1e6)
    assert run(*empty) == 0
    assert "no instance was found in 1 scan;" in capsys.readouterr().out
    assert table(tmp_path / "a" / "instances.csv") == []
    assert (tmp_path / "a" / "instances.csv").read_text().startswith("scan,instance,group")
    assert (tmp_path / "a" / "manifest.json").is_file()
    assert run(*command("context", case, tmp_path / "b", "--max-voxels", 3)) == 0
    assert "no instance of at most 3 voxels was found" in capsys.readouterr().out
    assert table(tmp_path / "b" / "context.csv") == []
    assert (tmp_path / "b" / "context.csv").read_text().strip().endswith("dilations,reach_mm")


@pytest.fixture
def fault(capsys):
    """Runs a command line that must fail with code 2 and one line on stderr, which it returns."""

    def check(*given):
        capsys.readouterr()
        assert run(*given) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("segcam: error: ")]
        assert errors == lines[-1:]
        return errors[0]

    return check


def check_overlaid(lenient, strict, fault, capsys):
    """Two runs of `segcam context` in one table and figures; what cannot be compared is refused."""
    given, out = ("context", "--runs", lenient, strict, "--out"), lenient.parent / "both"
    assert run(*given, out) == 0
    said = capsys.readouterr()
    assert "2 networks" in said.out
    # Networks may have thresholds of their own, which is said.
    assert "'out' studies 'lesion' above 0.5; 'strict' studies 'lesion' above 0.9" in said.err
    rows = table(out / "context.csv")
    assert [(row["network"], row["dilations"]) for row in rows] == [
        (path.name, step) for path in (lenient, strict) for step in "123"
    ]
    for row in rows:
        every = table(lenient.parent / row["network"] / "context-instances.csv")
        single = [each for each in every if each["dilations"] == row["dilations"]]
        scores = [float(each["score"]) for each in single]
        assert int(row["instances"]) == len(scores) == 2
        told = [float(row[name]) for name in ("average_score", "median_score", "std_dev")]
        by_hand = [np.mean(scores), np.median(scores), np.std(scores)]
        assert told == pytest.approx(by_hand, rel=1e-4)
        assert int(row["n_predictions"]) == sum(each["detected"] == "True" for each in single)
    assert rows[0]["average_score"] != rows[3]["average_score"]
    assert "already holds 'context.csv'" in fault(*given, out)
    assert "holds a run of its own" in fault(*given, strict, "--overwrite")
    assert "holds a run of its own" in fault(*given, strict / "run.zarr", "--overwrite")
    none = lenient.parent / "none"
    assert "names one folder twice" in fault("context", "--runs", lenient, lenient)
    assert "--weights and --runs" in fault(*given, none, "--weights", "lesions")
    assert "--class and --runs" in fault(*given, none, "--class", "1")
    manifest = strict / "run.zarr" / "manifest.json"
    values = json.loads(manifest.read_text())
    options = values["options"]
    for changed, line in (
        ({"kind": "instances"}, "'strict' is of instances"),
        ({"finished": None}, "'strict' is not finished"),
        (
            {"options": {**options, "groups": ["TP"]}},
            "'strict' has the groups ['TP'], 'out' ['TP', 'FP']",
        ),
        ({"options": {**options, "min_iou": 0.5}}, "'strict' has the min_iou 0.5, 'out' None"),
        (
            {"options": {**options, "truth": {**options["truth"], "ignore": 2}}},
            "'strict' has the truth_ignore 2, 'out' None",
        ),
    ):
        manifest.write_text(json.dumps({**values, **changed}))
        assert line in fault(*given, none)
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match="7 networks were given"):
        write_overlay(dict.fromkeys("abcdefg", open_scans(lenient)), none)
    assert not none.exists()
    # Folders of one name are told apart by those above.
    same = lenient.parent / "second" / "out"
    shutil.copytree(lenient, same)
    assert run("context", "--runs", lenient, same, "--out", none) == 0
    names = {row["network"] for row in table(none / "context.csv")}
    assert names == {f"{lenient.parent.name}/out", "second/out"}


def check_what_failed_is_told(lenient, strict, out):
    """What failed in one run alone: a scan is refused by its name, an instance is told."""
    first, second = open_scans(lenient), open_scans(strict)
    whole, said = second.table, []
    broken = polars.col("instance") == 2, polars.col("score").is_not_null()
    second.table = whole.with_columns(
        score=polars.when(*broken).then(None).otherwise(polars.col("score")),
        error=polars.when(*broken).then(polars.lit("no memory")),
    )
    write_overlay({"one": first, "two": second}, out, said.append)
    assert said[1:] == ["'two' is without instance 2 of the scan 'patient', which failed"]
    second = open_scans(strict)
    second.table = whole.with_columns(
        sha256=polars.lit(None, polars.String), error=polars.lit("broken")
    )
    digest = first.scans[0]["sha256"][:8]
    line = f"'two' has of the scan 'patient' the files that failed, 'one' {digest}; compare"
    with pytest.raises(InputError, match=line):
        write_overlay({"one": first, "two": second}, out)


def test_context_writes_tables_and_figures_and_resumes(case, tmp_path, capsys, fault):
    out = tmp_path / "out"
    truth = ("--truth", case / "truth.nii.gz", "--group", "tp", "fp", "--max-voxels", 200)
    given = command("context", case, out, *truth, "--steps", 3)
    assert run(*given) == 0
    assert "2 instances, 3 dilations" in capsys.readouterr().out
    rows = table(out / "context.csv")
    assert [row["distance_mm"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0])[-1] == "score_2"
    single = table(out / "context-instances.csv")
    assert {row["instance"] for row in single} == {"1", "2"}
    assert len(single) == 6
    full = {row["instance"]: float(row["full_score"]) for row in single}
    labels = nibabel.load(out / "patient" / "instances.nii.gz").get_fdata()
    probability = nibabel.load(out / "patient" / "probability.nii.gz").get_fdata()
    for label, score in full.items():
        assert score == pytest.approx(probability[labels == int(label)].mean(), abs=1e-5)
    assert all((out / name).is_file() for name in ("scores.png", "detections.png"))
    before = (out / "context.csv").read_bytes()
    (out / "patient" / "instance-002" / "record.json").unlink()
    assert run(*given) == 0
    assert (out / "context.csv").read_bytes() == before
    strict = command("context", case, tmp_path / "strict", *truth, "--steps", 3)
    assert run(*strict, "--threshold", 0.9) == 0
    check_what_failed_is_told(out, tmp_path / "strict", tmp_path / "failed")
    check_overlaid(out, tmp_path / "strict", fault, capsys)


def test_broken_volumes_are_one_line_each(case, tmp_path, fault):
    out, flair = tmp_path / "out", case / "flair.nii.gz"
    values = nibabel.load(flair).get_fdata(dtype=np.float32)

    def with_second(path):
        weights = ("--weights", case / "net.safetensors", "--roi", 12)
        return fault("instances", flair, path, *weights, "--out", out)

    moved = save(tmp_path / "moved.nii", values, AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 0.4)
    assert "has another grid" in with_second(moved)
    smaller = save(tmp_path / "smaller.nii", values[1:])
    assert "15 x 14 x 12 voxels" in with_second(smaller)
    assert "is 4D" in with_second(save(tmp_path / "time.nii", np.stack([values] * 3, -1)))
    holes = values.copy()
    holes[3, 3, 3] = np.nan
    assert "is NaN or infinite in 1 voxel;" in with_second(save(tmp_path / "holes.nii", holes))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(flair.read_bytes()[:-900])
    assert "truncated" in with_second(cut)
    assert "does not exist" in with_second(tmp_path / "missing.nii")
    assert "is given as modality 1 and as modality 2 of a scan" in with_second(flair)
    assert "is not a volume" in with_second(case / "net.safetensors")


def test_what_is_missing_or_wrong_is_one_line_each(case, tmp_path, fault):
    out = tmp_path / "out"
    good = command("instances", case, out)
    weights = ("--weights", case / "net.safetensors", "--out", out)
    assert "takes 2 modalities" in fault("instances", case / "t1.nii.gz", *weights)
    assert "no weights" in fault("instances", case / "t1.nii.gz")
    assert "name volumes, or give a folder" in fault("instances", *weights)
    data = ("--data", case.parent.parent, *weights)
    assert "names 1 modalit(ies)" in fault("instances", *data, "--prefixes", "flair")
    assert "lacks the volume 'pd'" in fault("instances", *data, "--prefixes", "flair", "pd")
    assert "begins with 'x' or 'y'" in fault("instances", *data, "--prefixes", "x", "y")
    (tmp_path / "file").write_bytes(b"")
    assert "is a file" in fault(*command("instances", case, tmp_path / "file"))
    flat = ("--weights", "texture-mnist-biased", "--out", out)
    assert "belong to a 2D network" in fault("instances", case / "t1.nii.gz", *flat)
    (tmp_path / "bad.safetensors").write_bytes(b"words")
    checkpoint = ("--weights", "model_epoch_31.pth")
    assert "segcam convert" in fault("instances", case / "t1.nii.gz", *checkpoint)
    bad = ("--weights", tmp_path / "bad.safetensors")
    assert "cannot be read" in fault("instances", case / "t1.nii.gz", *bad)
    for more, words in (
        (("--threshold", 1.5), "threshold=1.5"),
        (("--iou", 0), "min_iou=0"),
        (("--connectivity", 4), "4"),
        (("--class", "tumour"), "tumour"),
        (("--class", "0", "--class", "1"), "give one class of volumes"),
        (("--tap", "nowhere", "--method", "grad_cam"), "nowhere"),
        (("--method", "grad_kam"), "grad_cam"),
        (("--method", "grad_cam", "--field", "stitched"), "stitched explains the input"),
        (("--option", "samples=0"), "`samples` is 0"),
        (("--option", "sigma=-1"), "sigma was given '-1'; give a number from 0"),
        (("--option", "sigma_unit=absolute"), "a share of the range of --noise-modality"),
        (("--option", "window=2"), "has no option 'window'"),
        (("--noise-modality", "pd"), "choose from flair, t1"),
        (("--option", "aggregation=max", "--legacy-divisor"), "needs the aggregation mean"),
        (("--group", "TP"), "needs a truth"),
        (("--truth", case / "truth.nii.gz", "--group", "TN"), "group 'TN' is unknown"),
        (("--memory-limit", "lots"), "500MB or 2GiB"),
        (("--modalities", "a", "A"), "2 different names"),
    ):
        assert words in fault(*good, *more)
    odd = command("instances", case, out, roi=(13,))
    assert "multiples of 2 x 2 x 2" in fault(*odd)
    assert "give one extent, or three" in fault(*command("instances", case, out, roi=(12, 12)))
    fine = save(
        tmp_path / "fine.nii", np.zeros(SHAPE, np.float32), AFFINE @ np.diag([0.5, 1, 1, 1])
    )
    other = tmp_path / "other.nii"
    other.write_bytes(fine.read_bytes())
    files = (case / "flair.nii.gz", case / "t1.nii.gz", fine, other)
    assert "one voxel size" in fault("context", *files, *weights, "--roi", 12)
    assert "`steps` is 0" in fault(*command("context", case, out, "--steps", 0))
    assert not out.exists()


def test_scans_of_a_folder_are_found(case):
    found = scan_inputs.scan_files(
        (), 2, data=case.parent.parent, prefixes=("flair", "t1"), truth_prefix="truth"
    )
    assert [(each.name, each.truth) for each in found] == [("one-patient", case / "truth.nii.gz")]


def held_to(labels, case, tmp_path, **options):
    """Label, group and voxels of what is found and missed of a truth, and what is said."""
    network = _OPENED(NetworkSpec.parse(str(case / "net.safetensors")), OpenOptions(ndims=(3,)))
    files = (case / "flair.nii.gz", case / "t1.nii.gz")
    scan = scans.ScanFiles("a", files, save(tmp_path / "truth.nii.gz", labels))
    chosen = segmentation.checked(SegmentOptions(roi=(12,), **options), network)
    segmented = segment(network, read_input(scan, chosen), chosen)
    told = [(each.label, each.group, each.voxels) for each in segmented.instances()]
    assert all(segmented.mask(each).sum() == each.voxels for each in segmented.instances())
    return told, [note for note in segmented.notes if "truth.nii.gz" in note]


def test_a_scan_without_a_background_of_zero_is_noted(case, tmp_path):
    """The background took part in mean and deviation without a word."""
    flair = nibabel.load(case / "flair.nii.gz").get_fdata(dtype=np.float32)
    flair[0] = 0
    files = (save(tmp_path / "flair.nii", flair), case / "t1.nii.gz")
    for normalise, noted in (("zscore", ["t1"]), ("none", [])):
        chosen = SegmentOptions(normalise=normalise)
        notes = read_input(scans.ScanFiles("a", files), chosen).notes
        told = [note for note in notes if "no voxel is 0" in note]
        assert [Path(note.partition(": ")[0]).name for note in told] == [
            f"{name}.nii.gz" for name in noted
        ]


def test_a_truth_is_taken_for_what_it_says(case, tmp_path):
    """Lesion 2 is found and lesion 9, which touches it, is not: 1 FN; as a mask they are one."""
    truth = nibabel.load(case / "truth.nii.gz").get_fdata().astype(np.int16)
    touching = truth.copy()
    touching[4:7, 5:8, 4:7], touching[4:7, 5:8, 7:9], touching[4:7, 5:8, 9:12] = 2, 2, 9
    both, _ = held_to(touching, case, tmp_path, truth=TruthOptions("instances"))
    assert [each[1:] for each in both if each[1] == "FN"] == [("FN", 8), ("FN", 27)]
    merged, _ = held_to(touching, case, tmp_path, truth=TruthOptions("classes"))
    assert [each[1:] for each in merged if each[1] == "FN"] == [("FN", 8)]
    with pytest.raises(InputError, match=r"truth.nii.gz.*3 positive values \(1, 2, 9\)"):
        held_to(touching, case, tmp_path)


def test_what_a_truth_does_not_know_is_no_false_positive(case, tmp_path):
    truth = nibabel.load(case / "truth.nii.gz").get_fdata().astype(np.int16)
    truth[:4] = 255  # the instance at the border, which is FP elsewhere
    told, notes = held_to(truth, case, tmp_path, truth=TruthOptions(ignore=255))
    assert [group for _, group, _ in told] == ["IGNORED", "TP", "FN"]
    assert not notes
    _, notes = held_to(truth, case, tmp_path, truth=TruthOptions("instances"))
    assert "--ignore-label=255" in notes[0]
    truth[:4] = 0
    truth[truth > 0] = 255
    told, notes = held_to(truth, case, tmp_path, truth=TruthOptions(ignore=255))
    assert "holds no lesion" in notes[0]


def test_all_are_matched_before_small_ones_are_dropped(case, tmp_path):
    """At 9a93cb7 the lesion of 27 voxels was dropped first, and the hit on it counted as FP."""
    truth = nibabel.load(case / "truth.nii.gz").get_fdata().astype(np.int16)
    told, _ = held_to(truth, case, tmp_path)
    ((_, _, hit),) = [each for each in told if each[1] == "TP"]
    assert hit > 28
    told, _ = held_to(truth, case, tmp_path, min_voxels=28)
    assert ("TP", hit) in [each[1:] for each in told]
    assert "FN" not in {group for _, group, _ in told}  # it has 8 voxels
    assert [label for label, _, _ in told] == list(range(1, len(told) + 1))
    weak, _ = held_to(truth, case, tmp_path, min_voxels=28, min_iou=1.0)
    assert ("WEAK", hit) in [each[1:] for each in weak]


def test_what_a_truth_means_is_asked_before_anything_is_written(case, tmp_path, fault):
    values = nibabel.load(case / "truth.nii.gz").get_fdata(dtype=np.float32)
    out = tmp_path / "out"

    def with_truth(values, *more):
        path = save(tmp_path / "truth.nii", values)
        return fault(*command("instances", case, out), "--truth", path, *more)

    values[0, 0, 0] = 4
    assert "2 positive values (1, 4)" in with_truth(values)
    assert "need truth labels" in with_truth(
        values, "--truth-labels", "instances", "--truth-classes", 4
    )
    assert "--truth-threshold 0.5" in with_truth(0.4 * values)
    values[0, 0, 0] = -1
    assert "--ignore-label=-1" in with_truth(values)
    assert "is the background" in with_truth(values, "--ignore-label=0")
    assert "group 'TN' is unknown" in with_truth(values, "--ignore-label=-1", "--group", "TN")
    assert "need a ground truth" in fault(*command("context", case, out), "--ignore-label", 3)
    assert not out.exists()


def test_peaks_are_measured_with_their_distance():
    values = np.zeros((5, 4, 4))
    values[0, 0, 0], values[4, 1, 1], values[2, 2, 2] = 3, -2, 1
    mask = np.zeros(values.shape, bool)
    mask[2, 2, 2] = mask[2, 2, 3] = True
    told = measure(values, mask, (1, 2, 0.5))
    assert told["peak_positive"] == 3
    assert told["peak_positive_distance_mm"] == pytest.approx((4 + 16 + 1) ** 0.5)
    assert told["peak_negative"] == -2
    assert told["peak_negative_distance_mm"] == pytest.approx((4 + 4 + 0.25) ** 0.5)
    assert told["mean_inside"] == 0.5
    nothing = measure(np.zeros_like(values), mask, (1, 1, 1))
    assert nothing["peak_positive"] == 0
    assert np.isnan(nothing["peak_positive_distance_mm"])


def test_cuts_of_large_and_small_volumes_come_back_in_place():
    rng = np.random.default_rng(0)
    for extents, window, field, size in (
        ((20, 9, 7), (8, 8, 8), "window", (8, 8, 8)),
        ((20, 9, 7), (4, 4, 4), "volume", (20, 12, 8)),
        ((6, 5, 4), (8, 8, 8), "window", (8, 8, 8)),
    ):
        x = rng.normal(size=(*extents, 2)).astype(np.float32)
        labels = np.zeros(extents, np.int32)
        labels[-2:, 1:3, 0] = 1
        found = measured(labels)
        box = found.instances[0].box
        cut = crop_around(x, labels == 1, box, window=window, multiples=(4, 4, 4), field=field)
        assert cut.x.shape == (*size, 2)
        assert cut.mask.sum() == 4
        back = put_back(cut.inside(cut.x[..., 1]), cut.box, extents)
        inside = back != 0
        np.testing.assert_array_equal(back[inside], x[..., 1][inside])
        assert inside[labels == 1].all()
        target = instance_maps.target_of(cut.mask, 0, "logits", tight=False)
        assert target.extent == tuple(min(8, each) for each in size)
        assert target.cropped()(_window(cut, target)) == pytest.approx(x[labels == 1, 0].mean())


def _window(cut, target):
    place = tuple(slice(c, c + e) for c, e in zip(target.corner, target.extent, strict=True))
    return cut.x[place]


def test_a_preset_says_what_is_not_given():
    assert (chosen(Instances(), "connectivity"), chosen(Instances(), "min_voxels")) == (26, 1)
    one = Instances(preset="ies", min_voxels=3)
    assert (chosen(one, "connectivity"), chosen(one, "min_voxels")) == (18, 3)
    study = Context(preset="ies")
    assert [chosen(study, name) for name in ("min_voxels", "max_voxels")] == [91, 119]
    assert groups_of(Context(preset="ies", truth=(Path("a.nii"),))) == ("TP",)
    with pytest.raises(InputError, match=r"--preset ies \(TP\) needs a truth"):
        groups_of(study)
