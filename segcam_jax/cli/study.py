"""The commands that explain images: one study, with the defaults of each."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from segcam_jax.cli.arguments import (
    Classes,
    Images,
    Layouts,
    MaybeCount,
    MaybeFile,
    MaybeName,
    MaybeNumber,
    MaybeOutputs,
    Names,
    Options,
    Range,
    Size,
    Thresholds,
    optional,
)

Files = Annotated[tuple[Path, ...], optional("FILE ...")]
MaybeFit = Annotated[Literal["crop", "stretch"] | None, optional("{crop,stretch}")]
MaybeOf = Annotated[Literal["logits", "probabilities"] | None, optional("{logits,probabilities}")]
MaybeReduce = Annotated[Literal["sum", "mean"] | None, optional("{sum,mean}")]
MaybePrecision = Annotated[
    Literal["float32", "tf32", "bfloat16"] | None, optional("{float32,tf32,bfloat16}")
]
MaybePool = Annotated[Literal["mean", "max"] | None, optional("{mean,max}")]
MaybeStored = Annotated[Literal["float32", "float16"] | None, optional("{float32,float16}")]


@dataclasses.dataclass(frozen=True)
class Opening:
    """Which network, where in it, and how it is given images.

    Attributes:
        weights: Bundled or installed weights by name (`texture-mnist-unbiased`,
            `texture-mnist-biased`, `efficientnet-lite0-imagenet`), a .safetensors file,
            random:NAME, the folder of a trained nnU-Net of images (nnunet:FOLDER), or a model of
            your own (module.path:factory or file.py:factory): a function without arguments that
            returns an NNX, Equinox or PyTorch module, a Linen module and its variables, or fn and
            params.
        checkpoint: A file of weights (.pth, .pt, .ckpt, .safetensors) for a PyTorch module that a
            factory makes.
        mirror: Average an nnU-Net over mirrored inputs, which takes 4 times as many passes.
        tap: Where to explain: taps (`segcam layers` lists them), first, middle, last, conv:N, or
            all. Default: the bottleneck of a segmentation network, the last block of a classifier.
            Methods of the input always use the input.
        size: Height and width that images are brought to, or one number for both. Default: 299 for
            Inception, 224 for other classifiers; segmentation networks take images as they are.
        fit: crop the middle of an image, or stretch all of it, to that size. Default: crop.
        range: Values of the image files that become 0 and 1. Default: 8 bits are divided by 255,
            16 bits by the range of the bits that they use, and floats must lie in [0, 1].
        channels: How many channels the images of your own model have. Default: what it takes, 3
            or 1.
        normalisation: How your own model expects images that are in [0, 1] to be changed: none
            (floats of any range stay as they are), imagenet, symmetric, efficientnet_lite, or
            MEAN/DEVIATION (0.5,0.5,0.5/0.2,0.2,0.2).
        layout: TAP=chw says how a tap lies inside of the model, without a batch, if `segcam layers`
            gets it wrong.
        seed: The seed of all random numbers. Default: 0.
    """

    weights: MaybeName = None
    checkpoint: MaybeFile = None
    mirror: bool = False
    tap: Names = ()
    size: Size = ()
    fit: MaybeFit = None
    range: Range = ()
    channels: MaybeCount = None
    normalisation: MaybeName = None
    layout: Layouts = ()
    seed: MaybeCount = None


@dataclasses.dataclass(frozen=True)
class Explaining:
    """What is explained of each image.

    Attributes:
        method: Methods by name (`segcam methods` lists them). Default: grad_cam.
        option: Options of methods: window=2, or fast_ablation_cam.window=2 for one of them
            (`segcam methods` lists them).
        importance: A file with a weight for each channel of the tap (METHOD.TAP.weights.csv of
            another run, or .npy): maps of these weights. Without --method, the only ones.
        classes: Classes by name, number or rank (top:2), or predicted; each is explained by itself.
            "tabby rather than tiger cat" explains what speaks for one class and against another. In
            a segmentation, the first class is the most frequent one apart from the background.
            Default: predicted.
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL, mask:FILE or mask:FILE=VALUE, in coordinates of the image as displayed;
            of several each is explained by itself. Default: predicted.
        min_probability: Predicted pixels need a probability above this; 0.5 is Seg-Grad-CAM's.
        mask_threshold: Values of a mask file above this are inside, in units of the file.
        truth: Of a segmentation network, masks of the explained class in the images, or maps of
            classes, which figures show: a file for each image, or a folder; paired by name or by
            number (pesca001.png, taglio001.png).
        truth_threshold: Of these masks, inside is what lies above it, in units of the files'
            values.
        truth_value: Of these masks, inside is what has this value.
        truth_labels: The truth's values are numbers of classes; 255 is unknown.
        outputs: What the network returns. Default: what its weights or adapter say, or its last
            operations, if they are a softmax over classes or a sigmoid.
        multi_label: The classes do not exclude each other: each has a probability of its own, its
            sigmoid. Pixels are predicted as each class whose probability lies above --threshold.
        threshold: With --multi-label, or with one class alone: one number, or one per class.
            Default: 0.5.
        labels: A file with the name of one class a line. Default: those of the weights, or
            ImageNet's for 1000 classes.
        of: Explain logits or probabilities. Default: logits.
        reduce: How the region's pixels become one score. Default: sum.
        precision: The precision of convolutions and products after the tap. Default: float32, which
            is exact.
        store: The type of the stored maps. Default: float32.
    """

    method: Names = ()
    option: Options = ()
    importance: MaybeFile = None
    classes: Classes = ()
    region: Annotated[tuple[str, ...], optional("WORDS ...")] = ()
    min_probability: MaybeNumber = None
    mask_threshold: MaybeNumber = None
    truth: Files = ()
    truth_threshold: MaybeNumber = None
    truth_value: MaybeCount = None
    truth_labels: bool = False
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    labels: MaybeFile = None
    of: MaybeOf = None
    reduce: MaybeReduce = None
    precision: MaybePrecision = None
    store: MaybeStored = None


@dataclasses.dataclass(frozen=True)
class Running:
    """Which images, and how a run computes them.

    Attributes:
        images: Image files (PNG, JPEG, TIFF, ... or .npy arrays in [0, 1]), folders, one .csv with
            the columns image and class, region or mask, or one .zarr array of images.
        shard: Items that are computed and stored together. Default: 64, fewer of large images.
        batch: How many images run at once, a power of two. Default: the command finds it out.
        config: Options from a .toml file or a run's manifest.json, by the same names; options given
            here override them. Without images, the run of a manifest is repeated.
        out: Where results go. A run that was interrupted there goes on.
        overwrite: Replace another run; other people's files stay.
        devices: How many devices of this machine share the images. Default: all.
        memory_limit: How much memory a method may take besides parameters and input, such as 500MB
            or 2GiB.
        on_error: What happens if an image fails: it becomes a row with its reason, or the run
            stops.
        verify: Check finished shards by the digests of their files and of what is stored, not only
            by sizes and times.
        share: K/N computes only every N-th shard, from the K-th on. N processes, each with its own
            K, fill one run together.
        ray: Compute on a Ray cluster: its address, or auto (extra `ray`).
        workers: With --ray, how many processes there are, each with one GPU if there are any.
        dry_run: Say what would be done and what it costs, and write nothing.
    """

    images: Images = ()
    shard: MaybeCount = None
    batch: MaybeCount = None
    config: MaybeFile = None
    out: Path = Path("run.zarr")
    overwrite: bool = False
    devices: MaybeCount = None
    memory_limit: Annotated[str | None, optional("BYTES")] = None
    on_error: Literal["row", "stop"] = "row"
    verify: bool = False
    share: Annotated[str | None, optional("K/N")] = None
    ray: Annotated[str | None, optional("ADDRESS")] = None
    workers: int = 1
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class Study(Running, Explaining, Opening):
    """What is explained of which images, and how a run computes it."""


@dataclasses.dataclass(frozen=True)
class Sweep(Study):
    """Explain many images into a store of maps that a killed run goes on with.

    For example:

      segcam sweep photographs/ --weights efficientnet-lite0-imagenet --out run.zarr

      segcam sweep list.csv --weights my_networks.py:make --tap all --method grad_cam layer_cam

      segcam sweep scans/ --config sweep.toml --share 3/64

    If an image fails, its row of the table says why, and the run goes on (exit code 3 at its end).
    `segcam show run.zarr` shows a run, `segcam export run.zarr` writes files of it.

    Attributes:
        store_images: Store the images too.
    """

    store_images: bool = False


@dataclasses.dataclass(frozen=True)
class Drawn(Study):
    """A study whose maps are drawn.

    Attributes:
        profile: How raw maps become heatmaps (`segcam methods` lists profiles). Default:
            segcam_jax, or signed where ReLU would hide more than half of a map.
        smoothing: Standard deviation, in pixels, of a Gaussian on the heatmaps. Default: 0.
        colormap: A matplotlib colour table, for example jet.
        no_figures: Write no PNG; `segcam export` draws them later.
        devices: How many devices of this machine share the images.
    """

    profile: MaybeName = None
    smoothing: MaybeNumber = None
    colormap: MaybeName = None
    no_figures: bool = False
    devices: MaybeCount = 1


@dataclasses.dataclass(frozen=True)
class Explain(Drawn):
    """Explain what a network says of images: maps, figures, a table, a manifest.

    For example:

      segcam explain scan.png --weights texture-mnist-unbiased --out results

      segcam explain a.png b.png --weights my.safetensors --class 2 --region largest
      --tap bottleneck decoder1 --method grad_cam ablation_cam integrated_gradients

      segcam explain cat.jpg --weights efficientnet-lite0-imagenet --class top:1 top:2

      segcam explain cat.jpg --weights my_networks.py:make --tap layers/0/conv --labels names.txt

      segcam explain --config results/manifest.json --out again

    The folder holds the run (run.zarr, which `segcam show` and `segcam export` take), a folder of
    maps (.npy) and figures (.png) for each image, items.csv, and manifest.json. If an image fails,
    its row of the table says why, and the run goes on (exit code 3 at its end).

    Attributes:
        method: Methods by name (`segcam methods` lists them). Default: grad_cam ablation_cam.
        out: Folder of the results. A run that was interrupted there goes on.
    """

    out: Path = Path("segcam-out")


@dataclasses.dataclass(frozen=True)
class Gallery(Drawn):
    """Compare networks, layers and methods on images: the input beside one map per method.

    For example:

      segcam gallery cat.jpg dog.jpg --weights efficientnet-lite0-imagenet --out gallery

      segcam gallery photos --weights resnet50.safetensors densenet121.safetensors
      --tap conv:1 middle last --method grad_cam ablation_cam --class top:1 top:2

      segcam gallery cat.jpg --weights resnet50.safetensors --class "tabby rather than Egyptian cat"

    Every network gets one figure per image and layer, and one with its layers below each other.
    Further figures compare several networks or several classes. Raw maps lie beside the figures,
    the run of each network (NETWORK.zarr, which `segcam show` takes) beside the folders of the
    images, and gallery.json lists all of it. A gallery that was interrupted goes on. You can add
    images to a gallery in the same folder; what is there stays. If an image fails, the command says
    why and goes on (exit code 3 at its end).

    Attributes:
        weights: Networks, each as in `segcam explain`: names, files, models of your own
            (file.py:factory), or random:NAME (random:resnet50) for random weights.
        tap: Where to explain: first, middle and last are outputs of the network's blocks (the
            middle of a segmentation network is its bottleneck), conv:N is the N-th convolution,
            from 1; taps (`segcam layers` lists them), or all. Default: first middle last.
        method: Methods by name (`segcam methods` lists them). Default: grad_cam grad_cam_pp
            eigen_cam xgrad_cam.
        shard: Images that are computed and stored together. Default: 8.
        out: Folder of the gallery.
    """

    weights: Names = ()  # pyright: ignore[reportIncompatibleVariableOverride] - several of them.
    shard: MaybeCount = 8
    out: Path = Path("segcam-gallery")


@dataclasses.dataclass(frozen=True)
class Embed(Running, Opening):
    """Map images by what a layer says of them: PCA and t-SNE, as figures and CSV.

    For example: segcam embed photos --weights efficientnet-lite0-imagenet --tap middle last

    The command pools the activation of an image over its positions; images that are alike to the
    layer lie close together. Images in a sub-folder get that folder's colour. The pooled
    activations are kept as a run (run.zarr): the same command goes on with it after an
    interruption, and draws other projections of it. Images that fail are named with their reason,
    and left out (exit code 3).

    Attributes:
        tap: Where to look: first, middle, last, conv:N, or taps (`segcam layers` lists them).
            Default: last.
        pool: How positions are pooled. Default: mean.
        projection: pca, tsne (needs the extra `embed`), or both.
        perplexity: About how many neighbours an image has in t-SNE. Default: 30, or a third of the
            number of images if that is less.
        seed: The seed of t-SNE and of random weights. Default: 0.
        out: Folder of the figures.
    """

    pool: MaybePool = None
    projection: Names = ("pca", "tsne")
    perplexity: MaybeNumber = None
    out: Path = Path("segcam-embedding")


@dataclasses.dataclass(frozen=True)
class Occlude(Opening):
    """Occlude parts of activation maps, one by one and all at once: what does a segmentation lose?

    For example:

      segcam occlude scan.png --weights texture-mnist-unbiased --out occluded

      segcam occlude peaches/ --truth masks/ --truth-threshold 100 --weights unet.safetensors

    The foreground is a class of the truth, or of the prediction; each share of it, and of the rest,
    is set to 0 in the maps of a tap. Tables tell the mean outputs (logits, or probabilities) of
    foreground and background and the mean Dice, before and after, of every map; ablations.csv those
    of whole maps, sorted. The same command goes on with one that was interrupted.

    Attributes:
        images: Image files, or folders of them.
        tap: Whose maps: a tap (`segcam layers` lists them), first, middle or last. Default: the
            bottleneck.
        truth: As in `segcam explain`. Default: what is predicted.
        truth_threshold: As in `segcam explain`.
        truth_value: As in `segcam explain`.
        truth_labels: As in `segcam explain`.
        classes: The foreground, one: by name, number or rank (top:2). Default: predicted.
        outputs: As in `segcam explain`.
        multi_label: As in `segcam explain`.
        threshold: As in `segcam explain`.
        labels: As in `segcam explain`.
        shares: Of the foreground's (background's) positions, above 0 and at most 1. Default: a
            quarter, a half, three quarters, all.
        places: How many for each share below 1, at most 100: the first in the middle, the others
            apart.
        occluded: foreground, background, or both.
        value: What is occluded becomes this.
        cover: Which positions of the maps are foreground: where its mask, resized linearly, lies
            above 100 of 255; or all that it has touched.
        memory_limit: As in `segcam explain`.
        on_error: What an image that fails does: be told with its reason, or stop the study.
        no_figures: Write tables only. Figures cannot be added later without computing again.
        out: Folder of the results.
        overwrite: Write into a folder that holds other files of these names.
    """

    images: Images = ()
    truth: Files = ()
    truth_threshold: MaybeNumber = None
    truth_value: MaybeCount = None
    truth_labels: bool = False
    classes: Classes = ()
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    labels: MaybeFile = None
    shares: Thresholds = ()
    places: int = 2
    occluded: Names = ("foreground", "background")
    value: float = 0.0
    cover: Literal["linear", "touched"] = "linear"
    memory_limit: Annotated[str | None, optional("BYTES")] = None
    on_error: Literal["row", "stop"] = "row"
    no_figures: bool = False
    out: Path = Path("segcam-occlusion")
    overwrite: bool = False
