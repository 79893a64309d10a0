"""`segcam occlude`: activation maps occluded, one by one and all at once, in images."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segcam_jax
from segcam_jax import _files
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.study import Occlude
from segcam_jax.engine import Execution
from segcam_jax.metrics import occlusion_study
from segcam_jax.networks.class_queries import ClassChoice, Prediction
from segcam_jax.networks.image_inputs import ImageForm, Sample, read_sample
from segcam_jax.networks.image_truths import (
    UNKNOWN,
    TruthReading,
    outside_of_mask,
    pair_truths,
    read_labels,
)
from segcam_jax.networks.layers import check_map, find_layer
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions, Said
from segcam_jax.reports.occlusion import (
    FILES,
    OF_IMAGE,
    RECORD,
    OccludedImage,
    write_image,
    write_table,
)
from segcam_jax.reports.words import short
from segcam_jax.runs.items import files_in
from segcam_jax.types import InputError, SegcamError, counted, shortened

_COLUMNS = ("image", "class", "of", "Dice", "Dice, foreground occluded", "first maps", "fall")


def occlude(command: Occlude) -> int:
    """Studies images, writes tables and figures, and tells what came out; returns the exit code."""
    _files.check_folder(command.out)
    job = _Job.of(command)
    names = _files.names_of(job.files)
    folders = [command.out / name for name in names]
    if not command.overwrite and not (command.out / FILES[0]).exists():
        started = any((folder / RECORD).exists() for folder in folders)
        _files.check_free(command.out, () if started else (*names, *FILES))
    records, failed = [], 0
    with console.progress("occluding", len(names)) as advance:
        for file, name, folder in zip(job.files, names, folders, strict=True):
            try:
                records.append(job.record(file, name, folder))
                advance(1, name)
            except SegcamError as problem:
                if command.on_error == "stop" or len(names) == 1:
                    raise
                failed += 1
                _files.remove(folder, OF_IMAGE)
                console.note(f"{file}: {problem}")
                advance(1, "")
    if records:
        write_table(records, command.out, figures=not command.no_figures)
        console.table(None, _COLUMNS, [_words(record) for record in records])
        print(f"{counted(len(records), 'image')} occluded: {command.out}; {FILES[0]} lists them")
    return console.WITH_FAILURES if failed else 0


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


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """What is studied.

    Attributes:
        command: what was given.
        network: it.
        choice: the foreground's class.
        files: of the images.
        truths: of each; empty: what is predicted.
        reading: what the truths' values mean.
        form: in which the network takes images.
        options: of the study.
    """

    command: Occlude
    network: Network
    choice: ClassChoice
    files: Sequence[Path]
    truths: Mapping[Path, Path]
    reading: TruthReading
    form: ImageForm
    options: Mapping[str, Any]

    @classmethod
    def of(cls, command: Occlude) -> "_Job":
        """Opens the network and lists the images.

        Raises:
            SegcamError: whatever is wrong with what was given.
        """
        reading = TruthReading(command.truth_threshold, command.truth_value, command.truth_labels)
        if not command.truth and reading != TruthReading():
            raise InputError("--truth-threshold, --truth-value and --truth-labels need --truth")
        if not command.images:
            raise InputError("no images were given; name files or folders")
        files = files_in(command.images, console.note)
        truths = pair_truths(files, files_in(command.truth)) if command.truth else {}
        network = _network(command)
        if len(command.classes) > 1 or len(names_in(command.tap)) > 1:
            raise InputError("an occlusion study is of one class and one tap; give one of each")
        choice = ClassChoice.parse((*command.classes, "predicted")[0])
        choice.check(network.labels)
        options = {
            "shares": tuple(sorted(set(command.shares))),
            "places": command.places,
            "occluded": names_in(command.occluded),
            "value": command.value,
            "cover": command.cover,
        }
        form = ImageForm.of(network, command.fit or "crop")
        return cls(command, network, choice, files, truths, reading, form, options)

    def record(self, file: Path, name: str, folder: Path) -> Mapping[str, Any]:
        """What was found of an image, computed unless its folder holds it.

        Raises:
            SegcamError: if it cannot be studied.
        """
        sample, truth = read_sample(file, self.form), self.truths.get(file)
        network, command = self.network, self.command
        tap = self._tap(sample.padded.shape)
        key = _files.key_of(
            [
                segcam_jax.__version__,
                network.key,
                [sample.sha256, truth and _files.sha256_of(truth), tap, self.choice.words],
                dataclasses.astuple(self.reading),
                [command.fit, command.no_figures, {k: repr(v) for k, v in self.options.items()}],
            ]
        )
        there = _files.read_json(folder / RECORD)
        if isinstance(there, dict) and there.get("key") == key:
            return there
        _files.remove(folder, OF_IMAGE)
        found, label = self._studied(sample, truth, tap, name)
        about = {"key": key, "image": name, "file": str(file), "class": label, "tap": tap}
        about |= {"truth": None if truth is None else str(truth), "notes": list(sample.notes)}
        return write_image(found, folder, about, figures=not command.no_figures)

    def _studied(
        self, sample: Sample, truth: Path | None, tap: str, name: str
    ) -> tuple[OccludedImage, str]:
        """The study of an image, and the name of its foreground's class."""
        network = self.network
        output = network.logits(sample.padded)
        prediction = Prediction.of(
            sample.cropped(output), network.labels, network.meaning, network.background
        )
        index = self.choice.resolve(prediction, network.labels)
        classes = network.config.classes
        background = None if network.background is None else network.background.index
        background = None if background == index else background
        if truth is None:
            labels = network.predicted_labels(sample.cropped(output))
            labels = np.where(labels < 0, classes, labels)
        else:
            if not self.reading.labels:
                background = outside_of_mask(index, background, classes)
            labels = read_labels(
                truth,
                sample,
                self.reading,
                class_index=index,
                outside=classes if background is None else background,
                classes=classes,
                fit=self.form.fit,
            )
        mask, label = labels == index, network.labels[index]
        if not mask.any():
            where = "the prediction" if truth is None else f"truth {str(truth)!r}"
            raise InputError(f"{where} has no pixel of {short(label)}: nothing to occlude")
        padded = np.full(output.shape[:-1], UNKNOWN)
        padded[: mask.shape[0], : mask.shape[1]] = labels
        study = occlusion_study(
            self._split(tap, sample.padded.shape),
            network.params,
            sample.padded,
            padded,
            class_index=index,
            background=background,
            exclusive=network.meaning.exclusive,
            threshold=network.meaning.threshold,
            execution=Execution(memory_limit=bytes_of(self.command.memory_limit)),
            **self.options,
        )
        of = "prediction" if truth is None else "truth"
        said = f"{short(label)} of the {of}; {network.title} at {tap}"
        pad = (sample.padded.shape[0], sample.padded.shape[1])
        outputs = network.meaning.outputs or "logits"
        return OccludedImage(name, sample.shown, mask, pad, said, study, outputs), label

    @functools.cache  # noqa: B019 - a job lasts as long as its command.
    def _tap(self, shape: tuple[int, ...]) -> str:
        taps = self.network.list_taps(shape)
        tap = find_layer(self.network, (*names_in(self.command.tap), "middle")[0], taps)
        check_map(tap, taps[tap])
        return tap

    @functools.cache  # noqa: B019
    def _split(self, tap: str, shape: tuple[int, ...]) -> Any:
        return self.network.split(tap, shape)


def _network(command: Occlude) -> Network:
    options = OpenOptions.parse(
        size=command.size,
        range=command.range,
        normalisation=command.normalisation,
        labels=command.labels,
        channels=command.channels,
        seed=command.seed or 0,
        said=Said(command.outputs, command.multi_label, command.threshold),
        checkpoint=command.checkpoint,
        layout=command.layout,
        mirror=command.mirror,
    )
    network = open_network(NetworkSpec.parse(command.weights), options)
    if network.note:
        console.note(network.note)
    if network.classifies:
        raise InputError(
            f"{network.name} classifies whole images, and this is a study of segmentations; "
            "explain it by `segcam explain --method ablation_cam`"
        )
    return network
