"""The commands that look at many images, layers or networks side by side."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.cli.arguments import (
    Images,
    MaybeFile,
    MaybeName,
    MaybeNumber,
    MaybeOutputs,
    Names,
    Range,
    Thresholds,
    optional,
)


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
            texture-mnist-biased), .safetensors files of `segcam convert`, models of your own
            (module.path:factory or file.py:factory), or random:NAME (random:resnet50) for random
            weights.
        layers: first, middle and last: of the outputs of the network's blocks, the middle of a
            segmentation network being its bottleneck. Or conv:N, the N-th convolution, from 1. Or
            taps (`segcam layers` lists them).
        methods: Methods by name (`segcam methods` lists them).
        top: Explain the N most probable classes, each by itself.
        classes: Explain these classes instead, by name, number or rank (top:2).
        difference: Two classes: explain what speaks for the first rather than the second.
        outputs: As in `segcam explain`.
        multi_label: The classes do not exclude each other: each has a probability of its own.
        threshold: As in `segcam explain`.
        labels: A file with the name of one class a line. Default: those of the weights, or
            ImageNet's for 1000 classes.
        of: What is explained.
        size: The square that images are brought to. Default: 299 for Inception, 224 for other
            classifiers; segmentation networks take images as they are.
        fit: crop the middle of an image, or stretch all of it, to that square.
        range: As in `segcam explain`.
        profile: How raw maps become heatmaps (`segcam methods` lists profiles). Default:
            segcam_jax, or signed where ReLU would hide more than half of a map.
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
    difference: Annotated[tuple[str, str] | None, optional("A B")] = None
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    labels: MaybeFile = None
    of: Literal["logits", "probabilities"] = "logits"
    size: Annotated[int | None, optional("PIXELS")] = None
    fit: Literal["crop", "stretch"] = "crop"
    range: Range = ()
    profile: str = "auto"
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
        range: As in `segcam explain`.
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
    size: Annotated[int | None, optional("PIXELS")] = None
    fit: Literal["crop", "stretch"] = "crop"
    range: Range = ()
    seed: int = 0
    out: Path = Path("segcam-embedding")
    overwrite: bool = False
