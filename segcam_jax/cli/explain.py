"""`segcam explain`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segcam_jax
from segcam_jax import _files
from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.engine import Execution
from segcam_jax.engine.devices import local_mesh
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec
from segcam_jax.reports.words import percent, short
from segcam_jax.sweep import options as options_module, store
from segcam_jax.sweep.options import ExplainOptions
from segcam_jax.sweep.plan import Plan, make_plan
from segcam_jax.sweep.run import MANIFEST_VERSION, run_plan
from segcam_jax.types import InputError, counted, shortened

_NOT_REPEATED = ("out", "overwrite", "devices", "memory_limit", "share", "repeat", "measure")


def explain(command: commands.Explain, line: Sequence[str]) -> None:
    """Explains images, or repeats a run."""
    _files.check_folder(command.out)
    index, count = _share(command.share)
    check_execution(command)
    plan = run_of(command)
    with console.progress("explaining", len(plan.share(index, count))) as advance:
        manifest = run_plan(
            plan,
            command.out,
            command=line,
            overwrite=command.overwrite,
            execution=execution_of(command, plan),
            share=(index, count),
            advance=advance,
        )
    _summarise(manifest, command.out, plan)


def _share(words: str | None) -> tuple[int, int]:
    """Index and count of `K/N`."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", words or "1/1")
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--share was given {words!r}; give K/N, from 1/N to N/N")
    return index - 1, count


def check_execution(command: commands.Explain) -> None:
    """Says what is wrong with how to run before the network is opened."""
    local_mesh(command.devices)
    bytes_of(command.memory_limit)


def execution_of(command: commands.Explain, plan: Plan) -> Execution:
    """How the engine runs a plan."""
    return Execution(
        mesh=local_mesh(command.devices),
        memory_limit=bytes_of(command.memory_limit),
        precision=plan.options.precision,
    )


def run_of(command: commands.Explain) -> Plan:
    """The run that a command asks for, or that it repeats."""
    return _repeated(command) if command.repeat is not None else _planned(command)


def _planned(command: commands.Explain) -> Plan:
    options = _options(command)
    if not command.images:
        raise InputError("no images were given; name at least one file before the options")
    network = open_network(NetworkSpec.parse(command.weights, command.model), options.opening)
    return _made(network, command.images, options)


def _made(network: Network, paths: Sequence[Path], options: ExplainOptions) -> Plan:
    """The plan, with what is to know of the network said."""
    if network.note:
        console.note(network.note)
    if network.random:
        console.note(f"{network.name} has random weights: what it predicts means nothing")
    with console.progress("reading", len(paths)) as advance:
        return make_plan(
            network,
            paths,
            options,
            version=segcam_jax.__version__,
            report=console.note,
            advance=advance,
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
                "taps": names_in(command.tap),
                "methods": names_in(command.method),
                "labels": None if command.labels is None else str(command.labels.resolve()),
                "region": region,
            }
        )
    )


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
    manifest = _files.read_json(path)
    if not isinstance(manifest, dict) or "manifest" not in manifest:
        raise InputError(f"{str(path)!r} is no manifest of `segcam explain`")
    if manifest["manifest"] != MANIFEST_VERSION:
        raise InputError(
            f"{str(path)!r} is a manifest of form {manifest['manifest']!r}, which another version "
            f"of segcam_jax wrote; this one repeats form {MANIFEST_VERSION}"
        )
    try:
        given, weights = options_module.from_json(manifest["options"]), dict(manifest["weights"])
        inputs = [dict(entry["input"]) for entry in manifest["images"]]
        version, key = manifest["versions"]["segcam-jax"], manifest["key"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"manifest {str(path)!r} lacks what a repetition needs") from None
    options = options_module.checked(given)
    network = _same_network(weights, options, path)
    images = [_same_file(each, path) for each in {each["path"]: each for each in inputs}.values()]
    plan = _made(network, images, options)
    if version != segcam_jax.__version__:
        # Its key is that version's: a run that it left half-finished is another run.
        console.note(
            f"the manifest is of segcam_jax {version}, this is {segcam_jax.__version__}: its "
            "options are repeated, but regions and maps may differ"
        )
    elif plan.key != key:
        raise InputError(
            f"what is explained is not that of {str(path)!r}; was its mask file changed, or its "
            "file of labels?"
        )
    return plan


def _same_network(record: Mapping[str, Any], options: ExplainOptions, manifest: Path) -> Network:
    from segcam_jax.models import BUNDLED, INSTALLED

    given, model = record["given"], record["model"]
    by_name = given in BUNDLED or given in INSTALLED
    spec = NetworkSpec.parse(given, model)
    if spec.kind == "weights" and not by_name:
        there = _same_file({**record, "path": given}, manifest)
        spec = dataclasses.replace(spec, words=str(there))
    network = open_network(spec, options.opening)
    if network.sha256 != record["sha256"]:
        what = "source or parameters are" if spec.kind == "user" else "weights are"
        raise InputError(f"{given!r}: its {what} not those of the manifest (SHA-256)")
    return network


def _same_file(record: Mapping[str, Any], manifest: Path) -> Path:
    """The file of a record: as it was given, where it was, or beside the manifest."""
    given = Path(record["path"])
    candidates = (given, Path(record["absolute"]), manifest.parent / given)
    there = [path for path in candidates if path.is_file()]
    for path in there:
        if _files.sha256_of(path) == record["sha256"]:
            return path
    if there:
        raise InputError(f"{str(there[0])!r} is not the file of the manifest (SHA-256)")
    raise InputError(f"{str(given)!r} of the manifest does not exist")


def _summarise(manifest: Mapping[str, Any], out: Path, plan: Plan) -> None:
    records = manifest["images"]
    classifies = plan.network.classifies
    rows = [
        (
            shortened(record["name"]),
            *(_predicted(record) if classifies else _pixels(record)),
            each["method"],
            each["tap"],
            f"{each['score']:.4g}",
            f"{each['min']:.4g}",
            f"{each['max']:.4g}",
            f"{each['seconds']:.2f}",
            _shown(each),
        )
        for record in records
        for each in record["maps"]
    ]
    seen = ("predicted", "probability", "explained") if classifies else ("class", "pixels")
    columns = ("image", *seen, "method", "tap", "score", "min", "max", "seconds", "figure")
    console.table(None, columns, rows)
    there = {record["name"] for record in records}
    left = {case.path for case in plan.cases if case.name not in there}
    images = len({case.path for case in plan.cases} - left)
    after = (
        f"; {len(left)} image(s) are left to other shares, the last writes the manifest"
        if left
        else f"; the manifest is {store.MANIFEST}"
    )
    print(f"{counted(len(rows), 'map')} of {counted(images, 'image')}: {out}{after}")


def _shown(each: Mapping[str, Any]) -> str:
    """How a map is drawn, or why there is nothing to draw."""
    negative = f", {percent(each['relu_hides'])} negative" if each["relu_hides"] else ""
    return each["zero"] or f"{each['display']}{negative}"


def _predicted(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """The predicted class, its probability, and the explained class."""
    first, explained = record["predicted"][0], record["class"]
    other = "" if first["index"] == explained["index"] else f" ({percent(explained['share'])})"
    return (
        short(first["label"]),
        percent(first["share"]),
        f"{short(explained['name'])}{other}",
    )


def _pixels(record: Mapping[str, Any]) -> tuple[str, int]:
    """The explained class, and the pixels of its region."""
    return shortened(record["class"]["name"]), record["region"]["pixels"]
