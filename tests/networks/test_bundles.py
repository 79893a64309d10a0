"""MONAI bundles by their folders: what their configuration says, and their network."""

import importlib.util
import json

import numpy as np
import pytest

from segcam_jax import InputError
from segcam_jax.cli import main
from segcam_jax.data.preparation import Linear, NonzeroZScore, Normalise, Orient, Respace, ZScore
from segcam_jax.networks.bundles import Bundle
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from tests.support.trained_folders import (
    CONFIG,
    NAMES,
    TRANSFORMS,
    UNET,
    drawn,
    write_bundle,
    write_scan,
)


def write_config(folder, **changed):
    write_bundle(folder, **changed)
    return Bundle.read(folder)


def transforms(*each):
    return {"preprocessing": {"_target_": "Compose", "transforms": list(each)}}


def test_what_a_configuration_says(tmp_path):
    bundle = write_config(tmp_path)
    name, arguments = bundle.network()
    assert (name, arguments["out_channels"], arguments["channels"]) == ("UNet", 3, (4, 8))
    assert bundle.steps == (
        Orient("RAS"),
        Respace((1.5, 1.5, 2.0)),
        Normalise((NonzeroZScore(),)),
    )
    assert bundle.window == ((16, 16, 16), 0.5, "monai")
    assert bundle.multi_label
    assert bundle.names("outputs") == list(NAMES.values())
    plain = {**CONFIG["inferer"], "mode": "constant"}
    bundle = write_config(tmp_path, inferer=plain, postprocessing=None)
    assert (bundle.window[2], bundle.multi_label) == ("constant", False)


def test_intensities_become_schemes(tmp_path):
    bundle = write_config(
        tmp_path,
        **transforms(
            {"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164, "b_min": 0}
            | {"b_max": 1, "clip": True, "keys": ["image"]},
            {"_target_": "ScaleIntensityd", "maxv": 2},
            {"_target_": "NormalizeIntensityd", "subtrahend": 10, "divisor": 4},
            {"_target_": "NormalizeIntensity"},
            {"_target_": "EnsureTyped", "_disabled_": True},
        ),
    )
    assert bundle.steps == (
        Normalise((Linear(-57, 221, 1, 0, after=(0, 1)),)),
        Normalise((Linear(gain=2),), together=True),
        Normalise((Linear(10, 4),)),
        Normalise((ZScore(),), together=True),
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (transforms({"_target_": "CropForegroundd", "keys": "image"}), "'CropForegroundd' is unkn"),
        (transforms({"_target_": "Spacingd", "pixdim": [1, -1, 1]}), r"pixdim \[1, -1, 1\]"),
        (transforms({"_target_": "Spacingd", "pixdim": 1, "mode": "nearest"}), "mode 'nearest'"),
        (transforms({"_target_": "Spacingd", "diagonal": True, "pixdim": 1}), "diagonal"),
        (transforms({"_target_": "Orientationd", "axcodes": "$codes()"}), r"'\$codes\(\)'"),
        (transforms(TRANSFORMS[3], TRANSFORMS[2]), "Orientation follows Spacing"),
        ({"inferer": {"_target_": "SaliencyInferer"}}, "inferer 'SaliencyInferer' is unknown"),
        ({"inferer": {**CONFIG["inferer"], "roi_size": [-1, 8, 8]}}, "roi_size"),
        ({"network_def": "$make()"}, r"names no network .* but '\$make\(\)'"),
        (
            {"network_def": {**UNET, "in_channels": "@nowhere"}},
            "'@nowhere' does not exist",
        ),
        ({"network_def": {**UNET, "in_channels": "@key", "key": 2}, "key": "@key"}, "itself"),
        ({"network_def": {**UNET, "_target_": 3}}, "Expected `str`, got `int`"),
        (transforms("Orientationd"), "Expected `object`, got `str`"),
        (transforms({"keys": "image"}), "missing required field `_target_`"),
        (transforms({"_target_": "Spacingd", "pixdim": 1, "mode": []}), "Spacingd: "),
        ({"inferer": {**CONFIG["inferer"], "roi_size": 2.5}}, "got `float` - at `\\$.roi_size`"),
        ({"inferer": {**CONFIG["inferer"], "overlap": 2}}, "< 1.0 - at `\\$.overlap`"),
        ({"inferer": {**CONFIG["inferer"], "overlap": "x"}}, "Expected `float`, got `str`"),
        ({"key": "$" + "(" * 300, "network_def": "@key"}, "no network"),
    ],
)
def test_what_is_unknown_is_refused(changed, words, tmp_path):
    bundle = write_config(tmp_path, **changed)
    with pytest.raises(InputError, match=words):
        _ = bundle.network(), bundle.steps, bundle.window


def test_metadata_of_another_form_are_refused(tmp_path):
    write_config(tmp_path)
    for said in ([1], {"network_data_format": {"outputs": {"pred": {"channel_def": ["a"]}}}}):
        (tmp_path / "configs" / "metadata.json").write_text(json.dumps(said))
        with pytest.raises(InputError, match="is not as MONAI writes it: Expected `object`"):
            Bundle.read(tmp_path)


PACKAGES = ("torch", "torchax", "monai", "nibabel")
needs_monai = pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in PACKAGES),
    reason="needs the extra bundle",
)


@needs_monai
def test_a_bundle_is_explained(tmp_path, capsys):
    import monai
    import torch

    folder = tmp_path / "bundle"
    write_config(folder)
    module = monai.networks.nets.UNet(3, 2, 3, (4, 8), (2,), norm="instance").eval()
    state = drawn(module)
    module.load_state_dict(state)
    torch.save(state, folder / "models" / "model.pt")
    spec = NetworkSpec.parse(f"bundle:{folder}")
    network = open_network(spec, OpenOptions(ndims=(3,)))
    assert list(network.labels) == list(NAMES.values())
    assert network.meaning.exclusive is False
    x = np.random.default_rng(0).normal(size=(16, 16, 16, 2)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(np.moveaxis(x, -1, 0))[None])[0].numpy()
    found = network.fn(network.params, x)
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected, atol=1e-5)
    files = list(map(str, write_scan(tmp_path)))
    line = ["instances", *files, "--weights", f"bundle:{folder}", "--out", str(tmp_path / "out")]
    more = ["--class", "core", "--min-voxels", "40", "--method", "grad_cam_pp"]
    assert main([*line, *more]) == 0
    assert "scans are prepared by Orient, Respace, Normalise" in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*/instance-001/*.nii.gz"))
    torch.save({"x": torch.ones(2)}, folder / "models" / "model.pt")
    assert main([*line, *more]) == 2
    assert "does not fit this UNet" in capsys.readouterr().err
    write_config(folder, network_def={**UNET, "_target_": "os.system"})
    assert main([*line, *more]) == 2
    assert "'os.system' is not a network of monai.networks.nets" in capsys.readouterr().err
    assert main(["explain", files[0], *line[3:]]) == 2


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(InputError, match="inference.json' is missing, or not JSON"):
        open_network(NetworkSpec.parse(f"bundle:{tmp_path}"), OpenOptions(ndims=(3,)))
    assert NetworkSpec.parse("bundle:x").kind == "bundle"
