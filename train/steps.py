"""A step of training: Adam on an NNX network with BatchNorm, as a pure function of its state."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes during training.

    Attributes:
        step: steps done.
        params: the network's trained parameters.
        statistics: its BatchNorm statistics.
        optimizer_state: Adam's moments and count.
        loss_sum: sum of the losses since the last evaluation.
    """

    step: Int[Array, ""]
    params: Any
    statistics: Any
    optimizer_state: Any
    loss_sum: Float[Array, ""]


# Cached: an optimizer is compiled into the step, and equals only itself.
@functools.lru_cache
def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with warm-up and cosine decay; equal settings give the same object."""
    warm_up, end = max(1, steps // 20), max(2, steps)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm_up, end))


def initial_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    _, params, statistics = nnx.split(model, nnx.Param, ...)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        optimizer_state=optimizer.init(params),
        loss_sum=jnp.zeros(()),
    )


def train_step(
    state: TrainState,
    image: Float[Array, "n *space c"],
    label: Int[Array, "n *space"],
    *,
    graph: Any,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Array, Array], Array],
) -> TrainState:
    """One step of the optimizer on a batch.

    Args:
        state: before the step.
        image: as the network is given it.
        label: a class per position.
        graph: the network's NNX graph definition, in training mode.
        optimizer: what `initial_state` was given.
        loss: of logits and labels.

    Returns:
        The state after the step, with the new BatchNorm statistics.
    """

    def value_of(params):
        # A copy, so that BatchNorm writes to variables of this trace; they are returned.
        model = nnx.merge(graph, params, state.statistics, copy=True)
        return loss(model(image), label), nnx.split(model, nnx.Param, ...)[2]

    (value, statistics), gradient = jax.value_and_grad(value_of, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        statistics=statistics,
        optimizer_state=optimizer_state,
        loss_sum=state.loss_sum + value,
    )


compiled_step = jax.jit(
    train_step, static_argnames=("graph", "optimizer", "loss"), donate_argnames="state"
)
