"""`segcam occlude`: activation maps occluded, one by one and all at once, in images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcam_jax import _files
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.study import Occlude
from segcam_jax.metrics.occlusion import SHARES
from segcam_jax.networks.class_queries import ClassChoice
from segcam_jax.networks.image_inputs import ImageForm
from segcam_jax.networks.image_truths import TruthReading, pair_truths
from segcam_jax.networks.layers import MIDDLE
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.reports.occlusion import (
    TABLE,
    OccludedImage,
    check_own,
    is_whole,
    read_record,
    read_records,
    remove_image,
    write_image,
    write_table,
)
from segcam_jax.reports.words import short
from segcam_jax.runs.items import check_apart, files_in
from segcam_jax.runs.occlusion import OcclusionJob, OcclusionOptions
from segcam_jax.types import InputError, SegcamError, counted, shortened

_COLUMNS = ("image", "class", "of", "Dice", "Dice, foreground occluded", "first maps", "fall")


def occlude(command: Occlude) -> int:
    """Studies images, writes tables and figures, and tells what came out; returns the exit code."""
    _files.check_folder(command.out)
    job, files = _opened(command)
    names, figures = _files.names_of(files), not command.no_figures
    check_own(command.out, names, job.settings, overwrite=command.overwrite)
    try:
        records = _studied(job, dict(zip(files, names, strict=True)), command)
    finally:
        if every := read_records(command.out, job.settings):
            write_table(every, command.out, figures=figures)
    if records:
        console.table(None, _COLUMNS, [_words(record) for record in records])
        print(f"{counted(len(records), 'image')} occluded: {command.out}; {TABLE} lists them")
    return console.WITH_FAILURES if len(records) < len(files) else 0


def _studied(
    job: OcclusionJob, names: Mapping[Path, str], command: Occlude
) -> list[dict[str, Any]]:
    """The records of all images that can be studied; tells of the others, or raises."""
    records = []
    with console.progress("occluding", len(names)) as advance:
        for file, name in names.items():
            folder = command.out / name
            try:
                records.append(_record(job, file, folder, command))
                advance(1, name)
            except SegcamError as problem:
                if command.on_error == "stop" or len(names) == 1:
                    raise
                console.note(f"{file}: {problem}")
                advance(1, "")
    return records


def _record(job: OcclusionJob, file: Path, folder: Path, command: Occlude) -> dict[str, Any]:
    """What was found of an image, and its files: as they are, if the same study wrote them.

    Raises:
        SegcamError: if it cannot be studied, or the folder is of another image; of one that cannot
            be read, earlier files stay.
    """
    image, figures = job.read(file), not command.no_figures
    key = _files.key_of([*job.key(image), figures])
    there = read_record(folder)
    if there and there["key"] == key and is_whole(folder, there):
        return there
    image_of = there and (there["file"] == str(file) or there.get("sha256") == image.sample.sha256)
    if there and not image_of and not command.overwrite:
        raise InputError(
            f"output {str(folder)!r} holds the study of another image of that name, "
            f"{there['file']!r}; give another folder, or --overwrite"
        )
    remove_image(folder)
    label, mask, study = job.study(image)
    sample, truth, outputs = image.sample, image.truth, job.network.meaning.outputs or "logits"
    height, width, _ = sample.padded.shape
    of = "prediction" if truth is None else "truth"
    said = f"{short(label)} of the {of}; {job.network.title} at {image.tap}"
    found = OccludedImage(folder.name, sample.shown, mask, (height, width), said, study, outputs)
    about = {"key": key, "settings": job.settings, "image": folder.name, "file": str(file)}
    about |= {"sha256": image.sample.sha256}
    about |= {"class": label, "tap": image.tap, "notes": list(sample.notes)}
    about |= {"truth": None if truth is None else str(truth)}
    return write_image(found, folder, about, figures=figures)


def _words(record: Mapping[str, Any]) -> tuple[str, ...]:
    rows = [row for row in record["means"] if row["region"] == "foreground"]
    last = max(rows, key=lambda row: row["share"], default=None)
    return (
        shortened(record["image"]),
        short(record["class"]),
        "prediction" if record["truth"] is None else "truth",
        f"{record['means'][0]['dice']:.3f}",
        "" if last is None else f"{last['dice_after']:.3f}",
        ", ".join(str(each["map"]) for each in record["ablated"][:3]),
        ", ".join(f"{each['foreground_fall']:.3g}" for each in record["ablated"][:3]),
    )


def _opened(command: Occlude) -> tuple[OcclusionJob, Sequence[Path]]:
    """What is studied, and the images."""
    said = (command.truth_threshold, command.truth_value, command.truth_labels)
    reading = TruthReading.parse(command.truth, *said)
    layers, memory_limit = names_in(command.tap), bytes_of(command.memory_limit)
    if len(command.classes) > 1 or len(layers) > 1:
        raise InputError("an occlusion study takes one class and one tap; give one of each")
    choice = ClassChoice.parse((*command.classes, "predicted")[0])
    options = OcclusionOptions(
        shares=tuple(sorted(set(command.shares))) or SHARES,
        places=command.places,
        occluded=names_in(command.occluded),  # pyright: ignore[reportArgumentType] - it checks.
        value=command.value,
        cover=command.cover,
    )
    if not command.images:
        raise InputError("no images were given; name files or folders")
    files = files_in(command.images, console.note)
    check_apart(command.out, command.images, [*map(str, files)])
    truths = pair_truths(files, files_in(command.truth)) if command.truth else {}
    network = _network(command)
    form, layer = ImageForm.of(network, command.fit or "crop"), (*layers, MIDDLE)[0]
    job = OcclusionJob(network, choice, layer, form, truths, reading, options, memory_limit)
    job.check(files)
    return job, files


def _network(command: Occlude) -> Network:
    network = open_network(NetworkSpec.parse(command.weights), OpenOptions.of(command))
    if network.note:
        console.note(network.note)
    if network.classifies:
        raise InputError(
            f"{network.name} classifies whole images, but this command studies segmentations; use "
            "`segcam explain --method ablation_cam`"
        )
    return network
