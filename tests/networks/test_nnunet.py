"""Trained nnU-Nets by their folders, held to nnunetv2's own predictor."""

import copy
import dataclasses
import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from segcam_jax import InputError
from segcam_jax.cli import main
from segcam_jax.data.nifti import read_volume
from segcam_jax.data.scans import ScanFiles
from segcam_jax.engine.sliding import sliding_window
from segcam_jax.networks.nnunet import MeanOfPasses, open_nnunet
from segcam_jax.networks.open import open_network
from segcam_jax.networks.plans import Plan
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.volumes import SegmentOptions, read_input, segmentation
from tests import goldens
from tests.goldens.generate_preparation import NNUNET
from tests.support.trained_folders import (
    LABELS,
    REGIONS,
    plans,
    write_nnunet,
    write_plans,
    write_scan,
)

GOLDEN = np.load(goldens.FOLDER / "preparation.npz")
PACKAGES = ("torch", "torchax", "dynamic_network_architectures", "nibabel")
needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in PACKAGES),
    reason="needs the extra nnunet",
)


def opened(folder, **options):
    return open_network(NetworkSpec.parse(f"nnunet:{folder}"), OpenOptions(ndims=(3,), **options))


def test_the_mean_is_over_folds_and_mirrored_inputs():
    def fn(params, x):
        return params * x * np.arange(3, dtype=np.float32)[:, None, None]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 1)), jnp.float32)
    mean = MeanOfPasses(fn, ("a", "b"), ((), (0,)))({"a": 2.0, "b": 4.0}, x)
    # Mirrored along the first axis, the ramp 0 1 2 becomes 2 1 0: their mean is 1.
    np.testing.assert_allclose(mean, 3 * x, rtol=1e-6)


def test_labels_are_the_channels_of_the_output(tmp_path):
    for labels, names, regions in (
        (LABELS, ["background", "edema", "core"], False),
        (REGIONS, ["whole", "core"], True),
    ):
        write_plans(tmp_path, labels=labels)
        plan = Plan.read(tmp_path, "3d_fullres")
        assert (plan.classes, plan.regions) == (names, regions)
    assert plan.channels == ["channel0", "channel1"]
    assert plan.multiples == (2, 4, 4)


def test_plans_of_older_versions_name_the_same_network(tmp_path):
    write_plans(tmp_path)
    name, arguments = Plan.read(tmp_path, "3d_fullres").architecture
    old = plans()
    found = old["configurations"]["3d_fullres"]
    told = found.pop("architecture")["arch_kwargs"]
    found |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": told["n_conv_per_stage"],
        "n_conv_per_stage_decoder": told["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": told["strides"],
        "conv_kernel_sizes": told["kernel_sizes"],
    }
    write_plans(tmp_path, said=old)
    assert Plan.read(tmp_path, "3d_fullres").architecture[0] == name
    again = Plan.read(tmp_path, "3d_fullres").architecture[1]
    assert again.pop("features_per_stage") == [4, 6, 6]
    for key, value in again.items():
        layer = isinstance(value, str)
        expected = arguments[key].rpartition(".")[2] if layer else arguments[key]
        assert (value.rpartition(".")[2] if layer else value) == expected


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"normalization_schemes": ["RankNormalization"] * 2}, "normalisation 'Rank' is unknown"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "'resample_torch_fornnunet' is unkn"),
        ({"resampling_fn_data_kwargs": {"order_z": 1}}, "order_z 1"),
        ({"architecture": {"network_class_name": "my.Primus"}}, "architecture 'my.Primus'"),
    ],
)
def test_plans_that_do_what_is_unknown_are_refused(changed, words, tmp_path):
    write_plans(tmp_path, said=plans(**changed))
    plan = Plan.read(tmp_path, "3d_fullres")
    with pytest.raises(InputError, match=words):
        _ = plan.architecture, plan.steps


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"transpose_forward": [0, 1]}, "length >= 3 - at `\\$.transpose_forward`"),
        ({"transpose_forward": [0, 1, 1]}, "names an axis twice"),
        ({"image_reader_writer": ["x"]}, "Expected `str`, got `array`"),
        ({"configurations": [1]}, "Expected `object`, got `array`"),
        ({"patch_size": [16, 0, 16]}, "Expected `int` >= 1"),
        ({"spacing": None}, "Expected `array`, got `null`"),
        ({"spacing": [1, 1, 0]}, "Expected `float` > 0"),
        (
            {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [True]},
            "has no entry for channel 1",
        ),
        ({"architecture": 3}, "Expected `object`, got `int`"),
        ({"channel_names": {"x": "a"}}, "regex .* in `\\$.channel_names`"),
        ({"labels": {"background": 0, "core": None}}, "got `null` - at `\\$.labels"),
        ({"labels": {"background": 0, "core": float("nan")}}, "got `float`"),
    ],
)
def test_plans_that_are_of_another_form_are_refused(changed, words, tmp_path):
    (key, value) = next(iter(changed.items()))
    of_dataset = key in ("channel_names", "labels")
    whole = key in plans()
    write_plans(tmp_path, said=plans() if whole or of_dataset else plans(**changed))
    if whole or of_dataset:
        path = tmp_path / ("dataset.json" if of_dataset else "plans.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=words):
        _ = Plan.read(tmp_path, "3d_fullres").steps


def test_folders_that_hold_no_model_are_refused(tmp_path):
    def refused(words, place=tmp_path):
        with pytest.raises(InputError, match=words):
            open_nnunet(NetworkSpec.parse(f"nnunet:{place}"))

    refused("does not exist", tmp_path / "none")
    refused("holds no plans.json")
    write_plans(tmp_path)
    refused("holds no fold with checkpoint_final.pth")
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_best.pth").touch()
    refused("name one of fold_0/checkpoint_best.pth")
    with pytest.raises(InputError, match="cascade's second stage, which needs .* of 3d_lowres"):
        Plan.read(tmp_path, "3d_cascade_fullres")
    with pytest.raises(InputError, match="no configuration '3d_lowres'; it has 3d_fullres"):
        Plan.read(tmp_path, "3d_lowres")
    said = plans()
    said["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres"
    write_plans(tmp_path, said=said)
    with pytest.raises(InputError, match="no configuration"):
        Plan.read(tmp_path, "3d_fullres")


@needs_torch
@pytest.mark.parametrize("name", list(NNUNET))
def test_logits_are_those_of_nnunet(name, tmp_path):
    said, labels, count, mirrored = NNUNET[name]
    folds = [f"fold_{at}" for at in range(count)]
    write_nnunet(tmp_path / "model", folds=folds, labels=labels, said=plans(**said))
    network = opened(tmp_path / "model", mirror=mirrored)
    assert network.meaning.exclusive == (labels is LABELS)
    assert list(network.labels) == network.model.class_names
    options = segmentation.checked(SegmentOptions.of(network), network)
    given = read_input(ScanFiles("scan", tuple(write_scan(tmp_path))), options)
    logits = np.asarray(
        sliding_window(
            network.fn,
            network.params,
            given.x,
            roi=options.window,
            overlap=options.overlap,
            windows=options.windows,
        )
    )
    found, expected = logits[::2, ::2, ::2], GOLDEN[f"{name}.logits"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    # Its sums in half precision are off themselves, most where weights are least.
    off = np.abs(found - GOLDEN[f"{name}.half"]) / scale
    assert np.quantile(off, 0.9) < 1e-3
    restored = np.stack([given.scan.restored(each) for each in np.moveaxis(logits, -1, 0)], -1)
    np.testing.assert_allclose(
        restored[::2, ::2, ::2], GOLDEN[f"{name}.restored"], atol=1e-4 * scale
    )


@needs_torch
def test_one_fold_stands_for_itself(tmp_path):
    folder = write_nnunet(tmp_path / "model", folds=("fold_0", "fold_1", "fold_all"))
    both = opened(folder)
    assert set(both.params) == {"fold_0", "fold_1"}
    assert "2 folds" in both.note
    one = opened(folder / "fold_1")
    assert set(one.params) == set(both.params["fold_1"])
    assert one.sha256 == opened(folder / "fold_1" / "checkpoint_final.pth").sha256 != both.sha256
    x = np.random.default_rng(0).normal(size=(16, 16, 16, 2)).astype(np.float32)
    mean = (both.fn.fn(both.params["fold_0"], x) + one.fn(one.params, x)) / 2
    np.testing.assert_allclose(both.fn(both.params, x), mean, atol=1e-5)
    assert {"encoder/stages/2", "encoder/stages/2#2"} <= both.taps.keys()


@needs_torch
def test_checkpoints_of_other_networks_and_other_files_are_refused(tmp_path):
    import torch

    folder = write_nnunet(tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    said = copy.deepcopy(plans())
    said["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["n_stages"] = 4
    write_plans(folder, said=said)
    with pytest.raises(InputError, match="PlainConvUNet cannot be made from 3d_fullres"):
        opened(folder)
    said = plans()
    arguments = said["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    write_plans(folder, said={**said, "configurations": _with(said, norm_op="os.system")})
    with pytest.raises(InputError, match=r"'os.system', which is not a layer of torch.nn"):
        opened(folder)
    write_plans(folder, said={**said, "configurations": _with(said, features_per_stage=[4, 6, 10])})
    with pytest.raises(
        InputError, match="does not fit this PlainConvUNet: it has other shapes for"
    ):
        opened(folder)
    assert arguments["features_per_stage"] == [4, 6, 8]
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="is not one of nnU-Net v2"):
        opened(folder)
    torch.save({"network_weights": Path("x")}, path)
    with pytest.raises(InputError, match="could run code"):
        opened(folder)


def _with(said, **arguments):
    """Configurations with other arguments of the network."""
    found = copy.deepcopy(said["configurations"])
    found["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    return found


@needs_torch
def test_instances_are_explained_on_the_grid_of_the_file(tmp_path, capsys):
    files = list(map(str, write_scan(tmp_path)))
    folder = write_nnunet(tmp_path / "model")
    out = tmp_path / "out"
    line = ["instances", *files, "--weights", f"nnunet:{folder}", "--out", str(out)]
    assert main([*line, "--normalise", "none"]) == 2
    assert "--normalise does not apply to nnunet:" in capsys.readouterr().err
    more = ["--class", "core", "--min-voxels", "40", "--option", "samples=1", "--threshold", "0.3"]
    assert main([*line, *more, "--method", "instance_smooth_grad", "grad_cam_pp"]) == 0
    told = capsys.readouterr()
    assert "PlainConvUNet of 3d_fullres: classes background, edema, core" in told.err
    name = json.loads((out / "manifest.json").read_text())
    assert name["options"]["windows"] == "nnunet"
    assert name["options"]["roi"] == [16, 16, 16]
    found = read_volume(next(out.glob("*/instances.nii.gz")))
    source = read_volume(Path(files[0]))
    assert found.shape == source.shape
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-6)
    assert found.values.max() >= 1
    maps = sorted(out.glob("*/instance-001/*.nii.gz"))
    assert len(maps) >= 3
    for each in maps:
        values = read_volume(each).values
        assert values.shape == source.shape
        assert np.abs(values).max() > 0
    # It resumes where it is, and its files are current.
    assert main([*line, *more, "--method", "instance_smooth_grad", "grad_cam_pp"]) == 0


@needs_torch
def test_images_are_explained_by_networks_of_images(tmp_path, capsys):
    from PIL import Image

    said = of_images()
    folder = write_nnunet(tmp_path / "model", said=said, name="2d")
    image = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 255, (32, 24), np.uint8)
    Image.fromarray(pixels).save(image)
    line = ["explain", str(image), "--weights", f"nnunet:{folder}", "--out", str(tmp_path / "out")]
    assert main([*line, "--class", "edema", "--method", "grad_cam", "--no-figures"]) == 0
    assert "takes an image in one piece" in capsys.readouterr().err
    # Its logits are the network's for pixels in 0..255 with mean 0 and standard deviation 1.
    network = open_nnunet(NetworkSpec.parse(f"nnunet:{folder}"), OpenOptions(ndims=(2,)))
    values = pixels.astype(np.float32)[..., None]
    normalised = (values - values.mean()) / values.std()
    np.testing.assert_allclose(
        network.fn(network.params, values / 255),
        network.fn.fn(network.params, normalised),
        atol=1e-4,
    )
    assert main(["instances", str(image), "--weights", f"nnunet:{folder}"]) == 2
    assert "belong to a 2D network" in capsys.readouterr().err
    slices = {**said, "image_reader_writer": "SimpleITKIO"}
    write_plans(folder, said=slices)
    assert main(line) == 2
    assert "2d segments volumes slice by slice" in capsys.readouterr().err


def of_images():
    """Plans of a 2D configuration of grey images."""
    said = plans(
        patch_size=[32, 32],
        spacing=[1.0, 1.0],
        normalization_schemes=["ZScoreNormalization"],
        use_mask_for_norm=[False],
    )
    found = said["configurations"].pop("3d_fullres")
    told = found["architecture"]["arch_kwargs"]
    told |= {"conv_op": "torch.nn.Conv2d", "norm_op": "torch.nn.InstanceNorm2d"}
    told |= {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
    return {
        **said,
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {"2d": found},
    }


def test_options_are_for_networks_that_take_them(tmp_path, capsys):
    write_scan(tmp_path) if importlib.util.find_spec("nibabel") else pytest.skip("needs nibabel")
    line = ["instances", str(tmp_path / "channel0.nii.gz"), "--weights", "lesions", "--mirror"]
    assert main(line) == 2
    assert "--mirror is for nnunet:FOLDER" in capsys.readouterr().err
    with pytest.raises(InputError, match="--checkpoint is for models of your own"):
        opened(tmp_path, checkpoint=Path("x"))
    assert dataclasses.asdict(SegmentOptions())["preparation"] is None
