"""`segcam instances`: saliency of every instance in volumes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcam_jax import _files, methods
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.volumetric import Instances, Volumetric, chosen
from segcam_jax.data.frames import Frame
from segcam_jax.data.truths import TruthOptions
from segcam_jax.engine import Execution
from segcam_jax.extras import require
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions, Said
from segcam_jax.reports.features import TABLE as FEATURES, write_features
from segcam_jax.reports.instances import TABLE, InstanceReport, files_of
from segcam_jax.reports.scans import Record, check_free
from segcam_jax.runs.instance_studies import MapStudy
from segcam_jax.runs.scans import ScanRun
from segcam_jax.runs.stored_run import STORE
from segcam_jax.runs.stored_scans import StoredScans
from segcam_jax.types import InputError, counted, shortened, whole_number
from segcam_jax.volumes import SaliencyOptions, SegmentOptions, scan_inputs, segmentation
from segcam_jax.volumes.scan_inputs import VolumeCase, frame_notes

_SHOWN = 40  # rows of the table on the terminal


def instances(command: Instances, line: Sequence[str]) -> int:
    """Segments, explains and draws; tells what came out, and returns the exit code."""
    execution = Execution(memory_limit=bytes_of(command.memory_limit))
    if command.features:
        require("skimage.feature", extra="metrics")
    network, segmenting, cases, modalities = opened(command)
    if said := network.explained_as(command.of):
        console.note(said)
    saliency = _saliency(command, modalities)
    study = MapStudy.of(network, segmenting, saliency, modalities, groups_of(command))
    run = ScanRun(network, tuple(cases), modalities, segmenting, study, execution)
    stored = computed(
        run,
        command.out,
        [*files_of(study.pairs), *([FEATURES] if command.features else [])],
        overwrite=command.overwrite,
        stop_on_error=command.on_error == "stop",
    )
    records = reported(stored, command.out, line)
    if command.features:
        write_features(stored, command.out)
    elif command.overwrite:  # Those of the run before.
        (command.out / FEATURES).unlink(missing_ok=True)
    _summarise(records, command, len(cases))
    return exit_code(stored)


def computed(
    run: ScanRun,
    out: Path,
    files: Sequence[str],
    *,
    overwrite: bool = False,
    stop_on_error: bool = False,
) -> StoredScans:
    """A run over scans in a folder, computed as far as it was not.

    Args:
        files: that will be written there, beside those of the scans.

    Raises:
        SegcamError: as `ScanRun.run`, or if other people's files are in the way.
    """
    old = check_free(out, [case.name for case in run.cases], files, overwrite=overwrite)
    stored = run.run(
        out / STORE,
        overwrite=overwrite,
        stop_on_error=stop_on_error,
        bars=console.progress,
        report=console.note,
    )
    _files.remove(out, old)
    return stored


def reported(stored: StoredScans, out: Path, line: Sequence[str]) -> list[Record]:
    """Writes the files of a run, and returns what was measured of each instance."""
    report = InstanceReport(stored, out)
    with console.progress("drawing", report.count) as advance:
        report.write(advance, line)
    return report.records


def exit_code(stored: StoredScans) -> int:
    """0, or another where something failed."""
    failed = stored.table["error"].drop_nulls()
    if len(failed):
        console.note(f"`segcam show {stored.path}` tells why {len(failed)} failed")
    return console.WITH_FAILURES if len(failed) else 0


def opened(
    command: Volumetric,
) -> tuple[Network, SegmentOptions, list[VolumeCase], tuple[str, ...]]:
    """The network, options and scans of a command over volumes, all checked."""
    require("nibabel", extra="nifti")
    _files.check_folder(command.out)
    prefixes = names_in(command.prefixes)
    network = _network(command, len(prefixes) or len(names_in(command.modalities)))
    files = scan_inputs.scan_files(
        command.volumes,
        network.config.in_channels,
        data=command.data,
        prefixes=prefixes,
        truth=command.truth,
        truth_prefix=command.truth_prefix,
    )
    options = segmentation.checked(
        SegmentOptions.of(
            network,
            class_index=_class_of(command),
            threshold=command.threshold,
            connectivity=chosen(command, "connectivity"),
            min_voxels=chosen(command, "min_voxels"),
            min_volume=command.min_volume,
            min_iou=command.iou,
            truth=TruthOptions(
                labels=command.truth_labels,
                classes=command.truth_classes,
                ignore=command.ignore_label,
                threshold=command.truth_threshold,
            ),
            resample=command.resample,
            **_reading(command, network),
        ),
        network,
    )
    if options.truth != TruthOptions() and not _has_truth(command):
        raise InputError(
            "--truth-labels, --truth-classes, --truth-threshold and --ignore-label need a ground "
            "truth; add --truth, or --truth-prefix with --data"
        )
    modalities = scan_inputs.modalities_of(names_in(command.modalities), files, prefixes)
    cases = scan_inputs.make_cases(files, options)
    if options.preparation is None:
        for note in frame_notes(network, options.frame, files):
            console.note(note)
    return network, options, cases, modalities


def _reading(command: Volumetric, network: Network) -> dict[str, Any]:
    """How scans are read, as far as the command says it."""
    prepared = {
        "normalise": command.normalise,
        "orientation": command.orientation,
        "spacing": command.spacing or None,
        "match_spacing": command.match_spacing or None,
    }
    given = [name for name, value in prepared.items() if value is not None]
    if network.recipe is not None and given:
        raise InputError(
            f"--{given[0].replace('_', '-')} does not apply to {network.spec.words}, whose files "
            "state how scans are prepared; leave it out"
        )
    said: dict[str, Any] = {
        "roi": command.roi,
        "overlap": command.overlap,
        "normalise": command.normalise,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if network.recipe is not None:
        return said
    frame = Frame(command.orientation, command.spacing or None)
    return {**said, "frame": frame, "match_spacing": command.match_spacing}


def _network(command: Volumetric, modalities: int) -> Network:
    """The network; of a user's own, what it takes is said.

    Args:
        modalities: how many are named; 0 where none is.
    """
    spec = NetworkSpec.parse(command.weights)
    users, given = spec.kind == "user", command.channels
    options = OpenOptions(
        size=(command.roi or SegmentOptions().roi) if users else None,
        channels=given if given is not None or not users else modalities or None,
        ndims=(scan_inputs.AXES,),
        said=Said(command.outputs, command.multi_label),
        checkpoint=command.checkpoint,
        layout=command.layout,
        mirror=command.mirror,
    )
    network = open_network(spec, options)
    for said in (network.note, "" if users else network.exclusive_doubt()):
        if said:
            console.note(said)
    return network


def _class_of(command: Volumetric) -> str | None:
    """The class, if one is named; raises `InputError` if several are."""
    if len(command.classes) > 1:
        raise InputError(
            f"--class was given {' '.join(command.classes)}; give one class of volumes"
        )
    return command.classes[0] if command.classes else None


def groups_of(command: Volumetric) -> tuple[str, ...]:
    """The chosen groups; they need a truth."""
    groups = tuple(word.upper() for word in names_in(chosen(command, "group")))
    if groups and not _has_truth(command):
        asked = "--group" if command.group else f"--preset {command.preset} ({', '.join(groups)})"
        raise InputError(f"{asked} needs a truth; add --truth, or --truth-prefix with --data")
    return groups


def _has_truth(command: Volumetric) -> bool:
    return bool(command.truth) or command.truth_prefix is not None


def _saliency(command: Instances, modalities: Sequence[str]) -> SaliencyOptions:
    named = command.noise_modality
    if named in modalities:
        channel = list(modalities).index(named)
    elif (channel := whole_number(named)) is None:
        choices = ", ".join(modalities)
        raise InputError(f"--noise-modality was given {named!r}; choose from {choices}")
    return SaliencyOptions(
        methods=tuple(each.name for each in methods.find_all(names_in(command.method))),
        options=command.option,
        taps=names_in(command.tap),
        of=command.of,
        legacy_divisor=command.legacy_divisor,
        channel=channel,
        field=command.field,
        seed=command.seed,
    )


def _summarise(records: Sequence[dict[str, Any]], command: Instances, scans: int) -> None:
    if not records:
        chosen = f" of {', '.join(groups_of(command))}" if command.group else ""
        print(
            f"no instance{chosen} was found in {counted(scans, 'scan')}; "
            f"{command.out / TABLE} is empty"
        )
        return
    rows = [
        (
            shortened(about["scan"]),
            about["instance"],
            about["group"] or "—",
            f"{about['volume_mm3']:.4g}",
            maps["method"],
            shortened(each["modality"]),
            f"{each['peak_positive']:.3g}",
            f"{each['peak_negative']:.3g}",
            f"{each['mean_inside']:.3g}",
            "—" if (at := each["peak_positive_distance_mm"]) is None else f"{at:.3g}",
        )
        for record in records
        for about in (record["instance"],)
        for maps in record["maps"]
        for each in maps["modalities"]
    ]
    columns = ("scan", "instance", "group", "mm³", "method", "modality", "peak", "lowest")
    columns += ("mean inside", "peak at mm")
    console.table(None, columns, rows[:_SHOWN])
    more = f"; {TABLE} has {counted(len(rows) - _SHOWN, 'more row')}" if len(rows) > _SHOWN else ""
    print(
        f"{counted(len(rows), 'map')} of {counted(len(records), 'instance')} in "
        f"{counted(scans, 'scan')}: "
        f"{command.out}; {TABLE} lists them{more}"
    )
