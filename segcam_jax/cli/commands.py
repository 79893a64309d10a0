"""The commands as dataclasses: `tyro` makes options and help texts of them."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.types import InputError


def _optional(metavar: str):
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
MaybeName = Annotated[str | None, _optional("NAME")]
MaybeNumber = Annotated[float | None, _optional("NUMBER")]
MaybeFile = Annotated[Path | None, _optional("FILE")]
Images = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint=""),
]


@dataclasses.dataclass(frozen=True)
class Layers:
    """List the taps of a network with their shapes.

    For example: segcam layers --weights texture-mnist-unbiased --size 128 96

    Attributes:
        weights: Bundled weights by name, or a .safetensors file.
        model: The network expected in the file.
        size: Height and width of an image.
    """

    weights: str
    model: MaybeName = None
    size: tuple[int, int] = (64, 64)


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods and the heatmap profiles."""


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explain a network's segmentation of images: maps, figures, and a manifest.

    For example:

      segcam explain scan.png --weights texture-mnist-unbiased --out results

      segcam explain a.png b.png --weights my.safetensors --class-index 2 --region largest
      --tap bottleneck decoder1 --method grad_cam ablation_cam integrated_gradients

      segcam explain --repeat results/manifest.json --out again

    Attributes:
        images: Image files (PNG, JPEG, TIFF, ... or .npy arrays in [0, 1]).
        weights: Bundled weights by name (`texture-mnist-unbiased`, `texture-mnist-biased`), or a
            .safetensors file.
        model: The network expected in the file.
        tap: Where to explain (`segcam layers` lists taps). Default: the bottleneck. Methods of the
            input always use the input.
        method: Methods by name (`segcam methods` lists them).
        class_index: Number or name of the class. Default: the class predicted most often that is
            not named background.
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL or mask:FILE.
        min_probability: Predicted pixels need a probability above this; 0.5 is Seg-Grad-CAM's.
        of: What is explained.
        reduce: How the region's pixels are reduced to one score.
        profile: How raw maps become heatmaps (`segcam methods` lists profiles).
        smoothing: Standard deviation, in pixels, of a Gaussian on the heatmaps.
        window: fast_ablation_cam: extent of a window.
        stride: fast_ablation_cam: distance of windows, at most the window.
        samples: smooth_grad: noisy copies.
        sigma: smooth_grad: noise, as a share of the image's range.
        steps: integrated_gradients: points of the quadrature.
        seed: Of all random numbers.
        colormap: A matplotlib colour table, for example jet.
        out: Folder of the results. A run that was interrupted there is resumed.
        overwrite: Replace another run in that folder; other people's files stay.
        devices: How many devices share the ablations of an image.
        share: K/N: explain only every N-th image, from the K-th on. So N processes, each with its
            own K, fill one folder together; the last to finish writes the manifest.
        repeat: A manifest.json: do the same again, with the same maps.
    """

    images: Images = ()
    weights: MaybeName = None
    model: MaybeName = None
    tap: Names = ()
    method: Names = ("grad_cam", "ablation_cam")
    class_index: MaybeName = None
    region: str = "predicted"
    min_probability: MaybeNumber = None
    of: Literal["logits", "probabilities"] = "logits"
    reduce: Literal["sum", "mean"] = "sum"
    profile: str = "segcam_jax"
    smoothing: float = 0.0
    window: int = 1
    stride: int = 1
    samples: int = 50
    sigma: float = 0.15
    steps: int = 50
    seed: int = 0
    colormap: MaybeName = None
    out: Path = Path("segcam-out")
    overwrite: bool = False
    devices: int = 1
    share: Annotated[str | None, _optional("K/N")] = None
    repeat: MaybeFile = None


@dataclasses.dataclass(frozen=True)
class Plan(Explain):
    """Tell what `segcam explain` would do with the same arguments, and what it would cost.

    For example: segcam plan scan.png --weights texture-mnist-unbiased --region largest

    Operations of each evaluation before and after every optimisation, evaluations, memory.
    Nothing is written. The other options are those of `segcam explain`.

    Attributes:
        measure: Also run a few evaluations to estimate the time.
    """

    measure: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure segmentation quality, and where saliency falls when a bias was planted.

    For example: segcam evaluate --weights texture-mnist-biased --json biased.json

    Quality needs the extra `train`, which generates held-out samples. The bias table is over
    samples that the package ships: each shows a 2 with one texture in one half of the background.

    Attributes:
        weights: Bundled weights by name, or a .safetensors file.
        model: The network expected in the file.
        dataset: The data set.
        samples: Generated samples for the quality.
        bias_samples: Bundled samples for the bias table, at most 200.
        class_index: Number or name of the biased class.
        method: Methods of the bias table. Default: CAMs of one gradient, one
            component, or exact ablations.
        tap: Taps of the bias table. Default: the bottleneck and decoder1.
        profile: How raw maps become heatmaps; one without negative values.
        devices: How many devices share the images of the bias table.
        json: Also write everything to this file.
    """

    weights: str
    model: MaybeName = None
    dataset: str = "texture_mnist"
    samples: int = 200
    bias_samples: int = 200
    class_index: str = "2"
    method: Names = ()
    tap: Names = ()
    profile: str = "segcam_jax"
    devices: int = 1
    json: MaybeFile = None


@dataclasses.dataclass(frozen=True)
class Demo:
    """Show what the library does, on networks and images that it ships.

    For example: segcam demo --out demo --open

    Attributes:
        out: Folder of the page and its figures.
        open: Open the page in a browser.
    """

    out: Path = Path("segcam-demo")
    open: bool = False


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert a classifier's weights of another library to a file that the other commands open.

    For example: segcam convert resnet50.pth --model resnet50 --out resnet50.safetensors

    Every tensor of the file must have its place in the network, and every place its tensor.

    Attributes:
        source: .safetensors, .pth, .pt or .bin (extra `torch`), .h5 or .hdf5 (extra `keras`).
        model: resnet18, 34, 50, 101, 152, densenet121, 169, 201, inception_v3 or
            efficientnet_lite0.
        out: The .safetensors file to write.
        layout: Whose file it is: torchvision, keras (DenseNet) or torch (EfficientNet-Lite).
            Default: keras for .h5, else the first that fits the network.
        normalisation: What is done to an image in [0, 1] first: none, imagenet, symmetric or
            efficientnet_lite. Default: what the library's trained weights expect.
        labels: A text file with the name of one class a line.
        overwrite: Replace the file.
    """

    source: tyro.conf.Positional[Path]
    model: str
    out: Path
    layout: MaybeName = None
    normalisation: MaybeName = None
    labels: MaybeFile = None
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Compare models, layers and methods on images: the input beside one map per method.

    For example:

      segcam gallery cat.jpg dog.jpg --models efficientnet-lite0-imagenet --out gallery

      segcam gallery photos --models resnet50.safetensors densenet121.safetensors
      --layers conv:1 middle last --methods grad_cam ablation_cam --top 2

      segcam gallery cat.jpg --models resnet50.safetensors --difference tabby "Egyptian cat"

    Every model gets one figure per image and layer, and one with its layers below each other;
    several models, or several targets, are compared in a figure of their own. Raw maps lie beside
    the figures. What is finished is skipped, so an interrupted gallery goes on, and a gallery grows
    by further images in the same folder.

    Attributes:
        images: Image files, or folders of images.
        models: Installed or bundled weights by name (efficientnet-lite0-imagenet,
            texture-mnist-biased), .safetensors files of `segcam convert`, or random:NAME
            (random:resnet50) for random weights.
        layers: first, middle and last: of the outputs of the network's blocks, the middle of a
            segmentation network being its bottleneck. Or conv:N, the N-th convolution, from 1. Or
            taps (`segcam layers` lists them).
        methods: Methods by name (`segcam methods` lists them).
        top: Explain the N most probable classes, each by itself.
        classes: Explain these classes instead, by name, number or rank (top:2).
        difference: Two classes: explain what speaks for the first rather than the second.
        multi_label: The classes do not exclude each other: each has a probability of its own.
        labels: A file with the name of one class a line. Default: those of the weights, or
            ImageNet's for 1000 classes.
        of: What is explained.
        size: The square that images are brought to. Default: 299 for Inception, 224 for other
            classifiers; segmentation networks take images as they are.
        fit: crop the middle of an image, or stretch all of it, to that square.
        profile: How raw maps become heatmaps (`segcam methods` lists profiles).
        colormap: A matplotlib colour table, for example jet.
        seed: Of all random numbers.
        out: Folder of the gallery.
        overwrite: Make every figure anew.
    """

    images: Images = ()
    models: Names = ()
    layers: Names = ("first", "middle", "last")
    methods: Names = ("grad_cam", "grad_cam_pp", "eigen_cam", "xgrad_cam")
    top: int = 1
    classes: Names = ()
    difference: Annotated[tuple[str, str] | None, _optional("A B")] = None
    multi_label: bool = False
    labels: MaybeFile = None
    of: Literal["logits", "probabilities"] = "logits"
    size: Annotated[int | None, _optional("PIXELS")] = None
    fit: Literal["crop", "stretch"] = "crop"
    profile: str = "segcam_jax"
    colormap: MaybeName = None
    seed: int = 0
    out: Path = Path("segcam-gallery")
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Embed:
    """Map a folder of images by what a layer says of them: PCA and t-SNE, as figures and CSV.

    For example: segcam embed photos --weights efficientnet-lite0-imagenet --tap middle last

    An image's activation is averaged over its positions; images that the layer takes for alike lie
    close together. Images in a sub-folder get that folder's colour.

    Attributes:
        folder: Images, in sub-folders if they belong to groups.
        weights: Installed or bundled weights by name, a .safetensors file, or random:NAME.
        tap: Where to look: first, middle, last, conv:N, or taps (`segcam layers` lists them).
        pool: How positions are pooled.
        projection: pca, tsne (needs the extra `embed`), or both.
        perplexity: t-SNE: how many neighbours an image has, about. Default: 30, or a third of the
            number of images if that is less.
        size: As in `segcam gallery`.
        fit: As in `segcam gallery`.
        seed: Of t-SNE, and of random weights.
        out: Folder of the figures.
        overwrite: Replace the files of an earlier run.
    """

    folder: tyro.conf.Positional[Path]
    weights: str
    tap: Names = ("last",)
    pool: Literal["mean", "max"] = "mean"
    projection: Names = ("pca", "tsne")
    perplexity: MaybeNumber = None
    size: Annotated[int | None, _optional("PIXELS")] = None
    fit: Literal["crop", "stretch"] = "crop"
    seed: int = 0
    out: Path = Path("segcam-embedding")
    overwrite: bool = False


COMMANDS = {
    "demo": Demo,
    "explain": Explain,
    "gallery": Gallery,
    "embed": Embed,
    "plan": Plan,
    "layers": Layers,
    "methods": Methods,
    "evaluate": Evaluate,
    "convert": Convert,
}


def parse(
    name: str, arguments: Sequence[str]
) -> Demo | Explain | Gallery | Embed | Layers | Methods | Evaluate | Convert:
    """Reads the options of a command.

    Raises:
        InputError: if they are wrong; tyro's message without its frame.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                COMMANDS[name],
                prog=f"segcam {name}",
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    text = re.sub(r"[\u2500-\u257f]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()))
    raise InputError(" ".join(text.split()) or f"wrong options; see segcam {name} --help")
