"""Normalised Dice and focal loss against numbers computed by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import losses


def value_of(loss):
    """The loss as a number, compiled once per shape."""
    compiled = jax.jit(
        loss,
        static_argnames=inspect.signature(loss).parameters.keys() - {"logits", "labels", "lesions"},
    )
    return lambda *arguments, **options: float(compiled(*arguments, **options))


focal = value_of(losses.focal)
normalised_dice = value_of(losses.normalised_dice)
normalised_dice_focal = value_of(losses.plus_focal(losses.normalised_dice))
blobs = value_of(losses.blob_normalised_dice)

# Ten voxels, two of them lesion, with probabilities that are easy to add up.
TRUTH = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]], np.int32)
LESION = np.array([[0.75, 0.5, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


def logits_of(probability):
    probability = np.clip(np.asarray(probability, np.float32), 1e-9, 1 - 1e-7)
    return jnp.stack([jnp.log(1 - probability), jnp.log(probability)], axis=-1)


def test_normalised_dice_by_hand():
    """TP 1.25, FP 0.75, G 2 of N 10."""
    kappa = (1 - 0.001) * 2 / (0.001 * 8)
    assert kappa == pytest.approx(249.75)
    expected = 1 - 2.5 / (249.75 * 0.75 + 1.25 + 2)
    assert normalised_dice(logits_of(LESION), TRUTH) == pytest.approx(expected, rel=1e-5)
    # At the load that the example has, it is the Dice of probabilities.
    dice = 1 - 2.5 / (0.75 + 1.25 + 2)
    assert normalised_dice(logits_of(LESION), TRUTH, load=0.2) == pytest.approx(dice, rel=1e-5)


def test_false_positives_weigh_by_the_load():
    """Ten times the lesions, found as well: Dice rises, normalised Dice does not."""
    sizes, values, dices = (10, 100), [], []
    for lesion in sizes:
        truth = np.zeros((1, 100_000), np.int32)
        truth[:, :lesion] = 1
        probability = np.where(truth == 1, 0.8, 0.0)
        probability[:, 50_000:50_050] = 1
        values.append(normalised_dice(logits_of(probability), truth))
        dices.append(2 * 0.8 * lesion / (50 + 0.8 * lesion + lesion))
    expected = [1 - 1.6 * n / (999 * n / (1e5 - n) * 50 + 1.8 * n) for n in sizes]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert dices[1] - dices[0] > 0.4
    assert abs(values[1] - values[0]) < 1e-3


def test_perfect_and_empty_examples():
    assert normalised_dice(logits_of(TRUTH), TRUTH) == pytest.approx(0, abs=1e-4)
    nothing = np.zeros_like(TRUTH)
    assert normalised_dice(logits_of(LESION), nothing) == 0
    both = normalised_dice(
        logits_of(np.concatenate([LESION, LESION])), np.concatenate([TRUTH, nothing])
    )
    assert both == pytest.approx(normalised_dice(logits_of(LESION), TRUTH) / 2, rel=1e-5)
    gradient = jax.jit(jax.grad(losses.normalised_dice))(logits_of(LESION), nothing)
    assert np.isfinite(gradient).all()
    everything = np.ones_like(TRUTH)
    assert normalised_dice(logits_of(everything), everything) == pytest.approx(0, abs=1e-4)


def test_focal_by_hand():
    terms = [
        0.25**2 * np.log(0.75),  # a lesion at 0.75
        0.5**2 * np.log(0.5),  # one at 0.5
        0.5**2 * np.log(1 - 0.5),  # no lesion at 0.5
        0.25**2 * np.log(1 - 0.25),  # none at 0.25
    ]
    expected = -sum(terms) / 10
    assert focal(logits_of(LESION), TRUTH) == pytest.approx(expected, rel=1e-5)
    entropy = -np.log([0.75, 0.5, 0.5, 0.75]).sum() / 10
    assert focal(logits_of(LESION), TRUTH, gamma=0) == pytest.approx(entropy, rel=1e-5)
    total = 0.5 * normalised_dice(logits_of(LESION), TRUTH) + expected
    assert normalised_dice_focal(logits_of(LESION), TRUTH) == pytest.approx(total, rel=1e-5)


def test_focal_of_several_classes_and_of_large_logits():
    """Each class but the background against all others, by the softmax's probabilities."""
    logits = jnp.log(jnp.asarray([[[0.2, 0.5, 0.3]], [[0.6, 0.1, 0.3]]]))
    labels = np.array([[1], [2]], np.int32)
    terms = [
        0.5**2 * np.log(0.5),
        0.3**2 * np.log(0.7),
        0.1**2 * np.log(0.9),
        0.7**2 * np.log(0.3),
    ]
    assert focal(logits, labels) == pytest.approx(-sum(terms) / 4, rel=1e-5)
    # Surely wrong: the loss is the logits' difference, and its gradient is finite.
    wrong = jnp.asarray([[[0.0, 500.0]]])
    nothing = np.zeros((1, 1), np.int32)
    assert focal(wrong, nothing) == pytest.approx(500)
    assert np.isfinite(jax.jit(jax.grad(losses.focal))(wrong, nothing)).all()


def test_space_of_any_rank():
    logits, labels = logits_of(LESION), TRUTH
    volume = normalised_dice_focal(logits.reshape(1, 1, 2, 5, 2), labels.reshape(1, 1, 2, 5))
    assert volume == pytest.approx(normalised_dice_focal(logits, labels), rel=1e-6)


def test_dice_of_the_foreground_by_hand():
    """TP 1.25, P 2 and G 2; an example without lesions loses all that is found in it."""
    dice, generalised = value_of(losses.foreground_dice), value_of(losses.generalised_dice)
    logits, nothing = logits_of(LESION), np.zeros_like(TRUTH)
    assert dice(logits, TRUTH) == pytest.approx(1 - 2.5 / 4, rel=1e-5)
    assert dice(logits, nothing) == pytest.approx(1, abs=1e-5)
    # Weighed by 1 / 2^2, the smoothing of 1e-5 is one of 4e-5.
    expected = 1 - (2.5 / 4 + 1e-5) / (4 / 4 + 1e-5)
    assert generalised(logits, TRUTH) == pytest.approx(expected, rel=1e-5)
    assert generalised(logits, nothing) == 0
    total = value_of(losses.plus_focal(losses.generalised_dice))(logits, TRUTH)
    assert total == pytest.approx(0.5 * expected + focal(logits, TRUTH), rel=1e-5)
    # Classes of sizes 1 and 3, and one that is absent, which weighs as the smallest: 1.
    probability = np.array([[[0.4, 0.3, 0.2, 0.1], *[[0.3, 0.1, 0.5, 0.1]] * 3]])
    labels = np.array([[1, 2, 2, 2]], np.int32)
    common, sizes, weights = [0.3, 1.5, 0], [0.6 + 1, 1.7 + 3, 0.4], [1, 1 / 9, 1]
    expected = 1 - (2 * np.dot(weights, common)) / np.dot(weights, sizes)
    logits = jnp.log(jnp.asarray(probability, jnp.float32))
    assert generalised(logits, labels) == pytest.approx(expected, rel=1e-4)


def test_lesions_one_by_one_by_hand():
    """Lesions of two voxels, found as 0.75 and 0.5, and of one, found as 0.25; 0.5 elsewhere."""
    lesions = np.array([[1, 1, 0, 2, 0, 0, 0, 0, 0, 0]], np.int32)

    def left(found, there):
        kappa = 0.999 * there / (0.001 * (10 - there))
        return 1 - 2 * found / (kappa * 0.5 + found + there)

    expected = 2 * left(1.5, 3) + (left(1.25, 2) + left(0.25, 1)) / 2
    assert blobs(logits_of(LESION), lesions) == pytest.approx(expected, rel=1e-5)
    # The same by volumes in which the other lesion is masked, of the probabilities.
    alone = [np.where((lesions == n) | (lesions == 0), LESION, 0) for n in (1, 2)]
    masked = [normalised_dice(logits_of(x), 1 * (lesions == n)) for n, x in enumerate(alone, 1)]
    assert expected - 2 * left(1.5, 3) == pytest.approx(np.mean(masked), rel=1e-4)
    nothing = np.zeros_like(lesions)
    both = np.concatenate([LESION, LESION]), np.concatenate([lesions, nothing])
    halved = left(1.5, 3) + np.mean(masked)
    assert blobs(logits_of(both[0]), both[1]) == pytest.approx(halved, rel=1e-4)
    gradient = jax.jit(jax.grad(losses.blob_normalised_dice))(logits_of(both[0]), both[1])
    assert np.isfinite(gradient).all()


# Two images of two pixels, three classes; the last pixel is of no class that is known.
THREE = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]])
LABELS = np.array([[0, 1], [1, -1]], np.int32)


def test_losses_of_all_classes_by_hand():
    """The unknown pixel counts nowhere; an absent class loses by what is given to it."""
    logits = jnp.log(jnp.asarray(THREE, jnp.float32))
    entropy = -np.log([0.5, 0.8, 0.2]).mean()
    # Of each class: twice the common, by the sum of probabilities and of truth.
    dice = 1 - np.mean([1.0 / (0.8 + 1), 2 * (0.8 + 0.2) / (1.25 + 2), 1e-5 / (0.95 + 1e-5)])
    terms = [(1 - p) ** 2 * -np.log(p) for p in (0.5, 0.8, 0.2)]
    focal = 0.25 * np.sum(terms) / (3 * 3)
    for loss, expected in (
        (losses.cross_entropy, entropy),
        (losses.soft_dice, dice),
        (losses.categorical_focal, focal),
        (losses.dice_cross_entropy, dice + entropy),
        (losses.dice_focal, dice + focal),
    ):
        found = value_of(loss)(logits, LABELS)
        assert found == pytest.approx(expected, rel=1e-4), loss.__name__
        # Nothing is known: no loss but that of Dice, and no NaN.
        assert 0 <= value_of(loss)(logits, np.full_like(LABELS, -1)) < 1e-6
