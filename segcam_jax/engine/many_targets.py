"""One image for many targets by one method: what the targets share is computed once.

The part before the tap and the unchanged run are shared in any case. What an ablation makes of the
output is shared too, where all targets are read off one window (or the whole output); else each
target has a window of its own. The way with the fewest operations is taken.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from segcam_jax._jaxpr import graph, slicing
from segcam_jax.engine import devices, memory, record
from segcam_jax.engine.compiled import checked_target, divided
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.functions import FunctionTarget
from segcam_jax.engine.programs import Programs
from segcam_jax.taps import Split
from segcam_jax.targets import Target, check_class, region, stack
from segcam_jax.types import Explanation, InputError

Window = tuple[tuple[int, ...], Any]


def explain_targets(
    method: Callable[..., Explanation],
    split: Split,
    params: Any,
    x: Any,
    targets: Sequence[Any] | Target,
    *,
    execution: Execution = Execution(),
    **options: Any,
) -> Explanation:
    """Explains one image for many targets: `method(split, params, x, target)` for each, stacked.

    Classes, instances, pixels, functions: targets differ in what is read of the output, not in how
    it is made. Encode and the unchanged run are done once; an ablation is run once for all targets,
    or in a window of its own for each, whichever takes fewer operations (32 instances of 16x16 on
    256x256 are a draw; 32 larger regions, or 32 classes, share). A method that differentiates runs
    one backward pass per target.

    Args:
        method: for example `segcam.methods.ablation_cam`.
        split: the model, cut at the tap to explain.
        params: its parameters.
        x: one example.
        targets: a sequence of targets, functions `output -> scalar` too; or a stack, as
            `segcam.targets.stack` and `segcam.targets.instances` make it. Those of one kind run as
            one program: of one `of`, `reduce` and `outputs`, or functions that differ in arrays
            only.
        execution: how the engine runs it; does not change the result.
        options: of the method, the same for all targets; so is a `key`.

    Returns:
        An `Explanation` whose fields have the leading axis `t`, one entry per target, in order.

    Raises:
        InputError: if there is no target.
        TargetError: if a target does not fit the model's output.

    Example:
        >>> import jax, jax.numpy as jnp, segcam_jax as segcam
        >>> def model(params, x):
        ...     return segcam.tap(jax.nn.relu(x), "hidden") @ params
        >>> params, x = jnp.ones((3, 5)), jnp.ones((2, 4, 3))
        >>> split = segcam.split(model, "hidden", params, x)
        >>> clicks = [segcam.targets.pixel(0, (0, column), (2, 4)) for column in range(4)]
        >>> found = segcam.explain_targets(segcam.methods.ablation_cam, split, params, x, clicks)
        >>> found.map.shape, found.drops.shape
        ((4, 2, 4), (4, 3))
    """
    static, traced = divided({**options, "execution": execution})
    found = []
    groups = _groups(targets, split)
    for places, group in groups:
        window = _common_window(group)
        extent, corner = (None, None) if window is None else window
        inputs = (params, x, group, corner, traced)
        if execution.mesh is not None:
            inputs = devices.replicate(inputs, execution.mesh)
        kind = (method, static, extent, len(places))
        found.append(_PROGRAMS.run(split, kind, inputs, execution))
    if len(found) == 1:
        return found[0]
    order = np.argsort(np.concatenate([places for places, _ in groups]))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *found)


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
    """Explains one image for many classes: `explain_targets` of the target for each class.

    A study of all classes costs what that of one does.

    Args:
        method: for example `segcam.methods.fast_ablation_cam`.
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
        >>> target = segcam.targets.whole_image(0, of="probabilities")
        >>> method = segcam.methods.fast_ablation_cam
        >>> found = segcam.explain_classes(method, split, params, x, target)
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
    alone = checked_target(dataclasses.replace(target, class_index=0), split)
    every = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(chosen), *np.shape(leaf))), alone)
    every = dataclasses.replace(every, class_index=chosen)
    return explain_targets(method, split, params, x, every, execution=execution, **options)


def _groups(targets: Any, split: Split) -> list[tuple[list[int], Any]]:
    """Stacks of targets of one kind, each with their places."""
    if not isinstance(targets, (list, tuple)):
        count = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(targets)}
        if not isinstance(targets, Target) or len(count) != 1 or count <= {(), (0,)}:
            raise InputError(
                "targets: expected a sequence of targets, or a stack of them as "
                "segcam.targets.stack makes it, not "
                f"{'one' if isinstance(targets, Target) else type(targets).__name__}"
            )
        ((length,),) = count
        return [([*range(length)], _told(targets, split))]
    if not targets:
        raise InputError("targets=[]; give one target or more")
    groups: dict[Any, tuple[list[int], list[Any]]] = {}
    for place, target in enumerate(targets):
        target = checked_target(target, split)
        if isinstance(target, Target):
            kind: Any = (target.of, target.reduce, target.outputs, target.exclusive)
            kind += (target.mask is None,)
        elif isinstance(target, FunctionTarget):
            kind = (target.formula, *map(jnp.shape, jax.tree.leaves(target)))
        else:
            kind = jax.tree.structure(target)
        places, members = groups.setdefault(kind, ([], []))
        places.append(place)
        members.append(target)
    return [(places, _stacked(members)) for places, members in groups.values()]


def _stacked(targets: Sequence[Any]) -> Any:
    if isinstance(targets[0], Target):
        return stack(targets)
    return jax.tree.map(lambda *each: jnp.stack([*map(jnp.asarray, each)]), *targets)


def _told(targets: Target, split: Split) -> Target:
    """A stack of targets, told what the output holds, and each checked."""
    leaves, tree = jax.tree.flatten(targets)
    if any(isinstance(leaf, Tracer) or devices.is_global(leaf) for leaf in leaves):
        checks = [dataclasses.replace(targets, class_index=0, mask=None, corner=None)]
    else:
        rows = zip(*map(np.asarray, leaves), strict=True)
        checks = [jax.tree.unflatten(tree, row) for row in rows]
    for each in checks:
        told = checked_target(each, split)
    return dataclasses.replace(targets, outputs=told.outputs)


def _common_window(targets: Any) -> Window | None:
    """Extent and corner of one window that holds the regions of all targets, if they are known."""
    if not isinstance(targets, Target) or targets.extent is None:
        return None
    if isinstance(targets.mask, Tracer) or devices.is_global(targets.mask):
        return None
    every = region(0, np.asarray(targets.mask).astype(bool).any(0))
    assert every.extent is not None
    return every.extent, every.corner


def _explained(split, static, halvings, params, x, targets, corner, traced):
    method, options, extent, count = static
    options = dict(options)

    def run(params, x, targets, corner, traced):
        def explain(target):
            return method(split, params, x, target, **options, **traced)

        def in_common(target):
            if extent is not None:
                target = dataclasses.replace(target, extent=extent, corner=corner)
            return explain(target)

        if not jax.tree.leaves(targets):  # Functions that hold nothing compute the same.
            return jax.tree.map(lambda leaf: leaf[None].repeat(count, 0), explain(targets))
        first = jax.tree.map(lambda leaf: leaf[0], targets)
        own, common = _studies(explain, first), _studies(in_common, first)
        if _flops(common, 1, count) < _flops(own, count, count):
            if corner is not None:
                targets = dataclasses.replace(targets, corner=None)
            return jax.vmap(_flat(in_common, targets))(*jax.tree.leaves(targets))
        together = _together(own, count, options["execution"])
        return _mapped(explain, targets, together)

    with memory.halved(halvings):
        return devices.on_mesh(run, options["execution"].mesh)(params, x, targets, corner, traced)


_PROGRAMS = Programs(_explained)


def _studies(explain: Callable, target: Any) -> list[record.Study]:
    with record.recording() as studies:
        jax.eval_shape(_flat(explain, target), *jax.tree.leaves(target))
    return studies


def _flat(explain: Callable, target: Any) -> Callable:
    """A function of the leaves of a target; JAX keeps structures, which may hold tracers."""
    tree = jax.tree.structure(target)
    return lambda *leaves: explain(jax.tree.unflatten(tree, leaves))


def _flops(studies: Sequence[record.Study], ablated: int, differentiated: int) -> int:
    """Operations of studies, those of ablations and of gradients run so many times."""
    times = {"ablations": ablated, "gradients": differentiated}
    return sum(
        (differentiated if study.closed_form else times[study.kind]) * study.count * study.flops
        for study in studies
    )


def _together(studies: Sequence[record.Study], count: int, execution: Execution) -> int:
    """Targets at once: many gradients that fit; ablations fill a device on their own."""
    if not studies or any(s.kind == "ablations" and not s.closed_form for s in studies):
        return 1
    bytes_each = max(study.how.total_bytes for study in studies)
    return memory.chunk(execution, count, bytes_each)


def _mapped(explain: Callable, targets: Any, together: int) -> Explanation:
    """One target after the other, `together` at once; what no target changes is computed once."""
    leaves = jax.tree.leaves(targets)
    structs = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    traced, output = graph.trace(_flat(explain, targets), "", *structs, kept=False)
    once, each = slicing.apart(traced)
    known = once()
    found = jax.lax.map(lambda row: each(row, known), leaves, batch_size=together)
    return jax.tree.unflatten(jax.tree.structure(output), found)
