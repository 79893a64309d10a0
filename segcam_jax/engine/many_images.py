"""Many images by one method or by several, as one compiled program, dealt over devices."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from segcam_jax.engine import devices, record
from segcam_jax.engine.compiled import checked_target, divided
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.functions import FunctionTarget, function_target
from segcam_jax.engine.programs import kept
from segcam_jax.taps import Split
from segcam_jax.targets import Difference, Target, stack
from segcam_jax.types import Explanation, InputError, TargetError, counted


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
        method: for example `segcam.methods.ablation_cam`.
        split: the model, cut at the tap to explain.
        params: its parameters.
        images: examples along a new leading axis `n`, on the host; or a global array of several
            processes, whose length is a multiple of `at_once` times the images axis.
        targets: one per image, as `segcam.targets.stack` makes them, or a sequence of them,
            functions `output -> scalar` too if they differ in arrays only; or a single one for all
            images.
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
    shared, batch = _placed(shared, batch, execution)
    run = kept(_explained, (method, split, static, at_once), (shared, batch))
    explanations = run(shared, batch)
    return jax.tree.map(lambda leaf: leaf[:count], explanations) if count % group else explanations


@dataclasses.dataclass(frozen=True)
class Call:
    """A method at a tap, of several that explain the same images.

    Attributes:
        options: name and value of each option of the method; no arrays.
        in_turn: one image after the other, where a single one fills a device: ablations. Others
            are explained together.
    """

    method: Callable[..., Explanation]
    split: Split
    options: tuple[tuple[str, Any], ...] = ()
    in_turn: bool = False
    takes_key: bool = False


# What the gradients of one program hold: a few times a CPU's cache, a small share of an
# accelerator's memory. It depends on nothing else, so batches are the same in every run.
_BATCH_BYTES = {"cpu": 128 * 2**20}
_ACCELERATOR_BYTES = 4 * 2**30
_MOST_AT_ONCE = 32


def explain_together(
    calls: Sequence[Call],
    params: Any,
    images: Any,
    targets: Target | Difference,
    *,
    key: Any = None,
    window: tuple[tuple[int, ...], Any] | None = None,
    execution: Execution = Execution(),
) -> list[Explanation]:
    """Explains each of many images for each of its targets by each of several calls.

    It is one program, in which XLA computes once what calls have in common: the network up to a
    tap, the part before an earlier tap, the way back from the output. Gradients are taken of the
    whole output, images together; ablations run one image after the other, on a window.

    Args:
        calls: the methods, each at a tap of the same model.
        images: `n` examples along a leading axis.
        targets: a stack of stacks: leading axes `n t`, without windows of their own; or the
            difference of two such stacks, which is explained without a window.
        key: what methods with random numbers get, the same for every image.
        window: extents, the same for all images, and the `n` corners of windows that hold the
            regions of all targets of an image; ablations compute no more of the output. None: all.
        execution: how the engine runs it. With a mesh, `n` is a multiple of its axis `"images"`.

    Returns:
        For each call an `Explanation` whose fields have the leading axes `n t`.
    """
    extent, corners = (None, None) if window is None else window
    shared, batch = (params, key), (images, targets, corners)
    shared, batch = _placed(shared, batch, execution)
    run = kept(_together, (tuple(calls), extent, execution), (shared, batch))
    return run(shared, batch)


def predict_together(
    fn: Callable, params: Any, images: Any, *, execution: Execution = Execution()
) -> Any:
    """The outputs of a model for many images, of which each is given to it by itself.

    Args:
        images: `n` examples along a leading axis.
        execution: its mesh: `n` is a multiple of its axis `"images"`.
    """
    shared, batch = params, images
    shared, batch = _placed(shared, batch, execution)
    return kept(_predicted, (fn, execution.mesh), (shared, batch))(shared, batch)


def _predicted(fn, mesh, params, images):
    def run(params, images):
        return _mapped(functools.partial(fn, params), images)

    return devices.over_images(run, mesh)(params, images)


def check_call(
    call: Call, params: Any, image: Any, target: Target, *, execution: Execution = Execution()
) -> None:
    """Traces a method for one image and target, or their shapes, and runs nothing.

    `explain_together` does not trace it again. What the method refuses is raised.
    """
    explain = functools.partial(_explain, call, execution=execution)
    jax.eval_shape(explain, params, jax.eval_shape(lambda: jax.random.key(0)), image, target)


def images_at_once(
    calls: Sequence[Call],
    params: Any,
    image: Any,
    target: Target,
    *,
    targets: int = 1,
    execution: Execution = Execution(),
) -> int:
    """How many images `explain_together` should be given: a power of two, the same in every run.

    Args:
        params: the parameters, or their shapes.
        image: one example, or its shape.
    """

    def explain(params, image, key):
        return [_explain(call, params, key, image, target, execution) for call in calls]

    with record.recording() as studies:
        jax.eval_shape(explain, params, image, jax.eval_shape(lambda: jax.random.key(0)))
    budget = _BATCH_BYTES.get(jax.default_backend(), _ACCELERATOR_BYTES)
    held = max((each.how.total_bytes for each in studies if each.kind == "gradients"), default=1)
    most = max(1, min(_MOST_AT_ONCE, budget // (max(1, held) * targets)))
    return 1 << (most.bit_length() - 1)


def _together(calls, extent, execution, shared, batch):
    def explain(chosen, shared, image, targets, corner):
        params, key = shared
        if extent is not None and corner is not None:
            targets = dataclasses.replace(targets, extent=extent)

        def each(call, target):
            if corner is not None:
                target = dataclasses.replace(target, corner=corner)
            return _explain(call, params, key, image, target, execution)

        return [_mapped(functools.partial(each, call), targets) for call in chosen]

    at_once = [call for call in calls if not call.in_turn]
    in_turn = [call for call in calls if call.in_turn]

    def run(shared, batch):
        images, targets, corners = batch
        found = {}
        if at_once:
            several = functools.partial(explain, at_once, shared, corner=None)
            found.update(zip(at_once, _mapped(several, images, targets), strict=True))
        if in_turn:
            one = functools.partial(explain, in_turn, shared)
            ran = jax.lax.map(lambda row: one(*row), (images, targets, corners))
            found.update(zip(in_turn, ran, strict=True))
        return [found[call] for call in calls]

    return devices.over_images(run, execution.mesh)(shared, batch)


def _mapped(function: Callable, *batch: Any) -> Any:
    """`vmap`; of one example the function itself, which was traced before and is not again."""
    if jax.tree.leaves(batch)[0].shape[0] > 1:
        return jax.vmap(function)(*batch)
    found = function(*jax.tree.map(lambda leaf: leaf[0], batch))
    return jax.tree.map(lambda leaf: leaf[None], found)


def _explain(call: Call, params: Any, key: Any, image: Any, target: Target, execution: Execution):
    options = dict(call.options)
    if call.takes_key:
        options["key"] = key
    return call.method(call.split, params, image, target, execution=execution, **options)


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


def _placed(shared: Any, batch: Any, execution: Execution) -> tuple[Any, Any]:
    """What all images share, on all devices, and the batch dealt over them."""
    if execution.mesh is None:
        return devices.off_explicit_axes((shared, batch))
    return devices.replicate(shared, execution.mesh), devices.deal_images(batch, execution.mesh)


def _length(images: Any) -> int:
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(images)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise InputError(
            f"the images have leading axes {sorted(lengths)}; expected one common axis `n` with "
            "at least one image"
        )
    ((count,),) = lengths
    return count


def _targets(targets: Any, split: Split, count: int) -> tuple[Any, Any]:
    """`(one per image, what all share)`; one of them may be None, `_joined` makes a target."""
    if isinstance(targets, (list, tuple)):
        plain = all(isinstance(each, Target) for each in targets)
        targets = stack(targets) if plain else _stacked(targets, split)
    leaves = jax.tree.leaves(targets)
    if not leaves or _is_one(targets):
        return None, checked_target(targets, split)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if lengths != {(count,)}:
        raise InputError(
            f"{counted(count, 'image')}, but targets with leading axes {sorted(lengths)}; give one "
            "target per image, or a single one for all"
        )
    # Where this process can look at the values.
    known = not any(isinstance(leaf, Tracer) or devices.is_global(leaf) for leaf in leaves)
    parts = (targets.first, targets.second) if isinstance(targets, Difference) else (targets,)
    for part in parts:
        if hasattr(part, "check") and known:
            host = jax.tree.map(np.asarray, part)
            for index in range(count):
                jax.tree.map(operator.itemgetter(index), host).check(split.output)
    if isinstance(targets, (Target, Difference, FunctionTarget)):
        return targets, None
    first = function_target(jax.tree.map(operator.itemgetter(0), targets), split)
    return leaves, dataclasses.replace(first, leaves=[])


def _is_one(target: Any) -> bool:
    """Whether it is a single target of a class, a single difference, or a function."""
    if isinstance(target, Difference):
        return _is_one(target.first)
    if isinstance(target, Target):
        return np.ndim(target.class_index) == 0
    return jax.tree_util.all_leaves([target])


def _stacked(targets: Sequence[Any], split: Split) -> Any:
    """Differences, or functions, that compute the same of other arrays, as one batch."""
    traced = [checked_target(each, split) for each in targets]
    if len({jax.tree.structure(each) for each in traced}) > 1:
        raise TargetError(
            "the targets compute different things; explain their images one by one, or give "
            "functions that differ only in the arrays that they hold"
        )
    stacked = jax.tree.map(lambda *each: jnp.stack(list(map(jnp.asarray, each))), *traced)
    # A function that holds nothing is the same for all.
    return stacked if jax.tree.leaves(stacked) else traced[0]


def _joined(target: Any, shared: Any) -> Any:
    """The target of an image, from what is its own and what all images share."""
    if shared is None or target is None:
        return target if shared is None else shared
    return dataclasses.replace(shared, leaves=target)


def _filled(leaf: Any, group: int) -> Any:
    """The leading axis lengthened to a multiple of `group` by repeating its last entry."""
    if devices.is_global(leaf):
        raise InputError(
            f"{len(leaf)} images in an array of several processes; their number must be a "
            f"multiple of {group}"
        )
    rows = np.minimum(np.arange(-(-len(leaf) // group) * group), len(leaf) - 1)
    return leaf[rows]
