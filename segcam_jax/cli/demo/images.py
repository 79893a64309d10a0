"""The demo's images: two networks, one of which learned a shortcut, and where they look.

OUT/images/digit-3.png, ..., two-01.png, ..., list.csv   the bundled images
OUT/texture-mnist-biased.zarr, ...-unbiased.zarr         a run of each network
OUT/figures/*.png                                        drawn of the runs
"""

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
from matplotlib.figure import Figure
from PIL import Image

from segcam_jax import _files, viz
from segcam_jax.cli import console
from segcam_jax.data import samples
from segcam_jax.reports import images as reports
from segcam_jax.reports.comparison import Line, comparison
from segcam_jax.reports.figures import Look
from segcam_jax.reports.planted_bias import BiasRow, bias_rows, places_of
from segcam_jax.runs import StoredRun
from segcam_jax.runs.job import Job, OpenJob
from segcam_jax.runs.work import StudyOptions
from segcam_jax.taps import INPUT

BIASED, UNBIASED = "texture-mnist-biased", "texture-mnist-unbiased"
STORES = (f"{BIASED}.zarr", f"{UNBIASED}.zarr")
TAPS = ("encoder4", "bottleneck", "decoder1")
METHODS = ("grad_cam", "hires_cam", "grad_cam_pp", "xgrad_cam", "layer_cam", "ablation_cam")
# Of the input; 25 steps add up to the difference of scores to about a tenth.
OF_INPUT, STEPS = "integrated_gradients", ("integrated_gradients.steps=25",)
COMPARED = ("grad_cam", "xgrad_cam", "layer_cam", "ablation_cam")
SHOWN_METHOD, SHOWN_TAP = "ablation_cam", "bottleneck"
TABLE_METHODS = ("grad_cam", "hires_cam", "ablation_cam", OF_INPUT)
DIGITS = (3, 5, 8)
BIASED_CLASS = 2
# With the digits one batch: the page must be there within seconds, and each ablation is exact.
# `benchmarks/planted_bias.py` takes all 200 samples, and further methods.
TWOS = 5
_BATCH = 8
# All figures by one rule of colours, so that those of two networks compare.
_LOOK = Look(profile="segcam_jax")
# A difference counts if it exceeds two standard errors.
_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the runs say of the shortcut, in words and numbers of the page.

    Attributes:
        tap: at which the two networks differ most, on average over the methods.
        telling: by tap, how many methods tell the networks apart.
        methods: how many there are.
        halves: by network, the mean shares of the striped half and of the other one at the tap.
        table: network, method, and its shares of the three places.
        images: how many 2s were measured.
        left_out: by network, in how many of them it saw no 2.
        quality: by network, its mean IoU; empty where its weights do not say.
        proof: by network, the IoU of 2s with the stripes and without; likewise.
        twos: names of the two images that are shown.
    """

    tap: str
    telling: dict[str, int]
    methods: int
    halves: dict[str, tuple[str, str]]
    table: list[tuple[str, str, list[str]]]
    images: int
    left_out: dict[str, int]
    quality: dict[str, str]
    proof: dict[str, tuple[str, str]]
    twos: tuple[str, str]


def explain(out: Path, *, overwrite: bool) -> Finding:
    """Explains the images and draws the figures; what is there already is not computed again.

    Args:
        out: the folder of the demo.
        overwrite: replace runs that are others.

    Raises:
        InputError: if another run is there.
    """
    names, bundled = _write_images(out / "images", overwrite=overwrite), samples.load().biased
    jobs = {name: _opened(name, out, overwrite=overwrite) for name in (BIASED, UNBIASED)}
    runs: dict[str, StoredRun] = {}
    for name, job in jobs.items():
        with console.rates(f"explaining by {name}", len(job.items)) as show:
            runs[name] = job.run(show)
    places = dict(enumerate(places_of(bundled)[:TWOS], len(DIGITS)))
    rows = {name: _measured(run, places) for name, run in runs.items()}
    tops = {row: bool(bundled.biased_tile[row - len(DIGITS), 0, 0]) for row in places}
    shown = _telling(list(runs.values()), tops)
    tap = telling_tap(rows)
    figures = _figures(runs, rows, shown, tap)
    with console.progress("drawing", len(figures)) as advance:
        for name, draw in figures.items():
            viz.save(draw(), out / "figures" / f"{name}.png")
            advance(1, f"figures/{name}.png")
    about = {name: job.network.model.metadata for name, job in jobs.items()}
    counts = {name: TWOS - len(_pixels(run).keys() & places.keys()) for name, run in runs.items()}
    return _finding(rows, tap, about, counts, (names[shown[0]], names[shown[1]]))


def _write_images(folder: Path, *, overwrite: bool) -> list[str]:
    """Writes the images where they are not there, and a list of what is explained of each."""
    bundled = samples.load()
    images = [*bundled.unbiased.image[list(DIGITS)], *bundled.biased.image[:TWOS]]
    names = [f"digit-{digit}" for digit in DIGITS] + [f"two-{n:02}" for n in range(1, TWOS + 1)]
    classes = [*DIGITS, *[BIASED_CLASS] * TWOS]
    for name, image in zip(names, images, strict=True):
        stream = io.BytesIO()
        Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(stream, format="PNG")
        _files.keep_bytes(folder / f"{name}.png", stream.getvalue(), overwrite=overwrite)
    paths = [str((folder / f"{name}.png").resolve()) for name in names]
    table = polars.DataFrame({"image": paths, "class": classes})
    _files.keep_bytes(folder / "list.csv", table.write_csv().encode(), overwrite=overwrite)
    return names


def _opened(name: str, out: Path, *, overwrite: bool) -> OpenJob:
    # To find out how many images serve takes seconds of tracing.
    options = StudyOptions(
        weights=name, taps=TAPS, methods=(*METHODS, OF_INPUT), options=STEPS, batch=_BATCH
    )
    return Job(
        options, (out / "images" / "list.csv",), out / f"{name}.zarr", 1, None, overwrite
    ).open()


def _pixels(run: StoredRun) -> dict[int, int]:
    """How many pixels are explained of each row that has results."""
    there = run.table.filter(polars.col("error").is_null())
    return dict(there.select("row", "pixels").iter_rows())


def _measured(run: StoredRun, places: Mapping[int, np.ndarray]) -> tuple[BiasRow, ...]:
    """The planted bias, over the 2s in which a 2 is seen."""
    there = _pixels(run)
    return bias_rows(run, {row: where for row, where in places.items() if row in there})


def _telling(runs: Sequence[StoredRun], tops: Mapping[int, bool]) -> tuple[int, int]:
    """Two rows that both networks see much of a 2 in, with stripes at the top and the bottom."""
    counts = [_pixels(run) for run in runs]
    seen = {row: min(each.get(row, 0) for each in counts) for row in tops}
    top, bottom = (
        max((row for row in tops if tops[row] == side), key=seen.__getitem__)
        for side in (True, False)
    )
    return top, bottom


# ---- what the numbers say


def _leans(rows: Sequence[BiasRow]) -> dict[tuple[str, str], tuple[float, float]]:
    """By tap and method: by how much the striped half draws more than the other, and its error."""
    return {
        (row.tap, row.method): (
            row.biased - row.unbiased,
            float(np.hypot(row.biased_error, row.unbiased_error)),
        )
        for row in rows
    }


def gaps(rows: Mapping[str, Sequence[BiasRow]]) -> dict[str, list[tuple[float, bool]]]:
    """By layer, one entry per method: how much more the biased network leans to the stripes than
    the unbiased one, and whether that tells them apart: it leans there, by more than the errors.
    """
    biased, fair = _leans(rows[BIASED]), _leans(rows[UNBIASED])
    found: dict[str, list[tuple[float, bool]]] = {}
    for (tap, method), (lean, error) in biased.items():
        if tap == INPUT:
            continue
        other, other_error = fair[tap, method]
        tells = lean > 0 and lean - other > _ERRORS * float(np.hypot(error, other_error))
        found.setdefault(tap, []).append((lean - other, tells))
    return found


def telling_tap(rows: Mapping[str, Sequence[BiasRow]]) -> str:
    """The tap at which the two networks differ most, on average over the methods."""
    found = gaps(rows)
    return max(found, key=lambda tap: np.mean([gap for gap, _ in found[tap]]))


def _finding(
    rows: Mapping[str, Sequence[BiasRow]],
    tap: str,
    about: Mapping[str, Mapping[str, Any]],
    left_out: Mapping[str, int],
    twos: tuple[str, str],
) -> Finding:
    """What the page says."""
    at = {name: [row for row in each if row.tap == tap] for name, each in rows.items()}
    listed = {name: [row for row in each if row.tap in (tap, INPUT)] for name, each in rows.items()}
    shares = {name: [[row.biased, row.unbiased] for row in each] for name, each in at.items()}
    halves = {name: np.nanmean(each, axis=0) for name, each in shares.items()}
    quality = {name: (each.get("scores") or {}).get("mean_iou") for name, each in about.items()}
    proof = {name: each.get("shortcut") or {} for name, each in about.items()}
    return Finding(
        tap=tap,
        telling={at: sum(tells for _, tells in each) for at, each in gaps(rows).items()},
        methods=len(METHODS),
        halves={name: (_percent(one), _percent(other)) for name, (one, other) in halves.items()},
        table=[
            (
                _adjective(name),
                row.method + (", at the input" if row.tap == INPUT else ""),
                _cells(row),
            )
            for name, each in listed.items()
            for row in each
            if row.method in TABLE_METHODS
        ],
        images=TWOS,
        left_out={_adjective(name): count for name, count in left_out.items() if count},
        quality={_adjective(name): f"{value:.3f}" for name, value in quality.items() if value},
        proof={
            name: (f"{each['iou_planted']:.2f}", f"{each['iou_replaced']:.2f}")
            for name, each in proof.items()
            if {"iou_planted", "iou_replaced"} <= each.keys()
        },
        twos=twos,
    )


def _adjective(name: str) -> str:
    return name.rpartition("-")[2]


def _cells(row: BiasRow) -> list[str]:
    """Shares of the places, with the standard errors of their means."""
    errors = (row.biased_error, row.unbiased_error, row.digit_error)
    return [
        _percent(share, error)
        for share, error in zip((row.biased, row.unbiased, row.digit), errors, strict=True)
    ]


def _percent(share: float, error: float = float("nan")) -> str:
    if not np.isfinite(share):
        return "—"
    return f"{100 * share:.0f}" + (f" ± {100 * error:.0f} %" if np.isfinite(error) else " %")


# ---- the figures


def _steps(run: StoredRun, row: int, tap: str) -> Figure:
    """From the image to the overlay, beside the truth."""
    bundled = samples.load()
    labels = [*bundled.unbiased.label[list(DIGITS)], *bundled.biased.label[:TWOS]]
    subject = dataclasses.replace(reports.subject_of(run, row), truth=labels[row])
    return reports.map_figure(run, row, (SHOWN_METHOD, tap), _LOOK, subject=subject)


def _figures(
    runs: Mapping[str, StoredRun],
    rows: Mapping[str, Sequence[BiasRow]],
    twos: tuple[int, int],
    tap: str,
) -> dict[str, functools.partial[Figure]]:
    """What draws each figure, by its name."""
    biased, fair = runs[BIASED], runs[UNBIASED]
    first, second = ([Line(run, row, tap, COMPARED) for run in (biased, fair)] for row in twos)
    networks = functools.partial(functools.partial, comparison, kind="models", look=_LOOK)
    steps = functools.partial(functools.partial, _steps)
    every = [row for name in (BIASED, UNBIASED) for row in rows[name]]
    title = f"Class {BIASED_CLASS} in {TWOS} images with stripes"
    return {
        "two-a-networks": networks(first),
        "two-b-networks": networks(second),
        "two-a-biased": steps(biased, twos[0], tap),
        "two-a-unbiased": steps(fair, twos[0], tap),
        "bias": functools.partial(viz.bias_table, every, title=title),
        **{f"digit-{digit}": steps(fair, row, SHOWN_TAP) for row, digit in enumerate(DIGITS)},
        "montage": functools.partial(
            reports.montage, fair, 0, _LOOK, chosen=[(m, at) for at in TAPS for m in METHODS]
        ),
    }
