"""What the figures of a run show of its images."""

import numpy as np
from jaxtyping import Float

from segcam_jax.reports import words
from segcam_jax.reports.figures import Look, Subject, legend
from segcam_jax.sweep.plan import Case, Plan


def subject_of(plan: Plan, case: Case, pixels: Float[np.ndarray, "h w c"]) -> Subject:
    """A case of a plan, for figures."""
    network, options = plan.network, plan.options
    label, kind = case.about["explained"]["label"], options.where.kind
    classifies = case.prediction is None
    background = network.background
    of_probabilities = network.meaning.outputs == "probabilities"
    return Subject(
        name=case.picture,
        said=words.in_words(case.about) if classifies else words.short(label),
        pixels=pixels,
        padded=case.padded,
        network=network.title,
        label=label,
        class_index=case.class_index,
        of="probabilities" if of_probabilities else options.of,
        reduce=options.reduce,
        legend=legend(network.labels, background),
        background=None if background is None else background.index,
        region=case.region,
        # A mask's words hold the folders of its file.
        chosen=kind if kind == "mask" else options.region,
        prediction=case.prediction,
    )


def look_of(plan: Plan) -> Look:
    """How the maps of a plan are drawn."""
    options = plan.options
    return Look(options.profile, options.colormap, options.smoothing)
