"""The losses of segmentation networks: IES's, and those of networks of many classes.

Logits are `n *space k`, labels `n *space` with the numbers of classes. In IES's, those of the
foreground, class 0 is the background, which has no loss of its own. In the others all classes count
alike, and positions whose label is none of theirs (-1) are left out.
"""

import functools
from collections.abc import Callable

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
    return 1 - _normalised(found, false, truth.sum(axes), (1 - truth).sum(axes), load).mean()


def _normalised(found: Array, false: Array, there: Array, elsewhere: Array, load: float) -> Array:
    """nDSC of TP, FP, G and N - G."""
    kappa = (1 - load) * there / (load * jnp.maximum(elsewhere, 1))
    return (2 * found + _SMOOTH) / (kappa * false + found + there + _SMOOTH)


def blob_normalised_dice(
    logits: Float[Array, "n *space 2"], lesions: Int[Array, "n *space"], *, load: float = LOAD
) -> Float[Array, ""]:
    """Twice the normalised Dice loss plus its mean over lesions, each seen without the others.

        2 L(p, g) + mean_b L(p m_b, g_b),    m_b = 0 inside of all lesions but b, else 1

    A small lesion counts there as much as a large one.

    Args:
        lesions: the truth: the number of the lesion that a position belongs to, from 1 to at most
            the number of positions; else 0.
        load: as `normalised_dice` takes it.

    Returns:
        The loss. The mean is over the lesions of an example, and then over the examples that have
        any; N is the same for all lesions, as positions of the others count as empty. On a GPU the
        order of the sums over lesions is not fixed, and the last bits change between runs.

    References:
        Kofler et al., blob loss, IPMI 2023, with its weights 2 and 1.
    """
    lesions = lesions.reshape(len(lesions), -1)
    probability = jax.nn.softmax(logits)[..., 1].reshape(lesions.shape)
    positions = lesions.shape[1]
    total = jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=positions + 1))
    found, there = total(probability, lesions), total(jnp.ones_like(probability), lesions)
    false = jnp.where(lesions == 0, probability, 0).sum(1, keepdims=True)
    found, there = found[:, 1:], there[:, 1:]
    each = 1 - _normalised(found, false, there, positions - there, load)
    blobs = (there > 0).astype(each.dtype)
    count = blobs.sum(1)
    of_examples = (each * blobs).sum(1) / jnp.maximum(count, 1)
    mean = of_examples.sum() / jnp.maximum(jnp.minimum(count, 1).sum(), 1)
    masks = jnp.minimum(lesions, 1).reshape(logits.shape[:-1])
    return 2 * normalised_dice(logits, masks, load=load) + mean


def foreground_dice(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """One minus Dice of probabilities, the mean over examples and classes.

        D = (2 sum p g + e) / (sum p + sum g + e),    e = 1e-5

    References:
        MONAI's `DiceLoss(include_background=False)`.
    """
    probability, truth, axes = _foreground(jax.nn.softmax(logits), labels)
    common, sizes = (probability * truth).sum(axes), (probability + truth).sum(axes)
    return 1 - ((2 * common + _SMOOTH) / (sizes + _SMOOTH)).mean()


def generalised_dice(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]
) -> Float[Array, ""]:
    """One minus Dice of all classes together, which weigh by their sizes; the mean over examples.

        D = (2 sum_k w_k sum p g + e) / (sum_k w_k (sum p + sum g) + e),  w_k = 1 / G_k^2,  e = 1e-5

    A class that an example lacks weighs as the smallest one that it has. Of one class, it is Dice
    with e G^2 in place of e, and 0 where the example has none of it.

    References:
        Sudre et al., Generalised Dice overlap, 2017; MONAI's
        `GeneralizedDiceLoss(include_background=False)`.
    """
    probability, truth, axes = _foreground(jax.nn.softmax(logits), labels)
    common, sizes = (probability * truth).sum(axes), (probability + truth).sum(axes)
    there = truth.sum(axes)
    weight = jnp.where(there > 0, 1 / jnp.maximum(there, 1) ** 2, 0)
    weight = jnp.where(there > 0, weight, weight.max(-1, keepdims=True))
    dice = (2 * (weight * common).sum(-1) + _SMOOTH) / ((weight * sizes).sum(-1) + _SMOOTH)
    return 1 - dice.mean()


def focal(
    logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"], *, gamma: float = GAMMA
) -> Float[Array, ""]:
    """Cross-entropy of each class against all others, little for what is well classified.

        -g (1 - p)^gamma log p - (1 - g) p^gamma log(1 - p)

    Args:
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


def plus_focal(dice: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """A loss: half of one of Dice plus the focal loss, as IES trains."""

    def loss(logits: Float[Array, "n *space k"], labels: Int[Array, "n *space"]) -> Array:
        return DICE_WEIGHT * dice(logits, labels) + FOCAL_WEIGHT * focal(logits, labels)

    return loss


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
