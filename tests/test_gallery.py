"""`segcam gallery`: what it names, computes, draws, resumes, and refuses."""

import json
import re
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segcam_jax
from segcam_jax import cli
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.networks import image_inputs
from segcam_jax.networks.network import Background
from segcam_jax.networks.open import open_network, open_networks
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.reports import words as words_module
from segcam_jax.sweep import maps, plates
from segcam_jax.types import InputError
from tests import own_networks

OWN = f"{own_networks.__file__}:classifier"
NAMES = ["cat", "dog", "background"]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(20, 16), (16, 16)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A random segmentation network that shows two classes at least."""
    from flax import nnx

    path = tmp_path_factory.mktemp("unet") / "tiny.safetensors"
    model = UNet(UNetConfig(in_channels=3, classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(path, model, {"classes": NAMES})
    return str(path)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def fault(capsys, tmp_path):
    """The one line of a gallery that cannot be made, and that leaves nothing."""

    def check(*arguments):
        capsys.readouterr()
        out = tmp_path / "none"
        assert run("gallery", *arguments, "--out", out) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
        assert not out.exists()
        return line

    return check


def test_a_gallery_is_made_resumed_and_grown(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    ending = ("--models", OWN, "--size", 16, "--layers", "first,last", "--top", 2, "--out", out)
    line = ("gallery", photos / "photo0.png", *ending, "--methods", "grad_cam", "gradient")
    original, calls = maps._computed, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(maps, "_computed", interrupted)
    assert run(*line) == 130
    assert run(*line) == 0
    assert len(calls) == 7  # Two targets at two layers and at the input, one of them twice.
    said = capsys.readouterr()
    assert "finished and stay as they are" in said.err
    assert "7 figure(s) of 1 image(s)" in said.out
    base = "photo0/own_networks-classifier"
    one = [
        f"{base}/{aim}.{layer}.{end}"
        for aim in ("predicted", "top2")
        for layer, ends in {
            "all-layers": ("png",),
            "first": ("npz", "png"),
            "input": ("npz",),
            "last": ("npz", "png"),
        }.items()
        for end in ends
    ]
    extra = [".segcam-ledger.json", "gallery.json", f"{base}/targets.png"]
    assert files(out) == sorted([*one, *extra])

    before = {path: path.stat().st_mtime_ns for path in (out / "photo0").rglob("*.*")}
    grown = ("gallery", photos, *ending, "--methods", "grad_cam", "gradient")
    assert run(*grown) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(calls) == 13
    index = json.loads((out / "gallery.json").read_text())
    assert len(index["maps"]) == 12
    assert len(index["figures"]) == 14
    told = index["maps"][0]
    assert told["predicted"][0]["index"] == told["explained"]["index"]
    assert told["extent"] == [16, 16]

    assert run(*grown, "--profile", "pytorch_grad_cam") == 2
    assert "which shows something else" in capsys.readouterr().err
    _, arrays = maps.load_maps(out / base / "top2.last.npz")
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    network = open_network(NetworkSpec.parse(OWN), OpenOptions(size=(16, 16)))
    form = image_inputs.ImageForm.of(network, "crop")
    x = image_inputs.read_sample(photos / "photo0.png", form).padded
    target = segcam_jax.targets.whole_image(int(np.argsort(-np.asarray(fn(params, x)))[1]))
    split = segcam_jax.split(fn, "body", params, x)
    expected = segcam_jax.methods.grad_cam(split, params, x, target).map
    np.testing.assert_allclose(arrays["grad_cam"], expected, rtol=1e-5, atol=1e-7)


def test_networks_of_both_kinds_are_compared(photos, unet, tmp_path, capsys):
    out = tmp_path / "out"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["a", "b", "c", "d"]))
    line = ("gallery", photos / "photo1.png", "--models", unet, OWN, "--layers", "last")
    line = (*line, "--methods", "grad_cam", "--out", out)
    assert run(*line, "--size", 16) == 0
    assert "pixels" in (out / "gallery.json").read_text()
    assert (out / "photo1/predicted.models.png").is_file()
    _, arrays = maps.load_maps(out / "photo1/tiny/predicted.last.npz")
    assert arrays["region"].shape == (16, 16)
    assert arrays["region"].any()
    assert run(*line, "--labels", names, "--overwrite") == 2
    assert "has 4 label(s) for 3 class(es)" in capsys.readouterr().err
    with pytest.raises(InputError, match="was given twice"):
        open_networks([unet, unet])


@pytest.mark.parametrize(
    ("background", "told"),
    [
        (Background(0, assumed=True), "net, class 0 taken for background; "),
        (Background(0, assumed=False), "net; "),
        (None, "net; "),
    ],
)
def test_a_background_that_nobody_named_is_told(background, told):
    """Figures said "predicted class 2" where class 0 was predicted at most pixels."""
    network = types.SimpleNamespace(title="net", labels=["0", "1", "2"], background=background)
    shown: Any = types.SimpleNamespace(
        picture=types.SimpleNamespace(name="a.png"), network=network, tap="conv", word="conv"
    )
    two = {"index": 2, "label": "2", "share": 0.3}
    about = {"predicted": [two], "explained": two, "rather_than": None, "shape": [4, 4]}
    about["shares_are"] = "of the pixels"
    title, subtitle = plates._titles(plates.Plate("a.png", "", ((shown,),)), [about])
    assert title == "a.png: predicted class 2 (30 % of the pixels)"
    assert subtitle.startswith(told)


def test_only_one_of_exclusive_classes_is_predicted():
    """ "explained b (56 %), predicted a (70 %)" of two heads that both find their class."""
    first, second = ({"index": k, "label": "ab"[k], "share": 0.7 - 0.14 * k} for k in (0, 1))
    about = {"predicted": [first], "explained": second, "rather_than": None}
    for kind, best in (("probabilities", "most probable"), ("of the pixels", "largest")):
        about["shares_are"] = kind
        for exclusive, word in ((True, "predicted"), (False, best)):
            about["exclusive"] = exclusive
            assert f", {word} a (70 %" in words_module.in_words(about)


def test_a_difference_of_two_classes(photos, tmp_path):
    out = tmp_path / "out"
    line = ("gallery", photos / "photo1.png", "--models", OWN, "--size", 16, "--layers", "last")
    line = (*line, "--methods", "grad_cam", "--difference", "top:1", "top:2", "--out", out)
    assert run(*line) == 0
    (file,) = out.rglob("*.npz")
    about, arrays = maps.load_maps(file)
    assert about["rather_than"]["index"] == about["predicted"][1]["index"]
    assert about["score_is"] == "difference of logits"
    assert "rather than" in words_module.in_words(about)
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    x = np.asarray(Image.open(photos / "photo1.png"), np.float32) / 255
    split = segcam_jax.split(fn, "body", params, x)
    first, second = about["explained"]["index"], about["rather_than"]["index"]
    each = [
        np.asarray(
            segcam_jax.methods.grad_cam(split, params, x, segcam_jax.targets.whole_image(k)).map
        )
        for k in (first, second)
    ]
    np.testing.assert_allclose(arrays["grad_cam"], each[0] - each[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), r"no model was given"),
        (("--models", "resnet50"), r"'resnet50' has no trained weights here; .* random:resnet50"),
        (("--models", "random:resnet5"), r"unknown model 'resnet5' after .* choose from resnet50"),
        (("--models", OWN, "--layers", "frist"), r"unknown layer 'frist' .* are first, "),
        (("--models", OWN, "--layers", "conv:1"), r"does not number its convolutions"),
        (("--models", OWN, "--layers", "head"), r"shape \(4,\) and no positions"),
        (("--models", OWN, "--layers", ","), r"no layer was given"),
        (("--models", OWN, "--methods", "gradcm"), r"unknown method 'gradcm'; choose from grad_ca"),
        (("--models", OWN, "--classes", "4"), r"class '4' is not a class of the model; it has 4"),
        (("--models", OWN, "--classes", "top:9"), r"give top:1 to top:4"),
        (("--models", OWN, "--difference", "1", "1"), r"does not differ from itself"),
        (("--models", OWN, "--labels", "LABELS"), r"has 1 label\(s\) for 4 class\(es\)"),
        (("--models", OWN, "--size", "4"), r"size 4; give"),
        (("--models", OWN, "--seed", "-1"), r"`seed` is -1"),
        (("--models", OWN, "--profile", "capt"), r"unknown profile 'capt'; choose from captum"),
        (
            ("--models", OWN, "--methods", "finer_cam", "--difference", "0", "1"),
            r"finer_cam compares classes by itself",
        ),
    ],
)
def test_faults_are_one_line(photos, tmp_path, fault, arguments, complaint):
    labels = tmp_path / "labels.txt"
    labels.write_text("one")
    given = [str(labels) if each == "LABELS" else each for each in arguments]
    size = () if "--size" in given else ("--size", 16)
    line = fault(photos, *given, *size)
    assert re.search(complaint, line), line


def test_faults_of_images(photos, tmp_path, fault):
    line = ("--models", OWN, "--size", 16)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images were given" in fault(*line)
    assert "holds no images" in fault(empty, *line)
    assert "does not exist" in fault(tmp_path / "nowhere.png", *line)
    cut = tmp_path / "cut.png"
    cut.write_bytes((photos / "photo0.png").read_bytes()[:300])
    assert "cut.png' is a corrupt image" in fault(photos, cut, *line)


@pytest.mark.parametrize(
    ("share", "words"), [(1, "100 %"), (0.999, "> 99 %"), (0.5, "50 %"), (0.0004, "< 0.1 %")]
)
def test_shares_in_words(share, words):
    assert words_module.percent(share) == words
