"""FLOPs as XLA counts them, from shapes alone: nothing is compiled, no array is made.

Programs are counted as they are written for a CPU: those for accelerators tell nothing before they
are compiled.

XLA counts the body of a loop once. What one more ablation costs is therefore the difference of two
programs, one that runs two ablations at once and one that runs a single one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

import segcam_jax as segcam
from segcam_jax.engine import Execution, ablation_scores
from segcam_jax.masks import Masks


def shapes(tree: Any) -> Any:
    """The arrays of a pytree as shapes and dtypes."""
    return jax.eval_shape(lambda tree: tree, tree)


def flops(function: Callable, *arguments: Any) -> float:
    """Operations of a function of arrays or of shapes."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        counted = jax.jit(function).lower(*shapes(arguments)).cost_analysis()
    return float((counted or {}).get("flops", 0.0))


def flops_per_ablation(
    split: segcam.Split, params: Any, x: Any, target: Any, masks: Masks, execution: Execution
) -> float:
    """Operations that one more ablation costs; 0 where all ablations come from one gradient.

    Args:
        params: arrays, or their shapes.
        x: one example, likewise.
        masks: at least three of them, so that ablations run in chunks.
        execution: how they run; its chunk size is replaced.
    """

    def total(chunk: int) -> float:
        how = dataclasses.replace(execution, chunk_size=chunk)

        def study(params, x):
            activation, carry = split.encode(params, x)
            return ablation_scores(split, activation, carry, target, masks, how)

        return flops(study, params, x)

    return max(0.0, total(2) - total(1))
