"""From a split and a target to the score as a function of the activation, and to its gradient.

    score(activation) = target(decode(activation, carry))

A target that knows the window of its region has decode run for that window only. The gradient is
that of `_jaxpr/slopes.py`: what the activation does not change takes no part in the way back.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import faults
from segcam_jax._jaxpr import cost, graph, lowering, slopes
from segcam_jax._jaxpr.precision import at_precision
from segcam_jax._jaxpr.windows import WindowPlan
from segcam_jax.engine import memory
from segcam_jax.engine.execution import Execution
from segcam_jax.taps import Carry, Split
from segcam_jax.targets import Target
from segcam_jax.types import SegcamError, TargetError, wide

F = TypeVar("F", bound=Callable)


@dataclasses.dataclass(frozen=True, eq=False)
class Scoring:
    """The score as a function of the activation, and what an evaluation costs.

    Attributes:
        struct: shape and dtype of the activation.
        plain: activation -> scalar, traceable.
        jaxpr: of it, closed over its constants.
        window: what of the output is computed, or None for all of it.
        seen: which elements of the activation the score depends on, or None for all.
        fallbacks: primitives computed whole for want of a window rule.
        unit: activation -> a power of two, with which the score's gradient at a float16 output is
            about 1: the gradient of a mean underflows there. None where nothing is float16.
    """

    struct: jax.ShapeDtypeStruct
    plain: Callable[[Array], Array]
    jaxpr: Any
    execution: Execution
    window: tuple[int, ...] | None
    seen: Array | None
    fallbacks: tuple[str, ...]
    unit: Callable[[Array], Array] | None

    @property
    def live_bytes(self) -> int:
        """Bytes that one evaluation holds at its peak."""
        return cost.live_bytes(self._opened)

    @property
    def total_bytes(self) -> int:
        """About the bytes that its gradient holds: of all its values, or of a mean block's.

        What is kept between blocks is not counted.
        """
        total = cost.total_bytes(self._opened)
        return max(self.live_bytes, total // _block_count(self._opened, self.execution))

    @property
    def flops(self) -> int:
        """Operations of its convolutions and products."""
        return cost.flops(self._opened)

    @property
    def gradient_flops(self) -> int:
        """The same of the score and its gradient."""
        return cost.flops(graph.closed(self._sloped, self.struct, self._one)[1])

    @property
    def depends(self) -> bool:
        """Whether the score is computed of the activation at all."""
        return slopes.depends(self.jaxpr)

    @property
    def has_slope(self) -> bool:
        """Whether a gradient can flow from the score back to the activation."""
        return slopes.has_slope(self.jaxpr)

    @functools.cached_property
    def score(self) -> Callable[[Array], Array]:
        """`plain`, its slow equations rewritten."""
        return fast(self.plain, self.execution, self.struct)

    def value_and_gradient(
        self, activation: Float[Array, "*space c"]
    ) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
        """The score and its gradient, in float32 where the network's are float16.

        Raises:
            TargetError: if JAX cannot differentiate it: a `while_loop`, a callback.
        """
        one = jnp.ones((), self._one.dtype)
        unit = None if self.unit is None else jax.lax.stop_gradient(self.unit(activation))
        try:
            score, gradient = self._gradient(
                activation, one if unit is None else unit.astype(one.dtype)
            )
        except (ValueError, NotImplementedError) as error:  # JAX raises either.
            if isinstance(error, SegcamError):
                raise
            raise TargetError(
                f"the score cannot be differentiated: {faults.words_of(error).rstrip('.')}. Use a "
                "method that ablates (ablation_cam)"
            ) from error
        return score, gradient if unit is None else wide(gradient) / unit

    @property
    def _opened(self) -> Any:
        return getattr(self.jaxpr, "jaxpr", self.jaxpr)

    @property
    def _one(self) -> jax.ShapeDtypeStruct:
        (score,) = self._opened.outvars
        return jax.ShapeDtypeStruct((), score.aval.dtype)

    def _sloped(self, activation: Array, cotangent: Array) -> tuple[Array, Array]:
        if not self.execution.difference:
            score, pull = jax.vjp(self.plain, activation)
            return score, pull(cotangent)[0]
        (score,), pull = _slope(self.jaxpr, activation, self.execution)
        return score, pull(cotangent)

    @functools.cached_property
    def _gradient(self) -> Callable[[Array, Array], tuple[Array, Array]]:
        return fast(self._sloped, self.execution, self.struct, self._one)


def encode(
    split: Split, params: Any, x: Any, execution: Execution
) -> tuple[Float[Array, "*space c"], Carry]:
    """`split.encode`, its slow equations rewritten where `execution` says so."""
    return fast(split.encode, execution, params, x)(params, x)


def fast(function: F, execution: Execution, *structs: Any) -> F:
    """A function, its slow equations rewritten where `execution` says so."""
    if not lowers(execution):
        return function
    return cast(F, graph.rewritten(function, lowering.lowered, *structs))


def lowers(execution: Execution) -> bool:
    """Whether slow equations are rewritten."""
    on_cpu = jax.default_backend() == "cpu"
    return on_cpu if execution.lowering is None else execution.lowering


def scoring(split: Split, carry: Carry, target: Any, execution: Execution) -> Scoring:
    """Chooses how the score is computed. Traced along; the choice rests on shapes alone."""
    plan, read, decode = _decoder(split, carry, target, execution)
    decode = at_precision(decode, execution.precision, split.activation)

    def plain(activation):
        return read(decode(activation))

    closed, jaxpr = graph.closed(plain, split.activation)
    if [variable.aval.shape for variable in jaxpr.outvars] != [()]:
        shapes = [tuple(variable.aval.shape) for variable in jaxpr.outvars]
        raise TargetError(f"the target returns arrays of the shapes {shapes}; expected one scalar")
    return Scoring(
        split.activation,
        plain,
        closed,
        execution,
        None if plan is None else target.extent,
        None if plan is None else split.canonical(plan.seen([*target.corner, 0])),
        () if plan is None else plan.fallbacks,
        functools.partial(_unit, read, decode) if _is_half(split) else None,
    )


def _is_half(split: Split) -> bool:
    """Whether gradients pass through float16."""
    structs = [split.activation, *jax.tree.leaves(split.output)]
    return any(struct.dtype == jnp.float16 for struct in structs)


def _unit(target: Callable, decode: Callable, activation: Array) -> Float[Array, ""]:
    """The power of two that brings the largest gradient of a target at the output to 1 up to 2."""
    output = jax.tree.map(wide, decode(activation))
    gradients = jax.tree.leaves(jax.grad(target)(output))
    largest = jnp.max(jnp.stack([jnp.abs(each).max() for each in gradients]))
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.exp2(-jnp.floor(jnp.log2(jnp.where(usable, largest, 1))))


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What a target reads at each position of its window, as a function of what that depends on.

    Attributes:
        part: activation -> the part of it that the window depends on.
        read: part -> value at every position, flat, traceable.
        weights: of the positions, 0 outside of the region.
        whole: part -> activation, 0 around the part.
        struct: shape and dtype of a part.
        unit: part -> as `Scoring.unit`, of the positions' weighted sum.
        execution: how to run.
    """

    part: Callable[[Array], Array]
    read: Callable[[Array], Float[Array, "p"]]
    weights: Float[Array, "p"]
    whole: Callable[[Array], Array]
    struct: jax.ShapeDtypeStruct
    unit: Callable[[Array], Array] | None
    execution: Execution

    def pull(self, part: Array) -> Callable[[Array], Array]:
        """Weights of the positions -> the gradient of their sum, at a part."""
        if not self.execution.difference:
            pull = jax.vjp(self.read, part)[1]
            return lambda cotangent: pull(cotangent)[0]
        return _slope(self._jaxpr, part, self.execution)[1]

    @functools.cached_property
    def _jaxpr(self) -> Any:
        return graph.closed(self.read, self.struct)[0]


def reading(split: Split, carry: Carry, target: Target, execution: Execution) -> Reading:
    """Reads a target position by position, on the window of its region where it knows one."""
    plan, cropped, output = _decoder(split, carry, target, execution)
    part = whole = itself
    if plan is not None:
        corner = [*target.corner, 0]

        def part(value):
            return plan.narrowed(split.native(value), corner)

        def whole(value):
            return split.canonical(plan.widened(value, corner))

        def output(part):
            return plan.run([part, *carry, *split.constants], corner)

    struct = jax.eval_shape(part, split.activation)
    output = at_precision(output, execution.precision, struct)

    def read(part):
        return cropped.values(output(part)).reshape(-1)

    values = jax.eval_shape(read, struct)
    weights = jnp.ones(values.shape, values.dtype)
    if cropped.mask is not None:
        weights = jnp.asarray(cropped.mask, values.dtype).reshape(-1)

    def summed(output):
        return (weights * cropped.values(output).reshape(-1)).sum()

    unit = functools.partial(_unit, summed, output) if _is_half(split) else None
    return Reading(part, read, weights, whole, struct, unit, execution)


def _slope(
    closed: Any, first: Array, execution: Execution
) -> tuple[list[Array], Callable[..., Array]]:
    """The outputs of a function and their pull to its input, in blocks where it is large."""
    return slopes.slope(closed, first, _block_count(getattr(closed, "jaxpr", closed), execution))


def _block_count(jaxpr: Any, execution: Execution) -> int:
    return memory.blocks(execution, cost.kept_bytes(jaxpr)) if execution.difference else 1


def itself(value: Array) -> Array:
    """The value itself."""
    return value


def _decoder(
    split: Split, carry: Carry, target: Any, execution: Execution
) -> tuple[WindowPlan | None, Any, Callable]:
    """The window that is computed, if any, the target of it, and what computes it."""
    window = window_of(split, target, execution)
    if window is None:
        return None, target, lambda a: split.decode(a, carry)
    plan, corner = split.on_window(window[0]), window[1]
    given = [*carry, *split.constants]
    return plan, target.cropped(), lambda a: plan.run([split.native(a), *given], corner)


def window_of(
    split: Split, target: Any, execution: Execution
) -> tuple[tuple[int, ...], list[Any]] | None:
    """Extents and corner of the window of the output that is computed; None: all is computed."""
    if not execution.windows or not isinstance(target, Target) or target.extent is None:
        return None
    *space, classes = jax.tree.leaves(split.output)[0].shape
    if target.extent == tuple(space):
        return None
    return (*target.extent, classes), [*target.corner, 0]
