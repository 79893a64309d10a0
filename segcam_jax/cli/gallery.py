"""`segcam gallery`: images x models x layers x methods, drawn side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segcam_jax
from segcam_jax import _files, methods
from segcam_jax.cli import commands, console
from segcam_jax.networks import class_queries as aims, image_inputs as pictures
from segcam_jax.networks.network import Said
from segcam_jax.networks.open import Wanted, open_subjects, size_of
from segcam_jax.sweep import display, gallery as sweep_gallery, maps, plates
from segcam_jax.sweep.gallery import Gallery, GalleryOptions
from segcam_jax.sweep.ledger import Ledger
from segcam_jax.types import InputError, shortened
from segcam_jax.viz.colour import scale_of


def gallery(command: commands.Gallery, line: Sequence[str]) -> None:
    """Computes the maps that are not there yet, and draws the figures that are not."""
    made = _planned(command)
    ledger = Ledger(command.out, made.files(), overwrite=command.overwrite)
    pending = len(ledger.pending())
    if pending < len(made.files()):
        console.note(f"{len(made.files()) - pending} file(s) are finished and stay as they are")
    with console.progress("gallery", pending) as advance:
        maps.compute(made, ledger, advance, done=lambda: plates.draw_ready(made, ledger, advance))
    _summarise(maps.write_index(made, command.out, line), made, command.out)


def words(names: Sequence[str]) -> tuple[str, ...]:
    """Names that were separated by blanks, commas, or both; each once."""
    split = (word.strip() for name in names for word in name.split(","))
    return tuple(dict.fromkeys(word for word in split if word))


def _planned(command: commands.Gallery) -> Gallery:
    _files.check_folder(command.out)
    chosen = _options(command)
    goals = aims.make_aims(top=command.top, classes=command.classes, difference=command.difference)
    files = pictures.expanded(command.images, console.note)
    side = () if command.size is None else (command.size,)
    said = Said(command.outputs, command.multi_label, command.threshold)
    wanted = Wanted(
        size=size_of(side), range=command.range, seed=command.seed, said=said
    ).with_labels(command.labels)
    subjects = open_subjects(words(command.models), wanted)
    for subject in subjects:
        if subject.random:
            console.note(f"{subject.name} has random weights: what it predicts means nothing")
        if subject.note:
            console.note(subject.note)
    return sweep_gallery.make_gallery(
        files, subjects, goals, chosen, version=segcam_jax.__version__, report=console.note
    )


def _options(command: commands.Gallery) -> GalleryOptions:
    layers, names = words(command.layers), words(command.methods)
    if not layers:
        raise InputError("no layer was given; add --layers, for example first,middle,last")
    display.check(command.profile)
    scale_of([np.zeros((1, 1))], colormap=command.colormap)
    if not 0 <= command.seed < 2**32:
        raise InputError(f"`seed` is {command.seed}; give a number from 0 to below 2^32")
    return GalleryOptions(
        layers=layers,
        methods=tuple(each.name for each in methods.find_all(names)),
        of=command.of,
        fit=command.fit,
        profile=command.profile,
        colormap=command.colormap,
        seed=command.seed,
    )


def _summarise(told: Sequence[Mapping[str, Any]], made: Gallery, out: Path) -> None:
    rows = {}
    for about in told:
        predicted = about["predicted"][:1]
        explained = about["explained"]
        rather = about["rather_than"]
        what = aims.short(explained["label"])
        rows[about["image"], about["model"], what, rather and rather["label"]] = (
            shortened(about["image"]),
            shortened(about["model"]),
            aims.short(predicted[0]["label"]) if predicted else "nothing",
            aims.percent(predicted[0]["share"]) if predicted else "",
            f"{what} rather than {aims.short(rather['label'])}" if rather else what,
            aims.percent(explained["share"]),
        )
    columns = ("image", "model", "predicted", "share", "explained", "share ")
    console.table(None, columns, list(rows.values()))
    for about in told:
        for name, why in about["zero"].items():
            console.note(f"{about['file']}: {name}: {why}")
    print(
        f"{len(made.plates)} figure(s) of {len({row[0] for row in rows})} image(s) are in {out}; "
        f"{maps.INDEX} lists them"
    )
