"""The commands about one network: its layers, its explanations, what they would cost."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.cli.arguments import (
    Images,
    MaybeCount,
    MaybeFile,
    MaybeName,
    MaybeNumber,
    MaybeOutputs,
    Names,
    Range,
    Size,
    Thresholds,
    optional,
    several,
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """List the taps of a network with their shapes.

    For example:

      segcam layers --weights texture-mnist-unbiased --size 128 96

      segcam layers my_networks.py:make

      segcam layers random:resnet50

    Attributes:
        network: A model of your own (module.path:factory or file.py:factory), a file, bundled
            weights, or random:NAME.
        weights: The same, by an option.
        model: The network expected in the file, or a model of your own.
        size: Height and width of an image, or one number for both; of a volume, three numbers.
        channels: As in `segcam explain`.
        seed: Of random weights.
    """

    network: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NETWORK", help_behavior_hint="")
    ] = None
    weights: MaybeName = None
    model: MaybeName = None
    size: Size = ()
    channels: MaybeCount = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explain what a network says of images: maps, figures, and a manifest.

    For example:

      segcam explain scan.png --weights texture-mnist-unbiased --out results

      segcam explain a.png b.png --weights my.safetensors --class-index 2 --region largest
      --tap bottleneck decoder1 --method grad_cam ablation_cam integrated_gradients

      segcam explain cat.jpg --weights efficientnet-lite0-imagenet --top 2

      segcam explain cat.jpg --model my_networks.py:make --tap layers/0/conv --labels names.txt

      segcam explain --repeat results/manifest.json --out again

    Attributes:
        images: Image files (PNG, JPEG, TIFF, ... or .npy arrays in [0, 1]).
        weights: Bundled or installed weights by name (`texture-mnist-unbiased`,
            `texture-mnist-biased`, `efficientnet-lite0-imagenet`), a .safetensors file, or
            random:NAME.
        model: The network expected in the file; or instead of weights a model of your own,
            module.path:factory or file.py:factory: a function without arguments that returns an NNX
            or Equinox module, a Linen module and its variables, or fn and params.
        tap: Where to explain: taps (`segcam layers` lists them), first, middle, last or conv:N.
            Default: the bottleneck, of a classifier the last block. Methods of the input always
            use the input.
        method: Methods by name (`segcam methods` lists them).
        option: Options of methods: window=2, or fast_ablation_cam.window=2 for one method alone
            (`segcam methods` lists them).
        classes: Classes by name, number or rank (top:2), each explained by itself.
        top: Explain the N classes predicted first: the most probable ones of an image; the most
            frequent ones of pixels but the background.
        class_index: Number or name of one class.
        labels: A file with the name of one class a line. Default: those of the weights, or
            ImageNet's for 1000 classes.
        outputs: What the network returns. Default: what its weights or adapter say, or its last
            operations, if they are a softmax over classes or a sigmoid.
        multi_label: The classes do not exclude each other: each has a probability of its own, its
            sigmoid. Pixels are predicted as each class whose probability lies above --threshold.
        threshold: With --multi-label, or one class alone: one number, or one per class; 0.5 if
            nothing is given.
        size: Height and width that images are brought to, or one number for both. Default: 299 for
            Inception, 224 for other classifiers; segmentation networks take images as they are.
        fit: crop the middle of an image, or stretch all of it, to that size.
        range: Values of the image files that become 0 and 1. Default: 8 bits are divided by 255,
            16 bits by the range of the bits that they use, and floats must lie in [0, 1].
        channels: A model of your own: channels of its images. Default: what it takes, 3 or 1.
        normalisation: A model of your own: what is done to an image in [0, 1] first: none (floats
            of any range are taken as they are), imagenet, symmetric, efficientnet_lite, or
            MEAN/DEVIATION (0.5,0.5,0.5/0.2,0.2,0.2).
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL, mask:FILE or mask:FILE=VALUE, in coordinates of the image as displayed.
        min_probability: Predicted pixels need a probability above this; 0.5 is Seg-Grad-CAM's.
        mask_threshold: Of mask:FILE, inside is what lies above it, in units of the file's values.
        of: What is explained.
        reduce: How the region's pixels are reduced to one score.
        profile: How raw maps become heatmaps (`segcam methods` lists profiles). Default:
            segcam_jax, or signed where ReLU would hide more than half of a map.
        smoothing: Standard deviation, in pixels, of a Gaussian on the heatmaps.
        window: The same as --option window=N: extent of a window (fast_ablation_cam).
        stride: --option stride=N: distance of windows, at most the window (fast_ablation_cam).
        samples: --option samples=N: noisy copies (smooth_grad, instance_smooth_grad).
        sigma: --option sigma=NUMBER: noise, as a share of the image's range (smooth_grad,
            instance_smooth_grad).
        steps: --option steps=N: points of the quadrature (integrated_gradients).
        seed: Of all random numbers.
        colormap: A matplotlib colour table, for example jet.
        out: Folder of the results. A run that was interrupted there is resumed.
        overwrite: Replace another run in that folder; other people's files stay.
        precision: Of convolutions and products after the tap; float32 is exact.
        memory_limit: What a method may take besides parameters and input, such as 500MB or 2GiB.
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
    option: Annotated[tuple[str, ...], several("NAME=VALUE ...")] = ()
    classes: Names = ()
    top: int = 1
    class_index: MaybeName = None
    labels: MaybeFile = None
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    size: Size = ()
    fit: Literal["crop", "stretch"] = "crop"
    range: Range = ()
    channels: MaybeCount = None
    normalisation: MaybeName = None
    region: str = "predicted"
    min_probability: MaybeNumber = None
    mask_threshold: MaybeNumber = None
    of: Literal["logits", "probabilities"] = "logits"
    reduce: Literal["sum", "mean"] = "sum"
    profile: str = "auto"
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
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    memory_limit: Annotated[str | None, optional("BYTES")] = None
    devices: int = 1
    share: Annotated[str | None, optional("K/N")] = None
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
