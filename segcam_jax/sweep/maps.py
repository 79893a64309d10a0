"""The maps of a gallery, computed and stored.

Images go through one compiled program per model and layer, which holds all methods, so that they
share their passes; it takes the class as an input, so that all targets share it too.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from segcam_jax import _files
from segcam_jax.engine import compiled_function
from segcam_jax.heatmap import hidden_share, over_image
from segcam_jax.methods import METHODS
from segcam_jax.networks.class_queries import Prediction, ResolvedClass
from segcam_jax.networks.image_inputs import ImageForm, Sample, read_sample
from segcam_jax.networks.network import Network
from segcam_jax.reports import display, words
from segcam_jax.runs.manifest import device, versions
from segcam_jax.sweep import batch
from segcam_jax.sweep.gallery import Gallery, GalleryOptions, Maps, Picture
from segcam_jax.sweep.ledger import Ledger
from segcam_jax.taps import Split
from segcam_jax.targets import Difference
from segcam_jax.types import InputError, SegcamError, TargetError

INDEX = "gallery.json"
Advance = Callable[[int, str], None]
_VERSION = 1


@compiled_function
def _explained(params, key, image, target, *, split: Split, options: batch.Options):
    """Raw maps of all methods, and the score."""
    found, score = {}, jnp.zeros(())
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
    for network in dict.fromkeys(maps.network for maps in pending):
        mine = [maps for maps in pending if maps.network is network]
        predictions = {}
        for maps in mine:
            if maps.picture not in predictions:
                advance(0, f"{network.name}: predicting {maps.picture.name}")
                predictions[maps.picture] = _predicted(maps.picture, network, gallery.options)
        for maps in mine:
            # Found before anything is explained: a class may not exist in an image.
            _resolved(maps, predictions[maps.picture])
        for maps in mine:
            advance(0, f"{network.name} at {maps.word}: {maps.picture.name}")
            data = _computed(maps, predictions[maps.picture], gallery.options)
            _files.write_bytes(ledger.folder / maps.file, data)
            ledger.written(maps.file)
            advance(1, maps.file)
        done()
    done()


def _predicted(picture: Picture, network: Network, options: GalleryOptions) -> Prediction:
    sample = _same(picture, network, options)
    output = sample.cropped(network.logits(sample.padded))
    return Prediction.of(output, network.labels, network.meaning, network.background)


def _same(picture: Picture, network: Network, options: GalleryOptions) -> Sample:
    """The image, which must not have changed."""
    sample = read_sample(picture.path, ImageForm.of(network, options.fit))
    sample.check_same(picture.sha256)
    return sample


def _resolved(maps: Maps, prediction: Prediction) -> ResolvedClass:
    try:
        return maps.query.resolve(prediction, maps.network.labels)
    except SegcamError as error:
        where = f"{str(maps.picture.path)!r}, {maps.network.name}"
        raise type(error)(f"{where}: {error}") from None


def _computed(maps: Maps, prediction: Prediction, options: GalleryOptions) -> bytes:
    """The file of maps, in memory."""
    network = maps.network
    sample = _same(maps.picture, network, options)
    resolved = _resolved(maps, prediction)
    split = network.split(maps.tap, sample.padded.shape)
    extent, padded, meaning = sample.extent, sample.padded.shape[:2], network.meaning
    target = resolved.target(options.of, padded, meaning)
    of = "probabilities" if meaning.outputs == "probabilities" else options.of
    found, score = _explained(
        network.params,
        jax.random.key(options.seed),
        sample.padded,
        target,
        split=split,
        options=batch.cam_options(maps.methods, split),
    )
    if not np.isfinite(float(score)):
        raise TargetError(
            f"{str(maps.picture.path)!r}: the score of {maps.query.name!r} by {network.name} is "
            f"{float(score)}: the network rules the class out, and nothing explains that; name "
            "another"
        )
    arrays = {name: np.asarray(values, np.float32) for name, values in found.items()}
    broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if broken:
        raise InputError(
            f"{str(maps.picture.path)!r}: {broken[0]} at {maps.tap} of {network.name} overflowed "
            "float32; explain probabilities"
        )
    about = {
        **resolved.summary(prediction, network.labels),
        "chosen": words.how_chosen(maps.query.first, prediction),
        "background": prediction.background,
        "image": str(maps.picture.path),
        "model": network.name,
        "layer": maps.word,
        "tap": maps.tap,
        "shape": list(split.activation.shape),
        "methods": list(maps.methods),
        "zero": {
            name: display.why_zero(raw, name) for name, raw in arrays.items() if not raw.any()
        },
        "relu_hides": {
            name: hidden_share(over_image(raw, extent, padded)) for name, raw in arrays.items()
        },
        "score": float(score),
        "score_is": "difference of " + of if isinstance(target, Difference) else of,
        "outputs": meaning.to_json(),
        "extent": list(extent),
        "padded": list(padded),
    }
    if resolved.region is not None:
        arrays["region"] = resolved.region
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
        "versions": versions(),
        "device": device(),
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
