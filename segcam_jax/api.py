"""Explaining a model in one line: what the parts of the library do, with their defaults."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.core import Tracer

from segcam_jax import engine, taps, targets
from segcam_jax.adapters import from_function
from segcam_jax.adapters.calls import Adapted
from segcam_jax.adapters.detect import adapted
from segcam_jax.heatmap import heatmap
from segcam_jax.methods.registry import DEFAULT, find
from segcam_jax.taps import INPUT, PLACES, Split
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
    one_example: bool | None = None,
    **options: Any,
) -> Explanation:
    """Explains what a model predicts for one image.

    It adapts the model, cuts it at the tap, makes the target, and calls the method. Each step has a
    function of its own, with more options.

    Args:
        model: an NNX, Equinox, PyTorch or Keras model, `(linen.Module, variables)`, or `(fn,
            params)` with `fn(params, x) -> output`.
        x: one example, channels last, as the model takes it, in floating point.
        method: by a name that it is known by (`"Grad-CAM"`, `"ablation_cam"`), or a function of the
            library.
        tap: the activation to explain, as `list_taps` names it, or `"first"`, `"middle"` or
            `"last"` of the network's blocks. None: the bottleneck of a segmentation network, the
            last block of a classifier, or the input for methods of the input.
        target: what is explained. A class by its number: of a classifier that class, of a
            segmentation network the sum of its logits over the pixels predicted as it. A `Target`,
            or a function `output -> scalar`. None: a classifier's most probable class.
        batch_axis: 0 for a model that is written for batches: it is given `x[None]`. None: PyTorch,
            Keras and Linen models are given a batch of one, all others `x` itself.
        channel_axis: of the tap, inside of the model; None: as the program tells (`split`).
        outputs: what the model returns, `"logits"` or `"probabilities"`; None: found out.
        one_example: True if the first axis of `x` belongs to one example, although the model treats
            its entries separately (`split`).
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
    if batch_axis == 0 and getattr(fn, "batch_axis", None) is None:
        plain = not isinstance(fn, Adapted)
        fn = from_function(fn, params, batch_axis=0)[0] if plain else replace(fn, batch_axis=0)
    if tap is None and known is not None and known.explains == "input":
        tap = INPUT
    if tap in (None, *PLACES):
        tap = _place(tap, fn, params, x, one_example)
    said: Any = {"outputs": outputs, "channel_axis": channel_axis, "one_example": one_example}
    split = taps.split(fn, tap, params, x, **said)
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
    if profile is None:
        signed = display.is_dominated(display.hidden_share(raw))
        profile = display.SIGNED if signed else display.PROFILE
    heat = np.asarray(heatmap(raw, extent, profile))
    mask = getattr(explanation.target, "mask", None)
    if region is None and mask is not None and np.shape(mask) == extent:
        region = np.asarray(mask) != 0
    return overlay(image, heat, region=region, title=explanation.title if title is None else title)


def _place(place: str | None, fn: Callable, params: Any, x: Any, one_example: bool | None) -> str:
    """The tap at a place of a network, unless the network has a tap of this name."""
    from segcam_jax.networks.layers import tap_at

    given = taps.list_taps(fn, params, x, one_example=one_example)
    if place is not None and place in given:
        return place
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(fn, params, x))]
    classifies = len(shapes[0]) == 1
    return tap_at(place, given, None if classifies else shapes[0][-1])


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
            "the prediction is not known inside of jit, vmap or grad; make the target outside, "
            "with segcam.targets.predicted or segcam.targets.whole_image"
        )
    classifies = len(shapes[0]) == 1
    output = engine.compiled_function(fn)(params, x)
    if classifies:
        return targets.whole_image(int(np.argmax(output) if target is None else target))
    if target is None:
        raise TargetError(
            f"the model returns {shapes[0]}, an output for each position; say which class to "
            "explain, as in target=2, or give a target"
        )
    return targets.predicted(output, int(target), outputs=split.outputs)
