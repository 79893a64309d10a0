"""`python -m benchmarks run --suite cpu` measures, `python -m benchmarks report` writes it up.

Exit codes: 0 done, 2 a fault in what was given (one line says which), 130 interrupted.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.workloads import Size, Suite, chosen
from segcam_jax.types import SegcamError

_FAULT, _INTERRUPTED = 2, 130
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """Measure workloads P1 to P12 and the curves.

    Ctrl-C keeps what is finished, and a second run resumes there.

    What takes long is measured on a part of its ablations and projected to all of them; the table
    says so.

    Attributes:
        suite: cpu runs everything on two cores; gpu takes the accelerator that JAX finds.
        only: workloads (P1 ... P12) and curves (channels, windows); if none is given all, on an
            accelerator those that say most about it.
        budget_seconds: what the whole run may take; no row is begun after it.
        size: tiny tests the harness in seconds; its figures say nothing.
        full: no projection, whatever it takes.
        again: measure anew what the same code has finished already.
        out: the JSON file; benchmarks/results/SUITE.json by default.
    """

    suite: Suite = "cpu"
    only: tuple[str, ...] = ()
    budget_seconds: float = 1800
    size: Size = "full"
    full: bool = False
    again: bool = False
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Write tables and plots from the results into README.md and benchmarks/README.md."""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")] | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="python -m benchmarks",
            description=__doc__,
            args=arguments,
        )
        return _report() if isinstance(command, Report) else _run(command)
    except SegcamError as problem:
        print(f"benchmarks: error: {' '.join(str(problem).split())}", file=sys.stderr)
        return _FAULT
    except KeyboardInterrupt:
        print(
            "benchmarks: interrupted; what is finished is kept, and the same command resumes",
            file=sys.stderr,
        )
        return _INTERRUPTED


def _run(command: Run) -> int:
    keys = chosen(command.only, command.suite)
    threads = None
    if command.suite == "cpu":
        import jax

        from benchmarks import timing

        jax.config.update("jax_platforms", "cpu")
        threads = timing.limit_threads(_THREADS)
    else:
        # PyTorch shares the device: XLA must not take most of its memory at the start.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import report, results, run

    options = run.Options(
        suite=command.suite,
        size=command.size,
        seconds=command.budget_seconds,
        full=command.full,
        again=command.again,
        threads=threads,
        path=command.out or results.path_of(command.suite, command.size),
    )
    found = run.run(options, keys)
    print(report.summary(found))
    return 0


def _report() -> int:
    from benchmarks import report

    report.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
