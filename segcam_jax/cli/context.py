"""`segcam context`: how much context an instance needs."""

from collections.abc import Sequence

import segcam_jax
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of
from segcam_jax.cli.instances import groups_of, opened
from segcam_jax.cli.volumetric import Context
from segcam_jax.engine import Execution
from segcam_jax.sweep.context_run import TABLE, context_plan, run_context
from segcam_jax.sweep.instance_plan import segmentation_plan


def context(command: Context, line: Sequence[str]) -> None:
    """Studies every instance, and tells what came out."""
    execution = Execution(memory_limit=bytes_of(command.memory_limit))
    network, segmenting, cases, modalities = opened(command)
    base = segmentation_plan(
        network,
        cases,
        modalities,
        segmenting,
        groups=groups_of(command),
        version=segcam_jax.__version__,
    )
    rows = run_context(
        context_plan(base, steps=command.steps, max_voxels=command.max_voxels),
        command.out,
        command=line,
        progress=console.progress,
        overwrite=command.overwrite,
        execution=execution,
        report=console.note,
    )
    if not rows:
        chosen = [f" of {', '.join(groups_of(command))}"] if command.group else []
        chosen += [f" of at most {command.max_voxels} voxels"] if command.max_voxels else []
        words = f"no instance{''.join(chosen)} was found in {len(cases)} scan(s)"
        print(f"{words}; {command.out / TABLE} is empty")
        return
    columns = ("distance_mm", "average_score", "std_dev", "n_predictions", "reach_mm")
    console.table(None, columns, [[f"{row[name]:.4g}" for name in columns] for row in rows])
    count = len(rows[0]) - len(columns) - 1
    print(f"{count} instance(s), {len(rows)} dilations; tables and figures are in {command.out}")
