"""Networks drawn at random: what a decoder may hold, in 2D and 3D, written out in `jax.numpy`.

A network is a list of stages, and a stage draws its own weights. All run in the dtype of the
input, so that the same network is its own brute force in float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from segcam_jax import tap

CLASSES, WIDTH = 3, 4
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
NORMS = ("instance", "layer", "group", "batch", "rms")
STAGES = (
    *ACTIVATIONS,
    *NORMS,
    "strided",
    "dilated",
    "grouped",
    "transposed",
    "max_pool",
    "average_pool",
    "nearest",
    "linear",
    "take",
    "reflected",
    "pixel_shuffle",
    "attention",
    "squeeze",
    "residual",
    "skip",
)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network.

    Attributes:
        extents: of the image.
        stages: of the part behind the tap, a convolution before each.
        head: what the logits pass through.
        seed: of weights, image and region.
        ratio: the score over the largest fall, about.
    """

    extents: tuple[int, ...]
    stages: tuple[str, ...]
    head: str
    seed: int
    ratio: float

    def weights(self, name, *shape):
        """Drawn anew for every name, at a scale that keeps activations alive."""
        key = [self.seed, *name.encode()]
        fan = int(np.prod(shape[:-1])) or 1
        drawn = np.random.default_rng(key).normal(0, (2 / fan) ** 0.5, shape)
        return drawn.astype(np.float32)

    def image(self):
        """The input."""
        return jnp.asarray(self.weights("image", 1, *self.extents, 2)[0] * 3)

    def region(self):
        """A box in the output, which has the image's extents."""
        generator = np.random.default_rng(self.seed)
        mask = np.zeros(self.extents, bool)
        corner = [int(generator.integers(0, n - 2)) for n in self.extents]
        mask[tuple(slice(at, at + int(generator.integers(1, 4))) for at in corner)] = True
        return mask

    def __call__(self, params, x):
        hidden = tap(jax.nn.relu(self._conv("stem", x, WIDTH + 1) + 0.2), "hidden")
        skip = self._conv("side", x, WIDTH)
        y = hidden
        for number, stage in enumerate(self.stages):
            y = self._conv(f"{number}", y, WIDTH)
            y = self._stage(f"{number} {stage}", stage, y, skip)
        y = self._resized(y, self.extents, "linear")
        y = self._conv("head", y, CLASSES, kernel=1)
        if self.head == "probabilities":
            y = jax.nn.softmax(y, -1)
        return y + params

    def _conv(self, name, x, width, *, kernel=3, stride=1, dilation=1, groups=1, padding="SAME"):
        rank = x.ndim - 1
        weight = self.weights(name, *(kernel,) * rank, x.shape[-1] // groups, width)
        bias = self.weights(f"{name} bias", 1, width)[0] * 0.3
        letters = "DHW"[-rank:]
        return jax.lax.conv_general_dilated(
            x[None],
            jnp.asarray(weight, x.dtype),
            (stride,) * rank,
            padding,
            rhs_dilation=(dilation,) * rank,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=groups,
        )[0] + jnp.asarray(bias, x.dtype)

    def _stage(self, name, stage, x, skip):
        if stage in ACTIVATIONS:
            return ACTIVATIONS[stage](x)
        if stage in NORMS:
            return self._normalised(name, stage, x)
        return getattr(self, f"_{stage}")(name, x, skip)

    def _normalised(self, name, kind, x):
        space = tuple(range(x.ndim - 1))
        scale, shift = (jnp.asarray(self.weights(name + at, 1, WIDTH)[0], x.dtype) for at in "ab")
        if kind == "batch":
            return x * (1 + scale) + shift
        if kind == "rms":
            return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * (1 + scale)
        if kind == "group":
            x = x.reshape(*x.shape[:-1], 2, WIDTH // 2)
            axes = (*space, x.ndim - 1)
        else:
            axes = space if kind == "instance" else (x.ndim - 1,)
        centred = x - x.mean(axes, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-5)
        return y.reshape(*y.shape[: len(space)], WIDTH) * (1 + scale) + shift

    def _strided(self, name, x, skip):
        return self._conv(name, x, WIDTH, stride=2)

    def _dilated(self, name, x, skip):
        return self._conv(name, x, WIDTH, dilation=2)

    def _grouped(self, name, x, skip):
        return self._conv(name, x, WIDTH, groups=2)

    def _transposed(self, name, x, skip):
        rank = x.ndim - 1
        weight = jnp.asarray(self.weights(name, *(2,) * rank, WIDTH, WIDTH), x.dtype)
        return jax.lax.conv_transpose(
            x[None], weight, (2,) * rank, "SAME", dimension_numbers=_LETTERS[rank]
        )[0]

    def _pooled(self, x, start, operation):
        window = tuple(min(2, n) for n in x.shape[:-1]) + (1,)
        start = np.asarray(start, x.dtype)
        return jax.lax.reduce_window(x, start, operation, window, window, "VALID")

    def _max_pool(self, name, x, skip):
        return self._pooled(x, -np.inf, jax.lax.max)

    def _average_pool(self, name, x, skip):
        return self._pooled(x, 0, jax.lax.add) / 2 ** (x.ndim - 1)

    def _resized(self, x, extents, how):
        if x.shape[:-1] == tuple(extents):
            return x
        return jax.image.resize(x, (*extents, x.shape[-1]), how, antialias=False)

    def _nearest(self, name, x, skip):
        return self._resized(x, [2 * n for n in x.shape[:-1]], "nearest")

    def _linear(self, name, x, skip):
        return self._resized(x, [n + n // 2 + 1 for n in x.shape[:-1]], "linear")

    def _take(self, name, x, skip):
        for axis in range(x.ndim - 1):
            x = jnp.take(x, np.arange(2 * x.shape[axis]) // 2, axis)
        return x

    def _reflected(self, name, x, skip):
        mode = "reflect" if min(x.shape[:-1]) > 1 else "edge"
        padded = jnp.pad(x, [(1, 1)] * (x.ndim - 1) + [(0, 0)], mode=mode)
        return self._conv(name, padded, WIDTH, padding="VALID")

    def _pixel_shuffle(self, name, x, skip):
        rank, space = x.ndim - 1, x.shape[:-1]
        x = self._conv(name, x, WIDTH * 2**rank).reshape(*space, *(2,) * rank, WIDTH)
        order = [at for axis in range(rank) for at in (axis, rank + axis)]
        return x.transpose(*order, 2 * rank).reshape(*(2 * n for n in space), WIDTH)

    def _attention(self, name, x, skip):
        flat = x.reshape(-1, WIDTH)
        query, key, value = (
            flat @ jnp.asarray(self.weights(name + at, WIDTH, WIDTH), x.dtype) for at in "qkv"
        )
        weights = jax.nn.softmax(query @ key.T / WIDTH**0.5, -1)
        return x + (weights @ value).reshape(x.shape)

    def _squeeze(self, name, x, skip):
        mean = x.mean(tuple(range(x.ndim - 1)))
        gate = jax.nn.sigmoid(mean @ jnp.asarray(self.weights(name, WIDTH, WIDTH), x.dtype))
        return x * gate

    def _residual(self, name, x, skip):
        return x + jax.nn.relu(self._conv(name, x, WIDTH))

    def _skip(self, name, x, skip):
        return jnp.concatenate([x, self._resized(skip, x.shape[:-1], "linear")], -1)


_LETTERS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
# The widest image behind all stages: two that double it are allowed.
_GROW = {"nearest", "linear", "take", "transposed", "pixel_shuffle"}


def networks():
    """Strategy for networks of two to four stages, odd extents included."""
    stages = st.lists(st.sampled_from(STAGES), min_size=2, max_size=4)
    extents = st.lists(st.integers(5, 9), min_size=2, max_size=2) | st.lists(
        st.integers(3, 5), min_size=3, max_size=3
    )
    return st.builds(
        Drawn,
        extents.map(tuple),
        stages.filter(lambda names: len(_GROW & set(names)) < 3).map(tuple),
        st.sampled_from(("logits", "logits", "probabilities")),
        st.integers(0, 2**31),
        st.sampled_from((1.0, 1e4, 1e8)),
    )
