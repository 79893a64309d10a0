"""MONAI's U-Net: every layer against MONAI's, what a checkpoint says of it, the exact engine."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, cli, models
from segcam_jax.cli import cache
from segcam_jax.data.frames import Frame
from segcam_jax.models.monai_unet import MonaiUNet, MonaiUNetConfig, monai_unet
from segcam_jax.models.monai_unet.weights import monai_assumed, monai_taps
from tests import goldens
from tests.goldens.drawing import drawn, sampled, volume
from tests.goldens.monai_unets import NETWORKS
from tests.support.tapped import activations

GOLDENS = np.load(goldens.FOLDER / "monai.npz")
TINY = NETWORKS["plain3d"][0]


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def tensors(name):
    """The drawn state dict of a golden's network."""
    pairs = zip(GOLDENS[f"{name}/names"], GOLDENS[f"{name}/shapes"], strict=True)
    shapes = {str(key): tuple(map(int, filter(None, text.split("x")))) for key, text in pairs}
    return {key: drawn(key, shape) if shape else np.int64(0) for key, shape in shapes.items()}


def made(name):
    return models.from_tensors(tensors(name), "monai-unet", strides=NETWORKS[name][0].strides)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_as_stored(name):
    config, extents = NETWORKS[name]
    model = made(name)
    assert model.config == config
    seen, logits = activations(*segcam.from_nnx(model), volume(extents, config.in_channels))
    taps = monai_taps(model)
    assert list(taps) == list(GOLDENS[f"{name}/layers"])
    assert set(taps.values()) == set(seen)
    for tap, values, scale in zip(
        taps.values(), GOLDENS[f"{name}/values"], GOLDENS[f"{name}/scales"], strict=True
    ):
        np.testing.assert_allclose(sampled(seen[tap]), values, rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(np.abs(seen[tap]).max(), scale, rtol=1e-4)
    stored = GOLDENS[f"{name}/logits"]
    np.testing.assert_allclose(logits, stored, rtol=0, atol=1e-4 * np.abs(stored).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_live(name):
    """Whole activations, where torch and MONAI are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    from tests.support import monai_networks

    config, extents = NETWORKS[name]
    theirs = monai_networks.network(config)
    model = models.from_tensors(monai_networks.state(theirs), "monai-unet", strides=config.strides)
    image = volume(extents, config.in_channels)
    taps = monai_taps(model)
    expected, expected_logits = monai_networks.outputs(theirs, list(taps), image)
    seen, logits = activations(*segcam.from_nnx(model), image)
    for layer, tap in taps.items():
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(seen[tap], expected[layer], rtol=0, atol=1e-4 * scale)
    scale = np.abs(expected_logits).max()
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-4 * scale)


def test_the_layer_that_ies_explains():
    """32 channels at half the extents, and as many parameters as MONAI 1.6 counts."""
    model = nnx.eval_shape(lambda: monai_unet(channels=(32, 64, 128, 256, 512)))
    fn, params = segcam.from_nnx(model)
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((96, 96, 96, 2), jnp.float32))
    tap = monai_taps(model)["model.1.submodule.2.conv"]
    assert (tap, taps[tap].shape) == ("decoder2/up", (48, 48, 48, 32))
    assert taps["bottleneck"].shape == (6, 6, 6, 512)
    assert segcam.bottleneck(taps) == "bottleneck"
    parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in parameters) == 7_916_170


def test_ablations_at_the_bottleneck_are_exact():
    fn, params = segcam.from_nnx(made("plain3d"))
    x = volume((8, 12, 4), 2)
    instance = np.zeros((8, 12, 4), np.float32)
    instance[2:4, 3:6, 1:3] = 1
    target = segcam.targets.region(1, instance)
    split = segcam.split(fn, "bottleneck", params, x)
    naive = segcam.methods.ablation_cam(split, params, x, target, execution=segcam.NAIVE)
    fast = segcam.methods.ablation_cam(split, params, x, target)
    scale = np.abs(naive.scores).max()
    np.testing.assert_allclose(fast.scores, naive.scores, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(fast.map, naive.map, rtol=0, atol=1e-5 * np.abs(naive.map).max())
    assert np.unique(naive.scores).size > 5


def test_training_moves_statistics_and_slopes():
    x = jnp.asarray(volume((4, 6), 2))[None] * jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1)

    @jax.jit
    def trained():
        config = MonaiUNetConfig(ndim=2, channels=(4, 4), strides=(2,), dropout=0.5)
        model = MonaiUNet(config, rngs=nnx.Rngs(0))
        model.train()
        gradients = nnx.grad(lambda model: jnp.square(model(x)).mean())(model)
        model.eval()
        first = model.encoder[0].units[0]
        slope = gradients["encoder"][0]["units"][0]["activation"]["slope"][...]
        return slope, first.norm.mean[...], model(x)[1], model(x[1])

    slope, mean, among_others, alone = trained()
    assert abs(slope) > 0
    assert np.abs(mean).max() > 0
    np.testing.assert_allclose(among_others, alone, atol=1e-5)


def test_what_does_not_fit():
    model = nnx.eval_shape(lambda: monai_unet(channels=(4, 4), strides=((1, 2, 2),)))
    faults = {
        (4, 5, 4, 2): r"extents \(4, 5, 4\); pad them to multiples of \(1, 2, 2\)",
        (4, 4, 2): r"shape \(4, 4, 2\); it expects 3 spatial dimensions and 2 channel",
        (4, 4, 4, 1): "2 channel",
    }
    for shape, message in faults.items():
        with pytest.raises(InputError, match=message):
            model(jnp.zeros(shape))
    for fields, message in {
        ("ndim", 4): "`ndim` is 4; choose from 2, 3",
        ("norm", "group"): "choose from batch, instance",
        ("channels", (4,)): "two or more levels",
        ("strides", (2, 2)): r"for 5 levels; give 4, one less",
        ("strides", (2, 2, 2, 0)): "at least 1",
        ("strides", (2, 2, 2, (2, 2))): "one per axis: 3",
        ("kernel_size", 2): "it must be odd",
        ("num_res_units", -1): "at least 0",
    }.items():
        with pytest.raises(InputError, match=message):
            MonaiUNetConfig(**dict([fields]))


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_a_checkpoint_becomes_a_file_of_ours(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cache, "enable", lambda: None)
    source, out = tmp_path / "source.safetensors", tmp_path / "net.safetensors"
    state = {f"module.{name}": np.asarray(value) for name, value in tensors("odd3d").items()}
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, source)
    labels = tmp_path / "labels.txt"
    labels.write_text("background\nlesion\n")
    assert run("convert", source, "--model", "monai-unet", "--out", out) == 0
    said = capsys.readouterr()
    assert "3D, channels 4-6-10, strides 2-2, 1 residual unit," in said.out
    assert "strides 2-2 (else give --strides)" in said.out
    assert "assumes what the file does not state" in said.err
    assert models.load(out).config.strides == (2, 2)
    model = models.convert(
        source, "monai-unet", out, strides=((1, 2, 3), 2), labels=["background", "lesion"]
    )
    loaded = models.load(out, model="monai_unet")
    assert loaded.class_names == ["background", "lesion"]
    assert loaded.config == model.config == NETWORKS["odd3d"][0]
    fn, params = segcam.from_nnx(made("odd3d"))
    assert loaded.fn == fn
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, params))
    faults = {
        ("--model", "monai-unett"): "unknown model 'monai-unett'; choose from monai-unet",
        ("--model", "resnet18"): "none of their .* choose another model",
        ("--model", "monai-unet", "--strides", 2): r"`strides` is \(2,\) for 3 levels",
        ("--model", "monai-unet", "--normalisation", "none"): "no option `normalisation`",
        ("--model", "resnet18", "--strides", 2): "resnet has no option `strides`",
    }
    for options, message in faults.items():
        assert run("convert", source, "--out", tmp_path / "new.safetensors", *options) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(message, error), error
    assert not (tmp_path / "new.safetensors").exists()


def test_a_conversion_says_what_volumes_the_network_was_trained_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cache, "enable", lambda: None)
    source, out = tmp_path / "source.safetensors", tmp_path / "net.safetensors"

    def save(name):
        arrays = {key: np.asarray(value) for key, value in tensors(name).items()}
        safetensors.numpy.save_file(arrays, source)

    save("plain3d")
    line = ("convert", source, "--model", "monai-unet", "--out", out, "--overwrite")
    assert run(*line, "--orientation", "lps", "--spacing", 1, 1, 3) == 0
    assert "LPS" in capsys.readouterr().out
    assert Frame.of(models.load(out).metadata) == Frame("LPS", (1, 1, 3))
    assert run(*line) == 0
    assert "unknown" in capsys.readouterr().out
    assert Frame.of(models.load(out).metadata) == Frame()
    assert run(*line, "--orientation", "up") == 2
    assert "orientation 'up'; give the directions of the three axes" in capsys.readouterr().err
    save("plain2d")
    assert run(*line, "--spacing", 1) == 2
    assert "only 3D networks have them" in capsys.readouterr().err


def test_all_problems_of_a_checkpoint_in_one_message():
    state = tensors("plain3d")
    state["model.3.weight"] = state.pop("model.0.conv.bias")
    state["model.2.conv.bias"] = np.zeros(5)
    state["model.2.adn.A.weight"] = np.zeros(1)
    with pytest.raises(InputError) as caught:
        models.from_tensors(state, "monai-unet", bias=True)
    for part in (
        "4 mismatches",
        "1 unknown to the table: model.3.weight",
        "1 without a place in the model: model.2.adn.A.weight",
        "model.2.conv.bias (5,) -> decoder/1/up/conv/bias (2,)",
        "1 not in the file: encoder/0/units/0/conv/bias",
    ):
        assert part in str(caught.value)


def test_other_networks_of_monai_are_refused_in_words():
    """MONAI's BasicUNet; a U-Net with ReLU; one with a slope per channel."""
    state = tensors("plain3d")
    slopes = [name for name in state if name.endswith("adn.A.weight")]
    relu = {name: value for name, value in state.items() if name not in slopes}
    faults = {
        r"monai\.networks\.nets\.UNet.* 'conv_0\.conv_0\.conv\.weight'": {
            "conv_0.conv_0.conv.weight": np.zeros((4, 3, 3, 3))
        },
        "have no PReLU; .* act='PRELU' with one slope": relu,
        r"have \(4,\) slopes in model\.0\.adn\.A\.weight": {**state, slopes[0]: np.zeros(4)},
    }
    for message, given in faults.items():
        with pytest.raises(InputError, match=message):
            models.from_tensors(given, "monai-unet")


@pytest.mark.parametrize(
    ("norm", "words"),
    [("instance_affine", "GroupNorm"), ("instance", "none at all"), ("batch", "")],
)
def test_what_weights_do_not_tell(norm, words):
    config = MonaiUNetConfig(channels=(4, 4, 8), strides=(2, (1, 2, 2)), norm=norm)
    assumed = "; ".join(monai_assumed(config, strides=True))
    assert "strides 2-1x2x2 (else give --strides)" in assumed
    assert words in assumed
    assert ("instance norm" in assumed) == (norm != "batch")
    assert "strides" not in "; ".join(monai_assumed(config, strides=False))


def test_configuration_survives_json():
    for config, _ in NETWORKS.values():
        assert MonaiUNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
        assert isinstance(
            nnx.eval_shape(lambda c=config: MonaiUNet(c, rngs=nnx.Rngs(0))), MonaiUNet
        )
