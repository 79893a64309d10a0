"""The files of the occlusion study of images, each written once it was studied.

OUT/IMAGE/ablations.csv     whole maps: one row each, the most important first
OUT/IMAGE/occlusions.csv    a row per map, region, share and place
OUT/IMAGE/occlusion.png     curves over the share, maps sorted
OUT/IMAGE/patches.png       what was occluded
OUT/IMAGE/record.json       whose folder it is; with a key, the last file: of what the others are
OUT/occlusion.csv, .png     all images studied alike: of all maps at once, means over places
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from segcam_jax import _files, schema, viz
from segcam_jax.metrics import OcclusionStudy
from segcam_jax.reports.figures import drawable
from segcam_jax.runs.folder import RECORD, has_record
from segcam_jax.types import InputError, Outputs, counted
from segcam_jax.viz.occlusion import (
    OcclusionCurves,
    SortedMaps,
    occlusion,
    occlusion_patches,
    one_of,
)

TABLE, FIGURE = "occlusion.csv", "occlusion.png"
FILES = (TABLE, FIGURE)
TABLES, PATCHES = ("ablations.csv", "occlusions.csv"), "patches.png"
_OF_IMAGE = (*TABLES, FIGURE, PATCHES, RECORD)
REGIONS = ("foreground", "background")
_READ = ("foreground", "background", "dice")
_TOP = 5
_MEANS = ("positions", *_READ, *(f"{name}_{end}" for name in _READ for end in ("after", "fall")))
Row = dict[str, str | float | None]
Record = TypedDict(
    "Record",
    {
        "key": str | None,  # None: not all files are written.
        "settings": str,
        "figures": bool,
        "image": str,
        "file": str,
        "sha256": NotRequired[str],  # Before 0.9 there was none.
        "truth": str | None,
        "class": str,
        "tap": str,
        "notes": list[str],
        "outputs": Outputs,
        "means": list[Row],
        "ablated": list[Row],
    },
)


@dataclasses.dataclass(frozen=True, eq=False)
class OccludedImage:
    """An image whose maps were occluded, for its files.

    Attributes:
        padded: extents that the network was given.
        said: what is studied, in words.
        of: what the network's output holds.
    """

    name: str
    pixels: Float[np.ndarray, "h w c"]
    mask: Bool[np.ndarray, "h w"]
    padded: tuple[int, int]
    said: str
    study: OcclusionStudy
    of: Outputs = "logits"


def check_own(out: Path, names: Sequence[str], settings: str, *, overwrite: bool = False) -> None:
    """Checks that no files but those of the same study are where a study's will be.

    Args:
        out: the folder of all; it is a study's if one folder in it has the record of an image.
        settings: of the study; those of other images in the folder are to be the same.
        overwrite: others' files may be there.
    """
    for folder in (out, *(out / name for name in names)):
        _files.check_folder(folder)
    if overwrite:
        return
    there = [name for name in _files.names_in(out) if has_record(out / name)]
    own = {name: _files.read_json(out / name / RECORD) for name in there}
    others = [name for name in names if name not in own]
    table = () if own else FILES
    _files.check_free(out, [*table, *(f"{name}/{file}" for name in others for file in _OF_IMAGE)])
    for name in own.keys() - set(names):
        if own[name]["key"] is not None and own[name].get("settings") != settings:
            raise InputError(
                f"output {str(out)!r} holds a study of {name!r} by another network, version or "
                "options, and one table is of one study; give another folder, or --overwrite"
            )


def remove_image(folder: Path) -> None:
    """Removes what an earlier study left of an image, and its table of all images.

    The record, which says whose the folder is, goes last; before that, it says that it is not done.
    """
    record = _files.read_json(folder / RECORD)
    if isinstance(record, dict):
        _files.write_json(folder / RECORD, {**record, "key": None})
    _files.remove(folder.parent, FILES)
    _files.remove(folder, _OF_IMAGE)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an image that was studied; None where it is damaged, or there is none."""
    record = _files.read_json(folder / RECORD)
    try:
        schema.check(record, Record, RECORD)
    except InputError:
        return None
    rows = record["means"]
    numbers = {"share", *_MEANS}
    whole = rows and all(
        row.keys() >= {"region", *numbers} and not any(isinstance(row[n], str) for n in numbers)
        for row in rows
    )
    return record if whole and record["key"] is not None else None


def read_records(out: Path, settings: str) -> list[dict[str, Any]]:
    """The records of all images that were studied with the same settings, for their table.

    Raises:
        InputError: if one was changed by hand, and has other shares.
    """
    records = [read_record(out / name) for name in _files.names_in(out)]
    found = [record for record in records if record and record["settings"] == settings]
    known: dict[str, tuple[str, list[Any]]] = {}
    for record, side in itertools.product(found, REGIONS):
        shares = sorted(row["share"] or 0 for row in record["means"] if row["region"] == side)
        first, usual = known.setdefault(side, (record["image"], shares)) if shares else ("", shares)
        if shares != usual:
            raise InputError(
                f"{str(out)!r}: records of {first!r} and {record['image']!r} have other shares, "
                "and one was changed by hand; remove both folders"
            )
    return found


def is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files that a record is of are all there."""
    names = (*TABLES, FIGURE, PATCHES) if record["figures"] else TABLES
    return all((folder / name).is_file() for name in names)


def write_image(
    found: OccludedImage, folder: Path, about: Mapping[str, Any], *, figures: bool = True
) -> dict[str, Any]:
    """Writes the files of an image: first whose they are, last of what.

    Args:
        about: what the record says besides what was found.
    """
    study = found.study
    _files.write_json(folder / RECORD, {**about, "key": None})
    for name, ablations in zip(TABLES, (True, False), strict=True):
        rows = [*study.rows(ablations=ablations)]
        table = _files.as_csv([*rows[0]], [[*row.values()] for row in rows])
        _files.write_bytes(folder / name, table)
    if figures:
        viz.save(_figure(found), folder / FIGURE)
        viz.save(_patches(found), folder / PATCHES)
    record = {**about, "figures": figures, "outputs": found.of}
    record |= {"means": _means(study), "ablated": _ablated(study)}
    _files.write_json(folder / RECORD, record)
    return record


def write_table(records: Sequence[Mapping[str, Any]], out: Path, *, figures: bool = True) -> None:
    """Writes what there is to say of all images together, from their records."""
    columns = ("image", "truth", "class", "tap")
    rows = [
        [*(record[name] for name in columns), *(_number(value) for value in row.values())]
        for record in records
        for row in record["means"]
    ]
    _files.write_bytes(out / TABLE, _files.as_csv([*columns, "region", "share", *_MEANS], rows))
    together = {side: curves for side in REGIONS if (curves := _over_images(records, side))}
    if figures and together:
        title = f"Activation maps occluded in {counted(len(records), 'image')}"
        taps = ", ".join(dict.fromkeys(record["tap"] for record in records))
        caption = "Lines: means over images, of the mean over places; bands: all images."
        of = records[0]["outputs"]
        figure = occlusion(together, of=of, title=title, subtitle=f"tap {taps}", caption=caption)
        viz.save(figure, out / FIGURE)
    else:
        _files.remove(out, [FIGURE])


def _number(value: Any) -> Any:
    return np.nan if value is None else value


def _means(study: OcclusionStudy) -> list[dict[str, Any]]:
    """Of all maps at once, for each region and share: the mean over places; None: undefined."""
    rows = []
    kinds = dict.fromkeys((each.region, each.share) for each in study.patches)
    for region, share in kinds:
        chosen = study.chosen(region, share)
        row: dict[str, Any] = {"region": region, "share": share}
        row["positions"] = int(study.positions[chosen[0]].sum())
        before = {name: float(getattr(study.before, name)) for name in _READ}
        falls = {name: float(getattr(study.together, name)[chosen].mean()) for name in _READ}
        values = dict(before)
        for name in _READ:
            values |= {f"{name}_after": before[name] - falls[name], f"{name}_fall": falls[name]}
        rows.append(row | {name: None if np.isnan(v) else v for name, v in values.items()})
    return rows


def _ablated(study: OcclusionStudy) -> list[dict[str, Any]]:
    """The most important maps, each ablated by itself."""
    rows = []
    for number in study.order[:_TOP].tolist():
        falls = {f"{name}_fall": float(getattr(study.falls, name)[0, number]) for name in _READ}
        rows.append({"map": number} | {n: None if np.isnan(v) else v for n, v in falls.items()})
    return rows


def _curve(study: OcclusionStudy, region: str) -> tuple[np.ndarray, list[list[int]]]:
    """The shares of a region, and the patches of each: as many at each, for each place."""
    shares = sorted({each.share for each in study.patches if each.region == region})
    chosen = [study.chosen(region, share) for share in shares]
    most = max(map(len, chosen), default=0)
    return np.array(shares), [(each * most)[:most] for each in chosen]


def _figure(found: OccludedImage) -> Any:
    study = found.study
    together = {}
    for side in REGIONS:
        shares, chosen = _curve(study, side)
        if not len(shares):
            continue
        values = {}
        for name in _READ:
            before = float(getattr(study.before, name))
            after = before - getattr(study.together, name)[np.array(chosen).T]
            values[name] = np.concatenate([np.full((len(after), 1), before), after], 1)
        together[side] = OcclusionCurves(np.array([0, *shares]), **values)
    shares, chosen = _curve(study, "foreground")
    top = np.zeros((min(_TOP, len(study.order)), 1 + len(shares)))
    for place, patches in enumerate(chosen, 1):
        top[:, place] = study.falls.foreground[patches].mean(0)[study.order[: len(top)]]
    falls = {name: getattr(study.falls, name)[0][study.order] for name in _READ[:2]}
    maps = SortedMaps(study.order, **falls, shares=np.array([0, *shares]), top=top)
    places = max(each.place for each in study.patches)
    caption = "Lines: means over places; bands: all places. " if places > 1 else ""
    one = one_of(found.of)
    caption += f"Positive falls: the {one} falls without the map, so that the map supports it."
    return occlusion(
        together,
        maps,
        of=found.of,
        title=f"{found.name}: activation maps occluded",
        subtitle=found.said,
        caption=caption,
    )


def _patches(found: OccludedImage) -> Any:
    study = found.study
    names = {}
    for patch, positions in zip(study.patches, study.positions, strict=True):
        if patch.region == "map":
            continue
        end = f", place {patch.place}" if patch.share < 1 else ""
        names[patch.region, f"{100 * patch.share:g} %{end}"] = positions
    extents = " x ".join(map(str, study.positions.shape[1:]))
    caption = f"Orange: the occluded positions, of {extents}. Outlined: the foreground."
    pixels = drawable(found.pixels)
    title = f"{found.name}: what is occluded"
    return occlusion_patches(
        pixels, found.mask, names, over=found.padded, title=title, caption=caption
    )


def _over_images(records: Sequence[Mapping[str, Any]], side: str) -> OcclusionCurves | None:
    """A row per image; None where nothing of that kind is occluded."""
    rows = [[row for row in record["means"] if row["region"] == side] for record in records]
    rows = [sorted(each, key=lambda row: row["share"]) for each in rows if each]
    if not rows:
        return None
    values = {
        name: np.array(
            [[_number(e[0][name]), *(_number(row[f"{name}_after"]) for row in e)] for e in rows],
            float,
        )
        for name in _READ
    }
    return OcclusionCurves(np.array([0, *(row["share"] for row in rows[0])]), **values)
