"""Many images by one method, as one compiled program, dealt over devices."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from segcam_jax.engine import devices
from segcam_jax.engine.compiled import checked_target, divided
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.fitting import kept
from segcam_jax.engine.functions import FunctionTarget, function_target
from segcam_jax.taps import Split
from segcam_jax.targets import Target, stack
from segcam_jax.types import Explanation, InputError, TargetError


def explain_batch(
    method: Callable[..., Explanation],
    split: Split,
    params: Any,
    images: Any,
    targets: Any,
    *,
    at_once: int = 1,
    execution: Execution = Execution(),
    **options: Any,
) -> Explanation:
    """Explains many images: `method(split, params, image, target, **options)` for each, stacked.

    With `execution.mesh`, images are dealt over its axis `"images"`, and the ablations of each over
    `"ablations"`; a device runs its images in turn. The maps are those of single calls for every
    number of devices, up to rounding.

    Args:
        method: for example `segcam.ablation_cam`.
        split: the model, cut at the tap to explain.
        params: its parameters.
        images: examples along a new leading axis `n`, on the host; or a global array of several
            processes, whose length is a multiple of `at_once` times the images axis.
        targets: one per image, as `segcam.stack` makes them, or a sequence of them, functions
            `output -> scalar` too if they differ in arrays only; or a single one for all images.
        at_once: images that a device explains together. More than one pays for gradients; an
            ablation study fills a device on its own.
        execution: how the engine runs it; does not change the result. Chunks are planned from the
            estimate alone, `memory_limit` divided by `at_once`; they are not halved later.
        options: of the method, the same for all images; so is a `key`.

    Returns:
        An `Explanation` whose fields have the leading axis `n`, on all devices.

    Raises:
        InputError: if there are no images, or leading axes differ.
        TargetError: if a target does not fit the model's output.
    """
    if at_once < 1:
        raise InputError(f"at_once={at_once}; it must be at least 1")
    count = _length(images)
    targets, shared_target = _targets(targets, split, count)
    batch = (images, targets)
    group = at_once * devices.image_devices(execution.mesh)
    if count % group:
        batch = jax.tree.map(functools.partial(_filled, group=group), batch)
    if execution.memory_limit is not None:
        limit = max(1, execution.memory_limit // at_once)
        execution = dataclasses.replace(execution, memory_limit=limit)
    static, traced = divided({**options, "execution": execution})
    shared = (params, shared_target, traced)
    if execution.mesh is not None:
        shared = devices.replicate(shared, execution.mesh)
        batch = devices.deal_images(batch, execution.mesh)
    run = kept(_explained, (method, split, static, at_once), (shared, batch))
    explanations = run(shared, batch)
    return jax.tree.map(lambda leaf: leaf[:count], explanations) if count % group else explanations


def _explained(method, split, static, at_once, shared, batch):
    def run(shared, batch):
        params, shared_target, traced = shared

        def explain(image, target):
            target = _joined(target, shared_target)
            return method(split, params, image, target, **dict(static), **traced)

        if at_once == 1:
            return jax.lax.map(lambda each: explain(*each), batch)
        groups = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), batch)
        found = jax.lax.map(lambda each: jax.vmap(explain)(*each), groups)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    return devices.over_images(run, dict(static)["execution"].mesh)(shared, batch)


def _length(images: Any) -> int:
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(images)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise InputError(
            f"the images have leading axes {sorted(lengths)}; expected one common axis `n`, at "
            "least 1 long"
        )
    ((count,),) = lengths
    return count


def _targets(targets: Any, split: Split, count: int) -> tuple[Any, Any]:
    """`(one per image, what all share)`; one of them may be None, `_joined` makes a target."""
    if isinstance(targets, (list, tuple)):
        plain = all(isinstance(each, Target) for each in targets)
        targets = stack(targets) if plain else _stacked(targets, split)
    leaves = jax.tree.leaves(targets)
    plain = not leaves or leaves[0] is targets
    if plain or (isinstance(targets, Target) and np.ndim(targets.class_index) == 0):
        return None, checked_target(targets, split)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if lengths != {(count,)}:
        raise InputError(
            f"{count} image(s), but targets with leading axes {sorted(lengths)}; give one target "
            "per image, or a single one for all"
        )
    if hasattr(targets, "check") and all(_is_known(leaf) for leaf in leaves):
        host = jax.tree.map(np.asarray, targets)
        for index in range(count):
            jax.tree.map(operator.itemgetter(index), host).check(split.output)
    if isinstance(targets, (Target, FunctionTarget)):
        return targets, None
    first = function_target(jax.tree.map(operator.itemgetter(0), targets), split)
    return leaves, dataclasses.replace(first, leaves=[])


def _stacked(targets: Sequence[Any], split: Split) -> FunctionTarget:
    """Functions that compute the same of other arrays, as one batch."""
    traced = [checked_target(each, split) for each in targets]
    formulas = {each.formula if isinstance(each, FunctionTarget) else None for each in traced}
    if len(formulas) > 1 or None in formulas:
        raise TargetError(
            "the targets compute different things; explain their images one by one, or give "
            "functions that differ in the arrays only that they hold"
        )
    stacked = jax.tree.map(lambda *each: jnp.stack(list(map(jnp.asarray, each))), *traced)
    # A function that holds nothing is the same for all.
    return stacked if jax.tree.leaves(stacked) else traced[0]


def _joined(target: Any, shared: Any) -> Any:
    """The target of an image, from what is its own and what all images share."""
    if shared is None or target is None:
        return target if shared is None else shared
    return dataclasses.replace(shared, leaves=target)


def _is_known(leaf: Any) -> bool:
    """Whether this process can look at the values."""
    return not isinstance(leaf, Tracer) and not devices.is_global(leaf)


def _filled(leaf: Any, group: int) -> Any:
    """The leading axis lengthened to a multiple of `group` by repeating its last entry."""
    if devices.is_global(leaf):
        raise InputError(
            f"{len(leaf)} images in an array of several processes; their number must be a "
            f"multiple of {group}"
        )
    rows = np.minimum(np.arange(-(-len(leaf) // group) * group), len(leaf) - 1)
    return leaf[rows]
