"""`segcam plan`."""

from segcam_jax import targets
from segcam_jax.cli import commands, console
from segcam_jax.cli.explain import run_of
from segcam_jax.engine import Execution
from segcam_jax.engine.devices import local_mesh
from segcam_jax.engine.plan import COLUMNS, Plan
from segcam_jax.methods import explain_plan
from segcam_jax.sweep import options as options_module
from segcam_jax.sweep.plan import read_padded


def plan(command: commands.Plan) -> None:
    """Prints what `segcam explain` would do with the same arguments; writes nothing."""
    execution = Execution(mesh=local_mesh(command.devices))
    run = run_of(command)
    network, options = run.network, run.options
    for case, pairs in zip(run.cases, run.pairs, strict=True):
        _, padded = read_padded(case.path, network)
        target = targets.region(case.class_index, case.mask, of=options.of, reduce=options.reduce)
        for method, tap in pairs:
            _show(
                f"{case.name}: class {network.class_names[case.class_index]!r}",
                explain_plan(
                    network.split(tap, case.input_shape),
                    network.model.params,
                    padded,
                    target,
                    method=method,
                    execution=execution,
                    measure=command.measure,
                    **options_module.arguments(method, options),
                ),
            )


def _show(title: str, found: Plan) -> None:
    console.facts(title, found.facts())
    if found.steps:
        console.table(None, COLUMNS, found.table())
