"""The command line `segcam`.

Results go to stdout, notes, progress and errors to stderr. Exit codes: 0 done, 2 a fault in what
was given (one line says which), 3 finished, with images that failed, 130 interrupted by Ctrl-C,
143 ended by SIGTERM.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import segcam_jax
from segcam_jax import _process
from segcam_jax.cli import cache, console
from segcam_jax.cli.parser import check_words as check_words, parsed as parsed
from segcam_jax.types import InputError, SegcamError, none_of

_HELP = """usage: segcam COMMAND [options]

Explain segmentation networks and classifiers: where does a network look?

commands:
{commands}

examples:
  segcam demo
  segcam layers --weights texture-mnist-unbiased
  segcam explain scan.png --weights texture-mnist-unbiased --out results

`segcam COMMAND --help` explains a command; `segcam --version` tells the version."""
# What it says of a home that cannot be written is no concern of ours.
logging.getLogger("matplotlib").addHandler(logging.NullHandler())
_INTERRUPTED, _TERMINATED, _FAULT, _CLOSED_PIPE = 130, 143, 2, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return code_of(lambda: _run(given))


@_process.raised()
def code_of(work: Callable[[], int]) -> int:
    """The exit code of work, which it returns; what ends it early is said in one line."""
    try:
        _check_streams()
        with warnings.catch_warnings(), _backend_of_files():
            # A cache that fails must not disturb; the run goes on without it.
            warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")
            code = work()
            sys.stdout.flush()
            return code
    except SegcamError as problem:
        console.error(problem)
        return _FAULT
    except KeyboardInterrupt as stop:
        console.note("interrupted; all files are whole, and the same command resumes")
        return _TERMINATED if isinstance(stop, _process.Terminated) else _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone.
        _drop_output()
        return _CLOSED_PIPE
    except OSError as problem:
        # What the system refuses anywhere: a folder that cannot be entered, a disk that is full.
        where = "" if problem.filename is None else f"{os.fspath(problem.filename)!r}: "
        console.error(f"{where}{problem.strerror or problem}")
        _drop_output()
        return _FAULT
    except MemoryError:
        console.error("out of memory; use a smaller image, or fewer images at once")
        return _FAULT
    except (RuntimeError, AssertionError) as problem:
        if "RESOURCE_EXHAUSTED" in str(problem):
            console.error("the device is out of memory; use a smaller image")
        elif not _has_device():
            said = os.environ.get("JAX_PLATFORMS", "")
            console.error(f"JAX finds no device for JAX_PLATFORMS={said!r}; set JAX_PLATFORMS=cpu")
        else:
            raise
        return _FAULT


def _has_device() -> bool:
    """Whether JAX starts at all."""
    import jax

    try:
        return bool(jax.default_backend())
    except (RuntimeError, AssertionError):  # The second where it has no plugin for any of them.
        return False


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


def _check_streams() -> None:
    """Raises `InputError` if there is no stdout; what is said to a closed stderr is lost."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise InputError(
            "stdout is closed, so results cannot be printed; send them to a file or /dev/null"
        )


def _drop_output() -> None:
    """Leaves nothing to flush that cannot be written: Python would fail on it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(given: list[str]) -> int:
    check_words("segcam", given)
    if given in (["--version"], ["-V"]):
        print(f"segcam {segcam_jax.__version__}")
        return 0
    with _process.at_once():
        from segcam_jax.cli import commands
    if not given or given[0] in ("-h", "--help"):
        rows = [f"  {name:<10}{each.about}" for name, each in commands.COMMANDS.items()]
        print(_HELP.format(commands="\n".join(rows)))
        return 0
    name = given[0]
    if name not in commands.COMMANDS:
        raise none_of(f"unknown command {name!r}", name, commands.COMMANDS)
    command = commands.COMMANDS[name]
    options = commands.parse(command, name, given[1:])
    if options is None:
        return 0
    cache.enable()
    return command.run(options, ["segcam", *given])
