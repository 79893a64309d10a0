"""`segcam embed`: a folder of images as points, by what a layer says of them."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np

from segcam_jax import _files, viz
from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.extras import require
from segcam_jax.networks import image_inputs
from segcam_jax.networks.image_inputs import read_sample
from segcam_jax.networks.layers import find_layer
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.reports.figures import drawable
from segcam_jax.sweep import embedding
from segcam_jax.sweep.embedding import Projection
from segcam_jax.sweep.gallery import slug
from segcam_jax.types import InputError, nearest_first
from segcam_jax.viz.scatter import scatter

_PROJECTIONS = ("pca", "tsne")
_KNOWN_AS = {"pca": "PCA", "tsne": "t-SNE"}
_THUMBNAIL = 96


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """All images of the folder."""

    files: list[Path]
    groups: list[str]
    thumbnails: list[np.ndarray]
    values: dict[str, np.ndarray]


def embed(command: commands.Embed) -> None:
    """Runs the network over the folder, projects, and then writes everything."""
    chosen = _projections(command)
    files = image_inputs.images_in(command.folder)
    embedding.check_count(len(files), chosen, command.perplexity)
    side = () if command.size is None else (command.size,)
    opening = OpenOptions.parse(size=side, range=command.range, seed=command.seed)
    network = open_network(NetworkSpec.parse(command.weights), opening)
    if network.note:
        console.note(network.note)
    layers = {word: find_layer(network, word) for word in names_in(command.tap)}
    if not layers:
        raise InputError("no layer was given; add --tap, for example last")
    names = [f"{slug(word)}.{end}" for word in layers for end in ("csv", "npy")]
    names += [f"{slug(word)}.{kind}.png" for word in layers for kind in chosen]
    _check_free(command, names)
    seen = _look(command, network, files, layers)
    projected = {
        (word, kind): _project(seen.values[tap], kind, command)
        for word, tap in layers.items()
        for kind in chosen
    }
    for word, tap in layers.items():
        mine = {kind: projected[word, kind] for kind in chosen}
        _write(command, network, seen, word, tap, mine)
    console.table(
        None,
        ("layer", "tap", "channels", "images", "groups"),
        [
            (word, tap, seen.values[tap].shape[1], len(files), len(set(seen.groups)))
            for word, tap in layers.items()
        ],
    )
    print(f"{len(projected)} figure(s), {len(layers)} table(s) are in {command.out}")


def _projections(command: commands.Embed) -> tuple[str, ...]:
    chosen = tuple(word.lower().replace("-", "") for word in names_in(command.projection))
    for word in chosen:
        if word not in _PROJECTIONS:
            choices = ", ".join(nearest_first(word, _PROJECTIONS))
            raise InputError(f"unknown projection {word!r}; choose from {choices}")
    if not chosen:
        raise InputError("no projection was given; choose from pca, tsne")
    if "tsne" in chosen:
        require("sklearn.manifold", extra="embed")
    if not 0 <= command.seed < 2**32:
        raise InputError(f"`seed` is {command.seed}; give a number from 0 to below 2^32")
    return tuple(dict.fromkeys(chosen))


def _check_free(command: commands.Embed, names: list[str]) -> None:
    _files.check_folder(command.out)
    there = [name for name in names if (command.out / name).exists()]
    if there and not command.overwrite:
        raise InputError(
            f"output {str(command.out)!r} already holds {there[0]!r}; give another folder, or "
            "--overwrite"
        )


def _look(
    command: commands.Embed, network: Network, files: list[Path], layers: dict[str, str]
) -> _Seen:
    """The pooled activations of every image; an unreadable one ends it before a file is written."""
    taps = list(dict.fromkeys(layers.values()))
    notes: dict[str, int] = {}
    thumbnails, values = [], {tap: [] for tap in taps}
    form = image_inputs.ImageForm.of(network, command.fit)
    with console.progress("looking", len(files)) as advance:
        for file in files:
            sample = read_sample(file, form)
            for note in sample.notes:
                notes[note] = notes.get(note, 0) + 1
            found = embedding.pooled(network, taps, sample.padded, command.pool)
            for tap in taps:
                values[tap].append(found[tap])
            thumbnails.append(_thumbnail(sample.shown))
            advance(1)
    for note, count in notes.items():
        console.note(f"{count} image(s): {note}")
    return _Seen(
        files,
        [_group(command.folder, file) for file in files],
        thumbnails,
        {tap: np.stack(rows) for tap, rows in values.items()},
    )


def _thumbnail(shown: np.ndarray) -> np.ndarray:
    height, width, _ = shown.shape
    step = max(1, -(-max(height, width) // (2 * _THUMBNAIL)))
    return drawable(shown)[::step, ::step]


def _group(folder: Path, file: Path) -> str:
    """The sub-folder of an image; empty for one that lies in no sub-folder."""
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _project(values: np.ndarray, kind: str, command: commands.Embed) -> Projection:
    if kind == "pca":
        return embedding.pca(values)
    return embedding.tsne(values, perplexity=command.perplexity, seed=command.seed)


def _write(
    command: commands.Embed,
    network: Network,
    seen: _Seen,
    word: str,
    tap: str,
    projected: dict[str, Projection],
) -> None:
    """A layer's table, activations and figures."""
    base = slug(word)
    columns = [f"{kind}_{axis}" for kind in projected for axis in (1, 2)]
    points = np.concatenate([each.points for each in projected.values()], axis=1)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image", "group", *columns])
    for file, group, row in zip(seen.files, seen.groups, points, strict=True):
        name = file.relative_to(command.folder).as_posix()
        writer.writerow([name, group, *(f"{value:.6g}" for value in row)])
    _files.write_bytes(command.out / f"{base}.csv", text.getvalue().encode())
    _files.write_array(command.out / f"{base}.npy", seen.values[tap])
    layer = tap if word == tap else f"{word} layer, {tap}"
    for kind, each in projected.items():
        figure = scatter(
            each.points,
            seen.thumbnails,
            [group or "(no sub-folder)" for group in seen.groups],
            title=f"{command.folder.resolve().name}: {_KNOWN_AS[kind]} of {network.title}",
            subtitle=f"{layer}, {seen.values[tap].shape[1]} channels; {each.note}",
            axes=each.axes,
        )
        viz.save(figure, command.out / f"{base}.{kind}.png")
