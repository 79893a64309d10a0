"""Many images at once: all methods at one tap as one compiled program, mapped over images.

The gradient methods share one forward and one backward pass this way, and a study of hundreds of
images compiles once per tap.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from segcam_jax.engine import Execution, compiled_function, devices
from segcam_jax.heatmap import heatmap
from segcam_jax.methods import METHODS
from segcam_jax.taps import Split
from segcam_jax.targets import Target

Advance = Callable[[int], None]
Options = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@compiled_function
def _maps(shared: Any, batch: Any, *, split: Split, options: Options, mesh: Mesh | None):
    def explain(chosen: Options, params, key, image, class_index, mask):
        target = Target(class_index, mask)
        found = {}
        for name, keywords in chosen:
            arguments: dict[str, Any] = {**dict(keywords), "execution": Execution(mesh=mesh)}
            if METHODS[name].needs_key:
                arguments["key"] = key
            found[name] = METHODS[name].function(split, params, image, target, **arguments).map
        return found

    # The engine fills the memory with the ablations of one image; images then run in turn.
    ablating = tuple(each for each in options if METHODS[each[0]].ablates)
    others = tuple(each for each in options if each not in ablating)

    def run(shared, batch):
        at_once = jax.vmap(functools.partial(explain, others, *shared))(*batch)
        in_turn = jax.lax.map(lambda each: explain(ablating, *shared, *each), batch)
        return {**at_once, **in_turn}

    return devices.over_images(run, mesh)(shared, batch)


def batch_maps(
    split: Split,
    params: Any,
    images: Float[np.ndarray, "n h w c"],
    classes: Int[np.ndarray, "n"],
    masks: Bool[np.ndarray, "n h w"],
    options: Options,
    *,
    chunk: int = 8,
    seed: int = 0,
    mesh: Mesh | None = None,
    advance: Advance = lambda images: None,
) -> dict[str, Float[np.ndarray, "n *space"]]:
    """Raw maps of several methods at one tap, for the sum of logits over a region of each image.

    Args:
        split: the network cut at the tap.
        params: its parameters.
        images: what the network is given.
        classes: the explained class of each image.
        masks: the explained pixels of each image; an empty region gives a zero map.
        options: `((method, ((keyword, value), ...)), ...)`.
        chunk: images at once, made a multiple of the devices that they are dealt over; the last
            chunk is filled up, so that one program serves all.
        seed: of the key that methods with random numbers get.
        mesh: devices that share the images, and the ablations of an image, as in `Execution`.
        advance: is called with the number of images done since the last call.
    """
    chunk += -chunk % devices.image_devices(mesh)
    shared = (params, jax.random.key(seed))
    if mesh is not None:
        shared = devices.replicate(shared, mesh)
    parts: list[dict[str, np.ndarray]] = []
    for start, stop in _chunks(len(images), chunk):
        filled = np.minimum(np.arange(start, start + chunk), stop - 1)
        batch = (images[filled], np.asarray(classes, np.int32)[filled], masks[filled])
        if mesh is not None:
            batch = devices.deal_images(batch, mesh)
        found = _maps(shared, batch, split=split, options=options, mesh=mesh)
        parts.append({name: np.asarray(maps)[: stop - start] for name, maps in found.items()})
        advance(stop - start)
    return {name: np.concatenate([part[name] for part in parts]) for name, _ in options}


def _chunks(count: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, chunk):
        yield start, min(start + chunk, count)


@compiled_function
def _logits(params: Any, images: ArrayLike, *, fn: Callable) -> Array:
    return jax.vmap(fn, in_axes=(None, 0))(params, images)


def batch_logits(
    fn: Callable, params: Any, images: Float[np.ndarray, "n h w c"], *, chunk: int = 50
) -> Float[np.ndarray, "n h w k"]:
    """The logits of many images, in chunks of one shape."""
    chunk = min(chunk, len(images))
    parts = []
    for start, stop in _chunks(len(images), chunk):
        filled = np.minimum(np.arange(start, start + chunk), stop - 1)
        parts.append(np.asarray(_logits(params, images[filled], fn=fn))[: stop - start])
    return np.concatenate(parts)


def cam_options(names: Sequence[str], split: Split, *, windows: int = 16) -> Options:
    """Options of methods for a study: position windows as large as `windows` along an axis allow.

    The methods' defaults otherwise. Those that ablate windows ablate square blocks, side by side,
    so that a map of 64 x 64 costs 16 x 16 ablations in place of 4096.
    """
    extent = max(split.activation.shape[:-1])
    size = max(1, min(-(-extent // windows), *split.activation.shape[:-1]))
    blocks = (("stride", size), ("window", size))
    return tuple((name, blocks if METHODS[name].takes("stride") else ()) for name in names)


def heatmaps(
    raw: Float[np.ndarray, "n *space"], extent: tuple[int, ...], profile: str
) -> Float[np.ndarray, "n *extent"]:
    """Heatmaps of several maps."""
    return np.asarray(_heatmaps(raw, extent=extent, profile=profile))


@compiled_function
def _heatmaps(raw: ArrayLike, *, extent: tuple[int, ...], profile: str) -> Array:
    return jax.vmap(lambda one: heatmap(one, extent, profile))(raw)
