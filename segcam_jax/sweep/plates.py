"""The figures of a gallery, drawn from its files of maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import viz
from segcam_jax.networks.image_inputs import ImageForm, read_sample
from segcam_jax.reports import words
from segcam_jax.reports.display import Display, display, in_words, is_signed
from segcam_jax.reports.figures import clipped, drawable, heading
from segcam_jax.sweep.gallery import Gallery, GalleryOptions, Maps, Plate
from segcam_jax.sweep.ledger import Ledger
from segcam_jax.sweep.maps import load_maps
from segcam_jax.types import shortened
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
            viz.save(figure, ledger.folder / plate.file)
            ledger.written(plate.file)
            advance(1, plate.file)


def _figure(plate: Plate, options: GalleryOptions, folder: Path):
    loaded = {maps: load_maps(folder / maps.file) for row in plate.rows for maps in row}
    hidden = (each for about, _ in loaded.values() for each in about["relu_hides"].items())
    signed = is_signed(options.profile, hidden)
    rows, told, shown = [], [], []
    for files in plate.rows:
        displays = _displays([loaded[maps] for maps in files], options, signed)
        about = loaded[files[0]][0]
        rows.append(_row(files[0], about, loaded[files[-1]][1], displays, plate.kind, options))
        told.append(about)
        shown += displays.values()
    title, subtitle = _titles(plate, told)
    return draw(
        rows,
        [heading(name) for name in options.methods],
        title=title,
        subtitle=subtitle,
        caption=f"{_score(told)} {in_words(shown, chosen=options.profile, signed=signed)}",
        colormap=options.colormap,
    )


def _score(told: Sequence[dict[str, Any]]) -> str:
    """What is explained in all rows, in units of the output."""
    names = " and ".join(dict.fromkeys(about["score_is"] for about in told))
    regions = any(about["shares_are"] != "probabilities" for about in told)
    return f"Explained: {names}{', summed over the outlined pixels' if regions else ''}."


def _displays(
    loaded: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]],
    options: GalleryOptions,
    signed: bool,
) -> dict[str, Display]:
    """What a row shows, by method."""
    return {
        name: display(
            arrays[name],
            name,
            profile=options.profile,
            signed=signed,
            padded=tuple(about["padded"]),
            extent=tuple(about["extent"]),
        )
        for about, arrays in loaded
        for name in about["methods"]
    }


def _row(
    maps: Maps,
    about: dict[str, Any],
    arrays: dict[str, np.ndarray],
    displays: dict[str, Display],
    kind: str,
    options: GalleryOptions,
) -> Row:
    shown = read_sample(maps.picture.path, ImageForm.of(maps.network, options.fit)).shown
    label, detail = _label(maps, about, kind)
    drawn = [displays.get(name) for name in options.methods]
    return Row(
        drawable(shown),
        [None if each is None else clipped(each.method, each.heat) for each in drawn],
        label,
        detail,
        arrays.get("region"),
        ["" if each is None else each.note for each in drawn],
    )


def _label(maps: Maps, about: dict[str, Any], kind: str) -> tuple[str, str]:
    """What stands left of a row: what it differs in from the others."""
    if kind == "layers":
        same = maps.word == maps.tap
        return maps.word, _shape(about) if same else f"{maps.tap}\n{_shape(about)}"
    if kind == "targets":
        explained = about["explained"]
        rather = about["rather_than"]
        compared = f"rather than {words.short(rather['label'])}" if rather else ""
        return words.short(explained["label"]), compared or words.percent(explained["share"])
    if kind == "models":
        return maps.network.title, f"{words.in_words(about)}\n{maps.tap}, {_shape(about)}"
    return "", ""


def _shape(about: dict[str, Any]) -> str:
    return " x ".join(map(str, about["shape"]))


def _titles(plate: Plate, told: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Title and subtitle: what all rows have in common."""
    maps, about = plate.rows[0][0], told[0]
    name = shortened(maps.picture.name)
    model = maps.network.title
    where = maps.tap if maps.word == maps.tap else f"{maps.word} layer, {maps.tap}"
    at = f"{where}, {_shape(about)}"
    background = maps.network.background
    if background is not None and background.assumed:
        model += f", {words.short(maps.network.labels[background.index])} taken for background"
    regions = any(each["shares_are"] != "probabilities" for each in told)
    outlined = "; outlined: the explained pixels" if regions else ""
    if plate.kind == "models":
        return f"{name}: {len(told)} models", f"{maps.word} layer of each{outlined}"
    if plate.kind == "targets":
        seen = about["predicted"][:1]
        predicted = f", predicted {words.short(seen[0]['label'])}" if seen else ""
        return f"{name}: {len(told)} targets{predicted}", f"{model}; {at}{outlined}"
    if plate.kind == "layers":
        return f"{name}: {words.in_words(about)}", f"{model}; one row per layer{outlined}"
    return f"{name}: {words.in_words(about)}", f"{model}; {at}{outlined}"
