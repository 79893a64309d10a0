"""Making the plan of a study.

A method is traced, not run, with one more optimisation switched on each time; the engine tells what
it would evaluate. So the plan knows any method that goes through the engine, and a further
optimisation is one more line of `_STEPS`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import measure as measuring, memory, record
from segcam_jax.engine.compiled import checked_target, compiled
from segcam_jax.engine.execution import NAIVE, Execution
from segcam_jax.engine.measure import PrecisionError
from segcam_jax.engine.plan import Plan, Step
from segcam_jax.engine.record import Study
from segcam_jax.taps import Split

# Switches of `Execution` in the order in which they are turned on, and what each does.
_STEPS = {
    "difference": "difference: what changes, by itself",
    "windows": "windows: what the target sees",
    "skip_dead": "dead masks skipped",
    "closed_form": "closed form: one gradient",
}

# Those that serve gradients as well.
_ALWAYS = ("difference", "windows")


def plan_of(
    method: Callable,
    split: Split,
    params: Any,
    x: Any,
    target: Any,
    *,
    execution: Execution = Execution(),
    compile: bool = True,
    measure: bool = False,
    **options: Any,
) -> Plan:
    """Tells what `method(split, params, x, target, execution=execution, **options)` will do.

    Args:
        method: a method of the library, or any function of the same arguments.
        params: its parameters; shapes and dtypes (`ShapeDtypeStruct`) do where the study is
            neither compiled nor measured.
        x: one example, likewise.
        compile: compile the study and say what memory it takes.
        measure: run a few evaluations to estimate the time, and the error of a precision.
    """
    if not hasattr(method, "program"):
        method = compiled(method)
    target = checked_target(target, split)
    method_of = functools.partial(inspect.unwrap(method), split, **options)
    known = not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, x)))
    given = (params, x, target)
    program = None
    if known and (compile or measure):
        program = cast(Any, method).program(split, *given, execution=execution, **options)
    alone = dataclasses.replace(execution, mesh=None)
    study = _study(method_of, given, alone, 0 if program is None else program.halvings)
    live = _live(method_of, given, alone, study) if known else None
    evaluated = None if live is None or study is None else _evaluated(study, len(live))
    steps, idle = _steps(split, method_of, given, execution, evaluated)
    how = None if study is None else study.by_change or study.how
    by_change = study is not None and study.by_change is not None
    window = None if how is None else how.window
    facts = Plan(
        method=getattr(method, "__name__", "a method"),
        tap=split.tap,
        activation=split.activation.shape,
        dtype=split.activation.dtype.name,
        kind=None if study is None else study.kind,
        evaluations=0 if study is None else study.count,
        masks=0 if study is None or study.masks is None else len(study.masks),
        live=None if live is None else len(live),
        network_flops=_encode_flops(split, given) + split.flops(),
        once_flops=_encode_flops(split, given, known=by_change, window=window),
        decode_flops=split.flops(),
        steps=steps,
        idle=idle,
        window=window,
        seen=_seen(split, window, by_change),
        fallbacks=() if how is None else how.fallbacks,
        subtracted=study.by_change.subtracted if study is not None and study.by_change else (),
        chunk=1 if study is None else study.chunk,
        devices=1 if execution.mesh is None else execution.mesh.size,
        temporaries=None if program is None else program.temporaries,
        arguments=None if program is None else program.arguments,
        precision=execution.precision,
        seconds=None,
        error=None,
    )
    if not (known and measure):
        return facts
    taken, error = _measured(
        split, functools.partial(method, split, *given, **options), given, execution, study, live
    )
    return dataclasses.replace(facts, seconds=taken, error=error)


def _study(
    method_of: Callable, given: tuple, execution: Execution, halvings: int = 0
) -> Study | None:
    """The study that takes most, of those that a method does; traced, not run."""
    _, study = _traced(method_of, given, execution, halvings)
    return study


def _traced(
    method_of: Callable, given: tuple, execution: Execution, halvings: int = 0
) -> tuple[Callable, Study | None]:
    found: list[Study] = []

    def run(params, x, target):
        with record.recording() as studies, memory.halved(halvings):
            method_of(params, x, target, execution=execution)
        found[:] = sorted(studies, key=lambda study: study.count * study.flops)[-1:]
        return found[0].live if found else None

    jax.eval_shape(run, *given)
    return run, found[0] if found else None


def _live(
    method_of: Callable, given: tuple, execution: Execution, study: Study | None
) -> np.ndarray | None:
    """Indices of the ablations that change something; runs what precedes the tap."""
    if study is None or study.live is None:
        return None
    run, _ = _traced(method_of, given, execution)
    return np.flatnonzero(jax.jit(run)(*given))


def _evaluated(study: Study, live: int) -> int:
    """How many evaluations are run: whole chunks, as long as there are live ablations in them."""
    if study.chunk >= study.count:
        return study.count
    rows = live + (study.by_change is None)
    return min(study.count, -(-rows // study.chunk) * study.chunk)


def _steps(
    split: Split, method_of: Callable, given: tuple, execution: Execution, evaluated: int | None
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """The cost as optimisations are switched on, and the switches that save nothing."""
    stage = dataclasses.replace(NAIVE, chunk_size=1)
    study = _study(method_of, given, stage)
    if study is None:
        return (), ()
    decode, once = split.flops(), _encode_flops(split, given)

    def step(switch, what, study, flops=0):
        count = study.count
        if stage.skip_dead and study.masks is not None and not study.closed_form:
            count = evaluated
        each = study.flops + flops
        return Step(switch, what, each, each / max(1, decode), count)

    steps = [
        step(None, "the whole network", study, once),
        step(None, "split: what follows the tap", study),
    ]
    idle = []
    for switch, what in _STEPS.items():
        if not getattr(execution, switch) or (study.masks is None and switch not in _ALWAYS):
            continue
        stage = dataclasses.replace(stage, **{switch: True})
        latest = step(switch, what, _study(method_of, given, stage))
        cost_before, cost_now = ((each.flops, each.evaluations) for each in (steps[-1], latest))
        if cost_now == cost_before:
            idle.append(switch)
        else:
            steps.append(latest)
    return tuple(steps), tuple(idle)


def _measured(
    split: Split,
    method: Callable,
    given: tuple,
    execution: Execution,
    study: Study | None,
    live: np.ndarray | None,
) -> tuple[float, PrecisionError | None]:
    """Seconds, and the error of the precision unless it is float32."""
    params, x, target = given
    rounds = execution.precision != "float32"
    # Masks that are made from the input cannot leave the trace that made them.
    whole = study is not None and not any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(study.masks)
    )
    if study is not None and study.masks is not None and live is not None and whole:
        ablations = measuring.Ablations(split, params, x, target, study.masks, live, execution)
        devices = 1 if execution.mesh is None else execution.mesh.size
        taken = ablations.seconds(study.chunk, devices)
        return taken, ablations.precision_error() if rounds else None
    if study is not None and study.kind == "gradients" and study.count > 1:
        taken = measuring.gradient_seconds(split, params, x, target, execution, study.count)
    else:
        taken = measuring.seconds(lambda: method(execution=execution))
    return taken, measuring.map_error(method, execution) if rounds else None


def _encode_flops(
    split: Split, given: tuple, *, known: bool = False, window: tuple[int, ...] | None = None
) -> int:
    """Operations of what runs once.

    Args:
        known: with decode of the unchanged activation, off which changes are read.
        window: what of the output that is for; None: all of it.
    """

    def once(params, x):
        activation, carry = split.encode(params, x)
        if not known:
            return activation, carry
        if window is None:
            return split.changes.known(split.native(activation), *carry)
        plan, consts = split.changes.known_on((*window, _classes(split)))
        corner = [jnp.zeros((), jnp.int32)] * (len(window) + 1)
        return plan.outputs([split.native(activation), *carry, *consts], corner)

    params, x, _ = given
    return cost.flops(graph.closed(lambda *given: jax.tree.leaves(once(*given)), params, x)[1])


def _classes(split: Split) -> int:
    return jax.tree.leaves(split.output)[0].shape[-1]


def _seen(split: Split, window: tuple[int, ...] | None, by_change: bool) -> tuple[int, ...] | None:
    """Extents of the activation's window that a window of the output needs."""
    if window is None:
        return None
    extents = (*window, _classes(split))
    plan = split.changes.plan(extents) if by_change else split.on_window(extents)
    variable = plan.jaxpr.invars[0]
    if variable not in plan.windows or variable.aval.shape != split.activation.shape:
        return None
    spans = zip(plan.windows[variable], variable.aval.shape, strict=True)
    return tuple(n if span is None else span.size for span, n in spans)[:-1]
