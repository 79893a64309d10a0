"""What a user brings: a small U-Net in Flax NNX that finds coins, and one photograph.

The photograph is scikit-image's `coins`. The labels are the classic ones of its documentation: a
watershed from markers of dark and bright pixels. The network trains on the left part and is
explained on the right part, which it has not seen. Half a minute on two cores.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy import ndimage
from skimage import data, filters, segmentation

WIDTHS = (8, 16, 32)
SIDE, SEEN = 128, 256  # of a crop, and the columns that training sees
STEPS = 300


class Block(nnx.Module):
    """Two 3x3 convolutions with ReLU."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.first = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)

    def __call__(self, x):
        """Features of the same extent."""
        return nnx.relu(self.second(nnx.relu(self.first(x))))


class UNet(nnx.Module):
    """A U-Net with two poolings, on batches `n h w 1`; classes are background and coin."""

    def __init__(self, rngs: nnx.Rngs):
        one, two, three = WIDTHS
        self.down = nnx.List([Block(1, one, rngs), Block(one, two, rngs)])
        self.bottom = Block(two, three, rngs)
        self.up = nnx.List([Block(three + two, two, rngs), Block(two + one, one, rngs)])
        self.head = nnx.Conv(one, 2, (1, 1), rngs=rngs)

    def __call__(self, x):
        """Logits `n h w 2`."""
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = nnx.max_pool(skips[-1], (2, 2), (2, 2))
        x = self.bottom(x)
        for block in self.up:
            skip = skips.pop()
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
            x = block(jnp.concatenate([x, skip], -1))
        return self.head(x)


def coins() -> tuple[np.ndarray, np.ndarray]:
    """The photograph, `h w 1` in [0, 1], and where a coin is."""
    grey = data.coins()
    markers = np.zeros(grey.shape, np.int32)
    markers[grey < 30], markers[grey > 150] = 1, 2
    labels = segmentation.watershed(filters.sobel(grey), markers)
    return np.float32(grey[..., None] / 255), ndimage.binary_fill_holes(labels == 2)


def train(steps: int = STEPS, seed: int = 0) -> UNet:
    """Adam on the cross-entropy of random crops."""
    photograph, truth = coins()
    model = UNet(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        def loss(model):
            entropy = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return entropy.mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    random = np.random.default_rng(seed)
    for _ in range(steps):
        tops = random.integers(0, photograph.shape[0] - SIDE, 4)
        lefts = random.integers(0, SEEN - SIDE, 4)
        corners = zip(tops, lefts, strict=True)
        places = [np.s_[top : top + SIDE, left : left + SIDE] for top, left in corners]
        images = np.stack([photograph[place] for place in places])
        labels = np.stack([truth[place] for place in places]).astype(np.int32)
        step(model, optimizer, images, labels)
    return model


@functools.cache
def held_out() -> np.ndarray:
    """A part of the photograph that training has not seen, 160 by 128."""
    return coins()[0][:160, -SIDE:]


def __getattr__(name: str):
    """`unet` and `image`, made when somebody asks for them."""
    if name == "unet":
        globals()["unet"] = train()
        return globals()["unet"]
    if name == "image":
        return held_out()
    raise AttributeError(name)
