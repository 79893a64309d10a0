"""A classifier's training without its files: the state, a step, what folds share, predictions."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from train.classifier_config import ClassifierConfig, folds_of, read_images
from train.classifier_model import make_model, parts
from train.data.labelled import LabelledImages

_CHUNK = 32  # images that are evaluated at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes during training.

    Attributes:
        step: steps done.
        params: what is trained.
        rest: what is not: BatchNorm statistics, and frozen parameters.
        velocity: SGD's momentum.
        loss_sum: sum of the losses since the last evaluation.
    """

    step: Int[Array, ""]
    params: Any
    rest: Any
    velocity: Any
    loss_sum: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Run:
    """What the folds of a run share.

    Attributes:
        config: its settings.
        images: all of them.
        fold_of: the fold of each image, from 1.
        family: what weights files call the network.
        graph: its NNX graph definition as it is trained.
        eval_graph: the same in evaluation mode.
        start: the state before the first step.
    """

    config: ClassifierConfig
    images: LabelledImages
    fold_of: Int[np.ndarray, "n"]
    family: str
    graph: Any
    eval_graph: Any
    start: TrainState

    def members(self, fold: int, *, held_out: bool) -> Int[np.ndarray, "m"]:
        """The images of a fold, or all others."""
        return np.flatnonzero((self.fold_of == fold) == held_out)


def prepare(config: ClassifierConfig) -> Run:
    """Reads the images and makes the network; writes nothing.

    Raises:
        InputError: if data, model and settings do not fit together.
    """
    config.check()
    images = read_images(config)
    fold_of = folds_of(images, folds=config.folds, seed=config.seed)
    family, model = make_model(config, images.class_names, images.extents[0])
    model.eval()
    eval_graph = parts(model, freeze=config.freeze)[0]
    if not config.freeze:
        model.train()
    graph = parts(model, freeze=config.freeze)[0]
    start = initial_state(model, freeze=config.freeze, momentum=config.momentum)
    return Run(config, images, fold_of, family, graph, eval_graph, start)


def initial_state(model: nnx.Module, *, freeze: bool, momentum: float) -> TrainState:
    """The state before the first step."""
    _, params, rest = parts(model, freeze=freeze)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        velocity=jax.tree.map(jnp.zeros_like, params) if momentum else None,
        loss_sum=jnp.zeros(()),
    )


def train_step(
    state: TrainState,
    image: Float[Array, "n h w c"],
    label: Int[Array, "n"],
    learning_rate: Float[Array, ""],
    momentum: Float[Array, ""],
    *,
    graph: Any,
    freeze: bool,
) -> TrainState:
    """One step of SGD on the mean cross-entropy: `v = momentum v + g; p = p - rate v`.

    Args:
        state: before the step.
        image: in [0, 1].
        label: the images' classes.
        learning_rate: of this step.
        momentum: in [0, 1); not used by a state without velocity.
        graph: the network's NNX graph definition; in training mode, unless frozen.
        freeze: whether the head alone is trained.

    Returns:
        The state after the step, with the new BatchNorm statistics.
    """

    def loss(params):
        # A copy, so that BatchNorm writes to variables of this trace; they are returned.
        model = nnx.merge(graph, params, state.rest, copy=True)
        entropy = optax.softmax_cross_entropy_with_integer_labels(model(image), label)
        return entropy.mean(), parts(model, freeze=freeze)[2]

    (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    velocity = state.velocity
    if velocity is not None:
        gradient = velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
    return TrainState(
        step=state.step + 1,
        params=jax.tree.map(lambda p, g: p - learning_rate * g, state.params, gradient),
        rest=rest,
        velocity=velocity,
        loss_sum=state.loss_sum + value,
    )


jitted_step = jax.jit(train_step, static_argnames=("graph", "freeze"), donate_argnames="state")


def learning_rate(config: ClassifierConfig, step: int, steps: int) -> float:
    """The rate of a step, counted from 0."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


def log_probabilities(
    run: Run, state: TrainState, members: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "m k"]:
    """The logarithm of each class's probability, in evaluation mode, in chunks of one shape."""
    chunk = min(_CHUNK, len(members))
    padded = np.concatenate([members, members[: -len(members) % chunk]])
    found = []
    for part in np.split(padded, len(padded) // chunk):
        image = jnp.asarray(np.stack([run.images[int(index)] for index in part]))
        found.append(np.asarray(_log_softmax(state.params, state.rest, image, run.eval_graph)))
    return np.concatenate(found)[: len(members)]


@functools.partial(jax.jit, static_argnums=3)
def _log_softmax(params, rest, image, graph):
    return jax.nn.log_softmax(nnx.merge(graph, params, rest, copy=True)(image))
