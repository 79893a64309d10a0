"""How results print in a shell and in a notebook: what a person asks of them, in a few lines."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def extents(shape: Sequence[int]) -> str:
    """A shape, as `40 x 32`; of a single number `scalar`."""
    return " x ".join(map(str, shape)) or "scalar"


def described(value: Any) -> str:
    """An array in a few words: its extents and range, or its value.

    Of what is traced, and of mere shapes, extents and dtype; of anything else, as of the axes in a
    `jax.vmap`, its own representation.
    """
    if isinstance(value, str):
        return value
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        leaves = jax.tree.leaves(value)
        return repr(value if leaves == [value] else jax.tree.map(described, value))
    concrete = isinstance(value, (np.ndarray, np.generic, jax.Array))
    if isinstance(value, Tracer) or not concrete or not _is_here(value):
        return f"{extents(shape)} {dtype}"
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array.item():.4g}" if array.dtype.kind == "f" else str(array.item())
    if array.dtype == bool:
        return f"{extents(shape)}, {np.count_nonzero(array)} of {array.size} true"
    wide = array.astype(np.float64)
    if not array.size or np.isnan(wide).all():
        return f"{extents(shape)}, all NaN" if array.size else extents(shape)
    lost = int(np.isnan(wide).sum())
    nan = f", {lost} NaN" if lost else ""
    low, high = f"{np.nanmin(wide):.4g}", f"{np.nanmax(wide):.4g}"
    span = f"all {low}" if low == high else f"{low} to {high}"
    return f"{extents(shape)}, {span}{nan}"


def _is_here(value: Any) -> bool:
    """Whether this process holds all of an array, which is not donated."""
    if not isinstance(value, jax.Array):
        return True
    return value.is_fully_addressable and not value.is_deleted()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """The same for a notebook; the first row is the head."""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return "<table><tr>" + "</tr><tr>".join([cells, *lines]) + "</tr></table>"


def fields(title: str, found: Mapping[str, Any]) -> str:
    """A title, and below it one line for each field that is not None."""
    rows = [(f"  {name}", words) for name, words in _described(found)]
    return "\n".join([title, table(rows)]) if rows else title


def html_fields(title: str, found: Mapping[str, Any]) -> str:
    """The same for a notebook."""
    rows = [("", "shape and range"), *_described(found)]
    return f"<div>{escape(title)}</div>{html_table(rows)}"


def _described(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, described(value)) for name, value in found.items() if value is not None]


def target(score: Any) -> str:
    """What a `segcam_jax.targets.Target` reads of the output, and where."""
    of = score.of if score.outputs in (None, score.of) else f"{score.of} of {score.outputs}"
    where = "all positions" if score.mask is None else f"the region {described(score.mask)}"
    return f"Target(class {described(score.class_index)}, {score.reduce} of {of} over {where})"


def subject(target: Any) -> str:
    """A target in the words of a title: `class 7 (sum of logits over 312 pixels)`."""
    if isinstance(target, str):
        return target
    if hasattr(target, "second"):  # `segcam_jax.targets.Difference`
        return f"{subject(target.first)} minus {subject(target.second)}"
    name = f"class {described(target.class_index)}"
    if target.mask is None:
        plain = (target.reduce, target.of) == ("sum", "logits")
        return name if plain else f"{name} ({target.reduce} of {target.of})"
    if isinstance(target.mask, Tracer) or not _is_here(target.mask):
        return f"{name} ({target.reduce} of {target.of} over a region)"
    mask = np.asarray(target.mask)
    unit = {2: "pixel", 3: "voxel"}.get(mask.ndim, "position")
    count = np.count_nonzero(mask)
    weighted = "" if np.isin(mask, (0, 1)).all() else "weighted "
    over = f"{count:,} {unit}{'' if count == 1 else 's'}"
    return f"{name} ({weighted}{target.reduce} of {target.of} over {over})"
