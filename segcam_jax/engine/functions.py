"""Functions as targets: what a target computes is part of a program, not which object it is."""

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from segcam_jax import faults
from segcam_jax._jaxpr import content, graph
from segcam_jax.taps import Split
from segcam_jax.types import SegcamError, TargetError, wide

_NEEDS_VALUE = (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError)


# Formulas that hold tracers; hardly ever is there any.
_HOLDING: "weakref.WeakSet[Formula]" = weakref.WeakSet()


class Formula:
    """A traced function `(consts, leaves, output) -> score`; equal to others that compute the same.

    Attributes:
        jaxpr: its equations; arrays that the function holds are inputs.
        key: what it computes.
        holds_tracers: whether a derivative rule of it closes over values of a trace that is going
            on; all else that it closes over are its inputs.
    """

    def __init__(self, jaxpr: Any, key: Hashable):
        self.jaxpr = jaxpr
        self.key = key
        self._hash = hash(key)
        self.holds_tracers = content.holds_tracers(key)
        if self.holds_tracers:
            _HOLDING.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and self.key == other.key

    def __hash__(self) -> int:
        return self._hash


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["consts", "leaves"], meta_fields=["formula"]
)
@dataclasses.dataclass(frozen=True)
class FunctionTarget:
    """A target that is a function, traced as it is now.

    Attributes:
        consts: arrays that the function closes over, or that its object holds as attributes.
        leaves: arrays and numbers of a target that is a pytree, as `jax.tree_util.Partial` is.
        formula: what is computed of these and the output.
    """

    consts: list[Any]
    leaves: list[Any]
    formula: Formula

    def __call__(self, output: Any) -> Any:
        """The score of an output."""
        jaxpr = self.formula.jaxpr
        inputs = [*self.consts, *self.leaves, *jax.tree.leaves(_read(output))]
        (score,) = graph.evaluate(jaxpr, (), inputs)
        return score


def function_target(target: Callable, split: Split) -> FunctionTarget:
    """Traces a function `output -> scalar`, or a pytree that is one, on the output of a split.

    A function is traced whenever it is given, so what it holds may change between calls.
    """
    leaves, tree = jax.tree.flatten(target)
    if not all(map(_is_input, leaves)):
        leaves, tree = [], jax.tree.structure(None)

    def score(leaves, output):
        scored = jax.tree.unflatten(tree, leaves) if leaves else target
        return _checked(scored(output))

    output = _structs(split.output)
    try:
        with graph.on_any_mesh():
            whole, jaxpr = graph.closed(score, leaves, output)
    except SegcamError:
        raise
    except Exception as error:  # The target's own, of whatever type.
        raise _failed(output, error) from error
    consts, inputs = list(graph.constants_of(whole)), [*jaxpr.constvars, *jaxpr.invars]
    # A formula outlasts the call, its constants must not: they may be values of a trace.
    opened, _ = graph.subgraph_function(inputs, jaxpr.eqns, jaxpr.outvars)
    return FunctionTarget(consts, leaves, Formula(opened, content.key(opened)))


def _checked(score: Any) -> Any:
    """What a target returns, checked: one scalar in floating point."""
    if score is None:
        raise TargetError("the target returns None; expected one scalar. Does it lack a `return`?")
    if not _is_input(score):
        raise TargetError(f"the target returns a {type(score).__name__}; expected one scalar")
    shape, dtype = jnp.shape(score), jnp.result_type(score)
    if shape:
        raise TargetError(
            f"the target returns an array of shape {shape}; expected one scalar, such as its "
            "sum() or mean()"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TargetError(
            f"the target returns {dtype}, as argmax, counts and comparisons do; expected a score "
            "in floating point, which changes as the output does"
        )
    return score


def _failed(output: Any, error: Exception) -> TargetError:
    """What to say of a target that fails on an output."""
    place = faults.place_of(error)
    where = f" ({place})" if place else ""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return TargetError(
            f"the target gives the output to numpy{where}, which cannot be differentiated; call "
            "jax.numpy in it"
        )
    if isinstance(error, _NEEDS_VALUE):
        return TargetError(
            f"the target needs the output's value while it is traced{where}, as float(), int() "
            "and `if` do; return a scalar of jax.numpy, and use jnp.where to choose"
        )
    shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(output))
    return TargetError(f"the target fails on an output of shape {shapes}: {faults.words_of(error)}")


def holds_tracers(static: tuple, inputs: Any) -> bool:
    """Whether splits or functions as targets hold values of a trace that is going on.

    What is made of them must not outlast it.

    Args:
        static: what a program is of, splits among it.
        inputs: a pytree, targets among it.
    """
    if any(map(_holds_tracers, static)):
        return True
    if not _HOLDING:
        return False
    leaves = jax.tree.leaves(inputs, is_leaf=lambda each: isinstance(each, FunctionTarget))
    return any(isinstance(each, FunctionTarget) and each.formula in _HOLDING for each in leaves)


def _holds_tracers(static: Any) -> bool:
    if isinstance(static, tuple):
        return any(map(_holds_tracers, static))
    if isinstance(static, functools.partial):
        return _holds_tracers((static.func, *static.args, *static.keywords.values()))
    if isinstance(static, FunctionType):
        held = inspect.getclosurevars(static).nonlocals.values()
        return any(isinstance(each, Tracer) for each in held)
    return isinstance(static, Tracer) or (isinstance(static, Split) and static.holds_tracers)


def _read(output: Any) -> Any:
    """An output as functions read it: at least float32, so that their sums are."""
    return jax.tree.map(lambda leaf: wide(leaf) if _is_half(leaf) else leaf, output)


def _structs(output: Any) -> Any:
    """Shapes and dtypes of an output as functions read it, 0.14 ms sooner than by `eval_shape`."""
    wider = jnp.dtype("float32")
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, wider if _is_half(leaf) else leaf.dtype),
        output,
    )


def _is_half(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
