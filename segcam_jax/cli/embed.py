"""`segcam embed`: a run of pooled activations, and its images as points."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from segcam_jax import _files
from segcam_jax.cli import console, study_run
from segcam_jax.cli.arguments import names_in
from segcam_jax.cli.study import Embed
from segcam_jax.extras import require
from segcam_jax.networks.layers import find_layer
from segcam_jax.reports import embedding
from segcam_jax.reports.embedding import Points, Projection
from segcam_jax.runs import StoredRun, cost, open_store
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.pooling import PoolJob, PoolOptions
from segcam_jax.runs.stored_run import STORE
from segcam_jax.types import InputError, counted, none_of

TAPS = ("last",)
_PROJECTIONS = ("pca", "tsne")


def embed(command: Embed) -> int:
    """Pools what images activate, projects it, and writes everything; returns the exit code."""
    chosen = _projections(command)
    config = study_run.read_config(command.config)
    options = study_run.options_of(command, {"tap": TAPS, **config.words}, PoolOptions)
    opened = study_run.open_run(command, config, options, command.out / STORE, kind=PoolJob)
    layers = {word: find_layer(opened.network, word) for word in opened.options.taps}
    embedding.check_count(len(opened.items), chosen, command.perplexity)
    if command.dry_run:
        print(cost.summary(opened))
        return 0
    names = {word: _files.slug(word, "layer") for word in layers}
    ends = ("csv", "npy", *(f"{kind}.png" for kind in chosen))
    files = [f"{name}.{end}" for name in names.values() for end in ends]
    free = () if command.overwrite else files
    _files.check_free(command.out, free, unless=command.out / STORE / FILE)
    study_run.check(command, opened)
    numbers = study_run.numbers_of(command, opened)
    with opened.create(beside=[command.out]) as store:
        done = study_run.compute(command, opened, store, numbers)
        finished = study_run.finish(command, opened, store, numbers)
        run = open_store(command.out / STORE)
        images = [opened.items[n].path for n in study_run.items_of(opened, numbers)]
        study_run.tell_images([run], images)
        if finished is None:
            print("other shares still have shards to compute; the last one draws the figures")
        else:
            _draw(command, run, layers, names, chosen)
    return study_run.exit_code(done, finished)


def _draw(
    command: Embed,
    run: StoredRun,
    layers: Mapping[str, str],
    names: Mapping[str, str],
    kinds: Sequence[str],
) -> None:
    """Writes tables, activations and figures of the images that have results."""
    count = run.table["error"].null_count()
    embedding.check_count(count, kinds, command.perplexity)
    folders = [Path(os.path.abspath(path)) for path in command.images if path.is_dir()]
    one = len(command.images) == len(folders) == 1
    title = folders[0].name if one else counted(count, "image")
    points = Points.of(run, list(dict.fromkeys(layers.values())), folders)
    projected = {
        word: {kind: _project(points, tap, kind, command) for kind in kinds}
        for word, tap in layers.items()
    }
    for word, tap in layers.items():
        layer = tap if word == tap else f"{word} layer, {tap}"
        said = (title, run.manifest.network.title, layer)
        embedding.write_layer(points, tap, projected[word], command.out / names[word], said)
    columns = ("layer", "tap", "channels", "images", "groups")
    rows = [
        (word, tap, points.values[tap].shape[1], count, len(set(points.groups)))
        for word, tap in layers.items()
    ]
    console.table(None, columns, rows)
    figures = counted(len(kinds) * len(layers), "figure")
    print(f"{figures}, {counted(len(layers), 'table')} are in {command.out}")


def _projections(command: Embed) -> tuple[str, ...]:
    chosen = tuple(word.lower().replace("-", "") for word in names_in(command.projection))
    for word in chosen:
        if word not in _PROJECTIONS:
            raise none_of(f"unknown projection {word!r}", word, _PROJECTIONS)
    if not chosen:
        raise InputError("no projection was given; choose from pca, tsne")
    if "tsne" in chosen:
        require("sklearn.manifold", extra="embed")
    return tuple(dict.fromkeys(chosen))


def _project(points: Points, tap: str, kind: str, command: Embed) -> Projection:
    values = points.values[tap]
    if kind == "pca":
        return embedding.pca(values)
    return embedding.tsne(values, perplexity=command.perplexity, seed=command.seed or 0)
