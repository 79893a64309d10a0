"""A user's own model as a `Network`: which images or volumes it takes is found out by trying.

Nothing is run for that, shapes alone are traced: with a batch of one and without, with three
channels and with one (of volumes, with one to four), and, where no size is given, which sizes a
segmentation network can halve. Convolutions must go along the axes of what is given.
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
from segcam_jax._jaxpr import graph, kinds, layouts
from segcam_jax.adapters import adapted
from segcam_jax.models.layers import NORMALISATIONS
from segcam_jax.networks import user_faults as blame
from segcam_jax.networks.network import Network, Said, traced_meaning
from segcam_jax.networks.user_code import Made, make
from segcam_jax.types import InputError, SegcamError, nearest_first

USUAL_SIDE = 224
USUAL_VOLUME = 64
_CHANNELS = {2: (3, 1), 3: (1, 2, 3, 4)}
NOUNS = {2: "image", 3: "volume"}
_COMMANDS = {
    2: "`segcam explain` takes it",
    3: "explain volumes by `segcam instances` or `segcam context`",
}
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Odd multiples of 64: an extent of so many plus m can be halved as often as m, and no further.
_ODD = (3 * 64, 5 * 64, 7 * 64)
# Where the fit of shapes ended: before the user's code, or after it.
_BEFORE, _AFTER = (-1,), (float("inf"),)
Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    """What is known of a user's model.

    Attributes:
        in_channels: of its images or volumes.
        classes: of its logits.
        classifies: whether the logits are of the image, not of each pixel.
        multiple: what extents must be multiples of.
        ndim: 2 of images, 3 of volumes.
        extents: the only ones that a network of volumes takes; None: all such multiples.
    """

    in_channels: int
    classes: int
    classifies: bool
    multiple: int = 1
    ndim: int = 2
    extents: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model with what is done to an image before it, and to its logits after it.

    Attributes:
        fn: the model, `fn(params, x)`.
        moments: mean and standard deviation of each channel, or of all; None: images stay.
        one_example: what the model's adapter was told of its inputs.
    """

    fn: Callable
    moments: Moments | None
    one_example: bool = False

    def __call__(self, params: Any, x: Float[Array, "*space c"]) -> Array:
        """The logits of an image in [0, 1]; coarser ones of pixels are resized to the image."""
        if self.moments is not None:
            axes = tuple(range(x.ndim - 1))
            mean, deviation = (
                jnp.expand_dims(jnp.asarray(each, x.dtype), axes) for each in self.moments
            )
            x = (x - mean) / deviation
        output = self.fn(params, x)
        if output.ndim == x.ndim and output.shape[:-1] != x.shape[:-1]:
            shape = (*x.shape[:-1], output.shape[-1])
            output = jax.image.resize(output, shape, "linear", antialias=False)
        return output


@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    """A user's model, opened.

    Attributes:
        network: with its parameters.
        size: `(h, w)` that images are brought to, or the only extents of a volume; None if it takes
            them as they are.
        note: what was found out, in words.
    """

    network: Network
    size: tuple[int, ...] | None
    note: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """A way of calling the model that works."""

    fn: Callable
    params: Any
    shape: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Of the image or volume."""
        return self.shape[:-1]

    @property
    def ndim(self) -> int:
        """2 of an image, 3 of a volume."""
        return len(self.extents)

    @property
    def classifies(self) -> bool:
        """Whether there is one vector of logits."""
        return len(self.output) == 1

    @property
    def coarser(self) -> bool:
        """Whether logits of pixels are fewer than pixels."""
        return not self.classifies and self.output[:-1] != self.extents


def open_own(
    words: str,
    *,
    size: tuple[int, ...] | None = None,
    channels: int | None = None,
    normalisation: str | None = None,
    ndims: Sequence[int] = (2,),
    said: Said = Said(),
) -> Own:
    """Opens what a factory of a user's own file makes.

    Args:
        words: `module.path:factory` or `file.py:factory`.
        size: `(h, w)` that images are brought to; None: 224 x 224 for a classifier, and for a
            segmentation network images as they are, if it takes more than one size. Of volumes,
            extents that are tried first. One number is for all axes.
        channels: of images; None tries three, then one; of volumes one to four.
        normalisation: what is done to an image in [0, 1] first, as `moments_of` reads it.
        ndims: what will do, the first first: 2 for images, 3 for volumes.
        said: what the user says of its output.

    Raises:
        InputError: if there is no such model, or it takes no such image.
    """
    moments = moments_of(normalisation or "none")
    made = make(words)
    fit = _fit(made, size, channels, ndims)
    count = fit.shape[-1]
    if moments is not None and any(len(each) not in (1, count) for each in moments):
        raise InputError(f"normalisation {normalisation!r} is not for {count} channel(s)")
    multiple, brought = 1, fit.extents
    # Images are brought to the size that is given; volumes stay as they are.
    if not fit.classifies and (size is None or fit.ndim == 3):
        found = _multiple(fit)
        multiple, brought = (1, fit.extents) if found is None else (found, None)
    changed, one = moments or fit.coarser, layouts.is_one_example(fit.fn)
    fn = Prepared(fit.fn, moments, one) if changed else fit.fn
    only = brought if fit.ndim == 3 else None
    config = OwnConfig(count, fit.output[-1], fit.classifies, multiple, fit.ndim, only)
    loaded = models.LoadedModel(made.name, fn, fit.params, config, {})
    digest = _digest(made, fit, [brought, multiple, moments])
    image = jax.ShapeDtypeStruct(fit.shape, jnp.float32)
    meaning, about_outputs = traced_meaning(fit.fn, fit.params, image, fit.output[-1], said)
    note = f"{_note(made, fit, brought, multiple, normalisation)}; {about_outputs}"
    return Own(Network(words, made.file, digest, loaded, meaning), brought, note)


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


def _fit(
    made: Made, size: tuple[int, ...] | None, channels: int | None, ndims: Sequence[int]
) -> _Fit:
    """The first way of calling the model that works.

    Raises:
        InputError: of the call that came furthest; or that the model takes images, not volumes, or
            the other way about.
    """
    failures: list[tuple[tuple[float, ...], str]] = []
    for ndim in ndims:
        for shape in _shapes(size, channels, ndim):
            found = _fitting(made, shape, failures)
            if found is not None:
                return found
    for ndim in NOUNS:
        if ndim in ndims and _shapes(size, channels, ndim):
            continue
        if any(_fitting(made, shape, []) for shape in _shapes(None, channels, ndim)):
            raise _other_axes(made, size, ndim, ndims)
    if not failures:
        raise InputError(f"size {_times(size or ())}; give one number, or one for each axis")
    done, words = max(failures, key=lambda failure: failure[0])
    sizes = "--size H W" if 2 in ndims else "--roi"
    hint = "" if done is _AFTER else f"; if it takes others, say so by {sizes} and --channels N"
    raise InputError(words + hint)


def _other_axes(
    made: Made, size: tuple[int, ...] | None, ndim: int, ndims: Sequence[int]
) -> InputError:
    """What is to be done with a network of another number of axes than what was given."""
    what = f"{made.words} is a network of {NOUNS[ndim]}s"
    if ndim in ndims:
        return InputError(f"{what}: size {_times(size or ())}; give one number, or {ndim}")
    wanted = " or ".join(f"{NOUNS[each]}s" for each in ndims)
    return InputError(f"{what}, this command needs one of {wanted}: {_COMMANDS[ndim]}")


def _shapes(size: tuple[int, ...] | None, channels: int | None, ndim: int) -> list[tuple[int, ...]]:
    """The shapes of images or volumes that are tried; none if the size has other axes."""
    usual = (USUAL_SIDE if ndim == 2 else USUAL_VOLUME,) * ndim
    if size is not None and len(size) not in (1, ndim):
        return []
    given = usual if size is None else size * ndim if len(size) == 1 else size
    # A volume is run window by window: one that fails may have the wrong extents alone.
    spaces = [given] if ndim == 2 else list(dict.fromkeys([given, usual]))
    tried = (channels,) if channels else _CHANNELS[ndim]
    return [(*space, count) for space in spaces for count in tried]


def _fitting(
    made: Made, shape: tuple[int, ...], failures: list[tuple[tuple[float, ...], str]]
) -> _Fit | None:
    """A way of calling the model on a shape; if none works, `failures` are told why."""
    for fn, params in _callings(made):
        try:
            output = _output(fn, params, shape)
            _check_axes(fn, params, shape)
            return _Fit(fn, params, shape, output)
        except SegcamError as error:
            done = _AFTER if isinstance(error, _WrongOutput) else _BEFORE
            failures.append((done, f"{made.words}: {error}"))
        except Exception as error:
            lines = tuple(float(line) for _, line in blame.users_lines(error))
            what = f"{NOUNS[len(shape) - 1]} of {_times(shape)}"
            words = f"{made.words} fails on {_a(what)}: {blame.in_words(error)}"
            failures.append((lines or _BEFORE, words))
    return None


def _check_axes(fn: Callable, params: Any, shape: tuple[int, ...]) -> None:
    """Raises `_WrongOutput` where convolutions show that an axis was taken for a batch."""
    ndim, x = len(shape) - 1, jax.ShapeDtypeStruct(shape, jnp.float32)
    axes = max(kinds.convolved_axes(graph.closed(fn, params, x)[1]), default=ndim)
    if axes not in (1, ndim) and not layouts.is_one_example(fn):
        raise _WrongOutput(
            f"its convolutions go along {axes} axes, those of {_a(NOUNS[ndim])} are {ndim}"
        )


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


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


def _output(fn: Callable, params: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the logits: `k`, or `h w k` (`d h w k`) no finer than the image (volume)."""
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
    what = NOUNS[len(shape) - 1]
    if len(found) not in (1, len(shape)):
        raise _WrongOutput(
            f"the model returns shape {found} for {_a(what)} of {_times(shape)}; "
            f"expected k logits, or {'h w k' if what == 'image' else 'd h w k'} of them (without "
            "the batch)"
        )
    ratios = {m / n for n, m in zip(found[:-1], shape[:-1], strict=True)} if found[1:] else {1}
    if len(ratios) > 1 or any(not ratio.is_integer() for ratio in map(float, ratios)):
        both = "both" if what == "image" else "all axes"
        raise _WrongOutput(
            f"the model returns {_times(found[:-1])} logits for {_a(what)} of "
            f"{_times(shape[:-1])}; expected as many, or a half, a quarter, ... along {both}"
        )
    return found


def _multiple(fit: _Fit) -> int | None:
    """The least multiple that extents must have; None if the network takes other sizes not at all.

    A network halves an extent some times, and fails, or returns another size, where it is odd.
    """
    for multiple in _MULTIPLES:
        space = tuple(extent + multiple for extent in _ODD[: fit.ndim])
        try:
            found = _output(fit.fn, fit.params, (*space, fit.shape[-1]))
        except Exception:
            continue
        if len(found) > 1 and found[0] * fit.shape[0] == space[0] * fit.output[0]:
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
    size: tuple[int, ...] | None,
    multiple: int,
    normalisation: str | None,
) -> str:
    noun, channels = NOUNS[fit.ndim], fit.shape[-1]
    if size is not None:
        image = f"{_a(noun)} of {_times((*size, channels))}"
    else:
        image = f"{_a(noun)} of any size, {channels} channel(s)"
        padded = "padded to" if fit.ndim == 2 else "in windows of"
        image += f", {padded} multiples of {multiple}" if multiple > 1 else ""
    each = "pixel" if fit.ndim == 2 else "voxel"
    of = image if fit.classifies else f"each {each} of {image}"
    what = f"{fit.output[-1]} classes for {of}"
    ratio = fit.extents[0] / fit.output[0]
    coarser = f"; its logits are resized by {ratio:g}" if fit.coarser else ""
    return f"{made.words} is {made.name}: {what}; normalisation {normalisation or 'none'}{coarser}"
