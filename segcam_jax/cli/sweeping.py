"""The command that explains many images into a store."""

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

MaybeWords = Annotated[str | None, optional("WORDS")]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Explain many images into a store of maps that a killed run goes on with.

    For example:

      segcam sweep photographs/ --weights efficientnet-lite0-imagenet --out run.zarr

      segcam sweep list.csv --weights my_networks.py:make --tap all --method grad_cam layer_cam

      segcam sweep scans/ --config sweep.toml --share 3/64

    Images that fail are rows of the table with their reason; the run goes on (exit code 3 at its
    end). `segcam show run.zarr` looks at it, `segcam export run.zarr` writes files.

    Attributes:
        images: Image files, folders, one .csv with the columns image and class, region or mask,
            or one .zarr array of images.
        weights: Bundled or installed weights by name, a .safetensors file, random:NAME, or a model
            of your own (module.path:factory or file.py:factory).
        model: The network expected in a file of weights.
        tap: Where to explain: taps (`segcam layers` lists them), first, middle, last, conv:N, or
            all. Default: the bottleneck, of a classifier the last block.
        method: Methods by name (`segcam methods` lists them). Default: grad_cam.
        option: Options of methods: window=2, or fast_ablation_cam.window=2 for one of them.
        classes: Classes by name, number or rank (top:2), or predicted; each is explained by itself.
            Default: predicted.
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL, mask:FILE or mask:FILE=VALUE, in coordinates of the image as displayed.
        min_probability: Predicted pixels need a probability above this.
        mask_threshold: Of masks, inside is what lies above it, in units of the files' values.
        outputs: What the network returns. Default: what its weights, adapter or last operations
            say.
        multi_label: The classes do not exclude each other.
        threshold: With --multi-label: one probability, or one per class, above which pixels are
            predicted; 0.5 if nothing is given.
        labels: A file with the name of one class a line.
        size: Height and width that images are brought to, or one number for both.
        fit: crop the middle of an image, or stretch all of it, to that size.
        range: Values of the image files that become 0 and 1.
        channels: A model of your own: channels of its images.
        normalisation: A model of your own: none, imagenet, symmetric, efficientnet_lite, or
            MEAN/DEVIATION.
        of: What is explained.
        reduce: How the region's pixels are reduced to one score.
        precision: Of convolutions and products after the tap; float32 is exact.
        seed: Of all random numbers.
        store: Type of the stored maps.
        store_images: Store the images too.
        shard: Items that are computed and stored together. Default: 64, fewer of large images.
        batch: Images at once, a power of two. Default: as many as serve.
        config: Options from a .toml file or a run's manifest.json, by the same names; those given
            here count more.
        out: The store. A run that was interrupted there goes on.
        overwrite: Replace another run.
        devices: How many devices of this machine share the images. Default: all.
        memory_limit: What a method may take besides parameters and input, such as 500MB or 2GiB.
        on_error: What an image that fails does: be a row with its reason, or stop the run.
        verify: Trust finished shards by the digests of their files, not by size and time.
        share: K/N: only every N-th shard, from the K-th on. N processes, each with its own K, fill
            one store.
        ray: Compute on a Ray cluster: its address, or auto (extra `ray`).
        workers: With --ray: how many processes, each with one GPU where there are any.
        dry_run: Tell what would be done and what it costs; nothing is written.
    """

    images: Images = ()
    weights: MaybeName = None
    model: MaybeName = None
    tap: Names = ()
    method: Names = ()
    option: Annotated[tuple[str, ...], several("NAME=VALUE ...")] = ()
    classes: Annotated[Names, tyro.conf.arg(name="class")] = ()
    region: MaybeWords = None
    min_probability: MaybeNumber = None
    mask_threshold: MaybeNumber = None
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: Thresholds = ()
    labels: MaybeFile = None
    size: Size = ()
    fit: Annotated[Literal["crop", "stretch"] | None, optional("{crop,stretch}")] = None
    range: Range = ()
    channels: MaybeCount = None
    normalisation: MaybeName = None
    of: Annotated[Literal["logits", "probabilities"] | None, optional("{logits,probabilities}")] = (
        None
    )
    reduce: Annotated[Literal["sum", "mean"] | None, optional("{sum,mean}")] = None
    precision: Annotated[
        Literal["float32", "tf32", "bfloat16"] | None, optional("{float32,tf32,bfloat16}")
    ] = None
    seed: MaybeCount = None
    store: Annotated[Literal["float32", "float16"] | None, optional("{float32,float16}")] = None
    store_images: bool = False
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
