"""The images of a run, listed: files, those in folders, those of a table, rows of an array.

An item is one image; a shard is some items that follow each other, which are computed and stored
together. Names are listed at the start; no file is opened before its turn.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from segcam_jax import _files
from segcam_jax.data import zarr_rows
from segcam_jax.data.mask_images import stored_mask
from segcam_jax.networks.class_queries import parse_queries
from segcam_jax.networks.image_inputs import SUFFIXES
from segcam_jax.networks.image_truths import pair_truths
from segcam_jax.networks.regions import Region, short_words
from segcam_jax.runs.folder import holds_results
from segcam_jax.runs.work import Goal, StudyOptions
from segcam_jax.types import InputError

_COLUMNS = ("image", "class", "region", "mask")


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file as it is now: a shard that was made of others is made again.

    Attributes:
        path: of the file, or `ARRAY.zarr#ROW`.
        size: bytes; of a row, of the array's metadata. None: there is no file.
        mtime_ns: when that was written; None: likewise.
    """

    path: str
    size: int | None
    mtime_ns: int | None


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a run.

    Attributes:
        index: its place in the run.
        path: its file, or `ARRAY.zarr#ROW`.
        name: of what is made of it, among all images of the run.
        goals: what is explained of it, where the list says so; else what the study says.
    """

    index: int
    path: str
    name: str = ""
    goals: tuple[Goal, ...] = ()
    truth: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Items(Sequence[Item]):
    """The images of a run, in order.

    Attributes:
        paths: files, or one array.
        rows: of the array; None for files.
        goals: of each file, by its path, as a list of images gives them.
        targets: of an image at most, where a list says so; 0: those of the study.
        truths: the file of each image's truth, by the image's path; empty: there are none.
    """

    paths: Sequence[str]
    rows: int | None = None
    goals: Mapping[str, tuple[Goal, ...]] = dataclasses.field(default_factory=dict)
    targets: int = 0
    truths: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths) if self.rows is None else self.rows

    def __getitem__(self, index: int) -> Item:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.rows is not None:
            return Item(index, zarr_rows.row_name(self.paths[0], index), self._names[index])
        path, name = self.paths[index], self._names[index]
        return Item(index, path, name, self.goals.get(path, ()), self.truths.get(path))

    @functools.cached_property
    def _names(self) -> Sequence[str]:
        if self.rows is None:
            return names_of(self.paths)
        return names_of(zarr_rows.row_name(self.paths[0], row) for row in range(self.rows))

    def check_plain(self) -> None:
        """Raises `InputError` if a list says what is explained of each image."""
        if self.goals:
            raise InputError(
                "the list names classes, regions or masks; give a list with only the column image"
            )

    @property
    def every_goal(self) -> Iterator[Goal]:
        """What is explained of images that say so themselves."""
        return (goal for each in self.goals.values() for goal in each)

    def digest(self, where: Region) -> str:
        """Of their names, and what is explained of each; of masks and truths as they are now.

        Args:
            where: the pixels of images that do not say so themselves.
        """
        goals = [
            [path, *((goal.query.words, goal.region.words) for goal in each)]
            for path, each in self.goals.items()
        ]
        regions = (where, *(goal.region for goal in self.every_goal))
        masks = dict.fromkeys(each.value[0] for each in regions if each.kind == "mask")
        masks |= dict.fromkeys(self.truths.values())
        found = [dataclasses.astuple(file_now(Item(0, mask))) for mask in masks]
        return _files.key_of([list(self.paths), self.rows, goals, found])


def names_of(paths: Iterable[str]) -> list[str]:
    """A name for each image of a run: its file's; several of one name are numbered."""
    return _files.names_of([Path(path.replace(".zarr#", "-")) for path in paths])


def list_items(
    given: Sequence[Path], options: StudyOptions, report: Callable[[str], None] = lambda line: None
) -> Items:
    """The images of a run: files, those in folders, those of a list (.csv), rows of an array.

    Args:
        given: image files and folders, or one list, or one Zarr array `n h w c`.
        options: what is explained of images that do not say so themselves.
        report: is told of files that were given twice.

    Raises:
        InputError: if there are none, or one does not exist, or a list or array is given with other
            things, or cannot be read; or if the mask that all images have cannot be
            read.
    """
    for region in options.regions:
        if region.kind == "mask":
            stored_mask(region.value[0])
    if not given:
        raise InputError("no images were given; name files, a folder, a .csv or a .zarr array")
    special = [path for path in given if path.suffix.lower() in (".csv", ".zarr")]
    if special and len(given) > 1:
        raise InputError(f"{str(special[0])!r} was given with other images; give it alone")
    if special:
        (path,) = special
        if options.truth or len(options.regions) > 1:
            what = "--truth is" if options.truth else "several regions are"
            raise InputError(f"{what} for image files; {str(path)!r} is none")
        return _listed(path, options) if path.suffix.lower() == ".csv" else _rows(path, options)
    _check_threshold(options, any(region.kind == "mask" for region in options.regions))
    found = files_in(given, report)
    truths = pair_truths(found, files_in([*map(Path, options.truth)])) if options.truth else {}
    paths = [*map(str, found)]
    goals = _goals_of_regions(options) if len(options.regions) > 1 else ()
    return Items(
        paths,
        goals=dict.fromkeys(paths, goals) if goals else {},
        targets=len(goals),
        truths={str(image): str(truth) for image, truth in truths.items()},
    )


def _goals_of_regions(options: StudyOptions) -> tuple[Goal, ...]:
    """What is explained of every image, where several regions are: each class in each of them."""
    pairs = [(query, region) for query in options.queries for region in options.regions]
    words = [
        f"{query.name}.{_files.slug(short_words(region.words), 'region')}"
        for query, region in pairs
    ]
    names = _files.unique_names(words)
    return tuple(Goal(*pair, name) for pair, name in zip(pairs, names, strict=True))


def files_in(
    given: Sequence[Path], report: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Image files, and those in folders, by their full names.

    Args:
        report: is told of files that were given twice, and of folders that were left out.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist")
        for file in map(Path, _inside(path, report) if path.is_dir() else [os.path.abspath(path)]):
            if file in found:
                report(f"{file}: given more than once, used once")
            found[file] = None
    return list(found)


def check_apart(out: Path, given: Sequence[Path], found: Sequence[str]) -> None:
    """Checks that results do not come among images, which a second run would take them for."""
    for folder in filter(Path.is_dir, given):
        inside = os.path.relpath(os.path.realpath(out), os.path.realpath(folder))
        place = os.path.join(os.path.normpath(os.path.join(os.path.abspath(folder), inside)), "")
        among = next((file for file in found if file.startswith(place)), None)
        if inside.partition(os.sep)[0] != os.pardir and among is not None:
            raise InputError(
                f"--out {str(out)!r} holds {os.path.basename(among)!r} and is among the images of "
                f"{str(folder)!r}, where results would be taken for images; give another folder"
            )


def _inside(folder: Path, report: Callable[[str], None]) -> list[str]:
    """The image files in a folder and the folders in it, by name.

    Those that are hidden, and folders of results, are left out.
    """

    def failed(error: OSError) -> None:
        raise InputError(f"{str(folder)!r} cannot be read: {error.strerror or error}")

    found, left = [], []
    for place, folders, files in os.walk(os.path.abspath(folder), onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for inner in [Path(place, name) for name in folders]:
            if holds_results(inner):
                folders.remove(inner.name)
                left.append(inner)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(os.path.join(place, name))
    if not found:
        results = f" besides results in {str(left[0])!r}" if left else ""
        raise InputError(f"folder {str(folder)!r} holds no images{results} ({', '.join(SUFFIXES)})")
    for inner in left:
        report(f"{inner}: holds results instead of images, so it is left out")
    return sorted(found)


def _check_threshold(options: StudyOptions, masks: bool) -> None:
    """Raises `InputError` if masks have a threshold, and there are none."""
    if options.mask_threshold is not None and not masks:
        raise InputError(
            "--mask-threshold needs masks: the region mask:FILE, or a list with a column mask"
        )


def _rows(path: Path, options: StudyOptions) -> Items:
    array = zarr_rows.open_array(path)
    _check_threshold(options, options.where.kind == "mask")
    return Items([os.path.abspath(path)], int(array.shape[0]))


def _listed(path: Path, options: StudyOptions) -> Items:
    """The images of a table with the columns image, and class, region or mask."""
    import polars

    text = _files.read_bytes(path)
    if b"\0" in text:
        raise InputError(
            f"{str(path)!r} is binary or UTF-16; expected a table as CSV in UTF-8: save it as that"
        )
    try:
        table = polars.read_csv(text, infer_schema=False)
    except polars.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} is not a table of images: {reason}") from None
    unknown = [name for name in table.columns if name not in _COLUMNS]
    if unknown or "image" not in table.columns:
        said = f"the unknown column {unknown[0]!r}" if unknown else "no column 'image'"
        raise InputError(f"{str(path)!r} has {said}; expected {', '.join(_COLUMNS)}")
    table = table.filter(~polars.all_horizontal(polars.all().is_null()))  # Blank lines.
    if not len(table):
        raise InputError(f"{str(path)!r} does not list any image")
    if table["image"].null_count():
        raise InputError(f"{str(path)!r} has a row without an image")
    _check_threshold(options, "mask" in table.columns or options.where.kind == "mask")
    folder = _folder_of(path, table["image"][0])
    goals: dict[str, list[Goal]] = {}
    for row in table.iter_rows(named=True):
        file = os.path.normpath(os.path.join(folder, row["image"]))
        try:
            goals.setdefault(file, []).extend(_goals(row, folder, options))
        except InputError as error:
            raise InputError(f"{str(path)!r}, image {row['image']!r}: {error}") from None
    said = {file: tuple(dict.fromkeys(each)) for file, each in goals.items()}
    own = any(name in table.columns for name in _COLUMNS[1:])
    most = max(map(len, said.values())) if own else 0
    return Items(list(said), None, said if own else {}, most)


def _folder_of(path: Path, first: str) -> str:
    """The folder that a list's names are relative to: its own, or the current one."""
    if os.path.isabs(first):
        return os.getcwd()
    own, current = os.path.abspath(path.parent), os.getcwd()
    there = [each for each in (own, current) if os.path.exists(os.path.join(each, first))]
    if not there:
        raise InputError(
            f"{str(path)!r}: its first image {first!r} is neither beside the list nor in the "
            "current folder"
        )
    if len(there) == 2 and not os.path.samefile(*(os.path.join(each, first) for each in there)):
        raise InputError(
            f"{str(path)!r}: its first image {first!r} is both beside the list and in the current "
            "folder; give full names"
        )
    return there[0]


def _goals(row: Mapping[str, str | None], folder: str, options: StudyOptions) -> Iterator[Goal]:
    """What a row of a list asks for: a class and pixels, each as the study says if it does not."""
    if row.get("region") and row.get("mask"):
        raise InputError("it has a region and a mask; give one")
    region = options.where
    if mask := row.get("mask"):
        region = options.region_of(at_full_path(f"mask:{mask}", folder))
    elif words := row.get("region"):
        region = options.region_of(at_full_path(words, folder))
    word = row.get("class")
    for query in parse_queries([word]) if word else options.queries:
        yield Goal(query, region)


def at_full_path(region: str, folder: str) -> str:
    """A region in words, its mask file by its full name."""
    kind, _, file = region.partition(":")
    if kind.strip().lower() != "mask" or not file:
        return region
    return f"mask:{os.path.normpath(os.path.join(folder, file))}"


def file_of(item: Item) -> ImageFile:
    """The file of an item as it is now."""
    array, _ = zarr_rows.row_of(item.path)
    try:
        found = os.stat(item.path if array is None else os.path.join(array, "zarr.json"))
    except FileNotFoundError:
        raise InputError(f"{item.path!r} does not exist") from None
    except OSError as error:
        raise InputError(f"{item.path!r} cannot be read: {error.strerror or error}") from None
    return ImageFile(item.path, found.st_size, found.st_mtime_ns)


def file_now(item: Item) -> ImageFile:
    """The same, without a size where there is none that can be read."""
    try:
        return file_of(item)
    except InputError:
        return ImageFile(item.path, None, None)
