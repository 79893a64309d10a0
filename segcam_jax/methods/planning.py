"""What a method will do, by its name."""

from collections.abc import Callable
from typing import Any

from segcam_jax.engine import Execution, Plan, plan_of
from segcam_jax.methods.registry import find
from segcam_jax.taps import Split


def explain_plan(
    split: Split,
    params: Any,
    x: Any,
    target: Any,
    *,
    method: str | Callable = "ablation_cam",
    execution: Execution = Execution(),
    compile: bool = True,
    measure: bool = False,
    **options: Any,
) -> Plan:
    """Tells what an explanation will do and what it costs, as a database's EXPLAIN does.

    The method is traced once for each optimisation, which shows what each saves. Runs the part
    before the tap once, to see which channels are dead.

    Args:
        params: its parameters; shapes and dtypes (`ShapeDtypeStruct`) do where the study is
            neither compiled nor measured.
        x: one example, likewise.
        method: a method or its name.
        execution: how the engine would run it.
        compile: compile the study and say what memory it takes.
        measure: run a few evaluations to estimate the time, and with a precision other than float32
            its error.
        options: of the method, such as `window`.

    Returns:
        A `Plan`; print it.

    Raises:
        InputError: if there is no such method, or the study exceeds `execution.memory_limit`.
        TargetError: if the target does not fit the model's output.
    """
    function = find(method).function if isinstance(method, str) else method
    return plan_of(
        function,
        split,
        params,
        x,
        target,
        execution=execution,
        compile=compile,
        measure=measure,
        **options,
    )
