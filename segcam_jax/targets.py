"""Targets: the scalar that is explained, a function of the model's output.

The output holds logits, `h w k` (or `d h w k`, or `k` for a classifier). A region is chosen on the
unchanged output, once; it stays where it is while the model is ablated or differentiated. The
constructors that read an output therefore run before a method does, on concrete arrays:

    logits = fn(params, x)
    target = predicted(logits, class_index=2)
    explanation = ablation_cam(split, params, x, target)

A `Target` is a pytree, so targets of one kind stack (`stack`) and `vmap` over them. Any other
function `output -> scalar` is a target too.

Signs: all methods take the sign of importance from the direction of the score, never from the sign
of the score itself. Summed logits of a region are often negative; a channel that raises the score
has a positive weight then as well (Ablation-CAM divides by |S|, not by S).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from scipy import ndimage

from segcam_jax.types import TargetError, wide

Of = Literal["logits", "probabilities"]
Reduce = Literal["sum", "mean"]
Which = Literal["largest", "smallest"] | int


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["class_index", "mask", "corner"],
    meta_fields=["of", "reduce", "extent"],
)
@dataclasses.dataclass(frozen=True)
class Target:
    """The score of a class over a region.

        S = sum_{p in region} y[p, class]        (reduce="sum")
        S = sum_{p in region} y[p, class] / |region|      (reduce="mean")

    y is the output (`of="logits"`), or its softmax over classes (`of="probabilities"`; the sigmoid
    where there is one class only). A model that ends in a softmax has its probabilities read with
    `of="logits"`, which takes the output as it is.

    An empty region, where it cannot be known before the trace, scores 0 with gradient 0, never NaN.

    Attributes:
        class_index: integer scalar, or an array of them in a stack of targets.
        mask: weight of each position, `h w`; 1 inside and 0 outside. None: all positions.
        of: what is read.
        reduce: how positions are reduced.
        extent: extents of a window that holds the region, from a few sizes only, so that regions
            of like size share one program. None: unknown, as for a region that is traced.
        corner: where that window starts.
    """

    class_index: Int[Array, ""] | int
    mask: Any = None
    of: Of = "logits"
    reduce: Reduce = "sum"
    extent: tuple[int, ...] | None = None
    corner: Any = None

    def cropped(self) -> "Target":
        """The same score as a function of the output's window at `corner`, of size `extent`."""
        assert self.extent is not None
        mask = jax.lax.dynamic_slice(jnp.asarray(self.mask), list(self.corner), self.extent)
        return Target(self.class_index, mask, self.of, self.reduce)

    def __call__(self, output: Float[Array, "*space k"]) -> Float[Array, ""]:
        """Returns the score of an output, float32 (float64 for a float64 output)."""
        values = self.values(output)
        if self.mask is None:
            return values.mean() if self.reduce == "mean" else values.sum()
        weight = jnp.asarray(self.mask, values.dtype)
        total = jnp.where(weight != 0, values * weight, 0).sum()
        if self.reduce == "mean":
            area = weight.sum()
            return total / jnp.where(area > 0, area, 1)
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
        if not hasattr(output, "shape"):
            raise TargetError(
                "the model returns more than one array; wrap it so that it returns logits, "
                "or give a target function of your own"
            )
        _check_class(self.class_index, output.shape[-1])
        if self.mask is None or _is_traced(self.mask):
            return
        if np.shape(self.mask) != output.shape[:-1]:
            raise TargetError(
                f"the target's region has shape {np.shape(self.mask)}; the output has positions "
                f"{output.shape[:-1]}"
            )
        if self.extent is None or _is_traced(self.corner):
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
        output = wide(output)
        if self.of == "probabilities":
            single = output.shape[-1] == 1
            output = jax.nn.sigmoid(output) if single else jax.nn.softmax(output, axis=-1)
        return jax.lax.dynamic_index_in_dim(output, self.class_index, -1, keepdims=False)


def whole_image(class_index: int, *, of: Of = "logits", reduce: Reduce = "sum") -> Target:
    """The class over all positions; for a classifier, its logit."""
    return Target(class_index, None, of, reduce)


def region(
    class_index: int,
    mask: Bool[ArrayLike, "*space"],
    *,
    of: Of = "logits",
    reduce: Reduce = "sum",
) -> Target:
    """The class over a given region.

    Args:
        class_index: the class.
        mask: True (or a positive weight) inside, `h w` at the extent of the output.
        of: `"logits"` or `"probabilities"`.
        reduce: `"sum"` or `"mean"`.

    Raises:
        TargetError: if the region is empty and its values are known.
    """
    if not _is_traced(mask) and not np.isfinite(np.asarray(mask, float)).all():
        raise TargetError(f"the region for class {class_index} holds NaN or infinite weights")
    if not _is_traced(mask) and not np.any(np.asarray(mask)):
        raise TargetError(
            f"the region for class {class_index} is empty, out of {np.size(mask)} positions; "
            "choose another region or class"
        )
    return _on_window(Target(class_index, mask, of, reduce))


def pixel(
    class_index: int,
    position: Sequence[int],
    shape: Sequence[int],
    *,
    of: Of = "logits",
) -> Target:
    """The class at one position.

    Args:
        class_index: the class.
        position: `(row, column)`, or `(slice, row, column)` in 3D, from 0.
        shape: the positions of the output, `(h, w)` or `(d, h, w)`.
        of: `"logits"` or `"probabilities"`.

    Raises:
        TargetError: if the position lies outside.
    """
    _check_position(position, shape)
    mask = np.zeros(tuple(shape), bool)
    mask[tuple(position)] = True
    return region(class_index, mask, of=of)


def predicted_mask(
    output: Float[ArrayLike, "*space k"], class_index: int, *, min_probability: float | None = None
) -> Bool[Array, "*space"]:
    """Where the output predicts the class: its logit is the largest.

    Args:
        output: logits. With one class (k = 1), predicted where the logit is positive.
        class_index: the class.
        min_probability: also require a softmax probability above this; 0.5 is Seg-Grad-CAM's
            ClassRoI (Vinogradova et al., 2020).
    """
    output = jnp.asarray(output)
    _check_class(class_index, output.shape[-1])
    if output.shape[-1] == 1:
        return jax.nn.sigmoid(output[..., 0]) > (
            0.5 if min_probability is None else min_probability
        )
    mask = jnp.argmax(output, axis=-1) == class_index
    if min_probability is not None:
        mask &= jnp.take(jax.nn.softmax(output, axis=-1), class_index, axis=-1) > min_probability
    return mask


def predicted(
    output: Float[ArrayLike, "*space k"],
    class_index: int,
    *,
    min_probability: float | None = None,
    of: Of = "logits",
    reduce: Reduce = "sum",
) -> Target:
    """The class over the positions predicted as it; arguments as in `predicted_mask`.

    Raises:
        TargetError: if no position is predicted as the class and values are known.
    """
    mask = predicted_mask(output, class_index, min_probability=min_probability)
    if not _is_traced(mask) and np.isnan(np.asarray(output, np.float32)).any():
        raise TargetError("the output holds NaN; check the input and the weights")
    if not _is_traced(mask) and not bool(mask.any()):
        scores = np.asarray(output)
        found = np.unique(np.argmax(scores, axis=-1)).tolist() if scores.shape[-1] > 1 else []
        threshold = "" if min_probability is None else f" with probability > {min_probability}"
        raise TargetError(
            f"no position is predicted as class {class_index}{threshold}; the region is empty. "
            f"Classes predicted here: {found}"
        )
    return _on_window(Target(class_index, mask, of, reduce))


def component_mask(
    mask: Bool[ArrayLike, "*space"],
    which: Which = "largest",
    *,
    at: Sequence[int] | None = None,
    connectivity: int | None = None,
) -> Bool[np.ndarray, "*space"]:
    """One connected component of a region. Runs on the host, on concrete values.

    Args:
        mask: the region.
        which: `"largest"`, `"smallest"`, or k for the k-th largest from 0. Components of one size
            are ordered by their first position.
        at: instead of `which`, the component at this position.
        connectivity: how many axes neighbours may differ in, 1 (4 neighbours in 2D, 6 in 3D) up to
            the number of dimensions (8 and 26), which is the default; 2 in 3D is 18 neighbours.

    Raises:
        TargetError: if the region is empty, or there is no such component.
    """
    if _is_traced(mask):
        raise TargetError(
            "a connected component is found on the host; make the target outside of jit and vmap, "
            "and pass it in (`stack` makes a batch)"
        )
    mask = np.asarray(mask, bool)
    connectivity = mask.ndim if connectivity is None else connectivity
    if not 1 <= connectivity <= mask.ndim:
        raise TargetError(f"connectivity={connectivity}; expected 1 to {mask.ndim}")
    structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
    labels, count = cast(tuple[np.ndarray, int], ndimage.label(mask, structure))
    if count == 0:
        raise TargetError("the region is empty; it has no connected component")
    if at is not None:
        _check_position(at, mask.shape)
        label = labels[tuple(at)]
        if label == 0:
            raise TargetError(f"position {tuple(at)} is not in the region; it has no component")
        return labels == label
    sizes = np.bincount(labels.ravel())[1:]
    ordered = np.argsort(-sizes, kind="stable")
    rank: Any = {"largest": 0, "smallest": count - 1}.get(cast(str, which), which)
    if not isinstance(rank, int) or not 0 <= rank < count:
        raise TargetError(
            f"component {which!r}; the region has {count}: choose 'largest', 'smallest', or an "
            f"index from 0 to {count - 1}"
        )
    return labels == ordered[rank] + 1


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
) -> Target:
    """The class over one connected component of the positions predicted as it.

    Arguments as in `component_mask` and `predicted_mask`; raises as it and `predicted` do.
    """
    whole = predicted(output, class_index, min_probability=min_probability).mask
    mask = component_mask(whole, which, at=at, connectivity=connectivity)
    return region(class_index, mask, of=of, reduce=reduce)


def stack(targets: Sequence[Target]) -> Target:
    """Stacks targets of one kind along a new leading axis, for `vmap`.

    Raises:
        TargetError: if there are none, or they differ in kind.
    """
    if not targets:
        raise TargetError("no targets to stack")
    kinds = {(target.of, target.reduce, np.shape(target.mask)) for target in targets}
    if len(kinds) > 1:
        raise TargetError("targets differ in `of`, `reduce` or the shape of their region")
    extents = [target.extent for target in targets]
    common = None if None in extents else tuple(np.max(np.array(extents), axis=0).tolist())
    targets = [_on_window(target, common) for target in targets]
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(v) for v in leaves]), *targets)


def instances(
    class_index: int,
    labels: Int[ArrayLike, "*space"],
    *,
    only: Sequence[int] | None = None,
    of: Of = "logits",
    reduce: Reduce = "mean",
) -> Target:
    """One target per instance of a label map, stacked for `vmap`, all with the largest's window.

    Args:
        class_index: the class.
        labels: 0 outside, k in instance k, as `data.instances` finds them.
        only: the labels to take, in this order; None: all, in ascending order.
        of: `"logits"` or `"probabilities"`.
        reduce: `"sum"` or `"mean"`.

    Raises:
        TargetError: if there is no instance, or not one of `only`.
    """
    labels = np.asarray(labels)
    chosen = [label for label in np.unique(labels).tolist() if label > 0] if only is None else only
    if not len(chosen):
        raise TargetError("there is no instance: the label map is 0 everywhere, or `only` is empty")
    return stack([region(class_index, labels == each, of=of, reduce=reduce) for each in chosen])


def _on_window(target: Target, extent: tuple[int, ...] | None = None) -> Target:
    """The target with a window around its region: of the given extents, or as few as hold it."""
    target = dataclasses.replace(target, extent=None, corner=None)
    if target.mask is None or _is_traced(target.mask):
        return target
    mask = np.asarray(target.mask)
    low, sizes = [], []
    for axis, length in enumerate(mask.shape):
        along = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        first, last = (along[0], along[-1]) if along.size else (0, 0)
        size = _size_class(int(last - first) + 1, length) if extent is None else extent[axis]
        low.append(min(int(first), length - size))
        sizes.append(size)
    return dataclasses.replace(target, mask=mask, extent=(*sizes,), corner=np.array(low, np.int32))


def _size_class(size: int, most: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: at most half as large again."""
    power = 1
    while power < size:
        if power + power // 2 >= size and power > 1:
            return min(power + power // 2, most)
        power *= 2
    return min(power, most)


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def _check_class(class_index: Any, classes: int) -> None:
    if _is_traced(class_index):
        return
    indices = np.asarray(class_index)
    if indices.dtype.kind not in "iu" or ((indices < 0) | (indices >= classes)).any():
        raise TargetError(
            f"class {class_index} is not a class of the model; it has {classes}, 0 to {classes - 1}"
        )


def _check_position(position: Sequence[int], shape: Sequence[int]) -> None:
    inside = len(position) == len(shape) and all(
        0 <= index < extent for index, extent in zip(position, shape, strict=True)
    )
    if not inside:
        raise TargetError(f"position {tuple(position)} lies outside of the image {tuple(shape)}")
