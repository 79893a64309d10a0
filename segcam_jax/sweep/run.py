"""A plan carried out: maps, figures and records on disk, images that are finished skipped."""

import datetime
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from segcam_jax import _files, viz
from segcam_jax.engine import Execution
from segcam_jax.heatmap import hidden_share, over_image
from segcam_jax.methods import MethodCall
from segcam_jax.networks.image_inputs import ImageForm, read_sample
from segcam_jax.networks.network import Network
from segcam_jax.reports import display, figures
from segcam_jax.reports.display import Display
from segcam_jax.runs.manifest import versions
from segcam_jax.sweep import plan as plan_module, store
from segcam_jax.sweep.figures import look_of, subject_of
from segcam_jax.sweep.plan import Case, Pair, Plan
from segcam_jax.targets import Target
from segcam_jax.types import Explanation, InputError, counted

MANIFEST_VERSION = 2
Advance = Callable[[int, str], None]


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
    for case, pairs in plan.share(index, count):
        if folder.finished(case.name) is None:
            record = _explain_case(plan, case, pairs, out, execution, advance)
            _files.write_json(out / case.name / store.RECORD, record)
            advance(1, f"{case.where}: {counted(len(pairs), 'map')}")
        else:
            advance(1, f"{case.where}: finished before")
    # A process looks at the others' records after it has written its own: one of them sees all.
    records = [record for case in plan.cases if (record := folder.finished(case.name))]
    manifest = _manifest(plan, records, command, time.perf_counter() - start)
    if len(records) == len(plan.cases):
        _files.write_json(out / store.MANIFEST, manifest)
    return manifest


def _explain_case(
    plan: Plan,
    case: Case,
    pairs: Sequence[Pair],
    out: Path,
    execution: Execution,
    advance: Advance,
) -> dict[str, Any]:
    """Maps and figures of one image; returns its record."""
    sample = read_sample(case.path, ImageForm.of(plan.network, plan.options.fit))
    sample.check_same(case.sha256)
    files = plan_module.case_files(case, pairs)
    target = case.target(plan.options)
    subject, look = subject_of(plan, case, sample.shown), look_of(plan)
    maps, raws, weights = [], {}, {}
    how = functools.partial(
        display.display,
        profile=plan.options.profile,
        padded=case.padded,
        extent=case.extent,
        smoothing=plan.options.smoothing,
    )
    hidden: list[tuple[str, float]] = []
    for call, tap in pairs:
        method = call.method.name
        advance(0, f"{case.name}: {method} at {tap}")
        explanation, seconds = _explain(plan, sample.padded, target, call, tap, execution)
        raws[method, tap] = raw = np.asarray(explanation.map, np.float32)
        weights[method, tap] = explanation.weights
        _check_finite(raw, case, method, tap)
        share = hidden_share(over_image(raw, case.extent, case.padded))
        hidden.append((method, share))
        signed = display.is_signed(plan.options.profile, hidden[-1:])
        drawn = how(raw, method, signed=signed, weights=explanation.weights)
        _files.write_array(out / files[method, tap, "map"], raw)
        if (method, tap, "attribution") in files:
            attribution = np.asarray(explanation.attribution, np.float32)
            _files.write_array(out / files[method, tap, "attribution"], attribution)
        figure = figures.of_map(subject, raw, drawn, tap, look)
        viz.save(figure, out / files[method, tap, "figure"])
        maps.append(_map_record(files, tap, explanation, raw, drawn, seconds))
    signed = display.is_signed(plan.options.profile, hidden)
    together = {
        pair: how(raw, pair[0], signed=signed, weights=weights[pair]) for pair, raw in raws.items()
    }
    figure = figures.of_all(subject, together, look, signed=signed)
    viz.save(figure, out / files["montage"])
    profiles = list(dict.fromkeys(each.profile for each in together.values()))
    return _case_record(plan, case, maps, files) | {"montage_display": profiles}


def _explain(
    plan: Plan,
    padded: Float[np.ndarray, "u v c"],
    target: Target,
    call: MethodCall,
    tap: str,
    execution: Execution,
) -> tuple[Explanation, float]:
    """One explanation, and the seconds that it took, compilation included."""
    start = time.perf_counter()
    network = plan.network
    split = network.split(tap, padded.shape)
    arguments = call.arguments(plan.options.seed)
    explanation = call.method.function(
        split, network.params, padded, target, execution=execution, **arguments
    )
    jax.block_until_ready(explanation)
    return explanation, time.perf_counter() - start


def _check_finite(raw: np.ndarray, case: Case, method: str, tap: str) -> None:
    if not np.isfinite(raw).all():
        raise InputError(
            f"{str(case.path)!r}: {method} at {tap} overflowed float32; explain probabilities, or "
            "reduce by the mean"
        )


def _map_record(
    files: Mapping[Any, str],
    tap: str,
    explanation: Explanation,
    raw: np.ndarray,
    drawn: Display,
    seconds: float,
) -> dict[str, Any]:
    method = drawn.method
    return {
        "method": method,
        "tap": tap,
        "shape": list(raw.shape),
        "score": float(explanation.score),
        "min": float(raw.min()),
        "max": float(raw.max()),
        "relu_hides": round(drawn.hidden, 6),
        "display": drawn.profile,
        "zero": drawn.zero or None,
        "seconds": round(seconds, 4),
        "map": files[method, tap, "map"],
        "attribution": files.get((method, tap, "attribution")),
        "figure": files[method, tap, "figure"],
    }


def _case_record(plan: Plan, case: Case, maps: list[dict], files) -> dict[str, Any]:
    padding = [[0, large - small] for large, small in zip(case.padded, case.extent, strict=True)]
    split = plan.network.split
    taps = {each["tap"]: split(each["tap"], case.input_shape).activation for each in maps}
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
            "name": case.about["explained"]["label"],
            "share": case.about["explained"]["share"],
            "chosen": case.chosen,
        },
        "predicted": case.about["predicted"],
        "shares_are": case.about["shares_are"],
        "region": _region_record(plan, case),
        "taps": {name: list(struct.shape) for name, struct in taps.items()},
        "maps": maps,
        "montage": files["montage"],
        "files": list(files.values()),
    }


def _region_record(plan: Plan, case: Case) -> dict[str, Any] | None:
    if case.region is None:
        return None
    return {
        "words": plan.options.region,
        "pixels": int(case.region.sum()),
        "sha256": _files.key_of([case.extent, np.flatnonzero(case.region).tolist()]),
    }


def _background_record(plan: Plan) -> dict[str, Any] | None:
    """The class that is explained only when asked for, and whether its number alone says so."""
    found = plan.network.background
    if found is None:
        return None
    label = plan.network.labels[found.index]
    return {"index": found.index, "label": label, "assumed": found.assumed}


def device() -> str:
    """What JAX runs on, in words."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"


def weights_record(network: Network) -> dict[str, Any]:
    """Which weights were used."""
    return {
        "given": network.spec.words,
        "absolute": str(network.path.resolve()),
        "sha256": network.sha256,
        "model": network.model.name,
        "outputs": network.meaning.to_json(),
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
        "background": _background_record(plan),
        "about_maps": (
            "float32, signed and raw, at the resolution of the tap; they cover the padded extent, "
            "whose padding lies at the bottom and the right"
        ),
        "images": records,
        "left_out": [str(path) for path in plan.left_out],
        "files": plan.files(),
    }
