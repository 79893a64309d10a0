"""What a classifier's training leaves behind: scores, tables and the figure of the confusion."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
from jaxtyping import Int
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from segcam_jax import _files, viz

_COUNTED = 30  # classes up to which cells are wide enough for their numbers


def scores(matrix: Int[np.ndarray, "k k"]) -> dict[str, Any]:
    """Accuracy, and precision, recall and F1 as means over classes and of each class.

    A class that was never predicted has precision 0, as scikit-learn has it.

    Args:
        matrix: counts by true class (row) and predicted class (column).
    """
    correct = np.diagonal(matrix).astype(float)
    true, predicted = matrix.sum(1), matrix.sum(0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(true, 1)
    f1 = 2 * correct / np.maximum(true + predicted, 1)
    return {
        "accuracy": float(correct.sum() / max(matrix.sum(), 1)),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "by_class": {
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
        },
    }


def class_rows(matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: how many images, how many right, scores, what it is taken for."""
    by_class = scores(matrix)["by_class"]
    rows = []
    for k, name in enumerate(class_names):
        errors = matrix[k].copy()
        errors[k] = 0
        rows.append(
            {
                "class": name,
                "images": int(matrix[k].sum()),
                "correct": int(matrix[k, k]),
                **{score: round(values[k], 4) for score, values in by_class.items()},
                "mostly_taken_for": class_names[int(errors.argmax())] if errors.any() else "",
            }
        )
    return rows


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table under a temporary name, then renames it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _files.write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a table, without its header."""
    return list(csv.reader(io.StringIO(path.read_text())))[1:]


def write_tables(folder: Path, matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> None:
    """Writes `confusion.csv`, `confusion.png` and `classes.csv`."""
    rows = class_rows(matrix, class_names)
    write_csv(folder / "classes.csv", list(rows[0]), (list(row.values()) for row in rows))
    cells = ([name, *line] for name, line in zip(class_names, matrix.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ["true class, predicted", *class_names], cells)
    viz.save(confusion_figure(matrix, class_names), folder / "confusion.png")


def confusion_figure(matrix: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> Figure:
    """The confusion matrix: colours are shares of a true class, numbers are images."""
    count = len(class_names)
    side = max(3.6, 0.34 * count)
    figure = Figure(figsize=(side + 1.8, side + 1.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= _COUNTED:
        for row, column in np.argwhere(matrix):
            dark = share[row, column] > 0.6
            axes.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#222222",
            )
    # Names are words, not formulas.
    labels: dict[str, Any] = {"fontsize": 8, "parse_math": False}
    axes.set_xticks(range(count), class_names, rotation=90, **labels)
    axes.set_yticks(range(count), class_names, **labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"{matrix.sum()} images, accuracy {accuracy:.3f}", fontsize=10)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def show(metrics: dict[str, Any]) -> None:
    """Prints the scores of a run, and its table of classes."""
    found = metrics["scores"]
    done = f"{len(metrics['folds'])} of {metrics['of_folds']} folds"
    rich.print(
        f"{metrics['model']}, {done}, {metrics['images']} images: accuracy "
        f"{found['accuracy']:.4f} (deviation between folds {found['accuracy_deviation']:.4f}), "
        f"loss {found['loss']:.4f}, precision {found['precision']:.4f}, recall "
        f"{found['recall']:.4f}, F1 {found['f1']:.4f}"
    )
    rows = class_rows(np.asarray(metrics["confusion"]), metrics["classes"])
    table = Table(*(column.replace("_", " ") for column in rows[0]))
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    rich.print(table)
