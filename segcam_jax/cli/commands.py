"""The commands: their options, which `tyro` parses and explains, and what they run."""

import dataclasses
import difflib
import functools
import importlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from segcam_jax import _process
from segcam_jax.cli.arguments import (
    Layouts,
    MaybeCount,
    MaybeFile,
    MaybeName,
    MaybeOutputs,
    Size,
    optional,
)
from segcam_jax.cli.parser import parsed
from segcam_jax.cli.stored import Export as Export, Score as Score, Show as Show
from segcam_jax.cli.study import (
    Embed as Embed,
    Explain as Explain,
    Gallery as Gallery,
    Occlude as Occlude,
    Sweep as Sweep,
)
from segcam_jax.cli.volumetric import Context as Context, Instances as Instances
from segcam_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Layers:
    """List the taps of a network with their shapes.

    For example:

      segcam layers --weights texture-mnist-unbiased --size 128 96

      segcam layers my_networks.py:make

      segcam layers random:resnet50

    Attributes:
        network: A model of your own (module.path:factory or file.py:factory), a file, bundled
            weights, random:NAME, nnunet:FOLDER or bundle:FOLDER.
        weights: The same, as an option.
        size: Height and width of an image, or one number for both; for a volume, three numbers.
        channels: As in `segcam explain`.
        layout: As in `segcam explain`.
        seed: The seed of random weights.
    """

    network: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NETWORK", help_behavior_hint="")
    ] = None
    weights: MaybeName = None
    size: Size = ()
    channels: MaybeCount = None
    layout: Layouts = ()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods, the metrics and the heatmap profiles."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Show what the library does, on bundled networks and images.

    For example: segcam demo --out demo --open

    Attributes:
        volume: Show a 3D network and its lesions instead of images (extra `nifti`), in a section of
            the same page.
        out: Folder of the page, its runs and figures. A demo that was interrupted there resumes.
        open: Open the page in a browser.
        overwrite: Replace the runs of another demo.
    """

    volume: bool = False
    out: Path = Path("segcam-demo")
    open: bool = False
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights of PyTorch, Keras or MONAI to a file that the other commands open.

    For example: segcam convert resnet50.pth --model resnet50 --out resnet50.safetensors

    Every tensor of the file must have a place in the network, and every place must get a tensor.

    Attributes:
        source: The file of weights: .safetensors, .pth, .pt or .bin, .h5 or .hdf5 (extra `keras`).
        model: resnet18, 34, 50, 101, 152, densenet121, 169, 201, inception_v3,
            efficientnet_lite0, monai-unet, unet-vgg16, or unet, which is the network of the
            Eurocon 2023 paper (PyTorch) or of CSBDeep (Keras).
        out: The .safetensors file to write.
        layout: Which library wrote the file: torchvision, keras (DenseNet, unet-vgg16, unet),
            torch (EfficientNet-Lite, unet) or monai. Default: keras for .h5, else the first that
            fits.
        normalisation: How to change images in [0, 1] for the network: none, imagenet, symmetric or
            efficientnet_lite. Default: as for the library's trained weights.
        labels: A text file with one class name per line.
        outputs: What the network returns, if not logits.
        multi_label: The classes do not exclude each other; the new file says so.
        bgr: The unet was trained on images as OpenCV reads them, blue first.
        strides: The strides of monai-unet's levels, which the file does not hold. Default: all 2.
        orientation: The directions of the axes of a 3D network's training volumes, such as RAS or
            LPS. Default: unknown; the network gets volumes as they lie in their files.
        spacing: The size in mm of the voxels that a 3D network was trained on, one number or three.
        overwrite: Replace the file.
    """

    source: tyro.conf.Positional[Path]
    model: str
    out: Path
    layout: MaybeName = None
    normalisation: MaybeName = None
    labels: MaybeFile = None
    outputs: MaybeOutputs = None
    multi_label: bool = False
    bgr: bool = False
    strides: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...", help_behavior_hint="")
    ] = ()
    orientation: Annotated[str | None, optional("LETTERS")] = None
    spacing: Annotated[tuple[float, ...], optional("MM ...")] = ()
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        about: what it does, in a line.
        options: the type of its options.
        runs: the module below `segcam_jax.cli` and its function, which are imported when it runs:
            each command's own imports are heavy. It takes the options, and returns the exit code or
            None for 0.
        takes_line: whether it takes the words of the command line too.
    """

    about: str
    options: type
    runs: str
    takes_line: bool = False

    @functools.cached_property
    def several(self) -> dict[str, bool]:
        """The options with their dashes, and whether each gathers the values of all its uses."""
        found = {}
        for field, hint in get_type_hints(self.options, include_extras=True).items():
            said = getattr(hint, "__metadata__", ())
            names = [each.name for each in said if getattr(each, "name", None)]
            if tyro.conf.Positional not in said:
                word = f"--{(names or [field])[-1].replace('_', '-')}"
                inside = get_args(get_args(hint)[0] if said else hint)
                found[word] = inside[1:] == (...,) and inside[0] not in (int, float)
        return found

    def run(self, options: Any, line: Sequence[str]) -> int:
        """Runs it; returns the exit code."""
        module, _, name = self.runs.partition(":")
        with _process.at_once():
            function = getattr(importlib.import_module(f"segcam_jax.cli.{module}"), name)
        return (function(options, line) if self.takes_line else function(options)) or 0


# Words of versions before 0.5, and what a command that lacks them has in their place.
_RENAMED = {
    "--class-index": "--class",
    "--classes": "--class",
    "--top": "--class",
    "--difference": "--class",
    "--layers": "--tap",
    "--model": "--weights",
    "--models": "--weights",
    "--repeat": "--config",
    **dict.fromkeys(("--window", "--stride", "--samples", "--sigma", "--aggregation"), "--option"),
}

COMMANDS = {
    "demo": Command(
        "show what the library does, on bundled networks and images",
        Demo,
        "demo.page:demo",
        takes_line=True,
    ),
    "explain": Command(
        "explain what a network sees in images: maps, figures, a table", Explain, "explain:explain"
    ),
    "sweep": Command(
        "explain many images, and store the maps; a killed run resumes", Sweep, "sweep:sweep"
    ),
    "show": Command(
        "look at a stored run: its table, its images, the best and the worst", Show, "stores:show"
    ),
    "score": Command(
        "score the maps of a stored run, or of images, and rank methods", Score, "score:score"
    ),
    "export": Command("write PNG, .npy and CSV files of a stored run", Export, "stores:export"),
    "gallery": Command(
        "compare networks, layers and methods on photographs, in one figure each",
        Gallery,
        "gallery:gallery",
    ),
    "occlude": Command(
        "occlude activation maps of a segmentation network, one by one and all at once",
        Occlude,
        "occlude:occlude",
    ),
    "embed": Command("map images by a layer's activations: PCA and t-SNE", Embed, "embed:embed"),
    "layers": Command("list the taps of a network with their shapes", Layers, "listing:layers"),
    "methods": Command(
        "list the methods, the metrics and the heatmap profiles", Methods, "listing:methods"
    ),
    "instances": Command(
        "explain every instance in volumes: NIfTI maps, a table, figures",
        Instances,
        "instances:instances",
        takes_line=True,
    ),
    "context": Command(
        "measure how much of its surroundings an instance in a volume needs",
        Context,
        "context:context",
        takes_line=True,
    ),
    "convert": Command(
        "convert a network's weights of PyTorch, Keras or MONAI", Convert, "convert:convert"
    ),
}


def parse(command: Command, name: str, arguments: Sequence[str]) -> Any:
    """Reads the options of a command.

    Returns:
        Its options; None where its help was asked for, and is printed.
    """
    _check_options(name, command.several, arguments)
    return parsed(
        command.options,
        gathered(arguments, command.several),
        prog=f"segcam {name}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _check_options(name: str, several: Mapping[str, bool], arguments: Sequence[str]) -> None:
    """Raises `InputError` for options that a command lacks, and for one value given twice."""
    given = [
        (word.partition("=")[0], word.partition("=")[0].replace("_", "-"))
        for word in itertools.takewhile(lambda word: word != "--", arguments)
        if word.startswith("--")
    ]
    for word, option in given:
        if option not in (*several, "--help"):
            now = _RENAMED.get(option, "")
            near = [now] if now in several else difflib.get_close_matches(option, several, 2)
            near = near or ["--help"]
            raise InputError(f"Unrecognized options: {word}; `segcam {name}` has {', '.join(near)}")
        if not several.get(option) and [each for _, each in given].count(option) > 1:
            raise InputError(f"{option} was given twice; give it once")


def gathered(arguments: Sequence[str], several: Mapping[str, bool]) -> list[str]:
    """Puts together the values of options that were given more than once.

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
        if several.get(option):
            current = lists.setdefault(option, [])
            current += [value] if equals else []
        elif argument.startswith("-") or current is None:
            current = None
            rest.append(argument)
        else:
            current.append(argument)
    found = [word for option, words in lists.items() for word in (option, *words)]
    split = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:split], *found, *rest[split:]]
