"""The files of a run of occlusion studies, from its folder alone.

OUT/run.zarr                the run
OUT/IMAGE/ablations.csv     whole maps: one row each, the most important first
OUT/IMAGE/occlusions.csv    a row per map, region, share and place
OUT/IMAGE/occlusion.png     curves over the share, maps sorted
OUT/IMAGE/patches.png       what was occluded
OUT/occlusion.csv, .png     all images: of all maps at once, means over places
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars

import segcam_jax
from segcam_jax import _files, viz
from segcam_jax.metrics import OcclusionStudy
from segcam_jax.reports.figures import drawable
from segcam_jax.reports.words import short
from segcam_jax.runs import StoredRun, open_store
from segcam_jax.runs.occlusion import READ, TRUTH, stored_study
from segcam_jax.types import InputError, counted
from segcam_jax.viz.occlusion import (
    OcclusionCurves,
    SortedMaps,
    occlusion,
    occlusion_patches,
    one_of,
)

TABLE, FIGURE = "occlusion.csv", "occlusion.png"
_TABLES, _FIGURES = ("ablations.csv", "occlusions.csv"), (FIGURE, "patches.png")
_REGIONS = ("foreground", "background")
_TOP = 5
_MEANS = ("positions", *READ, *(f"{name}_{end}" for name in READ for end in ("after", "fall")))


@dataclasses.dataclass(frozen=True, eq=False)
class StudiedImage:
    """A row of a run: what there is to say and to draw of it.

    Attributes:
        name: of the image.
        about: the row of the table.
    """

    run: StoredRun
    name: str
    about: dict[str, Any]
    study: OcclusionStudy
    tap: str

    @classmethod
    def of(cls, run: StoredRun, row: int) -> "StudiedImage":
        """Reads it; raises `InputError` if there is no study."""
        about = run.row(row)
        return cls(run, run.names[about["item"]], about, *stored_study(run, row))

    @property
    def truth(self) -> str | None:
        """The file of the truth; None: the prediction was occluded."""
        said = self.about["region"]
        return said.removeprefix(TRUTH) if said.startswith(TRUTH) else None

    @property
    def outputs(self) -> Any:
        """What the network's output holds."""
        return self.run.manifest.network.meaning.outputs or "logits"

    def means(self) -> list[dict[str, Any]]:
        """Of all maps at once, for each region and share: the mean over places."""
        rows, study = [], self.study
        kinds = dict.fromkeys((each.region, each.share) for each in study.patches)
        for region, share in kinds:
            chosen = study.chosen(region, share)
            before = {name: float(getattr(study.before, name)) for name in READ}
            falls = {name: float(getattr(study.together, name)[chosen].mean()) for name in READ}
            row = {"region": region, "share": share, **before}
            row["positions"] = int(study.positions[chosen[0]].sum())
            for name in READ:
                row |= {f"{name}_after": before[name] - falls[name], f"{name}_fall": falls[name]}
            rows.append(row)
        return rows

    def words(self) -> tuple[str, ...]:
        """A line for the terminal, by the columns `WORDS`."""
        rows = [row for row in self.means() if row["region"] == "foreground"]
        last = max(rows, key=lambda row: row["share"], default=None)
        first = self.study.order[:3].tolist()
        return (
            self.name,
            short(self.about["class"]),
            "prediction" if self.truth is None else "truth",
            f"{float(self.study.before.dice):.3f}",
            "" if last is None else f"{last['dice_after']:.3f}",
            ", ".join(map(str, first)),
            ", ".join(f"{self.study.falls.foreground[0, each]:.3g}" for each in first),
        )

    def write(self, folder: Path, mark: str, *, figures: bool) -> None:
        """Writes the files of the image that are not there yet; the last figure has the mark."""
        names = (*_TABLES, *_FIGURES) if figures else _TABLES
        there = all((folder / name).is_file() for name in names)
        if figures and there and viz.mark_of(folder / names[-1]) == mark:
            return
        for name, ablations in zip(_TABLES, (True, False), strict=True):
            rows = [*self.study.rows(ablations=ablations)]
            table = _files.as_csv([*rows[0]], [[*row.values()] for row in rows]) if rows else b""
            _files.write_bytes(folder / name, table)
        if figures:
            for name, draw in zip(_FIGURES, (_figure, _patches), strict=True):
                viz.save(draw(self), folder / name, mark=mark)


WORDS = ("image", "class", "of", "Dice", "Dice, foreground occluded", "first maps", "fall")


def files_of(names: Iterable[str]) -> list[str]:
    """The files that there may be of images, and of all together."""
    return [TABLE, FIGURE, *(f"{n}/{each}" for n in names for each in (*_TABLES, *_FIGURES))]


def files_there(store: Path) -> list[str]:
    """Those of the run that is there; none where it cannot be read."""
    with contextlib.suppress(InputError):
        return files_of(open_store(store).names.values())
    return []


def write_images(
    run: StoredRun, items: Sequence[int], out: Path, advance: Callable[..., None], *, figures: bool
) -> None:
    """Writes the files of some images; those of images that fail now are removed."""
    for about in run.table.filter(polars.col("item").is_in(list(items))).iter_rows(named=True):
        name = run.names[about["item"]]
        if about["error"] is not None:
            _files.remove(out, files_of([name])[2:])
            continue
        mark = _files.key_of([segcam_jax.__version__, run.manifest.key, about])
        StudiedImage.of(run, about["row"]).write(out / name, mark, figures=figures)
        advance(1, name)


def write_table(run: StoredRun, out: Path, *, figures: bool) -> list[tuple[str, ...]]:
    """Writes what there is to say of all images together; returns a line for each."""
    columns = ("image", "truth", "class", "tap")
    numbers = run.table.filter(polars.col("error").is_null())["row"]
    rows, lines, means, taps = [], [], [], {}
    for each in (StudiedImage.of(run, row) for row in numbers):
        means.append(each.means())
        lines.append(each.words())
        taps[each.tap] = None
        first = (each.name, each.truth, each.about["class"], each.tap)
        order = ("region", "share", *_MEANS)
        rows += [[*first, *(row[name] for name in order)] for row in means[-1]]
    if not rows:
        _files.remove(out, [TABLE, FIGURE])
        return []
    _files.write_bytes(out / TABLE, _files.as_csv([*columns, "region", "share", *_MEANS], rows))
    together = {side: curves for side in _REGIONS if (curves := _over_images(means, side))}
    if figures and together:
        viz.save(
            occlusion(
                together,
                of=run.manifest.network.meaning.outputs or "logits",
                title=f"Activation maps occluded in {counted(len(lines), 'image')}",
                subtitle=f"tap {', '.join(taps)}",
                caption="Lines: means over images, of the mean over places; bands: all images.",
            ),
            out / FIGURE,
        )
    return lines


def _curve(study: OcclusionStudy, region: str) -> tuple[np.ndarray, list[list[int]]]:
    """The shares of a region, and the patches of each: as many at each, for each place."""
    shares = sorted({each.share for each in study.patches if each.region == region})
    chosen = [study.chosen(region, share) for share in shares]
    most = max(map(len, chosen), default=0)
    return np.array(shares), [(each * most)[:most] for each in chosen]


def _figure(found: StudiedImage) -> Any:
    study = found.study
    together = {}
    for side in _REGIONS:
        shares, chosen = _curve(study, side)
        if not len(shares):
            continue
        values = {}
        for name in READ:
            before = float(getattr(study.before, name))
            after = before - getattr(study.together, name)[np.array(chosen).T]
            values[name] = np.concatenate([np.full((len(after), 1), before), after], 1)
        together[side] = OcclusionCurves(np.array([0, *shares]), **values)
    shares, chosen = _curve(study, "foreground")
    top = np.zeros((min(_TOP, len(study.order)), 1 + len(shares)))
    for place, patches in enumerate(chosen, 1):
        top[:, place] = study.falls.foreground[patches].mean(0)[study.order[: len(top)]]
    falls = {name: getattr(study.falls, name)[0][study.order] for name in READ[:2]}
    maps = SortedMaps(study.order, **falls, shares=np.array([0, *shares]), top=top)
    places = max(each.place for each in study.patches)
    caption = "Lines: means over places; bands: all places. " if places > 1 else ""
    of = "prediction" if found.truth is None else "truth"
    title = found.run.manifest.network.title
    said = f"{short(found.about['class'])} of the {of}; {title} at {found.tap}"
    one = one_of(found.outputs)
    caption += f"Positive falls: the {one} falls without the map, so that the map supports it."
    return occlusion(
        together,
        maps,
        of=found.outputs,
        title=f"{found.name}: activation maps occluded",
        subtitle=said,
        caption=caption,
    )


def _patches(found: StudiedImage) -> Any:
    study = found.study
    names = {}
    for patch, positions in zip(study.patches, study.positions, strict=True):
        if patch.region == "map":
            continue
        end = f", place {patch.place}" if patch.share < 1 else ""
        names[patch.region, f"{100 * patch.share:g} %{end}"] = positions
    extents = " x ".join(map(str, study.positions.shape[1:]))
    caption = f"Orange: the occluded positions, of {extents}. Outlined: the foreground."
    image, mask = found.run.image(found.about["item"]), found.run.region(found.about["row"])
    if image is None or mask is None:
        raise InputError(f"{str(found.run.path)!r} lacks an image or a region that it had")
    height, width = map(int, found.about["padded"].split("x"))
    title = f"{found.name}: what is occluded"
    return occlusion_patches(
        drawable(image), mask, names, over=(height, width), title=title, caption=caption
    )


def _over_images(means: Sequence[list[dict[str, Any]]], side: str) -> OcclusionCurves | None:
    """A row per image; None where nothing of that kind is occluded."""
    rows = [[row for row in each if row["region"] == side] for each in means]
    rows = [sorted(each, key=lambda row: row["share"]) for each in rows if each]
    if not rows:
        return None
    values = {
        name: np.array([[e[0][name], *(row[f"{name}_after"] for row in e)] for e in rows])
        for name in READ
    }
    return OcclusionCurves(np.array([0, *(row["share"] for row in rows[0])]), **values)
