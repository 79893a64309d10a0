"""A step of training: a network in training, its state, the optimizers."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from segcam_jax.models import stored

Head = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes during training.

    Attributes:
        params: what is trained.
        rest: what is not: BatchNorm statistics, and frozen parameters.
        loss_sum: sum of the losses since the last evaluation.
    """

    step: Int[Array, ""]
    params: Any
    rest: Any
    optimizer_state: Any
    loss_sum: Float[Array, ""]


class Network:
    """An NNX network in training: graphs of its two modes, and its tensors as they start.

    Args:
        model: the network.
        trained: which tensors are trained, a filter of NNX.
        frozen: whether it stays in evaluation mode, so that BatchNorm keeps its statistics.
    """

    def __init__(self, model: nnx.Module, trained: Any = nnx.Param, *, frozen: bool = False):
        self.trained = trained
        model.eval()
        self.eval_graph, self.params, self.rest = nnx.split(model, trained, ...)
        if not frozen:
            model.train()
        self.graph = nnx.split(model, trained, ...)[0]

    def start(self, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step: a copy, since a step gives its buffers away."""
        params, rest = jax.tree.map(jnp.copy, (self.params, self.rest))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, rest, optimizer.init(params), jnp.zeros(()))

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Lets the network check an example's shape, without computing anything."""
        x = jax.ShapeDtypeStruct((1, *shape), np.float32)
        jax.eval_shape(
            lambda p, r, x: nnx.merge(self.eval_graph, p, r)(x), self.params, self.rest, x
        )

    def model(self, state: TrainState) -> nnx.Module:
        """The network of a state, in evaluation mode."""
        return nnx.merge(self.eval_graph, state.params, state.rest, copy=True)

    def outputs(
        self, state: TrainState, images: Any, members: Sequence[int], head: Head, chunk: int
    ) -> np.ndarray:
        """What `head` makes of the logits of images, in evaluation mode, in chunks of one shape.

        Args:
            state: of the network.
            images: by index.
            members: which of them.
            head: from logits with a batch dimension; a function that lasts.
            chunk: images at once.
        """
        chunk, last = min(chunk, len(members)), len(members) - 1
        found = []
        for first in range(0, len(members), chunk):
            part = [images[members[min(n, last)]] for n in range(first, first + chunk)]
            x = jnp.asarray(np.stack(part))
            found.append(_outputs(state.params, state.rest, x, graph=self.eval_graph, head=head))
        return np.concatenate(found)[: len(members)]


def take_over(
    model: nnx.Module,
    given: nnx.Module,
    metadata: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    head: Collection[str],
) -> None:
    """Gives a network the weights of another; those of its head if classes and shapes are the same.

    Args:
        given: the other; it has all tensors but those of the head.
        metadata: what the weights say of themselves; weights that name no classes have others.
        class_names: of the network.
        head: the names of the parts that are made anew for other classes.
    """
    mine, theirs = (
        {name: np.asarray(leaf[...]) for name, leaf in stored.tensors(each).items()}
        for each in (model, given)
    )
    heads = [name for name in mine if name.split("/")[0] in head]
    same = [name in theirs and theirs[name].shape == mine[name].shape for name in heads]
    keeps_head = metadata.get("classes") == list(class_names) and all(same)
    taken = {name: theirs[name] for name in mine if name not in heads or keeps_head}
    stored.fill(model, mine | taken)


@functools.partial(jax.jit, static_argnames=("graph", "head"))
def _outputs(params, rest, x, *, graph, head):
    return head(nnx.merge(graph, params, rest, copy=True)(x))


# Cached: an optimizer is compiled into the step, and equals only itself.
@functools.lru_cache
def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a warm-up of a twentieth of the steps and cosine decay to zero."""
    warm_up, end = max(1, steps // 20), max(2, steps)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm_up, end))


@functools.lru_cache
def steady_adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam at a rate that `with_rate` sets."""
    return optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)


def with_rate(state: TrainState, rate: float) -> TrainState:
    """The state of `steady_adam` with another rate."""
    before = state.optimizer_state
    rates = before.hyperparams | {"learning_rate": jnp.asarray(rate, jnp.float32)}
    return dataclasses.replace(state, optimizer_state=before._replace(hyperparams=rates))


def rate_on_plateau(
    losses: Sequence[float], rate: float, *, factor: float = 0.1, patience: int = 10
) -> float:
    """The rate after a history of losses, as Keras's `ReduceLROnPlateau` has it.

    Args:
        losses: of all evaluations so far.
        rate: at the start.
        factor: what the rate is multiplied by where the loss has not fallen by more than 1e-4 below
            its lowest for `patience` evaluations; they are counted anew then.
        patience: how many.
    """
    lowest, waited = np.inf, 0
    for loss in losses:
        if loss < lowest - 1e-4:
            lowest, waited = loss, 0
            continue
        waited += 1
        if waited >= patience:
            rate, waited = rate * factor, 0
    return rate


@functools.lru_cache
def sgd(learning_rate: float, momentum: float, steps: int | None) -> optax.GradientTransformation:
    """SGD at a constant rate or, with steps, at one that falls to zero along a cosine."""
    rate = optax.cosine_decay_schedule(learning_rate, steps) if steps else learning_rate
    return optax.sgd(rate, momentum=momentum or None)


def train_step(
    state: TrainState,
    image: Float[Array, "n *space c"],
    label: Int[Array, "n *space"],
    *,
    graph: Any,
    trained: Any,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Array, Array], Array],
) -> TrainState:
    """One step of the optimizer on a batch.

    Args:
        label: a class per position, or per image.
        graph: the network's NNX graph definition, as it is trained.
        trained: which tensors are trained, as `Network` has it.
        loss: of logits and labels.

    Returns:
        The state after the step, with the new BatchNorm statistics.
    """

    def value_of(params):
        # A copy, so that BatchNorm writes to variables of this trace; they are returned.
        model = nnx.merge(graph, params, state.rest, copy=True)
        return loss(model(image), label), nnx.split(model, trained, ...)[2]

    (value, rest), gradient = jax.value_and_grad(value_of, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        rest=rest,
        optimizer_state=optimizer_state,
        loss_sum=state.loss_sum + value,
    )


compiled_step = jax.jit(
    train_step, static_argnames=("graph", "trained", "optimizer", "loss"), donate_argnames="state"
)
