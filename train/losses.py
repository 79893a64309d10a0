"""The losses of segmentation networks: IES's, and those of networks of many classes.

Logits are `n *space k`, labels `n *space` with the numbers of classes. In IES's, normalised Dice
and focal, class 0 is the background, which has no loss of its own. In the others all classes count
alike, and positions whose label is none of theirs (-1) are left out.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LOAD = 1e-3
GAMMA = 2.0
ALPHA = 0.25
DICE_WEIGHT, FOCAL_WEIGHT = 0.5, 1.0
_SMOOTH = 1e-5


def normalised_dice(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"], *, load: float = LOAD
) -> Float[Array, ""]:
    """One minus the normalised Dice of probabilities, the mean over examples and classes.

        nDSC = 2 TP / (kappa FP + TP + G),    kappa = (1 - r) G / (r (N - G))

    Dice falls with the number of lesions in a volume, whatever the network's quality: a false
    positive weighs the same where there is much to find and where there is little. kappa weighs
    false positives as if every volume had the share r of lesion voxels.

    Args:
        logits: of the network.
        labels: the truth.
        load: r, the share of voxels of a class that volumes are brought to, in (0, 1).

    Returns:
        The loss, in [0, 1]. TP = sum p g, FP = sum p (1 - g) and G = sum g are over the N
        positions of one example; where an example has none of a class, the loss is 0.

    References:
        Raina et al., Tackling bias in the Dice similarity coefficient, ISBI 2023; r = 0.001
        as Spagnolo et al., 2024.
    """
    probability, truth, axes = _foreground(jax.nn.softmax(logits), labels)
    found = (probability * truth).sum(axes)
    false = (probability * (1 - truth)).sum(axes)
    there = truth.sum(axes)
    elsewhere = (1 - truth).sum(axes)
    kappa = (1 - load) * there / (load * jnp.maximum(elsewhere, 1))
    dice = (2 * found + _SMOOTH) / (kappa * false + found + there + _SMOOTH)
    return 1 - dice.mean()


def focal(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"], *, gamma: float = GAMMA
) -> Float[Array, ""]:
    """Cross-entropy of each class against all others, little for what is well classified.

        -g (1 - p)^gamma log p - (1 - g) p^gamma log(1 - p)

    Args:
        logits: of the network.
        labels: the truth.
        gamma: how much less what is well classified counts; 0 is cross-entropy.

    Returns:
        The mean over examples, positions and classes; p is the softmax's probability.

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017, eq. 4. Deviation from MONAI's
        default: p there is the sigmoid of the class's logit alone, although the network's
        prediction is a softmax.
    """
    # The logit of a class against all others: log p and log(1 - p) without cancellation.
    classes = logits.shape[-1]
    others = jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, jnp.zeros((), logits.dtype))
    rest = logits[..., None, :] + others.reshape((1,) * (logits.ndim - 1) + others.shape)
    margin, truth, _ = _foreground(logits - jax.nn.logsumexp(rest, axis=-1), labels)
    correct = jnp.where(truth > 0, margin, -margin)
    return -(jax.nn.sigmoid(-correct) ** gamma * jax.nn.log_sigmoid(correct)).mean()


def normalised_dice_focal(
    logits: Float[Array, "n *space k"],
    labels: Int[Array, "n *space"],
    *,
    load: float = LOAD,
    gamma: float = GAMMA,
) -> Float[Array, ""]:
    """Half the normalised Dice loss plus the focal loss, as IES trains.

    Args:
        logits: of the network.
        labels: the truth.
        load: as `normalised_dice` takes it.
        gamma: as `focal` takes it.
    """
    dice = normalised_dice(logits, labels, load=load)
    return DICE_WEIGHT * dice + FOCAL_WEIGHT * focal(logits, labels, gamma=gamma)


def cross_entropy(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """The mean of `-log p` of the true class, over the labelled positions."""
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -(truth * jax.nn.log_softmax(logits)).sum() / jnp.maximum(truth.sum(), 1)


def soft_dice(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """One minus the Dice coefficient of probabilities, the mean over classes.

        D_k = (2 sum p_k g_k + e) / (sum p_k + sum g_k + e),    e = 1e-5

    Sums are over all labelled positions of the batch. A class that is nowhere in the batch has
    little to lose: its term falls to 0 as its probability does.

    References:
        The Dice loss of segmentation_models (Yakubovskiy, 2019) with its defaults.
    """
    common, sizes = overlap(logits, labels, tuple(range(logits.ndim - 1)))
    return 1 - ((2 * common + _SMOOTH) / (sizes + _SMOOTH)).mean()


def overlap(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"], axes: tuple[int, ...]
) -> tuple[Array, Array]:
    """`sum p g` and `sum p + sum g` of the labelled positions, along axes of the logits."""
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    probability = jax.nn.softmax(logits) * truth.sum(-1, keepdims=True)
    return (probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)


def categorical_focal(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """Cross-entropy that counts little where it is small already: the mean over positions, classes.

        -a g (1 - p)^2 log p,    a = 0.25

    References:
        Lin et al., ICCV 2017, as the categorical focal loss of segmentation_models has it.
    """
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    entropy = -truth * jax.nn.log_softmax(logits)
    weighed = ALPHA * (1 - jax.nn.softmax(logits)) ** GAMMA * entropy
    return weighed.sum() / jnp.maximum(truth.sum() * logits.shape[-1], 1)


def dice_cross_entropy(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """`soft_dice` plus `cross_entropy`."""
    return soft_dice(logits, labels) + cross_entropy(logits, labels)


def dice_focal(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """`soft_dice` plus `categorical_focal`: what `Unet` of segmentation_models is trained with."""
    return soft_dice(logits, labels) + categorical_focal(logits, labels)


def _foreground(values: Array, labels: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Values and truth without the background, `n *space k-1`, and the axes of space."""
    truth = jax.nn.one_hot(labels, values.shape[-1], dtype=values.dtype)
    return values[..., 1:], truth[..., 1:], tuple(range(1, values.ndim - 1))
