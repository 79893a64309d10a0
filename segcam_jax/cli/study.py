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
    """Which network, where in it, and how it gets images.

    Attributes:
        weights: Bundled or installed weights by name (texture-mnist-unbiased,
            texture-mnist-biased, efficientnet-lite0-imagenet), a .safetensors file,
            random:NAME, the folder of a trained nnU-Net of images (nnunet:FOLDER), or a model of
            your own (module.path:factory or file.py:factory): a function without arguments that
            returns an NNX, Equinox or PyTorch module, a Linen module and its variables, or fn and
            params.
        checkpoint: A file of weights (.pth, .pt, .ckpt, .safetensors) for a PyTorch module that a
            factory makes.
        mirror: Average an nnU-Net over mirrored inputs; this takes 4 times as many passes.
        tap: Where to explain: taps (`segcam layers` lists them), first, middle, last, conv:N, or
            all. Default: the bottleneck of a segmentation network, the last block of a classifier.
            Methods of the input always use the input.
        size: Resize images to this height and width, or to one number for both. Default: 299 for
            Inception, 224 for other classifiers; segmentation networks take images as they are.
        fit: How an image gets that size: crop its middle, or stretch all of it. Default: crop.
        range: The values of image files that become 0 and 1. Default: files of 8 bits are divided
            by 255, files of 16 bits by the range of the bits in use, and floats must lie in [0, 1].
        channels: How many channels the images of your own model have. Default: what it takes, 3
            or 1.
        normalisation: How to change images in [0, 1] for your own model: none (floats of any range
            stay as they are), imagenet, symmetric, efficientnet_lite,
            or MEAN/DEVIATION (0.5,0.5,0.5/0.2,0.2,0.2).
        layout: TAP=chw gives the order of a tap's axes inside of the model, without a batch,
            if `segcam layers` gets it wrong.
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
class Judging:
    """What a network's output means, and what the truth is.

    Attributes:
        truth: The ground truth that figures show, for a segmentation network: masks of the
            explained class, or maps of classes. Give a file for each image, or a folder; the
            command pairs them by name or by number (pesca001.png, taglio001.png).
        truth_threshold: Values of these masks above this are inside, in units of the files.
        truth_value: Pixels of these masks with this value are inside.
        truth_labels: The truth's values are numbers of classes; 255 is unknown.
        outputs: What the network returns. Default: what its weights or adapter say, or else its
            last operations, if they are a softmax over classes or a sigmoid.
        multi_label: The classes do not exclude each other: each has a probability of its own, its
            sigmoid. A pixel has every class whose probability exceeds --threshold.
        threshold: The threshold of --multi-label, or of a single class: one number, or one per
            class. Default: 0.5.
        labels: A file with one class name per line. Default: the names in the weights, or
            ImageNet's for 1000 classes.
    """

    truth: Files = ()
    truth_threshold: MaybeNumber = None
    truth_value: MaybeCount = None
    truth_labels: bool = False
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    labels: MaybeFile = None


@dataclasses.dataclass(frozen=True)
class Explaining:
    """What to explain in each image.

    Attributes:
        method: Methods by name (`segcam methods` lists them). Default: grad_cam.
        option: Options of methods: window=2, or fast_ablation_cam.window=2 for one of
            them (`segcam methods` lists them).
        importance: Make maps of the weights in a file, one for each channel of the
            tap (METHOD.TAP.weights.csv of another run, or .npy). Without --method, make no other
            maps.
        classes: Classes by name, number or rank (top:2), or predicted. The command explains each by
            itself. "tabby rather than tiger cat" explains what speaks for one class and against
            another. In a segmentation, the first class is the most frequent one apart from the
            background. Default: predicted.
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL, mask:FILE or mask:FILE=VALUE, in coordinates of the image as displayed.
            The command explains each of several regions by itself. Default: predicted.
        min_probability: Predicted pixels need a probability above this; 0.5 is Seg-Grad-CAM's.
        mask_threshold: Values of a mask file above this are inside, in units of the file.
        of: Explain logits or probabilities. Default: logits.
        reduce: How to combine the region's pixels into one score. Default: sum.
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
        shard: How many images to compute and store together. Default: 64, or fewer large images.
        batch: How many images run at once, a power of two. Default: the command finds it out.
        config: Read options from a .toml file or a run's manifest.json, under the same names;
            options given here override them. Without images, repeat the run of the manifest.
        out: Where results go. A run that was interrupted there resumes.
        overwrite: Replace another run; other people's files stay.
        devices: How many devices of this machine share the images. Default: all.
        memory_limit: How much memory a method may take besides parameters and input, such as 500MB
            or 2GiB.
        on_error: What to do if an image fails: write a row with the reason, or stop the run.
        verify: Check finished shards by the digests of image files and stored arrays, not only by
            sizes and times.
        share: K/N computes only every N-th shard, from the K-th on. N processes, each with its own
            K, fill one run together.
        ray: Compute on a Ray cluster: its address, or auto (extra `ray`).
        workers: How many processes --ray starts, each with one GPU if there are any.
        dry_run: Say what the command would do and what that costs, and write nothing.
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
class Study(Running, Judging, Explaining, Opening):
    """What to explain in which images, and how a run computes it."""


@dataclasses.dataclass(frozen=True)
class Sweep(Study):
    """Explain many images, and store the maps; a killed run resumes.

    For example:

      segcam sweep photographs/ --weights efficientnet-lite0-imagenet --out run.zarr

      segcam sweep list.csv --weights my_networks.py:make --tap all --method grad_cam layer_cam

      segcam sweep scans/ --config sweep.toml --share 3/64

    If an image fails, its row of the table says why, and the run continues (exit code 3 at its
    end). `segcam show run.zarr` shows a run, `segcam export run.zarr` writes files of it.

    Attributes:
        store_images: Store the images too.
    """

    store_images: bool = False


@dataclasses.dataclass(frozen=True)
class Drawn(Study):
    """A study whose maps are drawn.

    Attributes:
        profile: How to make heatmaps of raw maps (`segcam methods` lists profiles). Default:
            segcam_jax, or signed if ReLU would hide more than half of a map.
        smoothing: Smooth heatmaps by a Gaussian of this standard deviation, in pixels. Default: 0.
        colormap: A matplotlib colour map, for example jet.
        panels: How many panels the figure of a map of a segmentation has: 6 (input, truth,
            prediction, raw map, heatmap, overlay), 4 (input, overlay, truth, prediction), or 1
            (overlay). Default: 6.
        outline: The colour of the explained region's outline, for example magenta.
        no_figures: Write no PNG files; `segcam export` draws them later.
        devices: How many devices of this machine share the images.
    """

    profile: MaybeName = None
    smoothing: MaybeNumber = None
    colormap: MaybeName = None
    panels: MaybeCount = None
    outline: MaybeName = None
    no_figures: bool = False
    devices: MaybeCount = 1


@dataclasses.dataclass(frozen=True)
class Explain(Drawn):
    """Explain what a network sees in images: write maps, figures, a table and a manifest.

    For example:

      segcam explain scan.png --weights texture-mnist-unbiased --out results

      segcam explain a.png b.png --weights my.safetensors --class 2 --region largest
      --tap bottleneck decoder1 --method grad_cam ablation_cam integrated_gradients

      segcam explain cat.jpg --weights efficientnet-lite0-imagenet --class top:1 top:2

      segcam explain cat.jpg --weights my_networks.py:make --tap layers/0/conv --labels names.txt

      segcam explain --config results/manifest.json --out again

    The folder holds the run (run.zarr, for `segcam show` and `segcam export`), a folder of maps
    (.npy) and figures (.png) for each image, items.csv, and manifest.json. If an image fails, its
    row of the table says why, and the run continues (exit code 3 at its end).

    Attributes:
        method: Methods by name (`segcam methods` lists them). Default: grad_cam ablation_cam.
        out: Folder of the results. A run that was interrupted there resumes.
    """

    out: Path = Path("segcam-out")


@dataclasses.dataclass(frozen=True)
class Gallery(Drawn):
    """Compare networks, layers and methods: draw each image beside one map per method.

    For example:

      segcam gallery cat.jpg dog.jpg --weights efficientnet-lite0-imagenet --out gallery

      segcam gallery photos --weights resnet50.safetensors densenet121.safetensors
      --tap conv:1 middle last --method grad_cam ablation_cam --class top:1 top:2

      segcam gallery cat.jpg --weights resnet50.safetensors --class "tabby rather than Egyptian cat"

    Every network gets one figure per image and layer, and one with all its layers. Further figures
    compare several networks or several classes. The raw maps are beside the figures, the run of
    each network (NETWORK.zarr, for `segcam show`) is beside the folders of the images, and
    gallery.json lists everything. A gallery that was interrupted resumes. You can add images to a
    gallery in the same folder; what is there stays. If an image fails, the command says why and
    continues (exit code 3 at its end).

    Attributes:
        weights: Networks, each as in `segcam explain`: names, files, models of your
            own (file.py:factory), or random:NAME (random:resnet50) for random weights.
        tap: Where to explain: first, middle and last are outputs of the network's blocks (the
            middle of a segmentation network is its bottleneck), conv:N is the N-th convolution,
            from 1; taps (`segcam layers` lists them), or all. Default: first middle last.
        method: Methods by name (`segcam methods` lists them). Default: grad_cam grad_cam_pp
            eigen_cam xgrad_cam.
        shard: How many images to compute and store together. Default: 8.
        out: Folder of the gallery.
    """

    weights: Names = ()  # pyright: ignore[reportIncompatibleVariableOverride] - several of them.
    shard: MaybeCount = 8
    out: Path = Path("segcam-gallery")


@dataclasses.dataclass(frozen=True)
class Embed(Running, Opening):
    """Map images by a layer's activations: PCA and t-SNE, as figures and CSV.

    For example: segcam embed photos --weights efficientnet-lite0-imagenet --tap middle last

    The command pools the activation of an image over its positions, so images that look alike to
    the layer lie close together. Images in a sub-folder get that folder's colour. The command
    stores the pooled activations as a run (run.zarr): after an interruption it resumes, and it can
    draw other projections of the same run. If an image fails, the command says why and leaves the
    image out (exit code 3).

    Attributes:
        tap: Where to look: first, middle, last, conv:N, or taps (`segcam layers` lists them).
            Default: last.
        pool: How to pool positions. Default: mean.
        projection: pca, tsne (needs the extra `embed`), or both.
        perplexity: Roughly the number of an image's neighbours in t-SNE. Default: 30, or a third of
            the number of images if that is less.
        seed: The seed of t-SNE and of random weights. Default: 0.
        out: Folder of the figures.
    """

    pool: MaybePool = None
    projection: Names = ("pca", "tsne")
    perplexity: MaybeNumber = None
    out: Path = Path("segcam-embedding")


@dataclasses.dataclass(frozen=True)
class Occlude(Running, Judging, Opening):
    """Occlude activation maps, one by one and all at once: what does a segmentation lose?

    For example:

      segcam occlude scan.png --weights texture-mnist-unbiased --out occluded

      segcam occlude peaches/ --truth masks/ --truth-threshold 100 --weights unet.safetensors

    The foreground is a class of the truth, or of the prediction. The command sets a quarter, a
    half, three quarters and all of it to 0 in the activation maps of a tap, in all maps together
    and in each map alone; and likewise of the background. Tables have the mean output (logits, or
    probabilities) of foreground and background, and the mean Dice, before and after. ablations.csv
    has them for maps that are 0 everywhere, sorted. The folder holds the run (run.zarr), from which
    the same command draws figures again without the network.

    Attributes:
        tap: Whose maps to occlude: a tap (`segcam layers` lists them), first, middle or last.
            Default: the bottleneck.
        truth: As in `segcam explain`. Default: the prediction.
        classes: The one class that is the foreground: a name, number or rank (top:2). Default:
            predicted.
        shares: Which shares of the foreground's (background's) positions to occlude, above 0 and at
            most 1. Default: a quarter, a half, three quarters, all.
        places: How many places to occlude for each share below 1, at most 100. The first is in the
            middle, the others are far apart. Default: 2.
        occluded: What to occlude: foreground, background, or both. Default: both.
        value: Occluded positions get this value. Default: 0.
        cover: Which positions of the maps are foreground. linear: where the mask, resized linearly,
            exceeds 100 of 255. touched: all positions that the mask touches. Default: linear.
        shard: How many images to compute and store together. Default: 1.
        no_figures: Write no PNG files; the same command without it draws them from the run.
        out: Folder of the results. A run that was interrupted there resumes.
    """

    classes: Classes = ()
    shares: Thresholds = ()
    places: MaybeCount = None
    occluded: Names = ()
    value: MaybeNumber = None
    cover: Annotated[Literal["linear", "touched"] | None, optional("{linear,touched}")] = None
    shard: MaybeCount = 1
    no_figures: bool = False
    out: Path = Path("segcam-occlusion")
