"""Models as users write them, and factories that return them, or fail to."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx

import segcam_jax

NAMES = ("tabby, tabby cat", "tiger cat", "goldfish", "snail")


class Classifier(nnx.Module):
    """Written for a batch, three channels."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.body = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, len(NAMES), rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.body(nnx.relu(self.stem(x))))
        return self.head(self.drop(x.mean(axis=(1, 2))))


def classifier():
    return Classifier(nnx.Rngs(1))


class Segmenter(linen.Module):
    """Written for a batch, one channel, sides that can be halved; three classes."""

    @linen.compact
    def __call__(self, x, *, train=True):
        fine = linen.relu(linen.Conv(4, (3, 3), name="fine")(x))
        coarse = linen.max_pool(fine, (2, 2), (2, 2))
        coarse = linen.relu(linen.Conv(6, (3, 3), name="coarse")(coarse))
        n, h, w, c = coarse.shape
        up = jnp.broadcast_to(coarse[:, :, None, :, None], (n, h, 2, w, 2, c))
        both = jnp.concatenate([up.reshape(n, 2 * h, 2 * w, c), fine], axis=-1)
        return linen.Conv(3, (1, 1), name="head")(both)


def segmenter():
    module = Segmenter()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


class Volumetric(nnx.Module):
    """A network of volumes, sides that can be halved; two classes."""

    def __init__(self, channels, rngs):
        self.fine = nnx.Conv(channels, 4, (3, 3, 3), rngs=rngs)
        self.coarse = nnx.Conv(4, 6, (3, 3, 3), strides=2, rngs=rngs)
        self.head = nnx.Conv(10, 2, (1, 1, 1), rngs=rngs)

    def __call__(self, x):
        fine = nnx.relu(self.fine(x))
        coarse = nnx.relu(self.coarse(fine))
        for axis in (-4, -3, -2):
            coarse = jnp.repeat(coarse, 2, axis)
        return self.head(jnp.concatenate([fine, coarse], axis=-1))


def volumetric():
    return Volumetric(2, nnx.Rngs(0))


def volumetric_of_three():
    """Its stem takes a batch of one image of three channels for a volume of one slice."""
    return nnx.Sequential(
        nnx.Conv(3, 4, (3, 3, 3), rngs=nnx.Rngs(0)), nnx.Conv(4, 2, (1, 1, 1), rngs=nnx.Rngs(1))
    )


def slices():
    """Shows the slices of a volume to a network of images, as a batch."""
    kernel = jnp.ones((3, 3, 1, 2))

    def fn(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=numbers)

    return fn, kernel


def slices_of_one():
    """The same, which says that the slices are those of one volume."""
    return segcam_jax.from_function(*slices(), one_example=True)


def volumes_of_eight():
    """A network of volumes of 8 x 8 x 8 alone."""

    def fn(params, x):
        return (x.reshape(512) @ params).reshape(8, 8, 8, 2)

    return fn, jnp.ones((512, 1024))


def coarse():
    """An Equinox model whose logits have a quarter of the image's sides."""
    keys = jax.random.split(jax.random.key(0), 2)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Conv2d(4, 2, 3, stride=2, padding=1, key=keys[1]),
        ]
    )


def banded():
    """Three classes by grey value: 0 near black, 1 near grey, 2 near white."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params["in"]), "hidden")
        return hidden @ params["out"] - jnp.array([[[0.0, 0.25, 1.0]]])

    return fn, {"in": jnp.ones((1, 1)), "out": jnp.array([[0.0, 1.0, 2.0]])}


def falling():
    """Predicts class 1 everywhere, and less of it where the image is bright."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params), "hidden")
        return jnp.concatenate([0 * hidden, 1 - hidden], -1)

    return fn, jnp.ones((1, 1))


def fixed():
    """Predicts class 1 everywhere, and its rectifier lets no gradient through."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params), "hidden")
        return jnp.concatenate([0 * hidden, jax.nn.relu(-hidden) + 2], -1)

    return fn, jnp.ones((1, 1))


def ruling_out():
    """Predicts class 1 everywhere, and rules class 2 out."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params), "hidden")
        return jnp.concatenate([0 * hidden, hidden, jnp.full_like(hidden, -jnp.inf)], -1)

    return fn, jnp.ones((1, 1))


def ruling_out_images():
    """The classes of `ruling_out`, of whole images."""
    fn, params = ruling_out()
    return (lambda params, x: fn(params, x).mean((0, 1))), params


def _greys(*steps, end=lambda y: y):
    """One class per (slope, threshold), of logit slope * (grey - threshold)."""
    slopes, thresholds = (jnp.asarray(each, jnp.float32) for each in zip(*steps, strict=True))

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params["in"]), "hidden")
        return end(hidden * slopes[None, None] - (slopes * thresholds)[None, None])

    return fn, {"in": jnp.ones((1, 1))}


def bright():
    """One class, where it is brighter than 0.5; logits."""
    return _greys((20.0, 0.5))


def bright_sigmoid():
    """The same, ending in a sigmoid."""
    return _greys((20.0, 0.5), end=jax.nn.sigmoid)


def bright_declared():
    """The same, ending in what no trace shows, as its adapter says."""
    return segcam_jax.from_function(*bright_undeclared(), outputs="probabilities")


def bright_undeclared():
    """The same, and nothing says it."""
    return _greys((20.0, 0.5), end=lambda y: 0.5 + jnp.arctan(jnp.sinh(y / 2)) / jnp.pi)


def bright_softmax():
    """Dark and bright, ending in a softmax."""
    return _greys((0.0, 0.0), (20.0, 0.5), end=jax.nn.softmax)


def nested():
    """Above 0.3, above 0.7, and nowhere: classes that do not exclude each other, logits."""
    fn, params = _greys((20.0, 0.3), (50.0, 0.7), (1.0, 2.0))
    return fn, params


def nested_sigmoid():
    """The same, ending in a sigmoid."""
    return _greys((20.0, 0.3), (50.0, 0.7), (1.0, 2.0), end=jax.nn.sigmoid)


def softmax_classifier():
    """Ten classes of an image, number 3 with 0.9989."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params["in"]), "hidden")
        return jax.nn.softmax(jnp.where(jnp.arange(10) == 3, 9.0, 0.0) + 0 * hidden.mean())

    return fn, {"in": jnp.ones((1, 1))}


def function():
    """A plain function with a tap of its author's, one channel."""

    def fn(params, x):
        hidden = segcam_jax.tap(jax.nn.relu(x @ params["in"]), "hidden")
        return hidden.mean((0, 1)) @ params["out"]

    return fn, {"in": jnp.ones((1, 3)), "out": jnp.ones((3, 2))}


instance = Classifier(nnx.Rngs(2))


def small_only():
    """A model of images of 16 x 16 alone."""
    kernel = {"kernel": jnp.ones((16 * 16 * 3, 2))}
    return (lambda params, x: x.reshape(-1) @ params["kernel"]), kernel


def picky():
    """A model that takes images of every size but one."""

    def fn(params, x):
        if x.shape[0] == 20:
            raise ValueError("not twenty")
        return x @ params

    return fn, jnp.ones((3, 2))


def needy(rngs, *, width=3):
    return Classifier(rngs)


def failing():
    return {"layers": 3}["depth"]


def nothing():
    pass


def without_variables():
    return Segmenter()


def a_class():
    return Classifier


def two_outputs():
    return (lambda params, x: (x, x)), {}


def named_outputs():
    return (lambda params, x: {"map": x, "other": x}), {}


def odd_output():
    return (lambda params, x: x[:-3, :-1]), {}


class Transformer(nnx.Module):
    """Written for a batch: 8 x 8 patches and a token of the class, four heads."""

    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 16, (4, 4), strides=4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.token = nnx.Param(jnp.ones((1, 1, 16)))
        self.head = nnx.Linear(16, len(NAMES), rngs=rngs)

    def __call__(self, x):
        y = self.patches(x)
        tokens = jnp.concatenate([self.token[...], y.reshape(len(y), -1, 16)], axis=1)
        tokens = tokens + self.attention(tokens)
        grid = segcam_jax.tap(tokens[:, 1:].reshape(y.shape), "grid")
        return self.head(tokens[:, 0] + grid.mean((1, 2)))


def transformer():
    return Transformer(nnx.Rngs(3))


class Masked(nnx.Module):
    """Is given a mask, too."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 2, (3, 3), rngs=rngs)

    def __call__(self, image, mask):
        return self.conv(image) * mask


def two_inputs():
    return Masked(nnx.Rngs(0))
