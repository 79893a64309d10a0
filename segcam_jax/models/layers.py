"""What the classifiers share: their layers, the normalisation of images, the check of shapes.

Images are `h w c` or `n h w c`. A convolution is padded evenly, as PyTorch does it.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.taps import tap
from segcam_jax.types import InputError, counted, none_of

# mean and standard deviation of each channel of an image in [0, 1]
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "none": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5,), (0.5,)),
    "efficientnet_lite": ((127 / 255,), (128 / 255,)),
}
_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class Keys:
    """Random keys by a count: what layers read of an `nnx.Rngs`.

    It holds no variables, and so a network is traced in a fifth of the time.
    """

    def __init__(self, seed: int):
        self._key = jax.random.key(seed)
        self._count = 0

    def params(self) -> Array:
        """Returns the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


class Unfilled:
    """In place of keys, for a network that gets its tensors from a file before it runs.

    Its convolutions are not drawn (`drawn`): to trace that takes longer than all else of a network.
    """

    def params(self) -> Array:
        """Returns the same key every time."""
        return jax.random.key(0)


class Classifier(nnx.Module):
    """What the classifiers share: logits of what is pooled of the last level of their features.

    Taps: `pooled`, one value per channel, and `logits`.
    """

    head: nnx.Linear

    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... k"]:
        """Returns the logits of one image or a batch of them, channels last."""
        return self.logits(self.pyramid(x)[-1])

    def pyramid(self, x: Float[Array, "... h w c"]) -> list[Float[Array, "... h w c"]]:
        """Returns the features at several extents, the image's first."""
        raise NotImplementedError

    def logits(self, features: Float[Array, "... h w c"]) -> Float[Array, "... k"]:
        """Returns the logits of the last features."""
        return tap(self.head(tap(pooled(features), "pooled")), "logits")


def keys(rngs: nnx.Rngs | None) -> Any:
    """The given keys, or those of seed zero."""
    return Keys(0) if rngs is None else rngs


def drawn(usual: Any, rngs: nnx.Rngs) -> Any:
    """The initialiser of a kernel: the usual one, or zeros where the kernel is filled later."""
    return nnx.initializers.zeros_init() if isinstance(rngs, Unfilled) else usual


def dropout(share: float, rngs: nnx.Rngs) -> nnx.Dropout | None:
    """Drops a share of the activations in training; None for a share of 0.

    A network that is only filled and run, as one from a file, holds no random state.
    """
    dice = rngs if isinstance(rngs, nnx.Rngs) else None
    return nnx.Dropout(share, rngs=dice) if share else None


def check_dropout(share: float) -> None:
    """Raises `InputError` if a share of activations that are dropped is none."""
    if not 0 <= share < 1:
        raise InputError(f"`dropout` is {share}; give a share from 0 to less than 1")


def check_config(config, **least: int) -> None:
    """Checks the fields that the configurations of all classifiers have.

    Args:
        config: has `normalisation` and `in_channels`.
        least: field -> the smallest value that it may have.
    """
    check_least(config, in_channels=1, classes=1, **least)
    name = config.normalisation
    if name not in NORMALISATIONS:
        raise none_of(f"unknown normalisation {name!r}", name, NORMALISATIONS)
    if name == "imagenet" and config.in_channels != 3:
        raise InputError(
            f"normalisation 'imagenet' is for 3 channels, not {config.in_channels}; choose none "
            "or symmetric"
        )


def check_least(config, **least: int) -> None:
    """Checks that fields of a configuration are not below the smallest values that they may have.

    Raises:
        InputError: naming the first that is.
    """
    for field, smallest in least.items():
        if getattr(config, field) < smallest:
            raise InputError(
                f"`{field}` is {getattr(config, field)}; it must be at least {smallest}"
            )


def check_choice(field: str, value, choices) -> None:
    """Checks a field that has few valid values."""
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise InputError(f"`{field}` is {value!r}; choose from {listed}")


def check_image(shape: tuple[int, ...], config, name: str, smallest: int) -> None:
    """Checks that a shape is that of an image, or of a batch of images, that a network takes."""
    if len(shape) not in (3, 4) or shape[-1] != config.in_channels:
        raise InputError(
            f"{name} was given shape {shape}; it expects height, width and "
            f"{counted(config.in_channels, 'channel')}, after an optional batch dimension"
        )
    if min(shape[-3:-1]) < smallest:
        raise InputError(
            f"{name} was given an image of {shape[-3]} x {shape[-2]}; it needs at least "
            f"{smallest} x {smallest}, enlarge the image"
        )


def check_space(
    shape: tuple[int, ...], config, name: str, multiples: tuple[int, ...], why: str = ""
) -> None:
    """Checks a shape as `check_image`, of images or volumes whose extents must be multiples.

    Args:
        config: has `ndim` and `in_channels`.
        multiples: of what, along each axis.
        why: what these are, for the message.
    """
    ndim, channels = config.ndim, config.in_channels
    if len(shape) not in (ndim + 1, ndim + 2) or shape[-1] != channels:
        raise InputError(
            f"{name} was given shape {shape}; it expects {ndim} spatial dimensions and "
            f"{counted(channels, 'channel')} last, after an optional batch dimension"
        )
    space = shape[-1 - ndim : -1]
    if any(extent % n for extent, n in zip(space, multiples, strict=True)):
        said = multiples[0] if len(set(multiples)) == 1 else multiples
        raise InputError(f"{name} was given extents {space}; pad them to multiples of {said}{why}")


def normalise(x: Float[Array, "... c"], name: str) -> Float[Array, "... c"]:
    """Returns `(x - mean) / std` with the constants of a normalisation."""
    constants = NORMALISATIONS[name]
    if constants is None:
        return x
    mean, std = (
        jnp.asarray(value, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) for value in constants
    )
    return (x - mean) / std


def conv(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | Literal["SAME"] | None = None,
    groups: int = 1,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution without bias.

    Args:
        padding: zeros before and after each axis; None keeps the extent at stride one; `"SAME"` is
            TensorFlow's rule.
        groups: as many as channels for a depthwise convolution.
    """
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads: Any = [n // 2 for n in size] if padding is None else [padding] * 2
    return nnx.Conv(
        inputs,
        outputs,
        size,
        strides=stride,
        # A tuple, since `from_nnx` needs what is hashable.
        padding="SAME" if padding == "SAME" else tuple((pad, pad) for pad in pads),
        feature_group_count=groups,
        use_bias=False,
        kernel_init=drawn(_HE, rngs),
        rngs=rngs,
    )


def norm(channels: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm; its statistics move by a tenth in each step, PyTorch's momentum of 0.1."""
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=epsilon, rngs=rngs)


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The maximum over windows; what pads never wins."""
    pads: Any = [(padding, padding)] * 2
    return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=pads)


def avg_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The mean over windows, in which padded zeros count."""
    pads: Any = [(padding, padding)] * 2
    return nnx.avg_pool(x, (window, window), strides=(stride, stride), padding=pads)


def pooled(x: Float[Array, "... h w c"]) -> Float[Array, "... c"]:
    """The mean over all positions."""
    return jnp.mean(x, axis=(-3, -2))
