"""What predicted segments have to do with each class, of the scores of a run: tables and figures.

RUN/scores/segments.csv         a row for each image, explained class, map and segment
RUN/scores/segments_mean.csv    the same over all images
RUN/scores/evidence.png         class i's evidence lies on class j, positive and negative apart
RUN/scores/ablation.png         what class i loses without the segment of class j
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars
from matplotlib.figure import Figure

from segcam_jax import _files, viz
from segcam_jax.runs import StoredRun
from segcam_jax.runs.scores import CONTROL, NO_MAP
from segcam_jax.viz import ranking as figures

_EVIDENCE, _ABLATION = "segment_evidence", "segment_ablation"
_PARTS = {_EVIDENCE: ("positive", "negative"), _ABLATION: ("fall",)}
_FIGURES = {"evidence": _EVIDENCE, "ablation": _ABLATION}
_OVER = ("class", "method", "tap", "part", "segment")
_PLACE = ("class", "method", "tap")


def table(run: StoredRun, scores: polars.DataFrame) -> polars.DataFrame:
    """A row for each image, explained class, map, part of the evidence, and predicted segment.

    Values are null where there are none: of a part that is 0 everywhere, of a class that is not
    predicted.
    """
    labels = run.manifest.network.labels
    explained = dict(zip(run.table["row"], run.table["class_index"], strict=True))
    found = []
    for row in scores.filter(polars.col("scores").is_not_null()).iter_rows(named=True):
        if row["metric"] not in _PARTS:
            continue
        values = np.array(row["scores"], float).reshape(-1, len(labels))
        for part, of_part in zip(_PARTS[row["metric"]], values, strict=True):
            known = np.isfinite(of_part) & (part == "fall" or bool(of_part.any()))
            about = (run.names[row["item"]], labels[explained[row["row"]]], row["method"])
            found += [
                (*about, row["tap"], part, segment, float(value) if there else None)
                for segment, value, there in zip(labels, of_part, known, strict=True)
            ]
    names = ("image", *_PLACE, "part", "segment")
    schema = {**dict.fromkeys(names, polars.String), "value": polars.Float64}
    return polars.DataFrame(found, schema, orient="row")


def means(found: polars.DataFrame) -> polars.DataFrame:
    """The means of a table over images, and how many there are of each; those of none left out."""
    value = polars.col("value")
    known = found.filter(value.is_not_null())
    grouped = known.group_by(_OVER, maintain_order=True)
    return grouped.agg(value.mean(), polars.col("image").n_unique().alias("images"))


def write(run: StoredRun, scores: polars.DataFrame, folder: Path, *, title: str) -> None:
    """Writes all files, those of metrics that were scored; earlier ones of others go."""
    found = table(run, scores)
    over = means(found)
    tables = {"segments.csv": found, "segments_mean.csv": over}
    for name, each in tables.items():
        if len(found):
            _files.write_bytes(folder / name, each.write_csv().encode())
        else:
            (folder / name).unlink(missing_ok=True)
    labels = list(run.manifest.network.labels)
    for name, metric in _FIGURES.items():
        of_metric = over.filter(polars.col("part").is_in(_PARTS[metric]))
        if len(of_metric):
            drawn = figure(of_metric, labels, falls=metric == _ABLATION, title=title)
            viz.save(drawn, folder / f"{name}.png")
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)


def figure(
    over: polars.DataFrame, labels: Sequence[str], *, falls: bool = False, title: str = ""
) -> Figure:
    """A row for each class by each map, a column for each segment that has a value.

    Args:
        over: as `means` makes it, of one metric.
        labels: of the network, in whose order classes are drawn.
        falls: as in `viz.ranking.segments`.
    """
    order = {label: place for place, label in enumerate(labels)}
    some = over.filter(polars.col("value") != 0)
    columns = sorted({*some["segment"], *some["class"]}, key=order.__getitem__)
    places = list(dict.fromkeys(over.select("method", "tap", "class").rows()))
    first = {pair: number for number, pair in enumerate(dict.fromkeys(p[:2] for p in places))}
    places.sort(key=lambda p: (first[p[:2]], order[p[2]]))
    panels = {}
    for (part,), rows in over.group_by("part", maintain_order=True):
        values = np.full((len(places), len(columns)), np.nan)
        for row in rows.iter_rows(named=True):
            if row["segment"] in columns:
                place = places.index((row["method"], row["tap"], row["class"]))
                values[place, columns.index(row["segment"])] = row["value"]
        name = "loss without the segment of" if falls else f"{part} evidence lies on"
        panels[name] = values
    names = [_named(*place) for place in places]
    return figures.segments(panels, names, columns, falls=falls, title=title)


def _named(method: str, tap: str, label: str) -> str:
    """A row: the class, and the map where there is one."""
    by = method if tap == CONTROL else f"{method}, {tap}"
    return label if method == NO_MAP else f"{label} by {by}"
