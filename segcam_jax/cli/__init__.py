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
from segcam_jax.cli.old_words import check_command, renewed
from segcam_jax.types import InputError, SegcamError, nearest_first

_COMMANDS = {
    "demo": "show what the library does, on networks and images that it ships",
    "explain": "explain what a network says of images: maps, figures, a table",
    "sweep": "explain many images into a store that a killed run goes on with",
    "show": "look at a stored run: its table, its images, the best and the worst",
    "export": "write a stored run as PNG, .npy and CSV files",
    "gallery": "compare models, layers and methods on photographs, in one figure each",
    "embed": "map a folder of images by a layer's activations: PCA and t-SNE",
    "layers": "list the taps of a network with their shapes",
    "methods": "list the methods and the heatmap profiles",
    "instances": "explain every instance in volumes: NIfTI maps, a table, figures",
    "context": "measure how much of its surroundings an instance in a volume needs",
    "evaluate": "measure segmentation quality and the planted bias",
    "convert": "convert a network's weights of PyTorch, Keras or MONAI",
}
_HELP = f"""usage: segcam COMMAND [options]

Explain segmentation networks and classifiers: where does a network look?

commands:
{chr(10).join(f"  {name:<10}{what}" for name, what in _COMMANDS.items())}

examples:
  segcam demo
  segcam layers --weights texture-mnist-unbiased
  segcam explain scan.png --weights texture-mnist-unbiased --out results

`segcam COMMAND --help` explains a command; `segcam --version` tells the version."""
_LISTS = (
    "--tap",
    "--method",
    "--option",
    "--models",
    "--methods",
    "--layers",
    "--classes",
    "--class",
    "--prefixes",
    "--truth",
    "--truth-classes",
    "--modalities",
    "--group",
    "--roi",
    "--what",
    "--items",
)
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
    if not given or given[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    name = given[0]
    check_command(name)
    if name not in _COMMANDS:
        choices = ", ".join(nearest_first(name, _COMMANDS))
        raise InputError(f"unknown command {name!r}; choose from {choices}")
    from segcam_jax.cli import commands

    rest, told = renewed(given[1:], commands.option_names(name))
    for line in told:
        console.note(line)
    command = commands.parse(name, merged_lists(rest))
    cache.enable()
    # Each command's own imports are heavy; only those of the command that runs are made.
    match command:
        case commands.Layers():
            from segcam_jax.cli.listing import layers

            layers(command)
        case commands.Methods():
            from segcam_jax.cli.listing import methods

            methods()
        case commands.Explain():
            from segcam_jax.cli.explain import explain

            return explain(command)
        case commands.Sweep():
            from segcam_jax.cli.sweep import sweep

            return sweep(command)
        case commands.Show():
            from segcam_jax.cli.stores import show

            show(command)
        case commands.Export():
            from segcam_jax.cli.stores import export

            export(command)
        case commands.Gallery():
            from segcam_jax.cli.gallery import gallery

            gallery(command, ["segcam", *given])
        case commands.Embed():
            from segcam_jax.cli.embed import embed

            embed(command)
        case commands.Instances():
            from segcam_jax.cli.instances import instances

            return instances(command, ["segcam", *given])
        case commands.Context():
            from segcam_jax.cli.context import context

            return context(command, ["segcam", *given])
        case commands.Evaluate():
            from segcam_jax.cli.evaluate import evaluate

            evaluate(command)
        case commands.Convert():
            from segcam_jax.cli.convert import convert

            convert(command)
        case commands.Demo(volume=True):
            from segcam_jax.cli.demo_volume import demo

            demo(command, ["segcam", *given])
        case commands.Demo():
            from segcam_jax.cli.demo import demo

            demo(command)
    return 0


def merged_lists(arguments: Sequence[str]) -> list[str]:
    """Gathers options that take several values and were given more than once.

    `--tap a --tap b` then means `--tap a b`, where otherwise the last one alone would count.
    """
    rest: list[str] = []
    lists: dict[str, list[str]] = {}
    current: list[str] | None = None
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if argument == "--":
            rest += arguments[position:]
            break
        if option in _LISTS:
            current = lists.setdefault(option, [])
            current += [value] if equals else []
        elif argument.startswith("-") or current is None:
            current = None
            rest.append(argument)
        else:
            current.append(argument)
    gathered = [word for option, words in lists.items() for word in (option, *words)]
    split = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:split], *gathered, *rest[split:]]
