"""`segcam plan`."""

from segcam_jax.cli import commands, console
from segcam_jax.cli.explain import check_execution, execution_of, run_of
from segcam_jax.engine.plan import COLUMNS, Plan
from segcam_jax.methods import explain_plan
from segcam_jax.networks.image_inputs import ImageForm, read_sample


def plan(command: commands.Plan) -> None:
    """Prints what `segcam explain` would do with the same arguments; writes nothing."""
    check_execution(command)
    if words := command.repeat or command.weights or command.model:
        console.note(f"opening {words}")
    run = run_of(command)
    execution, options = execution_of(command, run), run.options
    network, labels = run.network, run.network.labels
    form = ImageForm.of(network, options.fit)
    for case, pairs in zip(run.cases, run.pairs, strict=True):
        sample = read_sample(case.path, form)
        for call, tap in pairs:
            console.note(f"{case.name}: planning {call.method.name} at {tap}")
            found = explain_plan(
                network.split(tap, case.input_shape),
                network.params,
                sample.padded,
                case.target(options),
                method=call.method.name,
                execution=execution,
                measure=command.measure,
                **call.arguments(options.seed),
            )
            _show(f"{case.name}: class {labels[case.class_index]!r}", found)


def _show(title: str, found: Plan) -> None:
    console.facts(title, found.facts())
    if found.steps:
        console.table(None, COLUMNS, found.table())
