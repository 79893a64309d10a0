"""Targets: the scalar that is explained, a function of the model's output.

The output holds logits or probabilities, `h w k` (or `d h w k`, or `k` for a classifier). Which of
them belongs to the model: a `Split` knows (`split.outputs`), methods tell their target, and what
reads an array alone takes `outputs=`. A region is chosen on the unchanged output, once; it
stays where it is while the model is ablated or differentiated. The constructors that read an output
therefore run before a method does, on concrete arrays:

    logits = fn(params, x)
    target = predicted(logits, class_index=2)
    explanation = ablation_cam(split, params, x, target)

A `Target` is a pytree, so targets of one kind stack (`stack`) and `vmap` over them. Any other
function `output -> scalar` is a target too; targets that it calls must be given `outputs=`.

Signs follow the direction of the score, not the score's own: summed logits are often negative, and
a channel that raises them has a positive weight (Ablation-CAM divides by |S|, not by S).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from segcam_jax import _print, components
from segcam_jax.components import Which, component_mask as component_mask
from segcam_jax.outputs import (
    Meaning,
    check_class,
    check_index,
    meaning,
    predicted_mask as predicted_mask,
)
from segcam_jax.types import Outputs, TargetError, wide

Of = Literal["logits", "probabilities"]
Reduce = Literal["sum", "mean"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["class_index", "mask", "corner"],
    meta_fields=["of", "reduce", "extent", "outputs", "exclusive"],
)
@dataclasses.dataclass(frozen=True)
class Target:
    """The score of a class over a region.

        S = sum_{p in region} y[p, class]        (reduce="sum")
        S = sum_{p in region} y[p, class] / |region|      (reduce="mean")

    With weights w, of either sign, sum_p w[p] y[p, class], and for the mean that over sum_p w[p].
    y is the output as it is (`of="logits"`), or the probabilities (`of="probabilities"`): of logits
    their softmax over classes, or their sigmoid where classes do not exclude each other or there is
    one only; of a model whose output holds probabilities, that output. `of="logits"` explains
    probabilities as they are given.

    What cannot be known before the trace: an empty region scores 0 with gradient 0; a mean of
    weights that cancel out is NaN, and so is a class that the output does not have.

    Attributes:
        class_index: integer scalar, or an array of them in a stack of targets.
        mask: weight of each position, `h w`; 1 inside and 0 outside. None: all positions.
        of: what is read.
        reduce: how positions are reduced.
        extent: extents of a window that holds the region, from a few sizes only, so that regions
            of like size share one program. None: unknown, as for a region that is traced.
        corner: where that window starts.
        outputs: `"logits"` or `"probabilities"`; None: as a method's split says, else logits.
        exclusive: whether classes exclude each other; one alone never does.
    """

    class_index: Int[Array, ""] | int
    mask: Any = None
    of: Of = "logits"
    reduce: Reduce = "sum"
    extent: tuple[int, ...] | None = None
    corner: Any = None
    outputs: Outputs | None = None
    exclusive: bool = True

    def __repr__(self) -> str:
        return _print.target(self)

    def cropped(self) -> "Target":
        """The same score as a function of the output's window at `corner`, of size `extent`."""
        assert self.extent is not None
        mask = jax.lax.dynamic_slice(jnp.asarray(self.mask), list(self.corner), self.extent)
        return dataclasses.replace(self, mask=mask, extent=None, corner=None)

    def __call__(self, output: Float[Array, "*space k"]) -> Float[Array, ""]:
        """Returns the score of an output, float32 (float64 for a float64 output)."""
        values = self.values(output)
        if self.mask is None:
            return values.mean() if self.reduce == "mean" else values.sum()
        weight = jnp.asarray(self.mask, values.dtype)
        total = jnp.where(weight != 0, values * weight, 0).sum()
        if self.reduce == "mean":
            area = weight.sum()
            undefined = _cancels(jnp, weight, float(jnp.finfo(weight.dtype).eps))
            mean = total / jnp.where(undefined | (area == 0), 1, area)
            return jnp.where(undefined, jnp.nan, mean)
        return total

    def check(self, output: jax.ShapeDtypeStruct) -> None:
        """Checks the target against the shape of an output, as far as values are known.

        Raises:
            TargetError: if the class, the region's shape, `of` or `reduce` do not fit.
        """
        if self.of not in ("logits", "probabilities"):
            raise TargetError(f"of={self.of!r}; choose 'logits' or 'probabilities'")
        if self.reduce not in ("sum", "mean"):
            raise TargetError(f"reduce={self.reduce!r}; choose 'sum' or 'mean'")
        self._meaning.checked()
        if not hasattr(output, "shape"):
            several = "the model returns more than one array"
            raise TargetError(f"{several}; wrap it so that it returns logits, or give a function")
        check_class(self.class_index, output.shape[-1])
        positions = output.shape[:-1]
        region = positions if self.mask is None else np.shape(self.mask)
        if np.ndim(self.class_index) or (region != positions and region[1:] == positions):
            raise TargetError("a batch of targets; give one, or use explain_batch or jax.vmap")
        if region != positions:
            raise TargetError(
                f"the target's region has shape {region}; the output has positions {positions}"
            )
        known = self.mask is not None and not isinstance(self.mask, Tracer)
        if known and self.reduce == "mean":
            _check_weights(self.class_index, self.mask)
        if not known or self.extent is None or isinstance(self.corner, Tracer):
            return
        mask, corner = np.asarray(self.mask), np.asarray(self.corner)
        if corner.ndim == 1:
            window = tuple(slice(c, c + n) for c, n in zip(corner, self.extent, strict=True))
            if np.count_nonzero(mask) != np.count_nonzero(mask[window]):
                raise TargetError(
                    "the target's region reaches out of its window; make a target of another "
                    "region with `region`, not by replacing `mask`"
                )

    def values(self, output: Float[Array, "*space k"]) -> Float[Array, "*space"]:
        """What is read at every position, in the region or not, at least float32."""
        output = self.probabilities(output) if self.of == "probabilities" else wide(output)
        values = jax.lax.dynamic_index_in_dim(output, self.class_index, -1, keepdims=False)
        index = jnp.asarray(self.class_index)
        there = (index >= 0) & (index < output.shape[-1])
        # A factor, so that gradients of a class that is none are NaN too.
        return values * jnp.where(there, 1, jnp.nan).astype(values.dtype)

    def probabilities(self, output: Float[Array, "*space k"]) -> Float[Array, "*space k"]:
        """The probability of every class at every position."""
        return self._meaning.probabilities(output)

    @property
    def _meaning(self) -> Meaning:
        return Meaning(self.outputs, self.exclusive)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Difference:
    """The score of one class above that of another: what speaks for it rather than the other.

        S = S_first - S_second

    Attributes:
        first: the class that is explained.
        second: the class that it is compared with.
    """

    first: Target
    second: Target

    def __call__(self, output: Float[Array, "*space k"]) -> Float[Array, ""]:
        """Returns the difference of the two scores."""
        return self.first(output) - self.second(output)


def whole_image(
    class_index: int,
    *,
    of: Of = "logits",
    reduce: Reduce = "sum",
    outputs: Outputs | None = None,
    exclusive: bool = True,
) -> Target:
    """The class over all positions; for a classifier, its logit. Arguments as in `region`."""
    check_index(class_index)
    return Target(class_index, None, of, reduce, outputs=outputs, exclusive=exclusive)


def region(
    class_index: int,
    mask: Bool[ArrayLike, "*space"],
    *,
    of: Of = "logits",
    reduce: Reduce = "sum",
    outputs: Outputs | None = None,
    exclusive: bool = True,
) -> Target:
    """The class over a given region.

    Args:
        class_index: the class.
        mask: True inside, or floating-point weights, `h w` at the extent of the output.
        of: `"logits"` or `"probabilities"`.
        reduce: `"sum"` or `"mean"`.
        outputs: what the model's output holds, as in `Target`.
        exclusive: whether classes exclude each other: `of="probabilities"` of logits is their
            softmax, else their sigmoid.

    Raises:
        TargetError: if values are known, and the region is empty, holds whole numbers other than 0
            and 1, or the weights of a mean cancel out.
    """
    if not isinstance(mask, Tracer):
        components.check_region(mask, class_index)
        if reduce == "mean":
            _check_weights(class_index, mask)
    whole = whole_image(class_index, of=of, reduce=reduce, outputs=outputs, exclusive=exclusive)
    return _on_window(dataclasses.replace(whole, mask=mask))


def _cancels(xp: Any, weight: Any, eps: float) -> Any:
    """Whether weights are there and sum to 0, up to rounding."""
    size = xp.abs(weight).sum()
    return (size > 0) & (xp.abs(weight.sum()) <= 8 * eps * size)


def _check_weights(class_index: Any, mask: Any) -> None:
    """Raises `TargetError` if a mean over known weights is undefined."""
    weight = np.asarray(mask, np.float64)
    if _cancels(np, weight, float(np.finfo(np.float32).eps)):
        raise TargetError(
            f"the weights of the region for class {class_index} sum to {weight.sum():.4g}, so they "
            "have no mean; give weights of one sign, or reduce='sum'"
        )


def pixel(
    class_index: int,
    position: Sequence[int],
    shape: Sequence[int],
    *,
    of: Of = "logits",
    outputs: Outputs | None = None,
    exclusive: bool = True,
) -> Target:
    """The class at one position.

    Args:
        class_index: the class.
        position: `(row, column)`, or `(slice, row, column)` in 3D, from 0.
        shape: the positions of the output, `(h, w)` or `(d, h, w)`.
        of: `"logits"` or `"probabilities"`.
        outputs: as in `region`.
        exclusive: as in `region`.

    Raises:
        TargetError: if the position lies outside.
    """
    components.check_position(position, shape)
    mask = np.zeros(tuple(shape), bool)
    mask[tuple(position)] = True
    return region(class_index, mask, of=of, outputs=outputs, exclusive=exclusive)


def predicted(
    output: Float[ArrayLike, "*space k"],
    class_index: int,
    *,
    min_probability: float | None = None,
    of: Of = "logits",
    reduce: Reduce = "sum",
    outputs: Outputs | None = None,
    exclusive: bool = True,
    threshold: float | Sequence[float] | None = None,
) -> Target:
    """The class over the positions predicted as it; arguments as in `predicted_mask`.

    Raises:
        TargetError: as `predicted_mask`; or if no position is predicted as the class and values are
            known.
    """
    said: Any = {"outputs": outputs, "exclusive": exclusive}
    if not isinstance(output, Tracer) and np.isnan(np.asarray(output, np.float32)).any():
        raise TargetError("the output holds NaN; check the input and the weights")
    narrowed: Any = {"min_probability": min_probability, "threshold": threshold}
    mask = predicted_mask(output, class_index, **narrowed, **said)
    if not isinstance(mask, Tracer) and not bool(mask.any()):
        least = min_probability if threshold is None else threshold
        above = "" if least is None else f" with probability > {least}"
        found = np.asarray(meaning(**said, threshold=threshold).predicted(output))
        others = np.flatnonzero(found.reshape(-1, found.shape[-1]).any(0)).tolist()
        raise TargetError(
            f"no position is predicted as class {class_index}{above}; the region is empty. "
            f"Classes predicted here: {others}"
        )
    return region(class_index, mask, of=of, reduce=reduce, **said)


def component(
    output: Float[ArrayLike, "*space k"],
    class_index: int,
    which: Which = "largest",
    *,
    at: Sequence[int] | None = None,
    connectivity: int | None = None,
    min_probability: float | None = None,
    of: Of = "logits",
    reduce: Reduce = "sum",
    outputs: Outputs | None = None,
    exclusive: bool = True,
    threshold: float | Sequence[float] | None = None,
) -> Target:
    """The class over one connected component of the positions predicted as it.

    Arguments as in `component_mask` and `predicted_mask`; raises as it and `predicted` do.
    """
    said: Any = {"outputs": outputs, "exclusive": exclusive}
    narrowed: Any = {"min_probability": min_probability, "threshold": threshold, **said}
    whole = predicted(output, class_index, **narrowed).mask
    mask = components.component_mask(whole, which, at=at, connectivity=connectivity)
    return region(class_index, mask, of=of, reduce=reduce, **said)


def stack(targets: Sequence[Target]) -> Target:
    """Stacks targets of one kind along a new leading axis, for `vmap`.

    Raises:
        TargetError: if there are none, or they differ in kind.
    """
    if not targets:
        raise TargetError("no targets to stack")
    kinds = {
        (target.of, target.reduce, target.outputs, target.exclusive, np.shape(target.mask))
        for target in targets
    }
    if len(kinds) > 1:
        raise TargetError(
            "targets differ in `of`, `reduce`, `outputs`, `exclusive` or the shape of their region"
        )
    extents = [target.extent for target in targets]
    common = None if None in extents else tuple(np.max(np.array(extents), axis=0).tolist())
    return jax.tree.map(_stacked, *(_on_window(target, common) for target in targets))


def instances(
    class_index: int,
    labels: Int[ArrayLike, "*space"],
    *,
    only: Sequence[int] | None = None,
    of: Of = "logits",
    reduce: Reduce = "mean",
    outputs: Outputs | None = None,
    exclusive: bool = True,
) -> Target:
    """One target per instance of a label map, stacked for `vmap`, all with the largest's window.

    Args:
        class_index: the class.
        labels: 0 outside, k in instance k, as `data.instances` finds them.
        only: the labels to take, in this order; None: all, in ascending order.
        of: `"logits"` or `"probabilities"`.
        reduce: `"sum"` or `"mean"`.
        outputs: as in `region`.
        exclusive: as in `region`.

    Raises:
        TargetError: if there is no instance, or not one of `only`; or labels are not whole numbers.
    """
    labels = components.check_labels(labels)
    chosen = [label for label in np.unique(labels).tolist() if label > 0] if only is None else only
    if not len(chosen):
        raise TargetError("the label map has no instances: it is 0 everywhere, or `only` is empty")
    alike: Any = {"of": of, "reduce": reduce, "outputs": outputs, "exclusive": exclusive}
    return stack([region(class_index, labels == each, **alike) for each in chosen])


def _on_window(target: Target, extent: tuple[int, ...] | None = None) -> Target:
    """The target with a window around its region: of the given extents, or as few as hold it."""
    target = dataclasses.replace(target, extent=None, corner=None)
    if target.mask is None or isinstance(target.mask, Tracer):
        return target
    mask = np.asarray(target.mask)
    found, corner = components.region_window(mask, extent)
    return dataclasses.replace(target, mask=mask, extent=found, corner=corner)


def _stacked(*leaves: Any) -> Any:
    """On the host if all are there: inside of a caller's `jit` too, regions stay known."""
    on_host = not any(isinstance(leaf, jax.Array) for leaf in leaves)
    return np.stack(leaves) if on_host else jnp.stack([jnp.asarray(leaf) for leaf in leaves])
