"""Quantitative saliency of one instance: what of the input each lesion, cell or object rests on.

Values are not normalised, so that those of one instance compare with those of another.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PRNGKeyArray

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.registry import method
from segcam_jax.methods.saliency import attributed, check_samples
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import Explanation, InputError, TargetError


@method(
    "input",
    title="Instance SmoothGrad",
    cost="samples forwards; as many backwards (mean), or one a voxel and sample (max)",
    paper="Spagnolo et al., 2024",
    slope=True,
)
def instance_smooth_grad(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    key: PRNGKeyArray,
    samples: int = 50,
    sigma: float = 0.05,
    sigma_unit: Literal["range", "absolute"] = "range",
    channel: int | None = 0,
    aggregation: Literal["mean", "max"] = "mean",
    divisor: float | None = None,
    first: Int[ArrayLike, ""] = 0,
    execution: Execution = Execution(),
) -> Explanation:
    """Instance SmoothGrad: signed gradients of an instance over noisy copies of the input.

        x_n = x + e_n,    e_n ~ Normal(0, s^2),    s = sigma (max - min of one channel of x)
                                                   or sigma itself (absolute)
        mean   attribution = 1/N sum_n d/dx_n  1/|I| sum_{v in I} f(x_n)_v
        max    attribution = 1/N sum_n m_n,    m_n(p) = g_v*(p),   v* = argmax_{v in I} |g_v(p)|,
               g_v = d f(x_n)_v / dx_n

    f is the logit of the target's class, I its region. The maximum is over the voxels of the
    instance, for each voxel and channel of the input by itself, inside of each noisy copy; of two
    values that differ in sign alone, the positive one. Sample n draws its noise from
    `fold_in(key, n)`: the result depends on the key, not on chunks or windows.

    Args:
        split: the model, cut at the tap to explain: `"input"` for the modalities of a volume.
        target: a `Target`, the class over the instance; its `reduce` is not used.
        key: a key of `jax.random`.
        samples: N.
        sigma: noise as a share of the range of a channel, or absolute.
        sigma_unit: `"range"`; or `"absolute"`, for example where x is cut out of a larger volume
            whose range is meant.
        channel: that channel, for all channels of the input (FLAIR in the paper); None: the range
            of the whole input.
        aggregation: `"mean"` or `"max"` over the instance.
        divisor: of the sum over the instance's voxels instead of |I|, with `"mean"` only. The
            authors' code divides by the number of instances of the volume.
        first: index of the first sample. Parts of a long run make up the whole: the mean of the
            parts, weighted by their samples. As an array it is no part of the program.

    Returns:
        `attribution` `*space c`, in logits per unit of the input; `map` its sum over channels;
        `score`, the mean logit of the instance for the noise-free input.

    Raises:
        TargetError: if the target is not a `Target`.
        InputError: if an option is out of range.

    References:
        Spagnolo et al., Instance-level quantitative saliency in multiple sclerosis lesion
        segmentation, arXiv 2406.09335. Their noise is not seeded.
    """
    check_samples(key, samples)
    _check(split, target, channel, aggregation, divisor)
    target = dataclasses.replace(target, reduce="mean")
    activation, carry, score = engine.baseline(split, params, x, target, execution)
    scale = jnp.asarray(sigma, activation.dtype)
    if sigma_unit == "range":
        measured = activation if channel is None else activation[..., channel]
        scale = scale * (measured.max() - measured.min())

    def noisy(index):
        noise = jax.random.normal(jax.random.fold_in(key, index), activation.shape)
        return activation + scale * noise.astype(activation.dtype)

    indices = jnp.asarray(first, jnp.int32) + jnp.arange(samples, dtype=jnp.int32)
    mean = engine.region_gradients(
        split, carry, target, noisy, indices, aggregation, divisor, execution
    )
    return attributed(mean, score)


def _check(
    split: Split, target: Any, channel: int | None, aggregation: str, divisor: float | None
) -> None:
    if not isinstance(target, Target):
        given = "a function" if callable(target) else type(target).__name__
        raise TargetError(
            f"the target is {given}; an instance is a Target with a region: make "
            "one with region, component or instances"
        )
    channels = split.activation.shape[-1]
    if channel is not None and not 0 <= channel < channels:
        raise InputError(
            f"channel={channel}; tap {split.tap!r} has {channels}, 0 to {channels - 1}, or None"
        )
    if divisor is not None and aggregation == "max":
        raise InputError("divisor is for aggregation='mean'; the maximum is not divided")
