"""What names mean: classes, layers, networks, images."""

import re

import numpy as np
import pytest

from segcam_jax.data.labels import imagenet_labels
from segcam_jax.models import classifier, path_of, randomised, stored
from segcam_jax.networks import image_inputs
from segcam_jax.networks.class_queries import (
    ClassChoice,
    ClassQuery,
    Prediction,
    find_class,
    parse_queries,
)
from segcam_jax.networks.layers import find_layer
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.outputs import Meaning
from segcam_jax.types import InputError, TapError, TargetError

NAMES = ["cat", "dog", "background"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("random:resnet50", "random"),
        ("texture-mnist-biased", "weights"),
        ("my/file.py:make", "user"),
        ("package.networks:make", "user"),
    ],
)
def test_a_network_is_named_by_weights_or_by_a_factory(words, kind):
    assert NetworkSpec.parse(words) == NetworkSpec(words, kind)


def test_one_network_is_named():
    with pytest.raises(InputError, match="no weights were given; add --weights"):
        NetworkSpec.parse(None)


def test_weights_are_named_by_the_folder_of_a_training(tmp_path):
    model = randomised(lambda: classifier("resnet18", width=4, classes=5))
    (tmp_path / "net").mkdir()
    with pytest.raises(InputError, match="a folder without weights.safetensors, which a training"):
        path_of(tmp_path / "net")
    file = tmp_path / "net" / "weights.safetensors"
    stored.save(file, "resnet", model, {})
    spec = NetworkSpec.parse(str(tmp_path / "net"))
    network = open_network(spec, OpenOptions(size=(64, 64)))
    assert (network.name, network.path) == ("net", file)
    # From another folder the name leads nowhere, and the file is found where it lies.
    for words in ("net", "runs/net", "net.safetensors"):
        assert NetworkSpec.parse(words).from_anywhere(file).words == str(file)
    assert NetworkSpec.parse("other").from_anywhere(file).words == "other"


def test_convolutions_by_number_and_layers_by_word(tmp_path):
    """A ResNet-18, a sixteenth as wide; nothing is run."""
    path = tmp_path / "resnet.safetensors"
    model = randomised(lambda: classifier("resnet18", width=4, classes=5))
    stored.save(path, "resnet", model, {"classes": list("abcde")})
    network = open_network(NetworkSpec.parse(str(path)), OpenOptions(size=(64, 64)))
    assert network.classifies
    assert network.labels == list("abcde")
    found = {word: find_layer(network, word) for word in ("first", "middle", "last")}
    assert found == {"first": "stem", "middle": "layer2/block2", "last": "features/relu"}
    assert find_layer(network, "conv:1") == "stem/conv"
    with pytest.raises(InputError, match=r"convolution 21 of ResNet does not exist; choose from"):
        find_layer(network, "conv:21")
    with pytest.raises(InputError, match="'x' is not a number"):
        find_layer(network, "conv:x")
    with pytest.raises(TapError, match="the nearest are layer2/block2, "):
        find_layer(network, "layer2/blok2")


def test_what_a_network_says():
    logits = np.array([1.0, 3.0, 2.0])
    seen = Prediction.of(logits, NAMES)
    assert seen.order == [1, 2, 0]
    np.testing.assert_allclose(seen.shares, np.exp(logits) / np.exp(logits).sum())
    apart = Prediction.of(logits, NAMES, Meaning(exclusive=False)).shares
    np.testing.assert_allclose(apart, 1 / (1 + np.exp(-logits)))
    shares = np.array([0.2, 0.5, 0.3])
    assert Prediction.of(shares, NAMES, Meaning("probabilities")).shares.tolist() == shares.tolist()
    pixels = np.zeros((2, 2, 3))
    pixels[..., 2] = 1
    pixels[0, 0, 1] = 2
    seen = Prediction.of(pixels, NAMES)
    assert seen.order == [1, 2]  # The background comes last, however frequent.
    assert ClassChoice.parse("top:1").resolve(seen, NAMES) == 1
    with pytest.raises(TargetError, match=r"top:2: after 1 class only the background, class"):
        ClassChoice.parse("top:2").resolve(seen, NAMES)
    assert ClassChoice.parse("background").resolve(seen, NAMES) == 2
    with pytest.raises(TargetError, match="only 2 class"):
        ClassChoice.parse("top:3").resolve(seen, NAMES)
    with pytest.raises(
        TargetError, match="'cat' is not predicted at any pixel; the predicted classes are dog"
    ):
        seen.region(0, NAMES)
    assert ClassQuery.parse("dog rather than top:2").words == "dog rather than top:2"
    assert ClassQuery.parse("background rather than dog").resolve(seen, NAMES) == (2, 1)
    with pytest.raises(TargetError, match="top:1 and dog are both 'dog' here"):
        ClassQuery.parse("top:1 rather than dog").resolve(seen, NAMES)


def test_a_class_has_several_names():
    names = ["tench", "tabby, tabby cat", "7"]
    assert [find_class(word, names) for word in ("Tabby Cat", "TENCH", "0", "7")] == [1, 0, 0, 2]
    twice = ["crane", "maillot, swimsuit", "Crane", "crane, machine", "crane, machine"]
    assert [find_class(word, twice) for word in ("crane", "Crane", "swimsuit")] == [0, 2, 1]
    for word, told in (("CRANE", "0 (crane), 2 (Crane)"), ("machine", "3 (crane, machine), 4 ")):
        with pytest.raises(TargetError, match="several classes: " + re.escape(told)):
            find_class(word, twice)
    with pytest.raises(TargetError, match="it has 3, 0 to 2: tabby, tabby cat"):
        find_class("tab", names)
    with pytest.raises(TargetError, match=r"0 to 999: Egyptian cat, .*, \.\.\.$"):
        find_class("egyptian", imagenet_labels())


@pytest.mark.parametrize("words", ["top:0", "top:x", "top:", "top:-1"])
def test_a_rank_is_a_number_from_1(words):
    with pytest.raises(InputError, match=r"give top:1, top:2"):
        parse_queries([words])


def test_targets_have_names_for_files():
    words = ["top:1", "Egyptian cat", "a/b", "a b", "x rather than y", "predicted"]
    made = parse_queries(words)
    names = [query.name for query in made]
    assert names == ["predicted", "Egyptian-cat", "a-b", "a-b-2", "x-not-y"]
    assert [query.words for query in made] == words[:5]
    assert [choice.words for choice in made[4].choices] == ["x", "y"]
    assert [query.words for query in parse_queries()] == ["top:1"]


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_images_are_brought_to_size(fit):
    pixels = np.zeros((8, 20, 1), np.float32)
    pixels[:, 6:14] = 1
    square = image_inputs.fitted(pixels, (4, 4), fit)
    assert square.shape == (4, 4, 1)
    assert (square.min() == 1) == (fit == "crop")
    assert image_inputs.fitted(pixels, (4, 10), fit).mean() == pytest.approx(0.4, abs=0.05)
    assert image_inputs.fitted(pixels, (8, 20), fit) is pixels
