"""The occlusion study, held to a whole forward pass for each occlusion."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, TargetError
from segcam_jax.engine import NAIVE
from segcam_jax.metrics import occlusion_study
from tests.support.networks import CLASSES, make_input, make_params, skip_net

FOREGROUND, BACKGROUND = 1, 0
SHARES = (0.3, 1.0)  # The same everywhere: one program.


@pytest.fixture(scope="module")
def case():
    params, x = make_params(), make_input()
    return segcam.split(skip_net, "bottleneck", params, x, outputs="logits"), params, x


@pytest.fixture(scope="module")
def truth():
    labels = np.zeros((8, 12), int)
    labels[2:8, 3:11] = FOREGROUND
    labels[0, :3] = -1
    return labels


def studied(case, truth, **options):
    split, params, x = case
    return occlusion_study(split, params, x, truth, **options)


def dice_by_hand(logits, truth):
    """The source's formula."""
    found, scores = np.asarray(logits).argmax(-1), []
    for each in range(CLASSES):
        own, true = (found == each) & (truth >= 0), truth == each
        if not true.any():
            continue
        both, union = (own & true).sum(), (own | true).sum()
        scores.append((2 * both + 1e-10) / (union + both + 1e-10))
    return np.mean(scores)


def read_by_hand(logits, truth):
    logits = np.asarray(logits, np.float64)
    return (
        logits[truth == FOREGROUND][:, FOREGROUND].mean(),
        logits[truth == BACKGROUND][:, BACKGROUND].mean(),
        dice_by_hand(logits, truth),
    )


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_every_row_equals_a_whole_pass(case, truth, value):
    split, params, x = case
    study = studied(case, truth, class_index=FOREGROUND, shares=SHARES, value=value)
    kinds = [(p.region, p.share, p.place) for p in study.patches]
    sides = ("foreground", "background")
    assert kinds == [
        ("map", 1.0, 1),
        *((side, *rest) for side in sides for rest in ((0.3, 1), (1.0, 1), (0.3, 2))),
    ]
    deep, _ = split.encode(params, x)
    channels = deep.shape[-1]
    before = read_by_hand(skip_net(params, x), truth)
    np.testing.assert_allclose([*vars(study.before).values()], before, rtol=1e-6)
    rows = [*study.rows(ablations=True), *study.rows(ablations=False)]
    assert len(rows) == len(study.patches) * (channels + 1)
    number = {kind: n for n, kind in enumerate(kinds)}
    for row in rows:
        patch = number[row.get("region", "map"), row.get("share", 1.0), row.get("place", 1)]
        maps = np.arange(channels) if row["map"] == "all" else [row["map"]]
        covered = study.positions[patch][..., None] & np.isin(np.arange(channels), maps)
        assert row.get("positions", 24) == study.positions[patch].sum()
        change = jnp.where(covered, value - deep, 0)
        after = read_by_hand(skip_net(params, x, change=change), truth)
        for name, first, second in zip(vars(study.before), before, after, strict=True):
            assert row[f"{name}_after"] == pytest.approx(second, abs=1e-5)
            assert row[f"{name}_fall"] == pytest.approx(first - second, abs=2e-6), (row, name)
    sorted_falls = [row["foreground_fall"] for row in study.rows(ablations=True)][1:]
    assert sorted_falls == sorted(sorted_falls, reverse=True)
    assert sorted_falls[0] > 0


def test_where_patches_lie(case, truth):
    study = studied(case, truth, class_index=FOREGROUND, shares=SHARES)
    (foreground,) = study.chosen("foreground", 1.0)
    # Rows 2 to 7 and columns 3 to 10 of 8 x 12, at 4 x 6: columns 1 (half) to 5 (half).
    expected = np.zeros((4, 6), bool)
    expected[1:4, 1:6] = True
    np.testing.assert_array_equal(study.positions[foreground], expected)
    (background,) = study.chosen("background", 1.0)
    np.testing.assert_array_equal(study.positions[background], ~expected)
    parts = [study.positions[n] for n in study.chosen("foreground", 0.3)]
    assert [part.sum() for part in parts] == [4, 4]
    # Four of 15 around the middle, (2, 3), and around a corner, which is farthest from it.
    assert [np.argwhere(part).tolist() for part in parts] == [
        [[1, 3], [2, 2], [2, 3], [2, 4]],
        [[1, 1], [1, 2], [2, 1], [2, 2]],
    ]


def test_unknown_positions_are_no_background(case, truth):
    """A position of the tap is left out where all of its pixels are unknown."""
    unknown = truth.copy()
    unknown[:2, :5] = -1  # Two positions of 4 x 6, and half of a third.
    unknown[:, 11] = -1  # Half of the last column.
    study = studied(case, unknown, class_index=FOREGROUND, shares=SHARES)
    (foreground,) = study.chosen("foreground", 1.0)
    (background,) = study.chosen("background", 1.0)
    expected = np.ones((4, 6), bool)
    expected[1:, 1:] = False
    expected[0, :2] = False
    np.testing.assert_array_equal(study.positions[background], expected)
    assert not (study.positions[foreground] & expected).any()
    unknown[unknown == BACKGROUND] = -1
    with pytest.raises(InputError, match="takes all that is known"):
        studied(case, unknown, class_index=FOREGROUND)


def test_devices_share_the_work_and_dead_maps_fall_by_nothing(case, truth):
    split, params, x = case
    given = {**params, "deep": params["deep"].at[..., 2].set(0)}
    options = {"class_index": FOREGROUND, "shares": SHARES}
    fast = occlusion_study(split, given, x, truth, **options)
    dealt = segcam.Execution(chunk_size=3, mesh=segcam.device_mesh(3))
    other = occlusion_study(split, given, x, truth, **options, execution=dealt)
    for name in ("falls", "together"):
        pair = [vars(getattr(each, name)).values() for each in (fast, other)]
        for first, second in zip(*pair, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
    for field in dataclasses.fields(fast.falls):
        assert (getattr(fast.falls, field.name)[:, 2] == 0).all()
    assert (fast.falls.foreground[0] != 0).sum() > 4


def test_a_map_that_drowns_the_others_leaves_their_digits(case, truth):
    """What is left without a huge map is known to its last digits."""
    split, params, x = case
    given = {**params, "deep": params["deep"].at[..., 5].multiply(1e7)}
    found = occlusion_study(split, given, x, truth, class_index=FOREGROUND, shares=SHARES)
    mask = jnp.ones((1, 1, 8)).at[..., 5].set(0)
    after = skip_net(given, x, mask=mask)
    assert found.falls.dice[0, 5] == pytest.approx(
        float(found.before.dice) - dice_by_hand(after, truth), abs=1e-6
    )


def test_classes_that_do_not_exclude_each_other_and_no_background(case, truth):
    labels = np.where(truth == 0, CLASSES, truth)
    study = studied(
        case,
        labels,
        class_index=FOREGROUND,
        background=None,
        exclusive=False,
        threshold=0.4,
        shares=(1.0,),
        occluded=("foreground",),
        execution=NAIVE,
    )
    logits = np.asarray(skip_net(*case[1:]), np.float64)
    own = 1 / (1 + np.exp(-logits[..., FOREGROUND])) > 0.4
    true, valid = truth == FOREGROUND, truth >= 0
    dice = 2 * (own & true).sum() / ((own & valid).sum() + true.sum())
    assert float(study.before.dice) == pytest.approx(dice, rel=1e-6)
    assert float(study.before.background) == pytest.approx(
        logits[valid & ~true][:, FOREGROUND].mean(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shares": (0.5, 1.2)}, "shares"),
        ({"shares": ()}, "shares"),
        ({"places": 0}, "places=0"),
        ({"places": 10**30}, "give 1 to 100"),
        ({"value": float("inf")}, "value=inf"),
        ({"occluded": ("object",)}, "occluded"),
        ({"cover": "any"}, "cover"),
        ({"background": FOREGROUND}, "is the background"),
    ],
)
def test_wrong_options(case, truth, options, words):
    with pytest.raises(InputError, match=words):
        studied(case, truth, **{"class_index": FOREGROUND, **options})


@pytest.mark.parametrize("exclusive", [True, False])
def test_thresholds_are_one_for_each_class(case, truth, exclusive):
    options = {"class_index": FOREGROUND, "threshold": (0.4, 0.6), "exclusive": exclusive}
    with pytest.raises(TargetError, match="2 thresholds for 3 classes; give one for each"):
        studied(case, truth, **options)


def test_a_doubt_about_what_the_output_holds():
    truth = np.zeros((4, 4), int)
    truth[1:3, 1:3] = FOREGROUND
    x = jnp.where(jnp.asarray(truth == FOREGROUND), 0.7, 0.2)[..., None]
    params = jnp.asarray([[1.0, 0.9]])

    def net(params, x):
        return jnp.abs(segcam.tap(x, "tap") @ params)  # Nothing tells what these are.

    def dice(outputs, **options):
        split = segcam.split(net, "tap", params, x, outputs=outputs)
        given = {"class_index": FOREGROUND, "shares": (1.0,), "execution": NAIVE}
        found = studied((split, params, x), truth, **given, **options)
        return float(found.before.dice)

    # Both classes are predicted on the 4 positions of class 1; below, on all 16.
    assert dice("probabilities", exclusive=False) == pytest.approx((0 + 1) / 2)
    with pytest.raises(TargetError, match="may be probabilities or logits"):
        dice(None, exclusive=False)
    with pytest.raises(TargetError, match="give exclusive=False"):
        dice(None)
    # Where either predicts the same there is no doubt.
    everywhere = (2 * 12 / (16 + 12) + 2 * 4 / (16 + 4)) / 2
    assert dice(None, exclusive=False, threshold=0.1) == pytest.approx(everywhere, rel=1e-6)


def test_truths_that_do_not_fit(case, truth):
    with pytest.raises(TargetError, match="class 7"):
        studied(case, truth, class_index=7)
    with pytest.raises(InputError, match="no position of class 2"):
        studied(case, truth, class_index=2)
    with pytest.raises(InputError, match="holds label 9"):
        studied(case, np.where(truth == 1, 9, truth), class_index=1)
    with pytest.raises(InputError, match=r"shape \(4, 12\)"):
        studied(case, truth[:4], class_index=1)
    thin = np.zeros((8, 12), int)
    thin[0, 0] = FOREGROUND
    thin[:, 5] = BACKGROUND
    with pytest.raises(InputError, match="thinner"):
        studied(case, thin, class_index=FOREGROUND)
    study = studied(case, thin, class_index=FOREGROUND, cover="touched", shares=SHARES)
    assert study.positions[1].sum() == 1
