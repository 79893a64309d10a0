"""`segcam explain`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segcam_jax
from segcam_jax.cli import commands, console
from segcam_jax.data.images import sha256_of
from segcam_jax.engine import Execution
from segcam_jax.engine.devices import local_mesh
from segcam_jax.sweep import options as options_module, store
from segcam_jax.sweep.network import Network, open_network
from segcam_jax.sweep.options import ExplainOptions
from segcam_jax.sweep.plan import Plan, make_plan
from segcam_jax.sweep.run import MANIFEST_VERSION, run_plan
from segcam_jax.types import InputError

_NOT_REPEATED = ("out", "overwrite", "devices", "share", "repeat", "measure")


def explain(command: commands.Explain, line: Sequence[str]) -> None:
    """Explains images, or repeats a run."""
    if command.out.exists() and not command.out.is_dir():
        raise InputError(f"output {str(command.out)!r} is a file; give a folder")
    index, count = _share(command.share)
    execution = Execution(mesh=local_mesh(command.devices))
    plan = run_of(command)
    with console.progress("explaining", len(plan.cases[index::count])) as advance:
        manifest = run_plan(
            plan,
            command.out,
            command=line,
            overwrite=command.overwrite,
            execution=execution,
            share=(index, count),
            advance=advance,
        )
    _summarise(manifest, command.out, len(plan.cases))


def _share(words: str | None) -> tuple[int, int]:
    """Index and count of `K/N`."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", words or "1/1")
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--share was given {words!r}; give K/N, from 1/N to N/N")
    return index - 1, count


def run_of(command: commands.Explain) -> Plan:
    """The run that a command asks for, or that it repeats."""
    return _repeated(command) if command.repeat is not None else _planned(command)


def _planned(command: commands.Explain) -> Plan:
    options = _options(command)
    if not command.images:
        raise InputError("no images were given; name at least one file before the options")
    if command.weights is None:
        raise InputError("no weights were given; add --weights with a file or a bundled name")
    network = open_network(command.weights, command.model)
    return make_plan(
        network, command.images, options, version=segcam_jax.__version__, report=console.note
    )


def _options(command: commands.Explain) -> ExplainOptions:
    """The options of a command line, checked."""
    fields = {field.name for field in dataclasses.fields(ExplainOptions)}
    plain = {key: value for key, value in vars(command).items() if key in fields}
    for option, names in (("--tap", command.tap), ("--method", command.method)):
        files = [name for name in names if Path(name).is_file()]
        if files:
            raise InputError(
                f"{option} was given {files[0]!r}, a file; name images before the options"
            )
    region = command.region
    kind, _, file = region.partition(":")
    if kind.strip().lower() == "mask" and file:
        region = f"mask:{Path(file).resolve()}"
    return options_module.checked(
        ExplainOptions(
            **{
                **plain,
                "taps": _words(command.tap),
                "methods": _words(command.method),
                "region": region,
            }
        )
    )


def _words(names: Sequence[str]) -> tuple[str, ...]:
    """Names that were separated by blanks, commas, or both."""
    return tuple(word.strip() for name in names for word in name.split(",") if word.strip())


def _repeated(command: commands.Explain) -> Plan:
    """The plan of a manifest, for the very images and weights that it was made with."""
    assert command.repeat is not None
    default = commands.Explain()
    given = [
        "images" if field == "images" else f"--{field.replace('_', '-')}"
        for field, value in vars(command).items()
        if field not in _NOT_REPEATED and value != getattr(default, field)
    ]
    if given:
        raise InputError(f"--repeat takes all but --out from the manifest; leave out {given[0]}")
    path = command.repeat / store.MANIFEST if command.repeat.is_dir() else command.repeat
    if not path.is_file():
        raise InputError(f"manifest {str(path)!r} does not exist")
    manifest = store.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("manifest") != MANIFEST_VERSION:
        raise InputError(f"{str(path)!r} is no manifest of `segcam explain`")
    try:
        given, weights = options_module.from_json(manifest["options"]), dict(manifest["weights"])
        inputs = [dict(entry["input"]) for entry in manifest["images"]]
        version, key = manifest["versions"]["segcam-jax"], manifest["key"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"manifest {str(path)!r} lacks what a repetition needs") from None
    options = options_module.checked(given)
    network = _same_weights(weights, path)
    images = [_same_file(each, path) for each in inputs]
    plan = make_plan(network, images, options, version=version, report=console.note)
    if version != segcam_jax.__version__:
        console.note(
            f"the manifest is of segcam_jax {version}, this is {segcam_jax.__version__}; maps may "
            "differ"
        )
    if plan.key != key:
        raise InputError(
            f"the explained pixels are not those of {str(path)!r}; was its mask file changed?"
        )
    return plan


def _same_weights(record: Mapping[str, Any], manifest: Path) -> Network:
    from segcam_jax.models import BUNDLED

    if record["given"] in BUNDLED:
        network = open_network(record["given"], record["model"])
    else:
        found = _same_file({**record, "path": record["given"]}, manifest)
        network = open_network(str(found), record["model"])
    if network.sha256 != record["sha256"]:
        raise InputError(f"weights {record['given']!r} are not those of the manifest (SHA-256)")
    return network


def _same_file(record: Mapping[str, Any], manifest: Path) -> Path:
    """The file of a record: as it was given, where it was, or beside the manifest."""
    given = Path(record["path"])
    candidates = (given, Path(record["absolute"]), manifest.parent / given)
    there = [path for path in candidates if path.is_file()]
    for path in there:
        if sha256_of(path) == record["sha256"]:
            return path
    if there:
        raise InputError(f"{str(there[0])!r} is not the file of the manifest (SHA-256)")
    raise InputError(f"{str(given)!r} of the manifest does not exist")


def _summarise(manifest: Mapping[str, Any], out: Path, planned: int) -> None:
    rows = [
        (
            record["name"],
            record["class"]["name"],
            record["region"]["pixels"],
            each["method"],
            each["tap"],
            f"{each['score']:.4g}",
            f"{each['min']:.4g}",
            f"{each['max']:.4g}",
            f"{each['seconds']:.2f}",
        )
        for record in manifest["images"]
        for each in record["maps"]
    ]
    columns = ("image", "class", "pixels", "method", "tap", "score", "min", "max", "seconds")
    console.table(None, columns, rows)
    images = len(manifest["images"])
    after = (
        f"; the manifest is {store.MANIFEST}"
        if images == planned
        else f"; {planned - images} image(s) are left to other shares, the last writes the manifest"
    )
    print(f"{len(rows)} map(s) of {images} image(s) are in {out}{after}")
