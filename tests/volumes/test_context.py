"""The context study: equal to masking by hand, whatever the chunks; its table and figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import Execution, InputError
from segcam_jax._files import as_csv
from segcam_jax.data.instances import structure
from segcam_jax.viz import plots as figures
from segcam_jax.viz.files import to_array
from segcam_jax.volumes import context_curve, context_table
from tests.support.drawn import prose_of
from tests.support.networks import convolve

SHAPE, ROI, STEPS = (11, 9, 7), (8, 9, 4), 4
MASK = np.zeros(SHAPE, bool)
MASK[4:7, 3:5, 2] = MASK[5, 3, 3] = True
X = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
KERNELS = (
    jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 3)) * 0.3,
    jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 2)) * 0.5,
)


def net(params, x):
    """Two convolutions of 3: what lies five voxels away is not seen."""
    return convolve(jax.nn.relu(convolve(x, params[0])), params[1])


def curve(**options):
    options = {"steps": STEPS, "connectivity": 18, "threshold": 0.6, "roi": ROI, **options}
    return context_curve(net, KERNELS, X, MASK, class_index=1, spacing=(1, 2, 1.5), **options)


@pytest.fixture(scope="module")
def studied():
    return curve()


def test_equals_masking_by_hand(studied):
    def probability(x):
        logits = segcam.engine.sliding_window(net, KERNELS, x, roi=ROI)
        return np.asarray(jax.nn.softmax(logits, axis=-1))[..., 1][MASK]

    for index, steps in enumerate(studied.dilations):
        kept = ndimage.binary_dilation(MASK, structure(3, 18), iterations=int(steps))
        inside = probability(np.where(kept[..., None], X, 0))
        np.testing.assert_allclose(studied.scores[index], inside.mean(), atol=1e-6)
        assert studied.detected[index] == (inside > 0.6).any()
    inside = probability(X)
    np.testing.assert_allclose(studied.full_score, inside.mean(), atol=1e-6)
    assert studied.full_detected == (inside > 0.6).any()


def test_chunks_change_nothing(studied):
    again = curve(execution=Execution(chunk_size=2))
    np.testing.assert_allclose(again.scores, studied.scores, atol=1e-6)
    np.testing.assert_array_equal(again.detected, studied.detected)


def test_distances_are_those_of_voxels(studied):
    np.testing.assert_array_equal(studied.distance, [1, 2, 3, 4])
    # 18 neighbours: one dilation reaches (0, 1, 1) away, 2 mm and 1.5 mm.
    assert studied.reach[0] == 2.5
    assert (np.diff(studied.reach) >= 0).all()


def test_the_table_has_the_columns_of_the_source(studied):
    rows = context_table([studied, studied])
    assert list(rows[0])[:4] == ["distance_mm", "average_score", "std_dev", "n_predictions"]
    assert rows[2]["score_1"] == rows[2]["average_score"] == studied.scores[2]
    assert rows[0]["std_dev"] == 0
    assert rows[0]["n_predictions"] == 2 * studied.detected[0]
    text = as_csv(list(rows[0]), [list(row.values()) for row in rows]).decode().splitlines()
    assert text[0].endswith("reach_mm,score_1,score_2")
    assert len(text) == STEPS + 1
    assert as_csv(["a"], [[float("nan")]]) == b'a\r\n""\r\n'
    assert context_table([]) == []
    other = context_curve(
        lambda params, x: x, None, X, MASK, class_index=1, steps=STEPS, spacing=(2, 2, 2), roi=ROI
    )
    with pytest.raises(InputError, match="different sizes"):
        context_table([studied, other])


def test_a_network_that_sees_one_voxel_needs_no_context():
    found = context_curve(
        lambda params, x: x * params, jnp.float32(3), X, MASK, class_index=0, steps=2, roi=16
    )
    np.testing.assert_allclose(found.scores, found.full_score, rtol=1e-6)


def test_figures_show_all_instances(studied):
    distance = studied.distance
    scores = np.stack([studied.scores, studied.scores * 0.5])
    one, full = {"": scores}, {"": np.array([0.9, 0.8])}
    for figure in (
        figures.context_scores(distance, one, full=full, title="case"),
        figures.context_detections(distance, {"": scores > 0.3}, full={"": full[""] > 0}),
        figures.context_scores(distance[:1], {"": scores[:1, :1]}),
    ):
        pixels = to_array(figure, dpi=40)
        assert pixels.std() > 5
    with pytest.raises(InputError, match="at least one"):
        figures.context_scores(distance, {"": scores[:0]})
    with pytest.raises(InputError, match="7 networks"):
        figures.context_scores(distance, {str(number): scores for number in range(7)})


def test_figures_overlay_networks_with_their_spread(studied):
    scores = np.stack([studied.scores, studied.scores * 0.5])
    networks = {"unet": scores, "swin": scores[:1] * 0.8}
    figure = figures.context_scores(studied.distance, networks, full={"unet": np.ones(2)})
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if line.get_linewidth() == 1.8]
    for line, values in zip(drawn, networks.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    # Mean and deviation of (s, s/2) are 3s/4 and s/4: the band goes from s/2 to s.
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((scores[1].min(), scores[0].max()))
    colours = {line.get_color() for line in drawn}
    assert len(colours) == 2
    (key,) = figure.legends
    words = [text.get_text() for text in key.get_texts()]
    assert words == ["unet: 2 instances", "swin: 1 instance", "all of the input"]
    steps = figures.context_detections(studied.distance, {"a": scores > 0.3, "b": scores > 9})
    assert [list(line.get_ydata()) for line in steps.axes[0].lines] == [
        list((scores > 0.3).sum(0)),
        [0] * STEPS,
    ]


def test_figures_say_what_their_distance_is(studied):
    found = {"": studied.detected[None]}
    drawn = figures.context_detections(studied.distance, found, reach=studied.reach[None])
    words = prose_of(drawn)
    assert "dilations x smallest voxel extent (mm)" in words
    assert f"reaches 4 to {studied.reach[-1]:.3g} mm" in words
    exact = figures.context_detections(studied.distance, found, reach=studied.distance[None])
    assert "reaches" not in prose_of(exact)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="steps=0"):
        curve(steps=0)
    with pytest.raises(InputError, match="empty mask"):
        context_curve(net, KERNELS, X, MASK & False, class_index=1, roi=ROI)
