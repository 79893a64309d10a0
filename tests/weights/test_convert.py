"""`segcam convert` and `models.convert`: what is written, and one line for every fault."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy

import segcam_jax as segcam
from segcam_jax import InputError, cli, models
from segcam_jax.cli import cache
from segcam_jax.weights import foreign
from tests.models.test_goldens import tensors

OF_THE_SAME_BLOCKS = ("resnet34", "resnet101", "resnet152", "densenet169", "densenet201")
LABELS = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr(cache, "enable", lambda: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A state dict of torchvision's ResNet-18 with five classes."""
    path = tmp_path_factory.mktemp("source") / "resnet18.safetensors"
    arrays = {name: np.asarray(value) for name, value in tensors("resnet18").items()}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_what_is_written_opens_by_name(source, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    out = tmp_path / "new" / "net.safetensors"
    labels = tmp_path / "labels.txt"
    assert run("convert", source, "--model", "resnet18", "--out", out, "--labels", labels) == 0
    assert "11,179,077" in capsys.readouterr().out
    loaded = models.load(out)
    assert (loaded.name, loaded.class_names) == ("resnet", LABELS)
    assert loaded.config.normalisation == "imagenet"
    same = models.from_tensors(foreign.read(source), "resnet18", normalisation="imagenet")
    assert same.config == loaded.config
    for a, b in zip(*map(jax.tree.leaves, (segcam.from_nnx(same)[1], loaded.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not {"outputs", "multi_label"} & loaded.metadata.keys()
    assert [path.name for path in out.parent.iterdir()] == ["net.safetensors"]
    assert run("layers", "--weights", out, "--size", 64, 64) == 0
    assert "layer4/block2/conv2" in capsys.readouterr().out


def test_what_the_network_returns_is_written_down(source, tmp_path, capsys):
    out = tmp_path / "heads.safetensors"
    line = ("convert", source, "--model", "resnet18", "--out", out)
    assert run(*line, "--multi-label", "--outputs", "probabilities") == 0
    assert "5, not exclusive" in capsys.readouterr().out
    loaded = models.load(out)
    assert loaded.metadata["outputs"] == "probabilities"
    assert loaded.metadata["multi_label"] is True


def test_faults_in_one_line(source, tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    (tmp_path / "broken.safetensors").write_bytes(source.read_bytes()[:100_000])
    (tmp_path / "net.npz").write_bytes(b"")
    faults = {
        ("net.npz", "resnet18"): "suffix '.npz'; expected one of",
        ("missing.pth", "resnet18"): "does not exist",
        ("broken.safetensors", "resnet18"): "cannot be read",
        (source, "resnet20"): "unknown model 'resnet20'; choose from resnet",
        (source, "resnet34"): "do not fit the model, .* not in the file: stages/0/2/conv1/kernel",
        (source, "densenet121"): "none of their 122 tensors has a place .* choose another model",
        (source, "resnet18", "--layout", "keras"): "no table for layout 'keras'; .*torchvision",
        (source, "resnet18", "--normalisation", "imgnet"): "unknown normalisation 'imgnet'",
        (source, "resnet18", "--labels", tmp_path / "labels.txt"): "2 labels were given for 5",
        (source, "resnet18", "--labels", tmp_path / "none.txt"): "labels .* cannot be read",
    }
    for (path, model, *options), message in faults.items():
        assert run("convert", tmp_path / path, "--model", model, "--out", out, *options) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(message, error), error
    assert run("convert", source, "--model", "resnet18", "--out", tmp_path / "net.pth") == 2
    assert "ends in .safetensors" in capsys.readouterr().err
    out.write_bytes(b"mine")
    assert run("convert", source, "--model", "resnet18", "--out", out) == 2
    assert "exists; choose another file, or give --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"labels.txt", "broken.safetensors", "net.npz", "net.safetensors"}
    assert run("convert", source, "--model", "resnet18", "--out", out, "--overwrite") == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in OF_THE_SAME_BLOCKS else [])
        for name in models.CLASSIFIERS
    ],
)
def test_every_classifier_survives_the_disk(name, tmp_path):
    model = models.randomised(lambda: models.classifier(name, classes=2))
    family = models.CLASSIFIERS[name][0]
    models.stored.save(tmp_path / "net.safetensors", family, model, {})
    loaded = models.load(tmp_path / "net.safetensors", model=family)
    fn, params = segcam.from_nnx(model)
    assert loaded.config == model.config
    assert loaded.fn == fn
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, params))


def test_files_that_do_not_fit_their_family(tmp_path):
    model = models.randomised(lambda: models.classifier("resnet18", width=4))
    path = tmp_path / "net.safetensors"
    models.stored.save(path, "densenet", model, {})
    with pytest.raises(InputError, match="no valid config of 'densenet'"):
        models.load(path)
    with pytest.raises(InputError, match="holds model 'densenet', expected 'resnet'"):
        models.NETWORKS["resnet"].load(path)
    models.stored.save(path, "resnet", model, {"config": {"depth": 34, "width": 4}})
    with pytest.raises(InputError, match="stages/0/2/conv1/kernel is missing"):
        models.load(path)
    with pytest.raises(InputError, match="holds model 'resnet', expected unet"):
        models.load(path, model="unet")
    models.stored.store.save(path, {"fc.weight": np.zeros((2, 2), np.float32)}, {})
    with pytest.raises(
        InputError, match="not written by segcam_jax; convert it with `segcam convert`"
    ):
        models.load(path)


def test_sizes_are_read_off_the_file():
    state = {"conv1.weight": np.zeros((8, 2, 7, 7)), "fc.weight": np.zeros((3, 64))}
    with pytest.raises(InputError) as caught:
        models.from_tensors(state, "resnet18")
    assert "conv1.weight" not in str(caught.value)
    assert "fc.weight" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "network"),
    [
        (["conv2_block1_preact_bn/gamma"], "ResNetV2"),
        (["block2_sepconv1_bn/gamma"], "Xception"),
        (["conv_7b/kernel", *(f"conv2d_{n}/kernel" for n in range(203))], "InceptionResNetV2"),
        ([f"conv2d_{n}/kernel" for n in range(94)], "InceptionV3"),
    ],
)
def test_networks_of_keras_that_are_none_of_ours_are_named(layers, network):
    tensors = dict.fromkeys(["conv1_conv/kernel", *layers], np.zeros(1))
    # Whether the layout is given, or the only one; also where the network has no such layout.
    for name, layout in (("densenet121", "keras"), ("unet-vgg16", None), ("resnet18", "keras")):
        with pytest.raises(InputError, match=f"'net.h5' .* Keras's {network}, which is none of"):
            models.from_tensors(tensors, name, layout=layout, origin="net.h5")
    # Names of PyTorch are not looked at.
    with pytest.raises(InputError, match="choose another model"):
        models.from_tensors(tensors, "densenet121")


def test_names_that_networks_of_ours_share_with_those_of_keras():
    names = ["conv1/conv/kernel", "conv2_block1_0_bn/gamma", "conv2d_1/kernel"]
    with pytest.raises(InputError, match="do not fit the model"):
        models.from_tensors(dict.fromkeys(names, np.zeros(1)), "densenet121", layout="keras")


def test_a_network_that_cannot_be_turned_to_red_first(source, tmp_path):
    out = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="bgr is for a unet of images of three channels, not for"):
        models.convert(source, "resnet18", out, bgr=True)
    assert not out.exists()
