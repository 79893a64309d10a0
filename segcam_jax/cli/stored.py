"""The commands about stored runs: their options."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.cli.arguments import MaybeFile, MaybeName, Names, Options, optional
from segcam_jax.cli.study import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """How stored maps are drawn.

    Attributes:
        profile: As in `segcam explain`.
        smoothing: As in `segcam explain`.
        colormap: As in `segcam explain`.
        panels: As in `segcam explain`.
        outline: As in `segcam explain`.
    """

    profile: str = "auto"
    smoothing: float = 0.0
    colormap: MaybeName = None
    panels: int = 6
    outline: MaybeName = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(Drawing):
    """Look at a stored run: its contents, one image, or the best and worst; draw figures.

    For example:

      segcam show run.zarr --out first.png

      segcam show run.zarr --item 17 --out item.png

      segcam show run.zarr --worst score --count 4 --out worst.png

    The command does not run the network. It draws figures from the stored maps and from the image
    files, which must not have changed.

    Attributes:
        run: The folder of the run.
        item: Show one image, by its number in the run, its name or its file.
        best: Show the results with the largest values of this column of the table.
        worst: Show the results with the smallest values of this column of the table.
        count: How many results to list and draw.
        out: Draw the results into this file. Several targets of an image, or best and worst, go to
            files with similar names.
    """

    run: tyro.conf.Positional[Path]
    item: Annotated[str | None, optional("N|NAME")] = None
    best: Annotated[str | None, optional("COLUMN")] = None
    worst: Annotated[str | None, optional("COLUMN")] = None
    count: int = 8
    out: MaybeFile = None


@dataclasses.dataclass(frozen=True)
class Score(Study):
    """Score the maps of a stored run, or of images, by metrics, and rank the methods.

    For example:

      segcam score run.zarr

      segcam score run.zarr --metric deletion dice_deletion --option steps=10 --option at=tap

      segcam score photographs/ --weights efficientnet-lite0-imagenet --tap middle last
      --method grad_cam layer_cam eigen_cam --metric insertion road --out run.zarr

    The command writes scores as columns beside the run, in its folder `scores`, with tables and
    figures. If it was killed, it resumes. If you ask for another metric later, it computes only
    that one. Given images, it first explains them into a run, as `segcam sweep` does; it resumes
    that run too.

    Attributes:
        images: The folder of a stored run. With --weights or --config, images as in `segcam
            explain`; all options but those of metrics then say how to explain them.
        method: As in `segcam explain`.
        metric: Metrics by name (`segcam methods` lists them). Default: deletion, insertion and
            road; for regions also dice_deletion, dice_insertion and off_target_drop, for
            classifiers also average_drop.
        option: Options of metrics, not of methods: steps=10 for all metrics that have it, or
            deletion.steps=10 for one of them (`segcam methods` lists them).
        method_option: Options of the methods that explain the images: what `--option` is in
            `segcam explain`. A stored run has its maps already.
        seed: The seed of all random numbers. Default: 0, or that of --config.
        no_controls: Leave out the controls: the random map, and for regions the mask-shaped map.
        on_error: What to do if an image or a map fails: write a row with the reason, or stop.
        share: As in `segcam sweep`; the process that finishes the run scores it.
        ray: Not supported here: explain with `segcam sweep --ray`, then score the run.
        dry_run: Say what explaining the images would do and cost, and write nothing.
        out: Where the run of the images goes. A run that was interrupted there resumes.
    """

    metric: Names = ()
    method_option: Options = ()
    no_controls: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Drawing):
    """Write files of a stored run: a PNG and a .npy array per map, and a table.

    For example:

      segcam export run.zarr --out files

      segcam export run.zarr --out files --what png --items 0-9 cat

    Attributes:
        run: The folder of the run.
        out: The folder of the files.
        what: What to write. png: figures. npy: raw maps. csv: the table of all images, items.csv.
        items: Which images to write, by number, range of numbers (10-19), name or file. Default:
            all.
        overwrite: Replace files that are there.
    """

    run: tyro.conf.Positional[Path]
    out: Path
    what: tuple[Literal["png", "npy", "csv"], ...] = ("png", "npy", "csv")
    items: Names = ()
    overwrite: bool = False
