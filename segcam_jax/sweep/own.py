"""A user's own model as a `Network`: which images it takes is found out by trying.

Nothing is run for that, shapes alone are traced: with a batch of one and without, with three
channels and with one, and, where no size is given, which sizes a segmentation network can halve.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segcam_jax import models
from segcam_jax._jaxpr import graph
from segcam_jax.adapters import adapted
from segcam_jax.models.layers import NORMALISATIONS
from segcam_jax.sweep import blame
from segcam_jax.sweep.factories import Made, make
from segcam_jax.sweep.network import Network
from segcam_jax.types import InputError, SegcamError, nearest_first

USUAL_SIDE = 224
_CHANNELS = (3, 1)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Odd multiples of 64: an extent of so many plus m can be halved as often as m, and no further.
_ODD = (3 * 64, 5 * 64)
# Where the fit of shapes ended: before the user's code, or after it.
_BEFORE, _AFTER = (-1,), (float("inf"),)
Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    """What is known of a user's model.

    Attributes:
        in_channels: of its images.
        classes: of its logits.
        classifies: whether the logits are of the image, not of each pixel.
        multiple: what extents of its images must be multiples of.
        ndim: of its images.
    """

    in_channels: int
    classes: int
    classifies: bool
    multiple: int = 1
    ndim: int = 2


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model with what is done to an image before it, and to its logits after it.

    Attributes:
        fn: the model, `fn(params, x)`.
        moments: mean and standard deviation of each channel, or of all; None: images stay.
    """

    fn: Callable
    moments: Moments | None

    def __call__(self, params: Any, x: Float[Array, "h w c"]) -> Array:
        """The logits of an image in [0, 1]; coarser ones of pixels are resized to the image."""
        if self.moments is not None:
            mean, deviation = (jnp.asarray(each, x.dtype)[None, None] for each in self.moments)
            x = (x - mean) / deviation
        output = self.fn(params, x)
        if output.ndim == 3 and output.shape[:2] != x.shape[:2]:
            shape = (*x.shape[:2], output.shape[-1])
            output = jax.image.resize(output, shape, "linear", antialias=False)
        return output


@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    """A user's model, opened.

    Attributes:
        network: with its parameters.
        size: `(h, w)` that images are brought to; None if it takes them as they are.
        note: what was found out, in words.
    """

    network: Network
    size: tuple[int, int] | None
    note: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """A way of calling the model that works."""

    fn: Callable
    params: Any
    shape: tuple[int, int, int]
    output: tuple[int, ...]


def open_own(
    words: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    normalisation: str | None = None,
) -> Own:
    """Opens what a factory of a user's own file makes.

    Args:
        words: `module.path:factory` or `file.py:factory`.
        size: `(h, w)` that images are brought to; None: 224 x 224 for a classifier, and for a
            segmentation network images as they are, if it takes more than one size.
        channels: of images; None tries three, then one.
        normalisation: what is done to an image in [0, 1] first, as `moments_of` reads it.

    Raises:
        InputError: if there is no such model, or it takes no such image.
    """
    moments = moments_of(normalisation or "none")
    made = make(words)
    tried = (channels,) if channels else _CHANNELS
    space = size or (USUAL_SIDE, USUAL_SIDE)
    shapes = [(space[0], space[1], count) for count in tried]
    fit = _fit(made, shapes)
    count = fit.shape[-1]
    if moments is not None and any(len(each) not in (1, count) for each in moments):
        raise InputError(f"normalisation {normalisation!r} is not for {count} channel(s)")
    multiple = 1
    if len(fit.output) == 3 and size is None:
        found = _multiple(fit)
        size, multiple = (space, 1) if found is None else (None, found)
    elif size is None:
        size = space
    coarser = len(fit.output) == 3 and fit.output[:2] != fit.shape[:2]
    fn = Prepared(fit.fn, moments) if moments or coarser else fit.fn
    config = OwnConfig(count, fit.output[-1], len(fit.output) == 1, multiple)
    loaded = models.LoadedModel(made.name, fn, fit.params, config, {})
    digest = _digest(made, fit, [size, multiple, moments])
    note = _note(made, fit, size, multiple, normalisation)
    return Own(Network(words, made.file, digest, loaded), size, note)


def moments_of(words: str) -> Moments | None:
    """Reads `imagenet`, `symmetric`, ..., or `MEAN/DEVIATION` with numbers such as `0.5,0.4,0.4`.

    Raises:
        InputError: if it is neither, or a deviation is not positive.
    """
    if words in NORMALISATIONS:
        return NORMALISATIONS[words]
    mean, _, deviation = words.partition("/")
    try:
        first, second = (tuple(map(float, part.split(","))) for part in (mean, deviation))
    except ValueError:
        choices = ", ".join(nearest_first(words, NORMALISATIONS))
        raise InputError(
            f"unknown normalisation {words!r}; choose from {choices}, or give MEAN/DEVIATION, "
            "for example 0.5,0.5,0.5/0.25,0.25,0.25"
        ) from None
    if not (np.isfinite([*first, *second]).all() and min(second) > 0):
        raise InputError(f"normalisation {words!r}; give finite means and positive deviations")
    return first, second


def _fit(made: Made, shapes: Sequence[tuple[int, int, int]]) -> _Fit:
    """The first way of calling the model that works.

    Raises:
        InputError: of the call that came furthest.
    """
    failures: list[tuple[tuple[float, ...], str]] = []
    for shape in shapes:
        for fn, params in _callings(made):
            try:
                return _Fit(fn, params, shape, _output(fn, params, shape))
            except SegcamError as error:
                done = _AFTER if isinstance(error, _WrongOutput) else _BEFORE
                failures.append((done, f"{made.words}: {error}"))
            except Exception as error:
                size = " x ".join(map(str, shape))
                lines = tuple(float(line) for _, line in blame.users_lines(error))
                words = f"{made.words} fails on an image of {size}: {blame.in_words(error)}"
                failures.append((lines or _BEFORE, words))
    done, words = max(failures, key=lambda failure: failure[0])
    hint = "" if done is _AFTER else "; if it takes others, say so by --size H W and --channels N"
    raise InputError(words + hint)


def _callings(made: Made) -> Iterator[tuple[Callable, Any]]:
    """The model with a batch of one, as most are written, and without, if that makes a difference.

    A model that is written for a batch could take the rows of one image for examples, and would
    not always fail; hence the order.
    """
    first = adapted(made.model, batch=True)
    yield first
    second = adapted(made.model, batch=False)
    if second[0] != first[0]:
        yield second


class _WrongOutput(InputError):
    """A model that runs, but does not return logits."""


def _output(fn: Callable, params: Any, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of the logits: `k`, or `h w k` no finer than the image."""
    output = jax.eval_shape(fn, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    leaves = jax.tree.leaves(output)
    if output is not leaves[0] if leaves else True:
        kinds = f"a {type(output).__name__} of {len(leaves)} array(s)"
        raise _WrongOutput(
            f"the model returns {kinds}, expected the logits alone; let the factory return "
            "segcam_jax.from_nnx(model, output=lambda out: out[0]) or the like"
        )
    found = tuple(output.shape)
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise _WrongOutput(
            f"the model returns {output.dtype} values, expected floating-point logits"
        )
    if len(found) not in (1, 3):
        raise _WrongOutput(
            f"the model returns shape {found} for an image of {' x '.join(map(str, shape))}; "
            "expected k logits, or h w k of them (without the batch)"
        )
    ratios = {m / n for n, m in zip(found[:2], shape[:2], strict=True)} if found[1:] else {1}
    if len(ratios) > 1 or any(not ratio.is_integer() for ratio in map(float, ratios)):
        raise _WrongOutput(
            f"the model returns {found[0]} x {found[1]} logits for an image of {shape[0]} x "
            f"{shape[1]}; expected as many, or a half, a quarter, ... along both"
        )
    return found


def _multiple(fit: _Fit) -> int | None:
    """The least multiple that extents must have; None if the network takes other sizes not at all.

    A network halves an extent some times, and fails, or returns another size, where it is odd.
    """
    for multiple in _MULTIPLES:
        space = tuple(extent + multiple for extent in _ODD)
        try:
            found = _output(fit.fn, fit.params, (*space, fit.shape[-1]))  # pyright: ignore
        except Exception:
            continue
        if len(found) == 3 and found[0] * fit.shape[0] == space[0] * fit.output[0]:
            return multiple
    return None


def _digest(made: Made, fit: _Fit, prepared: Sequence[Any]) -> str:
    """A digest of the parameters, the source, how images are prepared, and what the model holds."""
    digest = hashlib.sha256(f"{made.words} {made.source} {prepared}".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(fit.params):
        _update(digest, jax.tree_util.keystr(path), leaf)
    image = jax.ShapeDtypeStruct(fit.shape, jnp.float32)
    for number, value in enumerate(graph.held(graph.closed(fit.fn, fit.params, image)[0])):
        _update(digest, f"held {number}", value)
    return digest.hexdigest()


def _update(digest: Any, name: str, leaf: Any) -> None:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    digest.update(f"{name} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())


def _note(
    made: Made,
    fit: _Fit,
    size: tuple[int, int] | None,
    multiple: int,
    normalisation: str | None,
) -> str:
    *extents, channels = fit.shape
    if size is not None:
        image = f"an image of {size[0]} x {size[1]} x {channels}"
    else:
        image = f"an image of any size, {channels} channel(s)"
        image += f", padded to multiples of {multiple}" if multiple > 1 else ""
    coarser = ""
    if len(fit.output) == 1:
        what = f"{fit.output[-1]} classes for {image}"
    else:
        what = f"{fit.output[-1]} classes for each pixel of {image}"
        if list(fit.output[:2]) != extents:
            coarser = f"; its logits are resized by {extents[0] / fit.output[0]:g}"
    return f"{made.words} is {made.name}: {what}; normalisation {normalisation or 'none'}{coarser}"
