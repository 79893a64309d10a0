"""The figures of a gallery, drawn from its files of maps."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import viz
from segcam_jax.sweep import aims, store
from segcam_jax.sweep.figures import clipped, drawable, heading
from segcam_jax.sweep.gallery import Gallery, GalleryOptions, Maps, Plate
from segcam_jax.sweep.heat import compiled_heatmap
from segcam_jax.sweep.ledger import Ledger
from segcam_jax.sweep.maps import load_maps
from segcam_jax.sweep.subjects import read
from segcam_jax.viz.gallery import Row, gallery as draw


def draw_ready(made: Gallery, ledger: Ledger, advance) -> None:
    """Draws the figures that are not there yet and whose maps are.

    Args:
        made: the gallery.
        ledger: of its folder.
        advance: is called with the number of figures written, and their names.
    """
    for plate in made.plates:
        ready = all(ledger.finished(maps.file) for row in plate.rows for maps in row)
        if ready and not ledger.finished(plate.file):
            figure = _figure(plate, made.options, ledger.folder)
            try:
                viz.save(figure, ledger.folder / plate.file)
            except OSError as error:
                raise store.cannot_write(ledger.folder / plate.file, error) from None
            ledger.written(plate.file)
            advance(1, plate.file)


def _figure(plate: Plate, options: GalleryOptions, folder: Path):
    rows, told = [], []
    for files in plate.rows:
        row, about = _row(files, plate.kind, options, folder)
        rows.append(row)
        told.append(about)
    title, subtitle = _titles(plate, told)
    columns = [heading(name) for name in options.methods]
    return draw(rows, columns, title=title, subtitle=subtitle, colormap=options.colormap)


def _row(
    files: Sequence[Maps], kind: str, options: GalleryOptions, folder: Path
) -> tuple[Row, dict[str, Any]]:
    """One row, and what its layer's maps say of themselves."""
    heats: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    region = None
    for maps in files:
        about, arrays = load_maps(folder / maps.file)
        told.append(about)
        region = arrays.pop("region", None)
        heat = functools.partial(
            compiled_heatmap,
            padded=tuple(about["padded"]),
            extent=tuple(about["extent"]),
            profile=options.profile,
        )
        heats |= {name: clipped(name, np.asarray(heat(raw))) for name, raw in arrays.items()}
    first = files[0]
    _, shown, _ = read(first.picture.path, first.subject, options.fit)
    label, detail = _label(first, told[0], kind)
    drawn = [heats.get(name) for name in options.methods]
    return Row(drawable(shown), drawn, label, detail, region), told[0]


def _label(maps: Maps, about: dict[str, Any], kind: str) -> tuple[str, str]:
    """What stands left of a row: what it differs in from the others."""
    if kind == "layers":
        same = maps.word == maps.tap
        return maps.word, _shape(about) if same else f"{maps.tap}\n{_shape(about)}"
    if kind == "targets":
        explained = about["explained"]
        rather = about["rather_than"]
        compared = f"rather than {aims.short(rather['label'])}" if rather else ""
        return aims.short(explained["label"]), compared or aims.percent(explained["share"])
    if kind == "models":
        return maps.subject.title, f"{aims.in_words(about)}\n{maps.tap}, {_shape(about)}"
    return "", ""


def _shape(about: dict[str, Any]) -> str:
    return " x ".join(map(str, about["shape"]))


def _titles(plate: Plate, told: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Title and subtitle: what all rows have in common."""
    maps, about = plate.rows[0][0], told[0]
    name = maps.picture.name
    model = maps.subject.title
    where = maps.tap if maps.word == maps.tap else f"{maps.word} layer, {maps.tap}"
    at = f"{where}, {_shape(about)}"
    regions = any(each["shares_are"] != "probabilities" for each in told)
    outlined = "; outlined: the explained pixels" if regions else ""
    if plate.kind == "models":
        return f"{name}: {len(told)} models", f"{maps.word} layer of each{outlined}"
    if plate.kind == "targets":
        seen = about["predicted"][:1]
        predicted = f", predicted {aims.short(seen[0]['label'])}" if seen else ""
        return f"{name}: {len(told)} targets{predicted}", f"{model}; {at}{outlined}"
    if plate.kind == "layers":
        return f"{name}: {aims.in_words(about)}", f"{model}; one row per layer{outlined}"
    return f"{name}: {aims.in_words(about)}", f"{model}; {at}{outlined}"
