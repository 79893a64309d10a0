"""What a training on planted lesions is trained on, and what it is scored on."""

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.data.scans import zscore
from train.data.brain_template import Template, mni152, read_template
from train.data.lesions import LesionCase, LesionCases, LesionConfig
from train.lesions.config import LesionTraining


def open_template(config: LesionTraining) -> Template:
    """The brain that a run's cases are made of."""
    if config.template is None:
        return mni152(spacing=config.spacing)
    return read_template(config.template, spacing=config.spacing)


def training_cases(config: LesionTraining, template: Template) -> LesionCases:
    """The cases of all steps; none comes twice."""
    cases = config.steps * config.batch
    return LesionCases(template, LesionConfig(split="train", seed=config.seed, cases=cases))


def pair(case: LesionCase) -> tuple[Float[np.ndarray, "d h w 2"], Int[np.ndarray, "d h w"]]:
    """Modalities with mean 0 and deviation 1 in the brain, and 1 where a lesion is."""
    return zscore(case.image), (case.lesions > 0).astype(np.int32)


def held_out(config: LesionTraining, template: Template, *, choosing: bool) -> LesionCases:
    """Cases that are not trained on: for choosing the best state, or for its final scores."""
    cases = config.evaluate_cases if choosing else config.score_cases
    seed = config.seed + 1 if choosing else config.seed
    return LesionCases(template, LesionConfig(split="test", seed=seed, cases=cases))
