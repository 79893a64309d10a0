"""What every script of training has in common on the command line: options, folders, faults."""

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import tyro

from segcam_jax import cli, files
from segcam_jax.types import InputError, none_of
from train import reports

# More steps would take years; more images at once (and epochs), channels, units, rows and columns,
# or processes, more memory than there is.
MOST, MOST_AT_ONCE, MOST_WIDTH, MOST_WORKERS = 10**7, 2**16, 2**14, 256
_INTERRUPTED = 130
_MOST_SEED = 2**32


def run(
    work: Callable[[Any], Any],
    config: type,
    description: str | None,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Runs what a script is for on its command line's options.

    Ends the process with 2 and one line where something given is at fault, and with 130 where
    `work` was asked to stop and returns None.

    Args:
        recipes: what `--recipe NAME` puts in place of the options' defaults.
    """
    found = None

    def worked() -> int:
        nonlocal found
        cli.check_words("train", sys.argv[1:])
        recipe, arguments = _recipe(sys.argv[1:], recipes or {})
        default = _with_defaults(config, recipe) if recipe else None
        options = cli.parsed(config, arguments, description=description, default=default)
        if options is None:
            sys.exit()
        found = work(options)
        return _INTERRUPTED if found is None else 0

    if code := cli.code_of(worked):
        raise SystemExit(code)
    return found


def _recipe(
    arguments: list[str], recipes: Mapping[str, Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[str]]:
    """The recipe that a command line names, if any, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", nargs="?")
    found, others = parser.parse_known_args(arguments) if recipes else (None, arguments)
    if found is None or (found.recipe is None and others == arguments):
        return {}, others
    if found.recipe is None or found.recipe not in recipes:
        raise none_of(f"--recipe was given {found.recipe or 'no name'}", found.recipe, recipes)
    return recipes[found.recipe], others


def _with_defaults(config: Any, values: Mapping[str, Any]) -> Any:
    """Options with these defaults; those that have none are to be given."""
    missing = dataclasses.MISSING
    required = {f.name: tyro.MISSING for f in dataclasses.fields(config) if f.default is missing}
    return config(**required, **values)


def check_at_least(config: Any, least: int, *fields: str, most: int = MOST) -> None:
    """Raises `InputError`, naming the setting, if one is a smaller or larger number; None passes.

    A setting of several numbers is checked number by number.
    """
    for field in fields:
        value = getattr(config, field)
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and not each >= least:  # NaN is not.
                raise InputError(f"`{field}` is {each}; give at least {least}")
            if each is not None and each > most:
                raise InputError(f"`{field}` is {each}; give at most {most}")


def check_positive(config: Any, *fields: str) -> None:
    """Raises `InputError`, naming the setting, if one is not a finite number above 0."""
    for field in fields:
        value = getattr(config, field)
        if not 0 < value < math.inf:
            raise InputError(f"`{field}` is {value}; give a number above 0")


def check_outputs(
    *,
    out: Path | None = None,
    written: Collection[Path | None] = (),
    data: Collection[Path | None] = (),
) -> None:
    """Raises `InputError` if a folder or file cannot be written, or lies in data; makes nothing."""
    if out is not None:
        files.check_folder(out)
        place = Path(os.path.realpath(out))
        for folder in filter(None, data):
            if place.is_relative_to(os.path.realpath(folder)):
                raise InputError(
                    f"--out {str(out)!r} lies in the data {str(folder)!r}; give another"
                )
    for path in filter(None, written):
        files.check_writable(path)


def check_new(folder: Path) -> None:
    """Raises `InputError` if a folder is there already, or cannot be made."""
    files.check_folder(folder)
    if folder.exists():
        raise InputError(f"{str(folder)!r} is there already; give another folder, or remove it")


def check_seed(seed: int) -> None:
    """Raises `InputError` if a seed is none."""
    if not 0 <= seed < _MOST_SEED:
        raise InputError(f"`seed` is {seed}; give a number from 0 to below 2^32")


def claim_folder(folder: Path, config: Any, without: Collection[str], **others: Any) -> None:
    """Makes the folder of a run, or checks that the run in it had the same configuration.

    What a run that was killed has left half written there is removed, and beside its `export`.

    Args:
        without: settings that may differ in a run that is resumed.
        others: what else must be the same, in place of settings or besides.
    """
    path = folder / "config.json"
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in without}
    # What checkpoints hold; a training of version 0.5 cannot resume.
    settings |= {**others, "checkpoints": 2}
    settings = json.loads(json.dumps(settings, default=str))
    before = reports.read_json(path) if path.is_file() else settings
    changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
    if changed:
        raise InputError(
            f"{str(folder)!r} holds a run with another {', '.join(changed)}; repeat its "
            "configuration to resume it, or give another --out"
        )
    for place in (folder, *folder.glob("*/")):
        files.remove_temporary(place)
    if config.export is not None:
        files.remove_temporary(config.export.parent, config.export.name)
    if not path.is_file():
        reports.write_json(path, settings)
