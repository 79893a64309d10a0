"""What a kernel has computed, as a store holds it: named arrays, and a row for every target.

map.TAP          (row, method, y.TAP, x.TAP)      methods whose map has the tap's positions
map.TAP.METHOD   (row, y, x)                      others, as those that ablate windows
weight.TAP       (row, method, channel.TAP)       NaN where a method weighs no channels
drop.TAP.METHOD, attribution.TAP.METHOD           of methods that have them
score.TAP (row), region (row, y, x), prediction (row, y, x), image (item, y, x, c)
truth (row, y, x)                                 of images that have one
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.networks.image_truths import outside_of_mask
from segcam_jax.networks.network import Network
from segcam_jax.runs.items import ImageFile, Item
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.shard import Explained, Group, Place
from segcam_jax.runs.store import Block, Variable
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import UNKNOWN

_AXES = {1: "x", 2: "yx", 3: "zyx"}
Row = dict[str, Any]


def failed_row(item: Item, targets: int, failure: Failure) -> Row:
    """The row of an item that could not be read."""
    file = failure.file or ImageFile(item.path, None, None)
    return {
        "row": item.index * targets,
        "item": item.index,
        "name": item.name,
        **dataclasses.asdict(file),
        "error": failure.reason,
    }


def of_group(
    network: Network, options: StudyOptions, targets: int, group: Group
) -> tuple[list[Block], list[Row]]:
    """The arrays of the images of one extent, and their rows."""
    rows = {
        (member, number): _row(network, targets, group, member, number)
        for member, goals in enumerate(group.goals)
        for number in range(len(goals))
    }
    explained = [place for place, row in rows.items() if row["error"] is None]
    variables = [*_of_images(group, explained), *_truths(network, options, group, explained)]
    places = group.places
    taps = list(dict.fromkeys(place.tap for place in places))
    names = _files.unique_names([tap.replace("/", ".") for tap in taps])
    for tap, name in zip(taps, names, strict=True):
        there = [place for place in places if place.tap == tap]
        variables += _of_tap(options, group, there, name, rows, explained)
    for row in rows.values():
        if row["error"] is not None:  # What overflowed has numbers that mean nothing.
            for column in [key for key in row if key.endswith((".max", ".negative"))]:
                del row[column]
    for place in explained:
        rows[place]["program"] = "; ".join(dict.fromkeys(group.programs))
    numbers = np.array([rows[place]["row"] for place in explained], np.int64)
    blocks = [Block(group.name, numbers, tuple(variables))] if explained else []
    if options.store_images:
        images = np.stack([loaded.sample.shown for loaded in group.loaded])
        items = np.array([item.index for item in group.members], np.int64)
        image = Variable("image", ("item", "y", "x", "c"), images)
        blocks.append(Block(group.name, items, (image,)))
    return blocks, list(rows.values())


def file_of_row(group: Group, member: int, row: int | None = None) -> Row:
    """What a row says of its image; `row` is its number, None that of the item."""
    item, loaded = group.members[member], group.loaded[member]
    return {
        "row": item.index if row is None else row,
        "item": item.index,
        "name": item.name,
        **dataclasses.asdict(loaded.file),
        "sha256": loaded.sample.sha256,
        "extent": group.name,
        "padded": f"{group.padded[0]}x{group.padded[1]}",
        "notes": "; ".join(loaded.sample.notes) or None,
    }


def _row(network: Network, targets: int, group: Group, member: int, number: int) -> Row:
    goal = group.goals[member][number]
    row = file_of_row(group, member, group.members[member].index * targets + number)
    row["error"] = goal.reason if isinstance(goal, Failure) else None
    if isinstance(goal, Explained):
        prediction = goal.prediction
        first = prediction.order[0] if prediction.order else None
        row |= {
            "target": goal.goal.title,
            "region": None if goal.region is None else goal.goal.region.words,
            "chosen": goal.goal.query.words,
            "class_index": goal.class_index,
            "class": network.labels[goal.class_index],
            "rather_than": None if goal.second is None else network.labels[goal.second],
            "share": float(prediction.shares[goal.class_index]),
            "predicted": None if first is None else network.labels[first],
            "predicted_share": None if first is None else float(prediction.shares[first]),
            "pixels": None if goal.region is None else int(goal.region.sum()),
        }
    return row


def _of_images(group: Group, explained: Sequence[tuple[int, int]]) -> Iterator[Variable]:
    """Regions and predictions of a segmentation network."""
    goals = [group.goals[member][number] for member, number in explained]
    known = [goal for goal in goals if isinstance(goal, Explained) and goal.region is not None]
    if known:
        regions = np.stack([goal.region for goal in known if goal.region is not None])
        drawn = [goal.prediction.drawn(goal.class_index, np.int16) for goal in known]
        predictions = np.stack([each for each in drawn if each is not None])
        yield Variable("region", ("row", "y", "x"), regions)
        yield Variable("prediction", ("row", "y", "x"), predictions)


def _truths(
    network: Network, options: StudyOptions, group: Group, explained: Sequence[tuple[int, int]]
) -> Iterator[Variable]:
    """Truths, where images have some; a mask is of the class that is explained."""
    found = []
    for member, number in explained:
        goal, truth = group.goals[member][number], group.loaded[member].truth
        if truth is None or not isinstance(goal, Explained):
            return
        if not options.truth_labels:
            classes = len(network.labels)
            outside = outside_of_mask(goal.class_index, network.background_index, classes)
            truth = np.where(truth == 1, goal.class_index, UNKNOWN if outside is None else outside)
        found.append(truth.astype(np.int16))
    if found:
        yield Variable("truth", ("row", "y", "x"), np.stack(found))


def _of_tap(
    options: StudyOptions,
    group: Group,
    places: Sequence[Place],
    name: str,
    rows: Mapping[tuple[int, int], Row],
    explained: Sequence[tuple[int, int]],
) -> Iterator[Variable]:
    """The arrays of all methods at a tap; tells the rows what is in them."""
    stacked: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    tap, shape = places[0].tap, places[0].shape
    score: np.ndarray | None = None
    for place in places:
        method = place.call.method.name
        own = {"tap": tap, "method": method}
        parts = _parts(group, place, explained)
        told = [rows[each] for each in explained]
        maps = _stored(parts["map"], options, told, place)
        score = parts["score"] if score is None else score
        _measure(parts["map"], f"{method}.{tap}", group, told)
        axes = [f"{letter}.{name}" for letter in _AXES[len(shape) - 1]]
        if maps.shape[1:] == shape[:-1]:
            stacked[method] = maps
        else:
            cells = [f"{axis}.{method}" for axis in axes]
            yield Variable(f"map.{name}.{method}", ("row", *cells), maps, own)
        if "weights" in parts:
            weights[method] = parts["weights"]
        if "drops" in parts:
            along = f"ablation.{name}.{method}"
            yield Variable(f"drop.{name}.{method}", ("row", along), parts["drops"], own)
        if "attribution" in parts:
            attribution = _stored(parts["attribution"], options, told, place)
            dims = ("row", *axes, f"channel.{name}")
            yield Variable(f"attribution.{name}.{method}", dims, attribution, own)
    axis, about = f"method.{name}", {"tap": tap, "methods": list(stacked)}
    if stacked:
        axes = [f"{letter}.{name}" for letter in _AXES[len(shape) - 1]]
        maps = np.stack(list(stacked.values()), axis=1)
        yield Variable(f"map.{name}", ("row", axis, *axes), maps, about)
    if weights:
        none = np.full((len(explained), shape[-1]), np.nan, np.float32)
        every = np.stack([weights.get(method, none) for method in stacked], axis=1)
        about = {**about, "weighing": list(weights)}
        yield Variable(f"weight.{name}", ("row", axis, f"channel.{name}"), every, about)
    if score is not None:
        yield Variable(f"score.{name}", ("row",), score, {"tap": tap})
        for place, value in zip(explained, score, strict=True):
            rows[place].setdefault("score", float(value))


def _parts(
    group: Group, place: Place, explained: Sequence[tuple[int, int]]
) -> dict[str, np.ndarray]:
    """The fields of the explanations of a place, a row for every target that was explained."""
    parts: dict[str, np.ndarray] = {}
    pieces = list(group.explanations(place))
    for asked, found in pieces:
        there = {
            (member, number): (index, position)
            for index, (member, numbers) in enumerate(asked)
            for position, number in enumerate(numbers)
        }
        rows = [row for row, each in enumerate(explained) if each in there]
        at = tuple(zip(*(there[explained[row]] for row in rows), strict=True))
        for field in ("map", "score", "weights", "drops", "attribution"):
            values = getattr(found, field)
            if values is None:
                continue
            # Of one target each, all that ran are explained: nothing is copied.
            chosen = values[:, 0] if values.shape[1] == 1 else values[at]
            if len(pieces) == 1:
                parts[field] = chosen.astype(np.float32, copy=False)
                continue
            shape = (len(explained), *chosen.shape[1:])
            parts.setdefault(field, np.empty(shape, np.float32))[rows] = chosen
    return parts


def _stored(
    values: np.ndarray, options: StudyOptions, rows: Sequence[Row], place: Place
) -> np.ndarray:
    """Values in the type that is stored; rows of those that it cannot hold say so."""
    with np.errstate(over="ignore"):
        stored = values.astype(options.store, copy=False)
    held = np.isfinite(stored).reshape(len(stored), -1).all(-1)
    for index in np.flatnonzero(~held).tolist():
        row = rows[index]
        if row["error"]:
            continue
        where = f"{place.call.method.name} at {place.tap}"
        if np.isnan(values[index]).any():
            row["error"] = f"{where} is NaN: the network or its gradient is not finite here"
        else:
            wider = "" if options.store == "float32" else ", or store float32"
            row["error"] = (
                f"{where} overflowed {options.store}; explain probabilities, or reduce by the "
                f"mean{wider}"
            )
    return stored


def _measure(maps: np.ndarray, name: str, group: Group, rows: Sequence[Row]) -> None:
    """The largest value of each map and the share of it that is negative, over the image."""
    cells = maps.shape[1:]
    shown = (
        slice(0, math.ceil(count * small / large))
        for count, small, large in zip(cells, group.extent, group.padded, strict=True)
    )
    flat = maps[(slice(None), *shown)].reshape(len(maps), -1).astype(np.float64)
    total = np.abs(flat).sum(-1)
    # What is negative is taken away twice: once as it is, once because it is missing.
    twice = total - flat.sum(-1)
    shares = np.divide(twice / 2, total, out=np.zeros_like(total), where=total > 0)
    for row, largest, share in zip(rows, flat.max(-1), shares, strict=True):
        row[f"{name}.max"] = float(largest)
        row[f"{name}.negative"] = float(share)
