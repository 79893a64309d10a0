"""One image for many classes by one method, the ablations run once for all of them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int

from segcam_jax.engine import compiled
from segcam_jax.engine.execution import Execution
from segcam_jax.taps import Split
from segcam_jax.targets import Target, check_class
from segcam_jax.types import Explanation, InputError


def explain_classes(
    method: Callable[..., Explanation],
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    *,
    classes: Sequence[int] | Int[Array, "t"] | None = None,
    execution: Execution = Execution(),
    **options: Any,
) -> Explanation:
    """Explains one image for many classes: `method(split, params, x, target of class)`, stacked.

    Classes differ in what is read of the output, not in how it is made: an ablation is decoded
    once, and the scores of all classes are read off the same output. A study of all classes costs
    what that of one does. (A method that differentiates runs one backward pass per class.)

    Args:
        method: for example `segcam.fast_ablation_cam`.
        split: the model, cut at the tap to explain.
        params: its parameters.
        x: one example.
        target: region, reduction, logits or probabilities; its own class does not matter.
        classes: which; None: all, in the output's order. May be traced, as the predicted ones are.
        execution: how the engine runs it; does not change the result.
        options: of the method, the same for all classes.

    Returns:
        An `Explanation` whose fields have the leading axis `t`, one entry per class.

    Raises:
        InputError: if the target is not a `Target`, or no class is given.
        TargetError: if a class is not one of the model's.

    Example:
        >>> import jax, jax.numpy as jnp, segcam_jax as segcam
        >>> def model(params, x):
        ...     return segcam.tap(jax.nn.relu(x), "hidden").mean((0, 1)) @ params
        >>> params, x = jnp.ones((3, 5)), jnp.ones((2, 4, 3))
        >>> split = segcam.split(model, "hidden", params, x)
        >>> target = segcam.whole_image(0, of="probabilities")
        >>> found = segcam.explain_classes(segcam.fast_ablation_cam, split, params, x, target)
        >>> found.map.shape
        (5, 2, 4)
    """
    if not isinstance(target, Target):
        raise InputError("explain_classes takes a Target, whose class it replaces")
    count = jax.tree.leaves(split.output)[0].shape[-1]
    chosen = jnp.arange(count, dtype=jnp.int32) if classes is None else jnp.asarray(classes)
    if chosen.ndim != 1 or not chosen.size:
        raise InputError(f"classes={classes!r}; give one class or more, or None for all")
    if not isinstance(chosen, Tracer):
        check_class(chosen, count)
    compiled.checked_target(dataclasses.replace(target, class_index=0), split)
    static, traced = compiled.divided({**options, "execution": execution})
    return _kernel(method, split, static, params, x, target, chosen, traced)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _kernel(method, split, static, params, x, target, classes, traced):
    def explain(class_index):
        chosen = dataclasses.replace(target, class_index=class_index)
        return method(split, params, x, chosen, **dict(static), **traced)

    return jax.vmap(explain)(classes)
