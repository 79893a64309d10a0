"""Explaining a model in one line: what the parts of the library do, with their defaults."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.core import Tracer

from segcam_jax import engine, taps, targets
from segcam_jax.adapters.detect import adapted
from segcam_jax.heatmap import heatmap
from segcam_jax.methods.registry import DEFAULT, find
from segcam_jax.taps import INPUT, Split
from segcam_jax.types import Explanation, InputError, Outputs, TargetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explain(
    model: Any,
    x: Any,
    *,
    method: str | Callable[..., Explanation] = DEFAULT,
    tap: str | None = None,
    target: Any = None,
    batch_axis: int | None = None,
    channel_axis: int | None = None,
    outputs: Outputs | None = None,
    **options: Any,
) -> Explanation:
    """Explains what a model says of one image.

    It adapts the model, cuts it at the tap, makes the target, and calls the method; each has a
    function of its own where more is to be said.

    Args:
        model: an NNX, Equinox, PyTorch or Keras model, `(linen.Module, variables)`, or `(fn,
            params)` with `fn(params, x) -> output`.
        x: one example, channels last, as the model takes it, in floating point.
        method: by a name that it is known by (`"Grad-CAM"`, `"ablation_cam"`), or a function of the
            library.
        tap: the activation to explain, as `list_taps` names it. None: the bottleneck of a
            segmentation network, the last block of a classifier; methods of the input look there.
        target: what is explained. A class by its number: of a classifier that class, of a
            segmentation network the sum of its logits over the pixels predicted as it. A `Target`,
            or a function `output -> scalar`. None: a classifier's most probable class.
        batch_axis: 0 for a module that insists on a batch. None: as the adapters have it, by which
            all but those of NNX and Equinox do.
        channel_axis: of the tap, inside of the model; None: as the program tells (`split`).
        outputs: what the model returns, `"logits"` or `"probabilities"`; None: found out.
        options: of the method, `execution` and `key` among them.

    Returns:
        The explanation; its map has the tap's positions.

    Raises:
        InputError: if the model is of no known kind, or the method is unknown.
        TapError: if there is no such tap.
        TargetError: if a segmentation network's target is not said, or nothing is predicted as it.

    Example:
        >>> import jax.numpy as jnp, segcam_jax as segcam
        >>> def model(params, x):
        ...     return segcam.tap(jax.nn.relu(x @ params[0]), "hidden") @ params[1]
        >>> params = [jnp.eye(3), jnp.ones((3, 5))]
        >>> found = segcam.explain((model, params), jnp.ones((4, 4, 3)), target=0, tap="hidden")
        >>> found.map.shape
        (4, 4)
    """
    if batch_axis not in (None, 0):
        raise InputError(f"batch_axis={batch_axis!r}; give 0, or None for a model of one example")
    known = find(method) if isinstance(method, str) else None
    function: Any = method if known is None else known.function
    fn, params = adapted(model, batch=None if batch_axis is None else True)
    if tap is None:
        of_input = known is not None and known.explains == "input"
        tap = INPUT if of_input else _default_tap(fn, params, x)
    split = taps.split(fn, tap, params, x, outputs=outputs, channel_axis=channel_axis)
    return function(split, params, x, _target(target, split, fn, params, x), **options)


def show(
    explanation: Explanation,
    image: Any,
    *,
    profile: str | None = None,
    region: Any = None,
    title: str | None = None,
) -> "Figure":
    """Draws an explanation over its image; a notebook shows the figure.

    The title names method, tap and target, where the explanation knows them (`Explanation.title`).

    Args:
        explanation: of one image, 2D.
        image: `h w`, `h w 1` or `h w 3`, in [0, 1].
        profile: how the raw map becomes a heatmap, as `heatmap` has it. None: its default, or
            `"signed"` where most of the map speaks against the target.
        region: the explained pixels, outlined. None: those of the explanation's target, if they
            are pixels of the image.
        title: a line above. None: what the explanation is; `""`: no title.

    Raises:
        InputError: if the map or the image is not 2D.
    """
    from segcam_jax.reports import display
    from segcam_jax.viz import overlay

    raw = np.asarray(explanation.map)
    extent = tuple(np.shape(image)[:2])
    if raw.ndim != 2:
        raise InputError(f"the map has shape {raw.shape}; expected two axes, one image's map")
    if profile is None:
        signed = display.is_dominated(display.hidden_share(raw))
        profile = display.SIGNED if signed else display.PROFILE
    heat = np.asarray(heatmap(raw, extent, profile))
    mask = getattr(explanation.target, "mask", None)
    if region is None and mask is not None and np.shape(mask) == extent:
        region = np.asarray(mask) != 0
    return overlay(image, heat, region=region, title=explanation.title if title is None else title)


def _default_tap(fn: Callable, params: Any, x: Any) -> str:
    """Where a network is explained if nothing is said."""
    from segcam_jax.networks.layers import default_tap

    given = taps.list_taps(fn, params, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(fn, params, x))]
    classifies = len(shapes[0]) == 1
    return default_tap(given, None if classifies else shapes[0][-1])


def _target(target: Any, split: Split, fn: Callable, params: Any, x: Any) -> Any:
    """What is explained, as a target."""
    if target is not None and not isinstance(target, (int, np.integer)):
        return target
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(split.output)]
    if len(shapes) != 1:
        raise TargetError(
            f"the model returns arrays of shapes {shapes}; give a function output -> scalar as "
            "target"
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, x))):
        raise TargetError(
            "what is predicted is not known inside of jit, vmap or grad; make the target outside, "
            "with segcam.targets.predicted or segcam.targets.whole_image"
        )
    classifies = len(shapes[0]) == 1
    output = engine.compiled_function(fn)(params, x)
    if classifies:
        return targets.whole_image(int(np.argmax(output) if target is None else target))
    if target is None:
        raise TargetError(
            f"the model returns {shapes[0]}, an output for each position; say which class is "
            "explained, target=2, or give a target"
        )
    return targets.predicted(output, int(target), outputs=split.outputs)
