"""A plan carried out: maps, figures and records on disk, images that are finished skipped."""

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from segcam_jax import viz
from segcam_jax.engine import Execution
from segcam_jax.methods import METHODS
from segcam_jax.sweep import options as options_module, plan as plan_module, store
from segcam_jax.sweep.heat import cropped_heatmap
from segcam_jax.sweep.network import Network
from segcam_jax.sweep.plan import Case, Plan
from segcam_jax.targets import Target, region
from segcam_jax.types import Explanation, InputError

MANIFEST_VERSION = 1
Advance = Callable[[int, str], None]
_PACKAGES = ("segcam-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "matplotlib")


def run_plan(
    plan: Plan,
    out: Path,
    *,
    command: Sequence[str],
    overwrite: bool = False,
    execution: Execution = Execution(),
    share: tuple[int, int] | None = None,
    advance: Advance = lambda images, text: None,
) -> dict[str, Any]:
    """Explains every image of a plan and writes the results.

    An image that this very run has finished before is not explained again. Several processes may
    carry out one plan in one folder, each its share of the images, without waiting for each other;
    the last one to finish writes the manifest.

    Args:
        plan: what to do.
        out: the run's folder.
        command: the command line, for the manifest.
        overwrite: take a folder that holds another run; for a run of one process only.
        execution: how the engine runs; does not change the maps. Processes that share the images
            each have a mesh of their own devices.
        share: `(index, count)`: only the images `index`, `index + count`, ... None: those of this
            process of `jax.distributed`, all if there is one only.
        advance: is called with the number of images done since the last call, and what is going on.

    Returns:
        The manifest, as written; not written, and of the images that are finished, where other
        processes still have images to explain.

    Raises:
        InputError: if the folder holds another run or cannot be written.
    """
    index, count = share or (jax.process_index(), jax.process_count())
    if count > 1 and execution.mesh is not None and execution.mesh.is_multi_process:
        raise InputError(
            "the processes share the images, so a mesh of their common devices would wait for "
            "ever; give each a mesh of jax.local_devices()"
        )
    folder = store.RunFolder(out, plan.key, plan.files(), overwrite=overwrite, shared=count > 1)
    start = time.perf_counter()
    for case, pairs in list(zip(plan.cases, plan.pairs, strict=True))[index::count]:
        if folder.finished(case.name) is None:
            record = _explain_case(plan, case, pairs, out, execution, advance)
            store.write_json(out / case.name / store.RECORD, record)
            advance(1, f"{case.path}: {len(pairs)} map(s)")
        else:
            advance(1, f"{case.path}: finished before")
    # A process looks at the others' records after it has written its own: one of them sees all.
    records = [record for case in plan.cases if (record := folder.finished(case.name))]
    manifest = _manifest(plan, records, command, time.perf_counter() - start)
    if len(records) == len(plan.cases):
        store.write_json(out / store.MANIFEST, manifest)
    return manifest


def _explain_case(
    plan: Plan,
    case: Case,
    pairs: Sequence[tuple[str, str]],
    out: Path,
    execution: Execution,
    advance: Advance,
) -> dict[str, Any]:
    """Maps and figures of one image; returns its record."""
    image, padded = plan_module.read_padded(case.path, plan.network)
    if image.sha256 != case.sha256:
        raise InputError(f"{str(case.path)!r} was changed while the run went on; start it again")
    files = plan_module.case_files(case, pairs)
    target = region(case.class_index, case.mask, of=plan.options.of, reduce=plan.options.reduce)
    maps, heatmaps = [], {}
    for method, tap in pairs:
        advance(0, f"{case.name}: {method} at {tap}")
        explanation, seconds = _explain(plan, padded, target, method, tap, execution)
        raw = np.asarray(explanation.map, np.float32)
        _check_finite(raw, case, method, tap)
        heat = np.asarray(
            cropped_heatmap(
                raw,
                case.padded,
                case.extent,
                plan.options.profile,
                smoothing=plan.options.smoothing,
            )
        )
        heatmaps[method, tap] = heat
        store.write_array(out / files[method, tap, "map"], raw)
        if (method, tap, "attribution") in files:
            attribution = np.asarray(explanation.attribution, np.float32)
            store.write_array(out / files[method, tap, "attribution"], attribution)
        figure = _six_panels(plan, case, image.pixels, raw, heat, f"{method} at {tap}")
        _save(figure, out / files[method, tap, "figure"])
        maps.append(_map_record(files, method, tap, explanation, raw, seconds))
    _save(_montage(plan, case, image.pixels, heatmaps), out / files["montage"])
    return _case_record(plan, case, maps, files)


def _explain(
    plan: Plan,
    padded: Float[np.ndarray, "u v c"],
    target: Target,
    method: str,
    tap: str,
    execution: Execution,
) -> tuple[Explanation, float]:
    """One explanation, and the seconds that it took, compilation included."""
    start = time.perf_counter()
    split = plan.network.split(tap, padded.shape)
    arguments = options_module.arguments(method, plan.options)
    explanation = METHODS[method].function(
        split, plan.network.model.params, padded, target, execution=execution, **arguments
    )
    jax.block_until_ready(explanation)
    return explanation, time.perf_counter() - start


def _check_finite(raw: np.ndarray, case: Case, method: str, tap: str) -> None:
    if not np.isfinite(raw).all():
        raise InputError(
            f"{str(case.path)!r}: {method} at {tap} overflowed float32; explain probabilities, or "
            "reduce by the mean"
        )


def drawable(pixels: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """The image with one or three channels; the mean of others."""
    return pixels if pixels.shape[-1] in (1, 3) else pixels.mean(-1, keepdims=True)


def _six_panels(plan: Plan, case: Case, pixels, raw, heat, what: str):
    names = plan.network.class_names
    # The raw map covers the padding too; the figure shows the part over the image.
    shown = tuple(
        slice(0, -(-cells * small // large))
        for cells, small, large in zip(raw.shape, case.extent, case.padded, strict=True)
    )
    return viz.six_panels(
        drawable(pixels),
        None,
        case.prediction,
        raw[shown],
        heat,
        region=case.region,
        class_names=names,
        class_index=case.class_index,
        background=background_of(names),
        ignored=None,
        colormap=plan.options.colormap,
        title=f"{case.name}: class {names[case.class_index]!r}, {what}",
    )


def background_of(names: Sequence[str]) -> int | None:
    """The class named background, drawn in grey."""
    folded = [name.casefold() for name in names]
    return folded.index("background") if "background" in folded else None


def own_scale(heat: np.ndarray) -> np.ndarray:
    """A heatmap divided by its largest magnitude, so that many can share one colour scale."""
    largest = np.abs(heat).max()
    return heat / largest if largest > 0 else heat


def _montage(plan: Plan, case: Case, pixels, heatmaps: dict[tuple[str, str], np.ndarray]):
    names = plan.network.class_names
    return viz.montage(
        drawable(pixels),
        {pair: own_scale(heat) for pair, heat in heatmaps.items()},
        rows=list(dict.fromkeys(method for method, _ in heatmaps)),
        columns=list(dict.fromkeys(tap for _, tap in heatmaps)),
        region=case.region,
        colormap=plan.options.colormap,
        title=f"{case.name}: class {names[case.class_index]!r}; each map on its own scale",
    )


def _save(figure, path: Path) -> None:
    try:
        viz.save(figure, path)
    except OSError as error:
        raise store.cannot_write(path, error) from None


def _map_record(files, method, tap, explanation, raw, seconds) -> dict[str, Any]:
    return {
        "method": method,
        "tap": tap,
        "shape": list(raw.shape),
        "score": float(explanation.score),
        "min": float(raw.min()),
        "max": float(raw.max()),
        "seconds": round(seconds, 4),
        "map": files[method, tap, "map"],
        "attribution": files.get((method, tap, "attribution")),
        "figure": files[method, tap, "figure"],
    }


def _case_record(plan: Plan, case: Case, maps: list[dict], files) -> dict[str, Any]:
    padding = [[0, large - small] for large, small in zip(case.padded, case.extent, strict=True)]
    taps = {
        tap: plan.network.split(tap, case.input_shape).activation for _, tap in files_taps(maps)
    }
    return {
        "name": case.name,
        "run": plan.key,
        "input": {
            "path": str(case.path),
            "absolute": str(case.path.resolve()),
            "sha256": case.sha256,
            "extent": list(case.extent),
            "padding": padding,
            "notes": list(case.notes),
        },
        "class": {
            "index": case.class_index,
            "name": plan.network.class_names[case.class_index],
        },
        "region": {
            "words": plan.options.region,
            "pixels": int(case.region.sum()),
            "sha256": region_digest(case),
        },
        "taps": {name: list(struct.shape) for name, struct in taps.items()},
        "maps": maps,
        "montage": files["montage"],
        "files": list(files.values()),
    }


def files_taps(maps: Sequence[dict]) -> list[tuple[str, str]]:
    """The (method, tap) pairs of map records."""
    return [(record["method"], record["tap"]) for record in maps]


def region_digest(case: Case) -> str:
    """A digest of the explained pixels."""
    return store.key_of([case.extent, np.flatnonzero(case.region).tolist()])


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
    """Which weights were used."""
    return {
        "given": network.given,
        "absolute": str(network.path.resolve()),
        "sha256": network.sha256,
        "model": network.model.name,
    }


def _manifest(plan: Plan, records: list[dict], command: Sequence[str], seconds: float) -> dict:
    return {
        "manifest": MANIFEST_VERSION,
        "key": plan.key,
        "command": list(command),
        "versions": versions(),
        "device": device(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "weights": weights_record(plan.network),
        "options": plan.options.to_json(),
        "about_maps": (
            "float32, signed and raw, at the resolution of the tap; they cover the padded extent, "
            "whose padding lies at the bottom and the right"
        ),
        "images": records,
        "files": plan.files(),
    }
