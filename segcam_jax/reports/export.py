"""A stored run as files for other programs: a PNG and a `.npy` array per map, one table.

OUT/items.csv                                 all rows, those that failed too
OUT/cat/grad_cam.bottleneck.npy               raw and signed; `.attribution.npy` by channel
OUT/cat/grad_cam.bottleneck.png               OUT/cat/montage.png: all maps of the image
OUT/cat.top2/...                              where several targets of an image are explained
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import polars

from segcam_jax import _files, viz
from segcam_jax.reports.figures import Look
from segcam_jax.reports.images import map_figure, pairs, row_figure, subject_of
from segcam_jax.runs import StoredRun
from segcam_jax.types import InputError

What = Literal["png", "npy", "csv"]
TABLE = "items.csv"


def row_names(run: StoredRun, items: Sequence[int] | None = None) -> dict[int, str]:
    """A name for each row that has results: that of its image, and of its target among several.

    Args:
        run: the run.
        items: numbers of images; None: all.
    """
    names, several = run.names, run.manifest.targets > 1
    there = run.table.filter(polars.col("error").is_null())
    if items is not None:
        there = there.filter(polars.col("item").is_in(list(items)))
    targets = there.select("row", "item", "target").rows()
    full = [f"{names[item]}.{target}" if several else names[item] for _, item, target in targets]
    return dict(zip((row for row, _, _ in targets), _files.unique_names(full), strict=True))


def export(
    run: StoredRun,
    folder: Path,
    *,
    what: Sequence[What] = get_args(What),
    items: Sequence[int] | None = None,
    look: Look = Look(),
    overwrite: bool = False,
    advance: Callable[[int, str], None] = lambda rows, text: None,
) -> int:
    """Writes the files of a run, each whole.

    Args:
        run: the run, finished or not.
        folder: made if it is not there.
        what: which files.
        items: numbers of images; None: all. The table has all rows in any case.
        look: how maps are drawn.
        overwrite: write over what is there.
        advance: is called with the number of rows done since the last call, and a name.

    Returns:
        How many files were written.

    Raises:
        InputError: if the folder is a file, or holds one of the names already; if an image changed.
        FileError: if something cannot be written.
    """
    _files.check_folder(folder)
    names = row_names(run, items) if {"png", "npy"} & set(what) else {}
    wanted = [*([TABLE] if "csv" in what else []), *names.values()]
    there = [name for name in wanted if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"output {str(folder)!r} already holds {there[0]!r}; give another folder, or "
            "--overwrite"
        )
    count = 0
    if "csv" in what:
        _files.write_bytes(folder / TABLE, run.table.write_csv().encode())
        count += 1
    for row, name in names.items():
        count += sum(1 for _ in _files_of(run, row, folder / name, what, look))
        advance(1, name)
    return count


def _files_of(
    run: StoredRun, row: int, folder: Path, what: Sequence[What], look: Look
) -> Iterator[Path]:
    """Writes the files of a row, and says which."""
    slugs = _files.unique_names([_files.slug(tap, "tap") for tap in run.taps])
    taps = dict(zip(run.taps, slugs, strict=True))
    every = pairs(run, [row])
    # The image is read once for all figures.
    subject = subject_of(run, row) if "png" in what else None
    for method, tap in every:
        start = f"{method}.{taps[tap]}"
        if "npy" in what:
            arrays = {"": run.map(row, tap, method)}
            attribution = run.attribution(row, tap, method)
            arrays |= {} if attribution is None else {".attribution": attribution}
            for end, array in arrays.items():
                _files.write_array(folder / f"{start}{end}.npy", array)
                yield folder / f"{start}{end}.npy"
        if "png" in what:
            figure = map_figure(run, row, (method, tap), look, subject=subject)
            yield viz.save(figure, folder / f"{start}.png")
    if "png" in what and len(every) > 1:
        figure = row_figure(run, row, look, subject=subject)
        yield viz.save(figure, folder / "montage.png")
