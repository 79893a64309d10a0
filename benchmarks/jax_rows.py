"""Rows in JAX: a loop of whole forwards, and the engine with its optimisations switched on in turn.

The engine with all off is the naive program: the prefix once, then a map over the rest of the
network, in one jit. In float64 it is the brute force that all rows are compared with.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import segcam_jax as segcam
from benchmarks import cost
from benchmarks.rows import Ready, Row
from benchmarks.studies import Study
from benchmarks.workloads import ENGINE, JAX_LOOP, NAIVE_MAP, NAIVE_TF32
from segcam_jax.engine import NAIVE, Execution, ablation_drops, encode
from segcam_jax.masks import ablate

# In this order optimisations are switched on; what the engine has beyond these comes after them.
SWITCHES: dict[str, str] = {
    "difference": "difference",
    "windows": "windows",
    "closed_form": "closed form",
    "skip_dead": "dead skipped",
    "lowering": "lowering",
}
# Instances that are explained at once: on a CPU a window fits the caches, a whole decode does not.
_AT_ONCE = {"cpu": (1, 8), "other": (8, 32)}
_UNCHANGED = -1


def switches() -> list[str]:
    """The fields of `Execution` that `NAIVE` switches off, in the order of the table."""
    fields = [field.name for field in dataclasses.fields(Execution)]
    off = [
        name
        for name in fields
        if getattr(NAIVE, name) is False and getattr(Execution(), name) is not False
    ]
    known = [name for name in SWITCHES if name in off]
    return known + [name for name in off if name not in SWITCHES]


def executions() -> Iterator[tuple[str, Execution]]:
    """The naive program, then one more optimisation at a time, up to the engine's defaults.

    On an accelerator, whose time is short, all at once, and then with rounded operands; so is the
    naive program, as XLA runs it there unless it is told otherwise.
    """
    yield NAIVE_MAP, NAIVE
    if jax.default_backend() != "cpu":
        yield NAIVE_TF32, dataclasses.replace(NAIVE, precision="tf32")
        yield ENGINE, Execution()
        for precision in ("tf32", "bfloat16"):
            yield f"{ENGINE}, {precision}", Execution(precision=precision)
        return
    execution = NAIVE
    for position, name in enumerate(switches()):
        execution = dataclasses.replace(execution, **{name: getattr(Execution(), name)})
        mark = "" if position == 0 else "+ "
        yield f"{ENGINE}, {mark}{SWITCHES.get(name, name)}", execution


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopRow(Row):
    """A compiled whole forward with an ablation in the middle, called once per ablation."""

    name: str = JAX_LOOP
    group: str = "jax"
    step: int = 8
    least: int | None = 2

    def flops_each(self, study: Study) -> float:
        """Operations of the whole network; with its gradient where instances are explained."""
        function, arguments = _whole(study)
        return cost.flops(function, *arguments)

    def ready(self, study: Study, count: int) -> Ready:
        """Compiles the whole network once."""
        function, arguments = _whole(study)
        call, facts = compiled(function, *arguments)
        if study.workload.what == "instances":

            def maps() -> np.ndarray:
                targets = [_at(study.target, index) for index in range(count)]
                return np.stack([np.asarray(call(study.params, study.x, one)) for one in targets])

            return Ready(maps, count, facts)

        def drops() -> np.ndarray:
            indices = range(_UNCHANGED, count)
            given = (study.params, study.x, study.target)
            scores = np.array([float(call(*given, np.int32(index))) for index in indices])
            return scores[0] - scores[1:]

        return Ready(drops, count, facts)


def _whole(study: Study) -> tuple[Callable, tuple]:
    split = study.split
    if study.workload.what == "instances":

        def explained(params, x, target):
            return segcam.methods.grad_cam(split, params, x, target, execution=NAIVE).map

        return explained, (study.params, study.x, _at(study.target, 0))
    masks = study.masks(study.total)

    def ablated(params, x, target, index):
        activation, carry = split.encode(params, x)
        mask = masks(jnp.maximum(index, 0))
        mask = jnp.where(index == _UNCHANGED, jnp.ones_like(mask), mask)
        return target(split.decode(ablate(activation, mask), carry))

    return ablated, (study.params, study.x, study.target, np.int32(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRow(Row):
    """The whole study as one compiled program, by the engine's settings."""

    execution: Execution
    group: str = "engine"
    step: int = 8
    least: int | None = 2

    @property
    def exact(self) -> bool:
        """Whether all is computed in float32."""
        return getattr(self.execution, "precision", "float32") == "float32"

    def flops_each(self, study: Study) -> float:
        """Operations that one more ablation or instance costs."""
        if study.workload.what == "instances":
            # All at once: XLA counts the body of a loop once.
            one, two = (cost.flops(*self._program(study, n, at_once=n)) for n in (1, 2))
            return max(0.0, two - one)
        masks = study.masks(study.total)
        arguments = (study.params, study.x, study.target, masks, self.execution)
        return cost.flops_per_ablation(study.split, *arguments)

    def digest(self, study: Study) -> str:
        """Of the program for all results: rows of one digest would run the same program."""
        function, *arguments = self._program(study, study.total)
        text = jax.jit(function).lower(*arguments).as_text()
        return hashlib.sha256(text.encode()).hexdigest()

    def ready(self, study: Study, count: int) -> Ready:
        """Compiles the study of the first results."""
        function, *arguments = self._program(study, count)
        call, facts = compiled(function, *arguments)
        if self.execution.skip_dead and study.workload.what != "instances":
            facts["live"] = _live(study)
        once = jax.jit(lambda params, x: encode(study.split, params, x, self.execution))
        return Ready(
            lambda: np.asarray(call(*arguments)),
            count,
            facts,
            fixed=lambda: jax.block_until_ready(once(study.params, study.x)),
        )

    def _program(self, study: Study, count: int, *, at_once: int | None = None) -> tuple:
        split, execution = study.split, self.execution
        if study.workload.what == "instances":
            few, many = _AT_ONCE.get(jax.default_backend(), _AT_ONCE["other"])
            together = at_once or min(count, many if execution.windows else few)

            def maps(params, x, targets):
                def explained(target):
                    return segcam.methods.grad_cam(
                        split, params, x, target, execution=execution
                    ).map

                return jax.lax.map(explained, targets, batch_size=together)

            return maps, study.params, study.x, study.first_targets(count)
        masks = study.masks(count)

        def drops(params, x, target):
            activation, carry = encode(split, params, x, execution)
            return ablation_drops(split, activation, carry, target, masks, execution)[1]

        return drops, study.params, study.x, study.target


def _live(study: Study) -> int:
    """How many of all ablations change the activation; the engine skips the others."""
    masks = study.masks(study.total)

    def count(params, x):
        activation, _ = study.split.encode(params, x)
        changes = jax.lax.map(
            lambda index: (ablate(activation, masks(index)) != activation).any(),
            jnp.arange(study.total),
        )
        return changes.sum()

    return int(jax.jit(count)(study.params, study.x))


def brute_force() -> EngineRow:
    """The naive program, what XLA's CPU backend runs slowly rewritten: float64 is slow enough."""
    return EngineRow(name="brute force", execution=dataclasses.replace(NAIVE, lowering=None))


def compiled(function: Callable, *arguments: Any) -> tuple[Callable, dict[str, Any]]:
    """The compiled function, and what its compilation took and planned."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    facts: dict[str, Any] = {
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
    }
    memory = program.memory_analysis()
    if memory is not None:
        facts["peak_bytes"] = int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
        facts["peak_from"] = "XLA's memory analysis"
    return program, facts


def engine_rows(
    study: Study, kind: type[EngineRow] = EngineRow
) -> Iterator[tuple[EngineRow, str | None]]:
    """Rows of the engine, each with the name of an earlier row that is the same program, if any."""
    seen: dict[str, str] = {}
    for name, execution in executions():
        # What people get is measured longest.
        row = kind(name=name, execution=execution, weight=3 if execution == Execution() else 1)
        digest = row.digest(study)
        yield row, seen.get(digest)
        seen.setdefault(digest, name)


def _at(targets: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], targets)
