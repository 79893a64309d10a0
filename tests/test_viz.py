"""Figures: what they show, what they refuse, and that nothing else is touched."""

import dataclasses
import doctest
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import matplotlib
import matplotlib.style
import numpy as np
import pytest
from matplotlib.collections import LineCollection

from segcam_jax import viz
from segcam_jax.data.instances import Instance
from segcam_jax.reports import instances as portraits
from segcam_jax.types import InputError
from segcam_jax.viz import colour
from segcam_jax.viz.canvas import flow, text_width, wrap
from segcam_jax.viz.colour import FADE, class_colour, grey, label_colours, scale_of
from segcam_jax.viz.draw import edges, number
from segcam_jax.viz.instances import Portrait, instance_portrait, peak_table

SHAPE = (12, 20)
IMAGE = np.linspace(0, 1, 240, dtype=np.float32).reshape(SHAPE)
RGB = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]], -1)
ROW, COLUMN = np.mgrid[: SHAPE[0], : SHAPE[1]]
HEATMAP = np.exp(-((ROW - 5) ** 2 + (COLUMN - 8) ** 2) / 20)
SIGNED = HEATMAP - 0.5
REGION = np.hypot(ROW - 5, COLUMN - 8) < 4
LABELS = np.where(REGION, 2, 0)


def texts(figure):
    words = [text.get_text() for text in figure.texts]
    return words + [text.get_text() for axes in figure.axes for text in axes.texts]


def outlines(figure):
    return [
        lines
        for axes in figure.axes
        for lines in axes.collections
        if isinstance(lines, LineCollection) and lines.get_label() == "region"
    ]


def colours_of(figure, axes=0):
    return np.asarray(figure.axes[axes].images[0].get_array())


def six(**changes):
    given = {
        "image": RGB,
        "truth": LABELS,
        "prediction": LABELS.T[: SHAPE[1]].T,
        "raw_map": SIGNED[::4, ::4],
        "heatmap": HEATMAP,
        "region": REGION,
    }
    given |= changes
    first = [given.pop(name) for name in ("image", "truth", "prediction", "raw_map", "heatmap")]
    return viz.six_panels(*first, **given)


def bias_rows():
    return [
        {"method": m, "tap": t, "weights": w, "biased": 0.5, "unbiased": 0.2, "digit": 0.3}
        for m in ("grad_cam", "ablation_cam")
        for t in ("encoder4", "bottleneck")
        for w in ("biased", "unbiased")
    ]


VOLUME = np.random.default_rng(0).random((6, 8, 10))
SALIENCY = np.zeros((6, 8, 10))
SALIENCY[4, 2, 7] = 1

FIGURES = {
    # Each with the number of axes it must have: panels, colour bars, legend.
    "overlay": (lambda: viz.overlay(IMAGE, HEATMAP, region=REGION), 2),
    "overlay, one channel": (lambda: viz.overlay(IMAGE[..., None], SIGNED, title="t"), 2),
    "overlay, zero": (lambda: viz.overlay(RGB, 0 * HEATMAP), 2),
    "overlay, tiny": (lambda: viz.overlay(np.ones((1, 1)), np.full((1, 1), 1e-310)), 2),
    "overlay, jax": (lambda: viz.overlay(jnp.asarray(RGB), jnp.ones(SHAPE, jnp.bfloat16)), 2),
    "six": (six, 6 + 3 + 1),
    "six, no truth": (lambda: six(truth=None, class_index=2, title="t"), 6 + 3 + 1),
    "four": (lambda: viz.four_panels(RGB, LABELS, LABELS, HEATMAP, region=REGION), 4 + 1 + 1),
    "four, pixel": (lambda: viz.four_panels(RGB, None, LABELS, HEATMAP, pixel=(5, 8)), 4 + 1 + 1),
    "montage": (
        lambda: viz.montage(
            IMAGE, [[HEATMAP, None], [SIGNED, 0 * HEATMAP]], rows=["a", "b"], columns=["c", "d"]
        ),
        1 + 4 + 1,
    ),
    "bias": (lambda: viz.bias_table(bias_rows(), title="t"), 2 * 3 + 1),
    "slices": (lambda: viz.slices(VOLUME, SALIENCY, region=SALIENCY > 0), 3 + 1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_renders_in_the_expected_axes(name):
    make, count = FIGURES[name]
    figure = make()
    assert len(figure.axes) == count
    pixels = viz.to_array(figure, dpi=40)
    width, height = figure.get_size_inches()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (int(height * 40), int(width * 40), 3)
    assert (pixels[0, 0] == 255).all()  # the margin
    assert len(np.unique(pixels)) > 5


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_or_leaves_the_figure(name):
    figure = FIGURES[name][0]()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    for box in boxes:
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < figure.bbox.width + 1
        assert box.y1 < figure.bbox.height + 1
    for number_, one in enumerate(boxes):
        for other in boxes[:number_]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            along = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(across, along) < 3, "more than two pixels in common"


def test_blend_is_its_formula():
    values = np.array([[0.0, 0.25, 1.0]])
    image = np.array([[0.2, 0.5, 0.9]])
    scale = scale_of([values])
    base = grey(np.repeat(image[..., None], 3, -1))
    opacity = (0.6 * values**FADE)[..., None]
    expected = (1 - opacity) * base + opacity * scale.colours(values)
    np.testing.assert_allclose(viz.blend(image, values, alpha=0.6), expected, atol=1e-12)
    np.testing.assert_allclose(viz.blend(image, values)[0, 0], base[0, 0])
    flat = viz.blend(image, values, alpha=0.5, fade=False)
    np.testing.assert_allclose(flat, 0.5 * base + 0.5 * scale.colours(values), atol=1e-12)


def test_example_of_blend():
    assert doctest.testmod(colour) == (0, 2)


def test_blend_shows_the_image_without_its_colours():
    red, green = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    red[..., 0], green[..., 1] = 1, 1
    nothing = np.zeros((2, 2))
    for image, luma in ((red, 0.299), (green, 0.587)):
        out = viz.blend(image, nothing)
        np.testing.assert_allclose(out, 0.12 + 0.76 * luma)


def test_overlay_draws_what_blend_computes():
    drawn = colours_of(viz.overlay(RGB, SIGNED))
    np.testing.assert_allclose(drawn, viz.blend(RGB, SIGNED), atol=1e-6)


def test_the_kind_of_map_follows_its_values():
    assert not scale_of([HEATMAP]).signed
    assert scale_of([SIGNED]).signed
    assert not scale_of([HEATMAP - 1e-9]).signed, "rounding is no evidence"
    assert not scale_of([SIGNED], signed=False).signed
    assert scale_of([HEATMAP], signed=True).low == -1
    assert scale_of([HEATMAP, SIGNED]).signed
    assert scale_of([HEATMAP], value_range=(-2, 2)).signed
    assert scale_of([3 * HEATMAP]).high == pytest.approx(3)
    assert (scale_of([SIGNED]).low, scale_of([SIGNED]).high) == (-0.5, 0.5)


def test_zero_is_neutral_and_signs_have_their_colours():
    image = np.full((1, 3), 0.5)
    out = viz.blend(image, np.array([[-1.0, 0.0, 1.0]]))[0]
    assert out[0, 2] > out[0, 0]  # blue contradicts
    np.testing.assert_allclose(out[1], 0.5)
    assert out[2, 0] > out[2, 2]  # red supports


def test_jet_is_available():
    default, jet = viz.blend(RGB, HEATMAP), viz.blend(RGB, HEATMAP, colormap="jet")
    assert np.abs(default - jet).max() > 0.2
    assert len(viz.overlay(RGB, HEATMAP, colormap="jet", fade=False, alpha=0.5).axes) == 2


def test_value_range_makes_figures_comparable():
    half = viz.blend(RGB, 0.5 * HEATMAP, value_range=(0, 1))
    whole = viz.blend(RGB, HEATMAP, value_range=(0, 1))
    assert np.abs(half - whole).max() > 0.1
    np.testing.assert_allclose(viz.blend(RGB, 0.5 * HEATMAP), whole, atol=1e-12)


def test_region_is_outlined_along_its_pixels():
    one = np.zeros((3, 3), bool)
    one[1, 2] = True
    segments = {tuple(map(tuple, segment)) for segment in edges(one)}
    assert segments == {
        ((1.5, 0.5), (2.5, 0.5)),
        ((1.5, 1.5), (2.5, 1.5)),
        ((1.5, 0.5), (1.5, 1.5)),
        ((2.5, 0.5), (2.5, 1.5)),  # the image's border closes the outline
    }
    assert len(edges(np.ones((3, 5), bool))) == 2 * (3 + 5)


@pytest.mark.parametrize(
    ("figure", "count"),
    [
        (lambda region: viz.overlay(RGB, HEATMAP, region=region), 1),
        (lambda region: six(region=region), 1),
        (
            lambda region: viz.four_panels(RGB, None, LABELS, HEATMAP, region=region, pixel=(0, 0)),
            1,
        ),
        (lambda region: viz.montage(RGB, [[HEATMAP]], rows=["a", "b"], columns=["c"]), None),
        (lambda region: viz.montage(RGB, [[SIGNED]], rows=["a"], columns=["c"], region=region), 2),
    ],
)
def test_outline_is_there(figure, count):
    if count is None:
        with pytest.raises(InputError, match="expected 2 rows of 1"):
            figure(REGION)
        return
    assert len(outlines(figure(REGION))) == 2 * count  # a line and its shadow
    assert len(outlines(figure(REGION.astype(np.float32)))) == 2 * count
    assert not outlines(figure(np.zeros(SHAPE, bool)))
    assert not outlines(figure(None))


def test_notes_stand_in_the_corner_or_in_place_of_a_zero_map():
    cells = {("a", "b"): SIGNED, ("a", "c"): 0 * SIGNED}
    notes = {("a", "b"): "9 % negative", ("a", "c"): "nothing"}
    figure = viz.montage(RGB, cells, rows=["a"], columns=["b", "c"], notes=notes, caption="below")
    assert {"9 % negative", "nothing", "below"} <= set(texts(figure))
    assert "zero map" not in texts(figure)


def test_zero_maps_say_so():
    assert "zero map" in texts(viz.overlay(RGB, 0 * HEATMAP))
    assert "zero map" not in texts(viz.overlay(RGB, HEATMAP))
    assert texts(six(raw_map=np.zeros((2, 2)), heatmap=0 * HEATMAP)).count("zero map") == 3
    assert texts(six(heatmap=0 * HEATMAP, zero="no gradient")).count("no gradient") == 2
    assert texts(viz.slices(VOLUME, 0 * SALIENCY)).count("zero map") == 3
    assert "zero map" not in texts(viz.slices(VOLUME, SALIENCY, center=(0, 0, 0)))


def test_six_panels_are_lettered_and_the_raw_map_is_as_it_is():
    figure = six()
    words = texts(figure)
    for letter in "abcdef":
        assert sum(text.startswith(f"({letter}) ") for text in words) == 1
    assert "(d) raw map, 3 by 5" in words
    raw = colours_of(figure, axes=4)
    assert raw.shape == (3, 5, 3)
    np.testing.assert_allclose(raw, scale_of([SIGNED[::4, ::4]]).colours(SIGNED[::4, ::4]))
    assert "no ground truth" in texts(six(truth=None))


def test_legend_names_the_classes_present():
    names = ["road", "car", "person", "sky"]
    words = texts(six(class_names=names, class_index=1, truth=np.where(REGION, 255, 0)))
    assert {"car (explained)", "person", "road", "ignored"} <= set(words)
    assert "sky" not in words
    alone = texts(six(class_names=names, truth=np.where(REGION, -1, 0)))
    assert "not predicted" in alone
    assert "ignored" not in alone
    assert {"class 2", "background"} <= set(texts(six()))
    assert {"thing", "background"} <= set(texts(six(class_names={2: "thing"})))
    assert "class 0" in texts(six(background=None))
    assert "$x_1$" in texts(six(class_names={2: "$x_1$"}))  # not mathematics


def test_classes_keep_their_colours():
    labels = np.array([[0, 1], [7, 255]])
    colours = label_colours(labels)
    assert len({tuple(colour) for colour in colours.reshape(-1, 3)}) == 4
    np.testing.assert_allclose(colours[1, 0], class_colour(7))
    np.testing.assert_allclose(label_colours(np.array([[7]]), background=7), 0.88)
    many = {class_colour(k, background=None, ignored=None) for k in range(200)}
    assert len(many) == 200


def test_four_panels_mark_the_pixel():
    figure = viz.four_panels(RGB, LABELS, LABELS, HEATMAP, pixel=(5, 8))
    marks = figure.axes[1].lines
    assert marks
    assert {tuple(np.ravel(line.get_xydata())) for line in marks} == {(8, 5)}
    assert "(b) overlay, pixel (5, 8)" in texts(figure)


def test_montage_shares_one_scale_and_says_what_is_missing():
    maps = {("a", "c"): HEATMAP, ("b", "d"): 0.5 * HEATMAP, ("a", "d"): None}
    figure = viz.montage(IMAGE, maps, rows=["a", "b"], columns=["c", "d"], title="what")
    words = texts(figure)
    assert words.count("no map") == 2
    assert words.count("importance") == 1
    assert {"a", "b", "c", "d", "what"} <= set(words)
    faint = next(
        np.asarray(axes.images[0].get_array()) for axes in reversed(figure.axes) if axes.images
    )
    expected = viz.blend(IMAGE, 0.5 * HEATMAP, value_range=(0, 1))
    np.testing.assert_allclose(faint, expected, atol=1e-6)


def test_montage_takes_one_array():
    stacked = np.stack([np.stack([HEATMAP, SIGNED])])
    figure = viz.montage(IMAGE, stacked, rows=["a"], columns=["c", "d"])
    assert len(figure.axes) == 1 + 1 + 2


def test_bias_table_takes_dataclasses_and_says_what_is_missing():
    row = dataclasses.make_dataclass("Row", list(bias_rows()[0]), frozen=True)
    rows = [row(**values) for values in bias_rows()]
    rows[0] = dataclasses.replace(rows[0], biased=np.nan, unbiased=np.nan, digit=np.nan)
    rows[1] = dataclasses.replace(rows[1], biased=np.nan, unbiased=np.nan, digit=np.nan)
    words = texts(viz.bias_table(rows))
    assert words.count("n/a") == 3
    expected = {"grad_cam", "tap: encoder4", "weights: biased", "striped half", "digit"}
    assert expected <= set(words)
    assert "a map without preference" in words
    assert "a map without preference" not in texts(viz.bias_table(rows, uniform=None))


def test_bias_table_places_its_dots():
    values = {"biased": 0.7, "unbiased": 0.1, "digit": 0.2}
    row = {"method": "m", "tap": "t", "weights": "w"} | values
    figure = viz.bias_table([row], uniform=None)
    for axes, share in zip(figure.axes[1:], values.values(), strict=True):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [np.ravel(line.get_xydata())[0] for line in dots] == [share]


def test_peaks_say_what_their_dots_and_bars_are():
    """The note was left out, as it is longer than a panel is wide."""
    figure = peak_table({"flair": {"TP": [(1.0, -0.5), (2.0, 0.0)]}, "t1": {"FN": [(1.0, -1.0)]}})
    assert texts(figure).count("bars: medians") == 2


def test_slices_pass_through_the_peak():
    words = texts(viz.slices(VOLUME, SALIENCY))
    assert {"d = 4", "h = 2", "w = 7"} <= set(words)
    assert {"d = 1", "h = 0", "w = 3"} <= set(texts(viz.slices(VOLUME, SALIENCY, center=(1, 0, 3))))
    figure = viz.slices(VOLUME[..., None], SALIENCY)
    shapes = [colours_of(figure, axes=k).shape[:2] for k in range(3)]
    assert shapes == [(8, 10), (6, 10), (6, 8)]
    other = SALIENCY * 0 + 0.1
    other[1, 1, 1] = 0.2
    inside = np.zeros(SALIENCY.shape, bool)
    inside[1, 1, 1] = True
    assert "d = 1" in texts(viz.slices(VOLUME, SALIENCY + other, region=inside))


def test_slices_have_the_proportions_of_their_voxels():
    def aspect(spacing):
        figure = viz.slices(VOLUME, SALIENCY, spacing=spacing)
        box = figure.axes[1].get_window_extent()
        return box.height / box.width

    assert aspect((1, 1, 1)) == pytest.approx(6 / 10)
    assert aspect((3, 1, 1)) == pytest.approx(18 / 10)


NAN = HEATMAP.copy()
NAN[3, 4] = np.nan
THREE: Any = (1, 2, 3)
HALF: Any = (1.5, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.overlay(RGB, NAN), r"heatmap is NaN or infinite in 1 value;"),
        (lambda: viz.overlay(np.full(SHAPE, np.inf), HEATMAP), "image is NaN or infinite in 240"),
        (lambda: viz.overlay(RGB * 255, HEATMAP), "divide by 255"),
        (lambda: viz.overlay(RGB - 0.5, HEATMAP), r"expected \[0, 1\]$"),
        (lambda: viz.overlay(np.zeros((4, 4, 2)), HEATMAP), r"\(4, 4, 2\), expected \(h, w\)"),
        (lambda: viz.overlay(np.zeros((0, 4)), HEATMAP), "is empty"),
        (lambda: viz.overlay(np.array([["a"]]), HEATMAP), "real numbers"),
        (lambda: viz.overlay(RGB, HEATMAP[::2]), r"\(6, 20\), the image \(12, 20\); resize"),
        (lambda: viz.overlay(RGB, VOLUME), r"slices\(\.\.\.\)"),
        (lambda: viz.overlay(RGB, HEATMAP, region=REGION.T), "region has shape"),
        (lambda: viz.overlay(RGB, HEATMAP, region=HEATMAP), "other than 0 and 1"),
        (lambda: viz.overlay(RGB, HEATMAP, colormap="infermo"), "matplotlib has inferno"),
        (lambda: viz.overlay(RGB, HEATMAP, alpha=1.5), r"alpha is 1.5, expected a number in"),
        (lambda: viz.overlay(RGB, HEATMAP, value_range=(1, 0)), "low < high"),
        (lambda: viz.overlay(RGB, HEATMAP, value_range=THREE), "low < high"),
        (lambda: viz.overlay(RGB, SIGNED, value_range=(-1, 2)), "symmetric|-limit"),
        (lambda: six(truth=LABELS[..., None] == np.arange(3)), "argmax"),
        (lambda: six(prediction=LABELS * 1.0), "class indices, integers"),
        (lambda: six(raw_map=NAN), "raw_map is NaN or infinite in 1 value;"),
        (lambda: six(class_index=2, class_names=["a", "b"]), r"class_names holds 2 names"),
        (lambda: six(class_index=-1), "class_index is -1"),
        (lambda: viz.four_panels(RGB, None, LABELS, HEATMAP), "neither region nor pixel"),
        (lambda: viz.four_panels(RGB, None, LABELS, HEATMAP, pixel=(12, 0)), "is outside"),
        (lambda: viz.four_panels(RGB, None, LABELS, HEATMAP, pixel=HALF), "row, column"),
        (lambda: viz.montage(RGB, {("a", "x"): HEATMAP}, rows=["a"], columns=["c"]), "has key"),
        (lambda: viz.montage(RGB, {}, rows=["a"], columns=["c"]), "holds no map"),
        (
            lambda: viz.montage(RGB, [[NAN]], rows=["a"], columns=["c"]),
            "'c' is NaN or infinite in 1 ",
        ),
        (lambda: viz.montage(RGB, [[HEATMAP]], rows="a", columns=["c"]), "list of distinct"),
        (lambda: viz.montage(RGB, [], rows=[], columns=["c"]), "list of distinct"),
        (lambda: viz.bias_table([]), "rows is empty"),
        (lambda: viz.bias_table([{"method": "a"}]), r"row 0 has no \['tap'"),
        (lambda: viz.bias_table([3]), "row 0 has no"),
        (lambda: viz.bias_table(bias_rows() * 2), "row 8 repeats"),
        (lambda: viz.bias_table([bias_rows()[0] | {"digit": 30}]), "digit = 30"),
        (
            lambda: viz.bias_table([bias_rows()[0] | {"weights": k} for k in range(7)]),
            "7 weight sets",
        ),
        (lambda: viz.slices(RGB[None], SALIENCY), "pick one channel"),
        (lambda: viz.slices(VOLUME, HEATMAP), r"\(12, 20\), expected \(d, h, w\)"),
        (lambda: viz.slices(VOLUME, SALIENCY, center=(6, 0, 0)), "center .* outside"),
        (lambda: viz.slices(VOLUME, SALIENCY, spacing=(1, 0, 1)), "three positive"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_inputs_are_not_changed():
    image, heatmap, region = RGB.copy(), SIGNED.copy(), REGION.copy()
    viz.to_array(viz.overlay(image, heatmap, region=region), dpi=20)
    np.testing.assert_array_equal(image, RGB)
    np.testing.assert_array_equal(heatmap, SIGNED)
    np.testing.assert_array_equal(region, REGION)


@pytest.mark.parametrize("name", ["six", "bias", "four, pixel"])
def test_settings_of_the_user_change_nothing(name):
    expected = viz.to_array(FIGURES[name][0](), dpi=50)
    style = matplotlib.style.library["dark_background"] | matplotlib.style.library["ggplot"]
    changed = {"font.size": 20, "image.origin": "lower", "image.cmap": "jet", "axes.grid": True}
    changed |= {"axes.xmargin": 0.5, "lines.linewidth": 7, "text.usetex": True, "text.color": "r"}
    settings: Any = style | changed
    with matplotlib.rc_context(settings):
        drawn = viz.to_array(FIGURES[name][0](), dpi=50)
    np.testing.assert_array_equal(drawn, expected)


def test_save_makes_folders_and_leaves_only_the_file(tmp_path):
    figure = viz.overlay(RGB, HEATMAP)
    path = viz.save(figure, tmp_path / "a" / "b" / "x.png", dpi=30)
    assert path.read_bytes().startswith(b"\x89PNG")
    viz.save(figure, path, dpi=30)
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]
    viz.save(figure, str(tmp_path / "x.pdf"))
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_save_that_fails_keeps_the_earlier_file(tmp_path, monkeypatch):
    figure = viz.overlay(RGB, HEATMAP)
    path = tmp_path / "x.png"
    path.write_bytes(b"earlier")

    def broken(file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        viz.save(figure, path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="no known suffix"):
        viz.save(figure, tmp_path / "x.doc")


def test_to_array_leaves_the_figure_as_it_was():
    figure = viz.overlay(RGB, HEATMAP)
    dpi, canvas = figure.dpi, figure.canvas
    viz.to_array(figure, dpi=20)
    assert (figure.dpi, figure.canvas) == (dpi, canvas)
    np.testing.assert_array_equal(viz.to_array(figure, dpi=20), viz.to_array(figure, dpi=20))


def test_words_are_wrapped_to_their_room():
    words = wrap("a title that is much longer than the room it was given " * 3, 2.0, 10)
    lines = words.split("\n")
    assert len(lines) == 2
    assert words.endswith("…")
    assert max(text_width(line, 10) for line in lines) < 2.2
    assert wrap(None, 2.0, 10) == ""
    assert flow([1, 1, 1], 2.5, gap=0.5) == [(0, 0), (1.5, 0), (0, 1)]
    assert [number(value) for value in (0, -0.0, 0.1234, -3)] == [
        "0",
        "0",
        "0.12",
        "\N{MINUS SIGN}3",
    ]


def test_pyplot_and_matplotlib_are_left_alone():
    code = (
        "import sys, segcam_jax; assert 'matplotlib' not in sys.modules, 'heavy import'\n"
        "import numpy as np; from segcam_jax import viz\n"
        "viz.to_array(viz.overlay(np.zeros((2, 2)), np.eye(2)), dpi=20)\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_portraits_of_one_modality_are_legible():
    """Letters have a rim on bright tissue, and the bars leave room for the words between them."""
    mask = np.zeros((8, 8, 8), bool)
    mask[3:5, 3:5, 3:5] = True
    bright = np.ones(mask.shape)
    portrait = Portrait(
        {"flair": bright}, bright, mask, {"map": (bright, "flair")}, {}, (4, 4, 4), (1, 1, 1), 4.0
    )
    figure = instance_portrait(portrait, limit=1.0)
    letters = [text for axes in figure.axes for text in axes.texts if text.get_text() in "LRAPIS"]
    assert len(letters) == 12
    assert all(letter.get_path_effects() for letter in letters)
    figure.canvas.draw()
    (note,) = (text for text in figure.texts if "all figures of the run" in text.get_text())
    assert not any(note.get_window_extent().overlaps(a.get_window_extent()) for a in figure.axes)


@pytest.mark.parametrize(("volume", "words"), [(12.566, "12.57"), (114_702.0, "114,700")])
def test_volumes_are_written_out(volume, words):
    instance = Instance(3, "TP", 9, volume, ((0, 1),) * 3, False)
    assert portraits._words(instance) == f"instance 3 (TP), {words} mm³"
