"""Probabilities and multi-label heads on the command line: predicted pixels, shares, voxels, words.

The image is 48 x 48 of grey 0.04; 32 x 32 of it are 0.5, of which 16 x 16 are 0.98.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import nibabel
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage

import segcam_jax
from segcam_jax import TargetError, cli, models
from segcam_jax.data import scans
from segcam_jax.models import stored
from segcam_jax.models.monai_unet.model import monai_unet
from segcam_jax.networks.class_queries import Prediction
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions, Said
from segcam_jax.outputs import Meaning
from segcam_jax.runs.job import Job
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError
from segcam_jax.volumes import (
    SegmentOptions,
    context_curve,
    read_input,
    scan_inputs,
    segment,
)
from tests.support import own_networks
from tests.support.explained import manifest_of, rows_of

FILE = str(Path(own_networks.__file__))
ALL, WHOLE, CORE = 48 * 48, 32 * 32, 16 * 16


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Leaves the path of imports and the compilation cache as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)
    pixels = np.full((48, 48), 0.04, np.float32)
    pixels[8:40, 8:40], pixels[16:32, 16:32] = 0.5, 0.98
    np.save(tmp_path / "grey.npy", pixels)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def planned(folder, name, *, said=None, **options):
    """What is explained of the image, what is said of the network, and it."""
    chosen = StudyOptions(
        weights=f"{FILE}:{name}",
        methods=("grad_cam",),
        taps=("hidden",),
        **{**(said or {}), **options},
    )
    opened = Job(chosen, (folder / "grey.npy",), folder / "none", devices=1).open()
    network, item = opened.network, opened.items[0]
    sample = opened.read(item).sample
    (goal,) = opened.kernel._goals(sample, item, network.logits(sample.padded))
    if isinstance(goal, Failure):
        raise TargetError(goal.reason)
    return goal, "; ".join([network.note, network.explained_as(chosen.of)]), network


def pixels_of(case):
    assert case.region is not None
    return int(case.region.sum())


@pytest.mark.parametrize(
    ("name", "said", "options", "pixels", "words"),
    [
        ("bright", {}, {}, CORE, "segcam assumes that its output holds logits"),
        ("bright_sigmoid", {}, {}, CORE, "ends in a sigmoid, so it holds probabilities"),
        ("bright_sigmoid", {}, {"min_probability": 0.75}, CORE, "holds probabilities"),
        ("bright_sigmoid", {"threshold": (0.4,)}, {}, WHOLE, "holds probabilities"),
        (
            "bright_sigmoid",
            {"outputs": "logits"},
            {},
            ALL,
            "holds logits, as declared, though it ends in a sigmoid",
        ),
        ("bright_declared", {}, {}, CORE, "holds probabilities, as declared"),
        ("bright_undeclared", {"outputs": "probabilities"}, {}, CORE, "as declared"),
        ("bright_softmax", {}, {"classes": ("1",)}, CORE, "ends in a softmax"),
        ("bright_softmax", {}, {"classes": ("1",), "min_probability": 0.75}, CORE, "a softmax"),
    ],
)
def test_predicted_pixels_are_those_of_the_output(tmp_path, name, said, options, pixels, words):
    case, notes, opened = planned(tmp_path, name, said=said, **options)
    assert pixels_of(case) == pixels
    assert words in notes
    holds = "logits" if "logits" in words else "probabilities"
    assert (opened.meaning.outputs or "logits") == holds
    assert ("which segcam explains unchanged" in notes) == (holds == "probabilities")


def test_probabilities_are_explained_once_and_written_down(tmp_path, capsys):
    line = ("explain", tmp_path / "grey.npy", "--weights", f"{FILE}:bright_sigmoid")
    line += ("--method", "grad_cam", "--tap", "hidden", "--region", "pixel:20,20")
    assert run(*line, "--of", "probabilities", "--out", tmp_path / "out") == 0
    (row,) = rows_of(tmp_path / "out")
    np.testing.assert_allclose(row["score"], 1 / (1 + np.exp(-20 * (0.98 - 0.5))), rtol=1e-5)
    said = {"outputs": "probabilities", "exclusive": True, "threshold": 0.5}
    assert manifest_of(tmp_path / "out")["network"]["meaning"] == said
    err = capsys.readouterr().err
    assert "ends in a sigmoid" in err
    assert "which segcam explains unchanged" not in err


def test_a_classifiers_shares_are_its_softmax(tmp_path):
    case, _, _ = planned(tmp_path, "softmax_classifier")
    share = case.prediction.shares[case.class_index]
    np.testing.assert_allclose(share, np.exp(9) / (np.exp(9) + 9), atol=1e-5)


def test_a_doubt_and_a_contradiction_end_in_a_line(tmp_path, capsys):
    line = ("explain", tmp_path / "grey.npy", "--tap", "hidden", "--out", tmp_path / "out")
    for name, options, complaint in (
        ("bright_undeclared", (), "may be probabilities or logits"),
        (
            "bright",
            ("--outputs", "probabilities"),
            "was declared to be probabilities, but has values",
        ),
        ("banded", ("--threshold", "0.4"), "--threshold is for classes that do not exclude"),
        ("nested_sigmoid", ("--threshold", "0.4", "0.5"), "2 thresholds for 3 classes"),
        ("bright", ("--threshold", "0.4", "--min-probability", "0.5"), "give one of --threshold"),
        ("classifier", ("--threshold", "0.4", "--multi-label"), "leave out --threshold"),
    ):
        assert run(*line, "--weights", f"{FILE}:{name}", *options) == 2
        err = capsys.readouterr().err
        assert complaint in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "said"), [("nested", {"multi_label": True}), ("nested_sigmoid", {})]
)
def test_classes_that_do_not_exclude_each_other_have_regions_of_their_own(tmp_path, name, said):
    for index, pixels in ((1, CORE), (0, WHOLE)):
        case, _, opened = planned(tmp_path, name, said=said, classes=(str(index),))
        assert pixels_of(case) == pixels
        np.testing.assert_array_equal(case.prediction.drawn(index) == index, case.region)
        assert opened.meaning.exclusive is False
        assert case.prediction.order == [0, 1]
        assert case.prediction.shares[:2] == pytest.approx([WHOLE / ALL, CORE / ALL], abs=1e-6)
    with pytest.raises(
        TargetError, match="class '2' is not predicted at any pixel; the predicted classes are 0, 1"
    ):
        planned(tmp_path, name, said=said, classes=("2",))
    case, _, _ = planned(
        tmp_path, name, said={**said, "threshold": (0.5, 0.5, 0.1)}, classes=("2",)
    )
    assert pixels_of(case) == ALL  # Logits from -2 to -1 are probabilities from 0.12 on.


def test_of_probabilities_of_such_a_class_is_its_sigmoid(tmp_path):
    line = ("explain", tmp_path / "grey.npy", "--weights", f"{FILE}:nested", "--multi-label")
    line += ("--method", "grad_cam", "--tap", "hidden", "--class", 0, "--region", "pixel:24,24")
    line += ("--of", "probabilities", "--no-figures", "--out", tmp_path / "out")
    assert run(*line) == 0
    (row,) = rows_of(tmp_path / "out")
    np.testing.assert_allclose(row["score"], 1 / (1 + np.exp(-20 * (0.98 - 0.3))), rtol=1e-5)


def test_a_gallery_shows_the_predicted_share_of_each_class(tmp_path, capsys):
    line = ("gallery", tmp_path / "grey.npy", "--weights", f"{FILE}:nested", "--tap", "hidden")
    line += ("--method", "grad_cam", "--multi-label", "--out", tmp_path / "gallery")
    assert run(*line, "--class", "top:1", "top:2") == 0
    index = json.loads((tmp_path / "gallery" / "gallery.json").read_text())
    found = {each["class_index"]: each["share"] for each in index["maps"]}
    assert found == pytest.approx({0: WHOLE / ALL, 1: CORE / ALL}, abs=1e-6)
    (network,) = index["networks"].values()
    assert network["outputs"] == {"holds": "logits", "exclusive": False, "threshold": 0.5}
    assert run(*line, "--class", "top:1", "top:3", "--overwrite") == 3
    assert "top:3: the network predicts only 2 classes here" in capsys.readouterr().err


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A 3D network with three sigmoid heads, a scan, and the voxels that each predicts."""
    folder = tmp_path_factory.mktemp("heads")
    options = {"channels": (2, 4), "strides": (2,), "num_res_units": 0}
    made = monai_unet(in_channels=1, classes=3, rngs=nnx.Rngs(3), **options)
    stored.save(folder / "three.safetensors", "monai_unet", made, {"classes": ["a", "b", "c"]})
    known = {"classes": ["a", "b", "c"], "multi_label": True}
    stored.save(folder / "known.safetensors", "monai_unet", made, known)
    values = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "v.nii.gz")
    fn, params = segcam_jax.from_nnx(made)
    x = scans.zscore(values[..., None])
    sigmoid = 1 / (1 + np.exp(-np.asarray(jax.jit(fn)(params, x))))
    return folder, fn, params, x, sigmoid


def test_voxels_of_heads_are_those_of_their_sigmoid(heads):
    folder, *_, sigmoid = heads
    three = (str(folder / "three.safetensors"), Said(multi_label=True))
    known = (str(folder / "known.safetensors"), Said())
    for index, (file, said) in enumerate((three, known, three)):
        options = SegmentOptions(class_index=str(index), roi=(8,), min_voxels=9)
        files = scan_inputs.scan_files([folder / "v.nii.gz"], 1)
        opened = open_network(NetworkSpec.parse(file), OpenOptions(ndims=(3,), said=said))
        found = segment(opened, read_input(files[0], options), options)
        np.testing.assert_allclose(found.probability, sigmoid[..., index], atol=1e-5)
        components: Any = ndimage.label(sigmoid[..., index] > 0.5, np.ones((3, 3, 3)))
        sizes = np.bincount(components[0].ravel())[1:]
        assert sorted(each.voxels for each in found.instances()) == sorted(sizes[sizes >= 9])


def test_heads_on_the_command_line(heads, capsys):
    folder, *_, sigmoid = heads
    line = ("context", folder / "v.nii.gz", "--roi", 8, "--steps", 1, "--min-voxels", 99)
    line += ("--weights", folder / "three.safetensors", "--class", 0)
    assert run(*line, "--multi-label", "--out", folder / "out") == 0
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["weights"]["outputs"]["exclusive"] is False
    record = folder / "out" / manifest["scans"][0] / "record.json"
    (instance,) = json.loads(record.read_text())["instances"]
    assert 99 <= instance["voxels"] <= (sigmoid[..., 0] > 0.5).sum()
    assert "called background" not in capsys.readouterr().err
    assert run(*line, "--outputs", "probabilities", "--out", folder / "not") == 2
    err = capsys.readouterr().err
    assert "none of its classes is called background" in err
    assert "was declared to be probabilities, but has values from" in err


def test_context_of_a_head_is_its_sigmoid(heads):
    _, fn, params, x, sigmoid = heads
    mask = np.zeros(x.shape[:-1], bool)
    mask[3:6, 3:6, 3:6] = True
    ended = lambda params, x: jax.nn.sigmoid(fn(params, x))  # noqa: E731
    for function, meaning in ((fn, Meaning("logits", False)), (ended, Meaning("probabilities"))):
        options: Any = {"class_index": 1, "steps": 1, "roi": 8, "meaning": meaning}
        found = context_curve(function, params, x, mask, **options)
        np.testing.assert_allclose(found.full_score, sigmoid[mask][:, 1].mean(), rtol=1e-5)


def test_weights_say_what_their_network_returns(heads):
    folder = heads[0]
    known, three = (
        open_network(
            NetworkSpec.parse(str(folder / f"{name}.safetensors")), OpenOptions(ndims=(3,))
        )
        for name in ("known", "three")
    )
    assert known.meaning == Meaning("logits", exclusive=False)
    assert three.meaning == Meaning("logits")
    assert three.key != known.key
    with pytest.raises(InputError, match="--threshold is for classes that do not exclude"):
        Said(threshold=(0.4,)).meaning(3, outputs=None)
    loaded = models.load("texture-mnist-unbiased")
    assert Said("probabilities").meaning_of(loaded).outputs == "probabilities"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Meaning("probabilities"), [-1, -1, 0]),
        (Meaning("logits"), [-1, 0, 0]),
        (Meaning("probabilities", threshold=0.1), [-1, 0, 0]),
    ],
)
def test_the_class_of_one_channel_is_predicted_by_what_it_holds(said, expected):
    output = np.array([[[0.0], [0.2], [0.9]]], np.float32)
    np.testing.assert_array_equal(Prediction.of(output, ["a"], said).drawn(0), [expected])
    two = np.array([[[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]], np.float32)
    np.testing.assert_array_equal(Prediction.of(two, ["a", "b"], said).drawn(0), [[0, 1, 1]])
