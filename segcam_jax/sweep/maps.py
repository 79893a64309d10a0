"""The maps of a gallery, computed and stored.

Images go through one compiled program per model and layer, which holds all methods, so that they
share their passes; it takes the class as an input, so that all targets share it too.
"""

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from segcam_jax import _files
from segcam_jax.methods import METHODS
from segcam_jax.networks import class_queries as aims
from segcam_jax.networks.class_queries import Difference, Sight
from segcam_jax.networks.layers import Subject, read
from segcam_jax.sweep import batch, display, run
from segcam_jax.sweep.gallery import Gallery, GalleryOptions, Maps, Picture
from segcam_jax.sweep.ledger import Ledger
from segcam_jax.taps import Split
from segcam_jax.types import InputError, SegcamError, TargetError

INDEX = "gallery.json"
Advance = Callable[[int, str], None]
_VERSION = 1


@functools.partial(jax.jit, static_argnames=("split", "options"))
def _explained(split: Split, options: batch.Options, params, key, image, target):
    """Raw maps of all methods, and the score."""
    found, score = {}, None
    for name, keywords in options:
        arguments: dict[str, Any] = dict(keywords)
        if METHODS[name].needs_key:
            arguments["key"] = key
        explanation = METHODS[name].function(split, params, image, target, **arguments)
        found[name], score = explanation.map, explanation.score
    return found, score


def compute(
    gallery: Gallery, ledger: Ledger, advance: Advance, *, done: Callable[[], None]
) -> None:
    """Computes the maps that are not there yet, model by model, layer by layer.

    Args:
        gallery: what to compute.
        ledger: of its folder.
        advance: is called with the number of files written, and what is going on.
        done: is called after each model.
    """
    pending = [maps for maps in gallery.maps if not ledger.finished(maps.file)]
    for subject in dict.fromkeys(maps.subject for maps in pending):
        mine = [maps for maps in pending if maps.subject is subject]
        sights = {}
        for maps in mine:
            if maps.picture not in sights:
                advance(0, f"{subject.name}: predicting {maps.picture.name}")
                sights[maps.picture] = _sight(maps.picture, subject, gallery.options)
        for maps in mine:
            # Found before anything is explained: an aim may not exist in an image.
            _goal(maps, sights[maps.picture])
        for maps in mine:
            advance(0, f"{subject.name} at {maps.word}: {maps.picture.name}")
            data = _computed(maps, sights[maps.picture], gallery.options)
            _files.write_bytes(ledger.folder / maps.file, data)
            ledger.written(maps.file)
            advance(1, maps.file)
        done()
    done()


def _sight(picture: Picture, subject: Subject, options: GalleryOptions) -> Sight:
    _, shown, padded = _same(picture, subject, options)
    logits = subject.network.logits(padded)
    if logits.ndim > 1:
        logits = logits[: shown.shape[0], : shown.shape[1]]
    return aims.look(logits, subject.labels, subject.network.meaning, subject.background)


def _same(picture: Picture, subject: Subject, options: GalleryOptions):
    """The image, which must not have changed."""
    image, shown, padded = read(picture.path, subject, options.fit)
    if image.sha256 != picture.sha256:
        raise InputError(f"{str(picture.path)!r} was changed while the run went on; start it again")
    return image, shown, padded


def _goal(maps: Maps, sight: Sight) -> aims.Found:
    try:
        return aims.find(maps.aim, sight, maps.subject.labels)
    except SegcamError as error:
        where = f"{str(maps.picture.path)!r}, {maps.subject.name}"
        raise type(error)(f"{where}: {error}") from None


def _computed(maps: Maps, sight: Sight, options: GalleryOptions) -> bytes:
    """The file of maps, in memory."""
    subject = maps.subject
    _, shown, padded = _same(maps.picture, subject, options)
    goal = _goal(maps, sight)
    split = subject.network.split(maps.tap, padded.shape)
    meaning = subject.network.meaning
    target = goal.target(options.of, padded.shape[:2], meaning)
    of = "probabilities" if meaning.outputs == "probabilities" else options.of
    found, score = _explained(
        split,
        batch.cam_options(maps.methods, split),
        subject.network.model.params,
        jax.random.key(options.seed),
        padded,
        target,
    )
    if not np.isfinite(float(score)):
        raise TargetError(
            f"{str(maps.picture.path)!r}: the score of {maps.aim.name!r} by {subject.name} is "
            f"{float(score)}: the network rules the class out, and nothing explains that; name "
            "another"
        )
    arrays = {name: np.asarray(values, np.float32) for name, values in found.items()}
    broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if broken:
        raise InputError(
            f"{str(maps.picture.path)!r}: {broken[0]} at {maps.tap} of {subject.name} overflowed "
            "float32; explain probabilities"
        )
    about = {
        **aims.summary(goal, sight, subject.labels),
        "chosen": aims.how_chosen(maps.aim.first, sight),
        "background": sight.background,
        "image": str(maps.picture.path),
        "model": subject.name,
        "layer": maps.word,
        "tap": maps.tap,
        "shape": list(split.activation.shape),
        "methods": list(maps.methods),
        "zero": {
            name: display.why_zero(raw, name) for name, raw in arrays.items() if not raw.any()
        },
        "relu_hides": {
            name: display.hidden_share(display.over_image(raw, shown.shape[:2], padded.shape[:2]))
            for name, raw in arrays.items()
        },
        "score": float(score),
        "score_is": "difference of " + of if isinstance(target, Difference) else of,
        "outputs": meaning.to_json(),
        "extent": list(shown.shape[:2]),
        "padded": list(padded.shape[:2]),
    }
    if goal.region is not None:
        arrays["region"] = goal.region
    stream = io.BytesIO()
    np.savez_compressed(stream, **{"about": np.array(json.dumps(about)), **arrays})  # pyright: ignore
    return stream.getvalue()


def load_maps(path: Path) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, "*space"]]]:
    """What a file of maps says of itself, and its arrays.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(str(arrays.pop("about"))), arrays
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{str(path)!r} is no file of maps: {error}; remove it") from None


def write_index(gallery: Gallery, folder: Path, command: Sequence[str]) -> list[dict[str, Any]]:
    """Writes the index, and returns what the files of maps say of themselves."""
    told = [{**load_maps(folder / maps.file)[0], "file": maps.file} for maps in gallery.maps]
    hidden = {about["file"]: about["relu_hides"].items() for about in told}
    values = {
        "gallery": _VERSION,
        "command": list(command),
        "versions": run.versions(),
        "device": run.device(),
        "options": dataclasses.asdict(gallery.options),
        "about_maps": "float32, signed and raw, at the resolution of the layer",
        "maps": told,
        "figures": [plate.file for plate in gallery.plates],
        "signed_figures": [
            plate.file
            for plate in gallery.plates
            if display.is_signed(
                gallery.options.profile,
                (each for row in plate.rows for maps in row for each in hidden[maps.file]),
            )
        ],
    }
    _files.write_json(folder / INDEX, values)
    return told
