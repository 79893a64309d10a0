"""What made a run: `manifest.json`, read back as a whole or refused in one line."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import msgspec

import segcam_jax
from segcam_jax import _files, schema
from segcam_jax.networks.image_inputs import Fit, ImageForm
from segcam_jax.networks.network import Background, Network
from segcam_jax.outputs import Meaning
from segcam_jax.types import InputError, shortened

FILE = "manifest.json"
FORMAT = 1
_MOST = 2**40  # Of anything that is counted.
Kind = Literal["images", "instances", "context"]
_PACKAGES = (
    *("segcam-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "matplotlib"),
    *("polars", "zarr"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkRecord:
    """Which network was explained, and all that figures ask of it.

    Attributes:
        given: as it was named.
        absolute: its file.
        sha256: of its weights, or of a user's own source and parameters.
        model: its name in the library.
        title: what figures call it.
        background: the class that is explained only when asked for.
        images: in which form it takes images; None of volumes.
    """

    given: str
    absolute: str
    sha256: str
    model: str
    title: str
    labels: tuple[str, ...]
    classifies: bool
    background: Background | None
    meaning: Meaning
    images: ImageForm | None

    @classmethod
    def of(cls, network: Network, fit: Fit | None) -> "NetworkRecord":
        """What there is to say of a network of images, which are brought to its size by `fit`.

        Of a network of volumes, None.
        """
        return cls(
            given=network.spec.words,
            absolute=str(network.path.resolve()),
            sha256=network.sha256,
            model=network.model.name,
            title=network.title,
            labels=tuple(network.labels),
            classifies=network.classifies,
            background=network.background,
            meaning=network.meaning,
            images=None if fit is None else ImageForm.of(network, fit),
        )

    @property
    def weights(self) -> dict[str, Any]:
        """Which weights were used, as JSON."""
        about = {name: getattr(self, name) for name in ("given", "absolute", "sha256", "model")}
        return {**about, "outputs": self.meaning.to_json(len(self.labels))}

    @property
    def background_index(self) -> int | None:
        """The number of the background's class."""
        return None if self.background is None else self.background.index


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The images of a run.

    Attributes:
        digest: of the list of their names, and of what is explained of each.
    """

    words: tuple[str, ...]
    items: int
    digest: str

    def __post_init__(self):
        if self.items < 1:
            raise InputError(f"it has {self.items} items; a run has at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run has come to.

    Attributes:
        explanations: maps of rows without an error.
        failures: rows of the table that have an error: a target that could not be explained, or an
            image that could not be read, which is one row however many targets it was to have.
        programs: compiled programs that the maps were made by.
    """

    items: int
    explanations: int
    failures: int
    programs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What made a run; the same for each process that writes it.

    Attributes:
        format: of manifest and store.
        key: a digest of all that determines the run: equal keys give equal maps.
        options: all that was said, by the words of the command line.
        items_per_shard: images that are computed and stored together.
        targets: rows of an image.
        versions: of Python and of the packages that results depend on.
        finished: None until all shards are there.
        figures: how a command draws figures of the run, by its own words; no part of the run.
    """

    format: int = FORMAT
    version: str
    key: str
    options: Mapping[str, Any]
    network: NetworkRecord
    source: Source
    items_per_shard: int
    targets: int
    versions: Mapping[str, str]
    finished: Finished | None = None
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: Kind = "images"

    def __post_init__(self):
        # Scans have as many rows as are found.
        for name, least in {"items_per_shard": 1, "targets": int(self.kind == "images")}.items():
            if not least <= getattr(self, name) <= _MOST:
                raise InputError(f"its {name} is {getattr(self, name)}; a run has at least {least}")

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any],
        network: NetworkRecord,
        source: Source,
        *,
        items_per_shard: int,
        targets: int,
        kind: Kind = "images",
    ) -> "Manifest":
        """The manifest of a run by this version of the library."""
        values = {
            "version": segcam_jax.__version__,
            "options": options,
            "network": network,
            "source": source,
            "items_per_shard": items_per_shard,
            "targets": targets,
            "kind": kind,
        }
        key = _files.key_of(_facts(msgspec.to_builtins(values)))
        return cls(key=key, versions=versions(), **values)

    def difference(self, other: "Manifest") -> str:
        """The first thing by which another run differs from this one, in words; empty if none."""
        mine, others = (_facts(msgspec.to_builtins(each)) for each in (self, other))
        for name in {**mine, **others}:
            there, here = (json.dumps(each.get(name)) for each in (mine, others))
            if there != here:
                return f"{name} is {shortened(there)} there, and {shortened(here)} here"
        return ""

    def is_of_other_images(self, other: "Manifest") -> bool:
        """Whether another run differs from this one in its images alone."""
        return not self.difference(dataclasses.replace(other, source=self.source))

    def encode(self) -> bytes:
        """The manifest as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        InputError: if it does not exist, is of another form, has unknown keys, or values of other
            types; says where.
    """
    origin = f"manifest {str(path)!r}"
    values = _files.parse_json(_files.read_bytes(path), f"{origin} is")
    if isinstance(values, dict) and "manifest" in values and "command" in values:
        raise InputError(
            f"{origin} was written by an older version of `segcam explain`; run its command again: "
            f"{shortened(' '.join(map(str, values['command'])), 200)}"
        )
    if not isinstance(values, dict) or "format" not in values:
        raise InputError(f"{origin} does not belong to a run")
    if values["format"] != FORMAT:
        raise InputError(
            f"{origin} is of form {values['format']!r}, which another version of segcam_jax "
            f"wrote; this one reads form {FORMAT}"
        )
    return schema.read(values, Manifest, origin)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def device() -> str:
    """What JAX runs on, in words."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"


def weights_record(network: Network) -> dict[str, Any]:
    """Which weights were used, as JSON."""
    return NetworkRecord.of(network, None).weights


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """All that determines a run, by what it is called; what is told first comes first."""
    network, source = values["network"], values["source"]
    kind = values["kind"]
    items = "images" if kind == "images" else "scans"
    listed = "list of images, masks and truths" if kind == "images" else items
    told = ("labels", "classifies", "background", "meaning", "images")
    return {
        "the version of segcam_jax": values["version"],
        **({} if kind == "images" else {"what it is of": kind}),
        **{f"the option {name!r}": each for name, each in values["options"].items()},
        "the digest of the weights": network["sha256"],
        **{f"the network's {name!r}": network[name] for name in told},
        f"the number of {items}": source["items"],
        f"the digest of the {listed}": source["digest"],
        "the number of images of a shard": values["items_per_shard"],
        "the number of targets of an image": values["targets"],
    }
