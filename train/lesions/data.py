"""What a training on lesions is trained on, and what it is scored on."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.data.frames import Frame
from segcam_jax.data.nifti import stem
from segcam_jax.data.scans import zscore
from segcam_jax.data.volume import orientation
from train.data.brain_template import Template, mni152, read_template
from train.data.lesions import MODALITIES, LesionCase, LesionCases, LesionConfig
from train.lesions.config import PLANTED_SPACING, LesionTraining
from train.lesions.scans import CONNECTIVITY, Crops, Scans, read_scans

# By index, each with its `image` and its `lesions`.
Cases = LesionCases | Scans


@dataclasses.dataclass(frozen=True, eq=False)
class LesionData:
    """What a run is trained and scored on.

    Attributes:
        source: what is trained on, by index.
        pair: image and numbers of lesions of an item; None: it is both.
        choosing: cases that choose the best state.
        scoring: cases that score it.
        roi: extent of the windows in which held-out cases are seen; None: they are seen whole.
        modalities: what the network's channels are.
        frame: the axes and voxels of all.
        key: what a run that is resumed must have again, besides its settings or in their place.
        connectivity: neighbours of a voxel in a predicted lesion; None: all 26.
        held_out: the names of the patients that are not trained on.
        notes: what is to be told of the scans before a run.
    """

    name: str
    source: Any
    pair: Callable | None
    shape: tuple[int, ...]
    choosing: Cases
    scoring: Cases
    roi: int | None
    modalities: tuple[str, ...]
    frame: Frame
    key: Mapping[str, Any]
    connectivity: int | None = None
    held_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_data(config: LesionTraining) -> LesionData:
    """Planted lesions, or a user's scans."""
    if config.data is None:
        return planted(config, open_template(config))
    found = read_scans(config)
    extents = (config.crop,) * 3
    return LesionData(
        name=config.data.name,
        source=Crops(config, found.training),
        pair=None,
        shape=(*extents, len(config.prefixes)),
        choosing=found.held_out,
        scoring=found.held_out,
        roi=config.crop,
        modalities=tuple(map(stem, config.prefixes)),
        frame=found.frame,
        key={"scans": found.sha256, "spacing": found.frame.spacing},
        connectivity=CONNECTIVITY,
        held_out=found.patients,
        notes=found.notes,
    )


def planted(config: LesionTraining, template: Template) -> LesionData:
    """Lesions planted in a brain; no case comes twice."""
    spacing = config.spacing or PLANTED_SPACING
    return LesionData(
        name=f"planted lesions, {template.name}",
        source=_cases(template, "train", config.seed, config.steps * config.batch),
        pair=pair,
        shape=(*template.t1.shape, len(MODALITIES)),
        choosing=_cases(template, "test", config.seed + 1, config.evaluate_cases),
        scoring=_cases(template, "test", config.seed, config.score_cases),
        roi=None,
        modalities=MODALITIES,
        frame=Frame(orientation(template.affine), (spacing,)),
        key={"spacing": spacing},
    )


def _cases(template: Template, split: Any, seed: int, cases: int) -> LesionCases:
    return LesionCases(template, LesionConfig(split=split, seed=seed, cases=cases))


def open_template(config: LesionTraining) -> Template:
    """The brain that a run's cases are made of."""
    spacing = config.spacing or PLANTED_SPACING
    if config.template is None:
        return mni152(spacing=spacing)
    return read_template(config.template, spacing=spacing)


def pair(case: LesionCase) -> tuple[Float[np.ndarray, "d h w 2"], Int[np.ndarray, "d h w"]]:
    """Modalities with mean 0 and deviation 1 in the brain, and the numbers of lesions."""
    return zscore(case.image), case.lesions
