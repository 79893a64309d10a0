"""What a training leaves behind: JSON, tables, curves, a classifier's scores and confusion."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import rich
from jaxtyping import Int
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from segcam_jax import files, viz
from segcam_jax.extras import require
from segcam_jax.types import InputError

_COUNTED = 30  # classes up to which cells are wide enough for their numbers


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; a reader never sees half a file."""
    files.write_bytes(path, json.dumps(content, indent=1).encode())


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """What a file of `write_json` holds.

    Raises:
        InputError: if it is none, or lacks one of the keys: a run cannot resume.
    """
    found = files.parse_json(files.read_bytes(path), f"{str(path)!r} is")
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking or not isinstance(found, dict):
        what = ", ".join(lacking) or "all named values"
        raise InputError(f"{str(path)!r} lacks {what}; give another --out, or remove it")
    return found


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a line of JSON for each row."""
    files.write_bytes(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Writes a table as CSV."""
    files.write_bytes(path, table.write_csv().encode())


def read_table(path: Path) -> pl.DataFrame:
    """A table as text, as it was written."""
    return pl.read_csv(path, infer_schema=False)


def plot_curves(
    path: Path, history: Sequence[dict[str, Any]], panels: dict[str, tuple[str, ...]]
) -> None:
    """Draws scores over steps, one panel for each group, into a PNG file.

    Args:
        history: scores with a `step` each.
        panels: title -> keys of the scores drawn in that panel.
    """
    # The figure class, not pyplot: no global state and no display.
    figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
    for axes, (title, keys) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key in keys:
            axes.plot([row["step"] for row in history], [row[key] for row in history], label=key)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    viz.save(figure, path)


def class_scores(matrix: Int[np.ndarray, "k k"]) -> dict[str, Any]:
    """Accuracy, and precision, recall and F1 as means over classes and of each class.

    A class that was never predicted has precision 0.

    Args:
        matrix: counts by true class (row) and predicted class (column).
    """
    metrics = require("sklearn.metrics", extra="train")
    true, predicted = np.indices(matrix.shape).reshape(2, -1)
    names = ("precision", "recall", "f1")
    found = metrics.precision_recall_fscore_support(
        true, predicted, sample_weight=matrix.ravel(), zero_division=0
    )
    by_class = {name: each.tolist() for name, each in zip(names, found, strict=False)}
    means = {name: float(np.mean(values)) for name, values in by_class.items()}
    accuracy = float(np.trace(matrix) / max(matrix.sum(), 1))
    return {"accuracy": accuracy, **means, "by_class": by_class}


def class_table(matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> pl.DataFrame:
    """A row for each class: how many images, how many right, scores, what it is taken for."""
    by_class = class_scores(matrix)["by_class"]
    return pl.DataFrame(
        {
            "class": class_names,
            "images": matrix.sum(1),
            "correct": np.diagonal(matrix),
            **{score: np.round(values, 4) for score, values in by_class.items()},
            "mostly_taken_for": mostly_taken_for(matrix, class_names),
        }
    )


def mostly_taken_for(matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> pl.Series:
    """The class that each class is most often taken for; none where it always is right."""
    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    names = [class_names[row.argmax()] if row.any() else None for row in errors]
    return pl.Series(names, dtype=pl.String)


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of a table."""
    table = Table(*(column.replace("_", " ") for column in rows[0]))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    rich.print(table)


def write_classes(folder: Path, matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> None:
    """Writes `confusion.csv`, `confusion.png` and `classes.csv`."""
    write_table(folder / "classes.csv", class_table(matrix, class_names))
    counts = pl.DataFrame(matrix, schema=list(class_names), orient="row")
    names = pl.Series("true class, predicted", class_names)
    write_table(folder / "confusion.csv", counts.insert_column(0, names))
    viz.save(confusion_figure(matrix, class_names), folder / "confusion.png")


def confusion_figure(matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> Figure:
    """The confusion matrix: colours are shares of a true class, numbers are images."""
    count = len(class_names)
    side = max(3.6, 0.34 * count)
    figure = Figure(figsize=(side + 1.8, side + 1.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix) if count <= _COUNTED else ():
        colour = "white" if share[row, column] > 0.6 else "#222222"
        text = str(matrix[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    # Names are words, not formulas.
    labels: dict[str, Any] = {"fontsize": 8, "parse_math": False}
    axes.set_xticks(range(count), class_names, rotation=90, **labels)
    axes.set_yticks(range(count), class_names, **labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"{matrix.sum()} images, accuracy {accuracy:.3f}", fontsize=10)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="share of the true class")
    return figure
