"""`segcam gallery`: images x models x layers x methods, drawn side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segcam_jax
from segcam_jax import _files, methods
from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.networks import image_inputs
from segcam_jax.networks.class_queries import parse_queries
from segcam_jax.networks.open import open_networks
from segcam_jax.networks.spec import OpenOptions, Said
from segcam_jax.reports import display, words
from segcam_jax.sweep import gallery as sweep_gallery, maps, plates
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


def _planned(command: commands.Gallery) -> Gallery:
    _files.check_folder(command.out)
    chosen = _options(command)
    queries = parse_queries(top=command.top, classes=command.classes, difference=command.difference)
    files = image_inputs.expanded(command.images, console.note)
    opening = OpenOptions.parse(
        size=() if command.size is None else (command.size,),
        range=command.range,
        labels=command.labels,
        seed=command.seed,
        said=Said(command.outputs, command.multi_label, command.threshold),
    )
    networks = open_networks(names_in(command.models), opening)
    for network in networks:
        if network.random:
            console.note(f"{network.name} has random weights: what it predicts means nothing")
        if network.note:
            console.note(network.note)
    return sweep_gallery.make_gallery(
        files, networks, queries, chosen, version=segcam_jax.__version__, report=console.note
    )


def _options(command: commands.Gallery) -> GalleryOptions:
    layers, names = names_in(command.layers), names_in(command.methods)
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
        what = words.short(explained["label"])
        rows[about["image"], about["model"], what, rather and rather["label"]] = (
            shortened(about["image"]),
            shortened(about["model"]),
            words.short(predicted[0]["label"]) if predicted else "nothing",
            words.percent(predicted[0]["share"]) if predicted else "",
            f"{what} rather than {words.short(rather['label'])}" if rather else what,
            words.percent(explained["share"]),
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
