"""The commands about stored runs: what each is told."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.cli.arguments import MaybeFile, MaybeName, Names, Options, optional
from segcam_jax.cli.study import Study


@dataclasses.dataclass(frozen=True)
class Show:
    """Look at a stored run: what it holds, one image, the first by a column; as figures too.

    For example:

      segcam show run.zarr --out first.png

      segcam show run.zarr --item 17 --out item.png

      segcam show run.zarr --worst score --count 4 --out worst.png

    The network is not run again: figures are drawn from the stored maps, and from the files of the
    images, which must not have changed.

    Attributes:
        run: The folder of the run.
        item: One image, by its number in the run, its name or its file.
        best: A column of the table: the results with its largest values.
        worst: A column of the table: the results with its smallest values.
        count: How many results are listed and drawn.
        out: Draw it, to a file of this name; several targets of an image, or best and worst, to
            files of similar names.
        profile: As in `segcam explain`.
        smoothing: As in `segcam explain`.
        colormap: As in `segcam explain`.
    """

    run: tyro.conf.Positional[Path]
    item: Annotated[str | None, optional("N|NAME")] = None
    best: Annotated[str | None, optional("COLUMN")] = None
    worst: Annotated[str | None, optional("COLUMN")] = None
    count: int = 8
    out: MaybeFile = None
    profile: str = "auto"
    smoothing: float = 0.0
    colormap: MaybeName = None


@dataclasses.dataclass(frozen=True)
class Score(Study):
    """Score maps by metrics, and rank their methods: those of a stored run, or of images.

    For example:

      segcam score run.zarr

      segcam score run.zarr --metric deletion dice_deletion --option steps=10 --option at=tap

      segcam score photographs/ --weights efficientnet-lite0-imagenet --tap middle last
      --method grad_cam layer_cam eigen_cam --metric insertion road --out run.zarr

    Scores are columns beside the run, in its folder `scores`, with tables and figures. A scoring
    that was killed goes on; a metric that is asked for later costs itself alone. Images are
    explained first, into a run as `segcam sweep` stores it: what was killed goes on there too.

    Attributes:
        images: The folder of a stored run. With --weights or --config, images as in `segcam
            explain`; all other options but those of metrics are of these.
        method: As in `segcam explain`.
        metric: Metrics by name (`segcam methods` lists them). Default: deletion, insertion and
            road; of regions with dice_deletion, dice_insertion and off_target_drop, of classifiers
            with average_drop.
        option: Options of metrics, for each that has one of the name: steps=10, at=tap,
            where=outside, baseline=blur.
        method_option: Options of methods, as `--option` of `segcam explain`.
        seed: Of all random numbers. Default: 0.
        no_controls: Leave out the random map, and the mask-shaped map of regions, that are scored
            beside every method.
        on_error: What an image or a map that fails does: be a row with its reason, or stop.
        share: As in `segcam sweep`; who finishes the run scores it.
        dry_run: Say what would be done of images and what it costs, and write nothing.
        out: Where the run of the images goes. One that was interrupted there goes on.
    """

    metric: Names = ()
    method_option: Options = ()
    no_controls: bool = False


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a stored run as files: a PNG and a .npy array per map, and a table.

    For example:

      segcam export run.zarr --out files

      segcam export run.zarr --out files --what png --items 0-9 cat

    Attributes:
        run: The folder of the run.
        out: The folder of the files.
        what: png: figures; npy: raw maps; csv: the table of all images, items.csv.
        items: Images by number, range of numbers (10-19), name or file. Default: all.
        profile: As in `segcam explain`.
        smoothing: As in `segcam explain`.
        colormap: As in `segcam explain`.
        overwrite: Write over files that are there.
    """

    run: tyro.conf.Positional[Path]
    out: Path
    what: tuple[Literal["png", "npy", "csv"], ...] = ("png", "npy", "csv")
    items: Names = ()
    profile: str = "auto"
    smoothing: float = 0.0
    colormap: MaybeName = None
    overwrite: bool = False
