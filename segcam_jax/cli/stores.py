"""`segcam show` and `segcam export`: a stored run, looked at and written as files."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars

from segcam_jax import _files, viz
from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.cli.stored import Drawing
from segcam_jax.reports import images
from segcam_jax.reports.context import ContextReport
from segcam_jax.reports.export import TABLE, What, export as export_run, row_names
from segcam_jax.reports.figures import Look
from segcam_jax.reports.instances import InstanceReport
from segcam_jax.reports.scans import check_free
from segcam_jax.reports.words import explained, percent, short
from segcam_jax.runs import StoredRun, open_store
from segcam_jax.runs.folder import RECORD, has_record, write_export_record
from segcam_jax.runs.stored_scans import StoredScans, found_in, kind_of, open_scans
from segcam_jax.runs.table import MAX, NEGATIVE, failure
from segcam_jax.types import InputError, counted, near, shortened, whole_number

_MOST_ROWS = 50
_TOLD = 8


def _look(command: Drawing) -> Look:
    names = [field.name for field in dataclasses.fields(Look)]
    return Look(**{name: getattr(command, name) for name in names})


def show(command: commands.Show) -> None:
    """Prints what a run holds, or one image, or the first by a column; draws them if asked to."""
    look = _look(command)
    if not 1 <= command.count <= _MOST_ROWS:
        raise InputError(f"--count is {command.count}; give 1 to {_MOST_ROWS}")
    ordered = command.best is not None or command.worst is not None
    if command.item is not None and ordered:
        raise InputError("give one of --item and --best or --worst")
    if command.out is not None:
        _files.check_writable(command.out)
    if kind_of(command.run) != "images":
        if command.item is not None or ordered or command.out is not None:
            raise InputError(
                f"{str(command.run)!r} is a run of scans, for which `segcam show` prints only a "
                "summary; `segcam export` writes its maps, figures and tables"
            )
        _summarise_scans(open_scans(command.run))
        return
    run = open_store(command.run)
    if command.item is not None:
        _show_item(run, _item(run, command.item), command.out, look)
    elif ordered:
        _show_ordered(run, command, look)
    else:
        _summarise(run)
        if command.out is not None:
            there = run.table.filter(polars.col("error").is_null())["row"]
            rows = there.head(command.count).to_list()
            first = "the first result" if len(rows) == 1 else f"the first {len(rows)} results"
            title = f"{shortened(run.path.name)}: {first}"
            viz.save(images.page(run, rows, look, title=title), command.out)
            print(f"{first}: {command.out}")


def export(command: commands.Export) -> None:
    """Writes the files of a run."""
    look = _look(command)
    if not command.what:
        raise InputError(f"--what names nothing; choose from {', '.join(get_args(What))}")
    if kind_of(command.run) != "images":
        _export_scans(command)
        return
    run = open_store(command.run)
    _check_outside(run.path, command.out)
    items = None
    if command.items:
        items = [n for words in names_in(command.items) for n in _items(run, words)]
    what = command.what
    total = len(row_names(run, items)) if set(what) - {"csv"} else 0
    with console.progress("exporting", total) as advance:
        count = export_run(
            run,
            command.out,
            what=what,
            items=items,
            look=look,
            overwrite=command.overwrite,
            advance=lambda rows, text: advance(rows, text),
        )
    table = f"; {TABLE} is the table" if "csv" in what else ""
    wanted = run.table if items is None else run.table.filter(polars.col("item").is_in(items))
    failed = wanted["error"].count()
    if failed and set(what) - {"csv"}:
        console.note(f"{counted(failed, 'result')} failed, without files; `segcam show` says why")
    print(f"{counted(count, 'file')} of {counted(total, 'result')}: {command.out}{table}")


def _summarise(run: StoredRun) -> None:
    """Prints how far a run is, what it explains, and what failed."""
    table, manifest = run.table, run.manifest
    failed = table.filter(polars.col("error").is_not_null())
    there = table.filter(polars.col("error").is_null())
    items, done = manifest.source.items, table["item"].n_unique()
    whole = manifest.finished is not None and done == items
    state = "finished" if whole else f"{done} are done; the same command resumes"
    facts = [
        ("images", f"{items} ({state})"),
        ("explained", f"{counted(len(there), 'target')}, {counted(len(failed), 'failure')}"),
        ("network", f"{manifest.network.title} ({manifest.network.model})"),
        ("maps", "; ".join(f"{tap}: {', '.join(run.methods(tap))}" for tap in run.taps) or "none"),
        ("extents", _counts(there.unique("item", maintain_order=True)["extent"])),
        ("classes", _counts(there["class"].drop_nulls().map_elements(short, polars.String))),
    ]
    if there["score"].count():
        low, middle, high = np.quantile(there["score"].drop_nulls().to_numpy(), (0, 0.5, 1))
        facts.append(("score", f"{low:.4g} to {high:.4g}, median {middle:.4g}"))
    facts.append(("made by", f"segcam_jax {manifest.version}"))
    console.facts(str(run.path), facts)
    if len(failed):
        first = failed.unique(["item", "error"], keep="first", maintain_order=True)
        rows = [(run.names[r["item"]], r["error"]) for r in first.head(_TOLD).iter_rows(named=True)]
        console.table(None, ("failed", "because"), [(shortened(n), reason) for n, reason in rows])
        if len(first) > _TOLD:
            print(f"... and {len(first) - _TOLD} more; segcam export --what csv lists all")


def _summarise_scans(run: StoredScans) -> None:
    """Prints how far a run of scans is, what was found in them, and what failed."""
    manifest, table = run.manifest, run.table
    there = {item for item, row in run.scans.items() if row["error"] is None}
    whole = manifest.finished is not None and len(run.scans) == manifest.source.items
    done = "finished" if whole else f"{len(run.scans)} begun; the same command resumes"
    found = sum(len(found_in(table, item)) for item in there)
    studied = table.filter(polars.col("score").is_not_null()).unique(["item", "instance"])
    facts = [
        ("scans", f"{manifest.source.items} ({done})"),
        ("instances", f"{found} found, {len(studied)} studied by `segcam {manifest.kind}`"),
        ("network", f"{manifest.network.title} ({manifest.network.model})"),
        ("made by", f"segcam_jax {manifest.version}"),
    ]
    console.facts(str(run.path), facts)
    failed = table.filter(polars.col("error").is_not_null())
    if len(failed):
        lines = [
            (shortened(row["scan"]), row["instance"] or "", row["error"])
            for row in failed.head(_MOST_ROWS).iter_rows(named=True)
        ]
        console.table(None, ("failed", "instance", "because"), lines)
        if len(failed) > _MOST_ROWS:
            print(f"... and {len(failed) - _MOST_ROWS} more")


def _export_scans(command: commands.Export) -> None:
    """Writes the volumes, figures and tables of a run of scans."""
    if command.items or set(command.what) != set(get_args(What)):
        raise InputError(
            f"{str(command.run)!r} is a run of scans, which is always exported whole; leave out "
            "--items and --what"
        )
    run = open_scans(command.run)
    _check_outside(run.path, command.out)
    of_instances = run.manifest.kind == "instances"
    report = InstanceReport(run, command.out) if of_instances else ContextReport(run, command.out)
    scans = [row["scan"] for row in run.scans.values()]
    check_free(command.out, scans, report.files(), overwrite=command.overwrite)
    if not command.overwrite and not has_record(command.out, export=True):
        _files.check_free(command.out, [RECORD])
    write_export_record(command.out, run.path, run.manifest.key)
    with console.progress("exporting", report.count) as advance:
        report.write(advance)
    print(f"volumes, figures and tables of {counted(len(scans), 'scan')}: {command.out}")


def _check_outside(run: Path, out: Path) -> None:
    """Raises `InputError` if a run would be exported into itself."""
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(run)):
        raise InputError(f"output {str(out)!r} is the run or lies in it; give another folder")


def _counts(values: polars.Series) -> str:
    """The most frequent values and how often they are there."""
    found = Counter(values.drop_nulls().to_list()).most_common()
    told = ", ".join(f"{value} ({count})" for value, count in found[:_TOLD])
    return (told or "none") + (", ..." if len(found) > _TOLD else "")


def _show_item(run: StoredRun, item: int, out: Path | None, look: Look) -> None:
    """Prints the rows of an image, and draws all maps of each of its targets."""
    found = run.table.filter(polars.col("item") == item).to_dicts()
    first = found[0]
    facts = [
        ("file", first["path"]),
        ("extent", first["extent"] or "unknown"),
        ("notes", first["notes"] or "none"),
    ]
    console.facts(f"image {item}: {shortened(run.names[item])}", facts)
    for row in found:
        if row["error"] is not None:
            console.note(failure(row))
    done = [row for row in found if row["error"] is None]
    if done:
        lines = [line for row in done for line in _lines(run, row)]
        console.table(None, ("target", "class", "score", "map", "largest", "negative"), lines)
    if out is None:
        return
    if not done:
        raise InputError(f"there is nothing to draw: {failure(first)}")
    # A list may name the same class of an image with several regions.
    ends = _files.unique_names([_files.slug(row["target"], "target") for row in done])
    for row, name in zip(done, ends, strict=True):
        end = f".{name}" if len(done) > 1 else ""
        file = out.with_name(f"{out.stem}{end}{out.suffix}")
        viz.save(images.row_figure(run, row["row"], look), file)
        print(file)


def _lines(run: StoredRun, row: dict[str, Any]) -> list[tuple[object, ...]]:
    """A line of a table for each map of a row."""
    start = (row["target"], f"{explained(row)} ({percent(row['share'])})", _number(row["score"]))
    return [
        (
            *start,
            f"{method} at {tap}",
            _number(row[f"{method}.{tap}{MAX}"]),
            percent(row[f"{method}.{tap}{NEGATIVE}"]),
        )
        for method, tap in images.pairs(run, [row["row"]])
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _show_ordered(run: StoredRun, command: commands.Show, look: Look) -> None:
    """Prints and draws the rows with the largest and the smallest values of columns."""
    wanted = [(command.best, False, "largest"), (command.worst, True, "smallest")]
    for column, worst, word in wanted:
        if column is None:
            continue
        rows = images.best(run, column, command.count, worst=worst)
        lines = []
        for about in map(run.row, rows):
            name, share = shortened(run.names[about["item"]]), percent(about["share"])
            lines.append((name, explained(about), share, _number(about[column])))
        console.table(f"{word} {column}", ("image", "class", "share", column), lines)
        if command.out is not None:
            both = command.best is not None and command.worst is not None
            end = f".{word}" if both else ""
            file = command.out.with_name(f"{command.out.stem}{end}{command.out.suffix}")
            title = f"{shortened(run.path.name)}: the {len(rows)} results of {word} {column}"
            viz.save(images.page(run, rows, look, title=title, column=column), file)
            print(file)


def _items(run: StoredRun, words: str) -> Sequence[int]:
    """The images of words: a number, a range of numbers such as 10-19, or as `_item`."""
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", words)
    if found is None or words in run.names.values():
        return [_item(run, words)]
    low, high = map(int, found.groups())
    if low > high or high >= run.manifest.source.items:
        raise InputError(f"images {words}; give numbers from 0 to {run.manifest.source.items - 1}")
    return range(low, high + 1)


def _item(run: StoredRun, words: str) -> int:
    """The number of an image of words: its number, its name, or its file."""
    paths = dict(run.table.select("item", "path").rows())
    given = os.path.realpath(words)
    found = {
        item
        for item, path in paths.items()
        if words in (run.names[item], path, Path(path).name) or path == given
    }
    if (number := whole_number(words)) in paths:
        found.add(number)
    if len(found) == 1:
        return found.pop()
    if found:
        several = ", ".join(f"{item} ({paths[item]})" for item in sorted(found)[:4])
        raise InputError(f"{words!r} matches several images: {several}; give the path of one")
    there = f"; it has {counted(len(paths), 'image')} so far, named by number, name or file"
    close = near(words, run.names.values()) or there
    raise InputError(f"no image {words!r} in {str(run.path)!r}{close}")
