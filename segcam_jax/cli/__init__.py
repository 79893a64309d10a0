"""The command line `segcam`.

Results go to stdout, notes, progress and errors to stderr. Exit codes: 0 done, 2 a fault in what
was given (one line says which), 3 finished, with images that failed, 130 interrupted.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

import segcam_jax
from segcam_jax.cli import cache, console
from segcam_jax.types import InputError, SegcamError, nearest_first

_HELP = """usage: segcam COMMAND [options]

Explain segmentation networks and classifiers: where does a network look?

commands:
{commands}

examples:
  segcam demo
  segcam layers --weights texture-mnist-unbiased
  segcam explain scan.png --weights texture-mnist-unbiased --out results

`segcam COMMAND --help` explains a command; `segcam --version` tells the version."""
_INTERRUPTED, _FAULT, _CLOSED_PIPE = 130, 2, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: without the program's name; None takes `sys.argv`.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        print(f"segcam {segcam_jax.__version__}")
        return 0
    try:
        with warnings.catch_warnings(), _backend_of_files():
            # A cache that fails must not disturb; the run goes on without it.
            warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")
            return _run(given)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else _FAULT
    except SegcamError as problem:
        console.error(problem)
        return _FAULT
    except KeyboardInterrupt:
        console.note("interrupted; all files are whole, and the same command goes on from here")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except MemoryError:
        console.error("out of memory; use a smaller image, or fewer images at once")
        return _FAULT
    except RuntimeError as problem:
        if "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        console.error("the device is out of memory; use a smaller image")
        return _FAULT


@contextlib.contextmanager
def _backend_of_files() -> Iterator[None]:
    """Figures go to files, whichever backend a notebook or a shell has chosen for windows.

    matplotlib reads the variable when it is imported, and fails on a backend that is not installed.
    """
    name, before = "MPLBACKEND", os.environ.get("MPLBACKEND")
    os.environ[name] = "agg"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _run(given: list[str]) -> int:
    from segcam_jax.cli import commands

    if not given or given[0] in ("-h", "--help"):
        rows = [f"  {name:<10}{each.about}" for name, each in commands.COMMANDS.items()]
        print(_HELP.format(commands="\n".join(rows)))
        return 0
    name = given[0]
    if name not in commands.COMMANDS:
        choices = ", ".join(nearest_first(name, commands.COMMANDS))
        raise InputError(f"unknown command {name!r}; choose from {choices}")
    command = commands.COMMANDS[name]
    options = commands.parse(command, name, given[1:])
    cache.enable()
    return command.run(options, ["segcam", *given])
