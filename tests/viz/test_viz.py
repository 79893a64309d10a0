"""Figures: what they show, what they refuse, and that nothing else is touched."""

import dataclasses
import io
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import matplotlib
import matplotlib.style
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from segcam_jax import viz
from segcam_jax.data.instances import Instance
from segcam_jax.reports import instances as portraits
from segcam_jax.types import InputError
from segcam_jax.viz import Classes, Cut, Noted, Row, Segmented, Style, layout
from segcam_jax.viz.panels import edges
from segcam_jax.viz.pixels import show
from segcam_jax.viz.plots import peak_table
from segcam_jax.viz.points import scatter
from segcam_jax.viz.slices import Portrait, instance_portrait, marked_slices
from segcam_jax.viz.style import FADE, class_colour, grey, label_colours, number, wrap
from tests.support.drawn import hidden_words, words_of

SHAPE = (12, 20)
IMAGE = np.linspace(0, 1, 240, dtype=np.float32).reshape(SHAPE)
RGB = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]], -1)
ROW, COLUMN = np.mgrid[: SHAPE[0], : SHAPE[1]]
HEATMAP = np.exp(-((ROW - 5) ** 2 + (COLUMN - 8) ** 2) / 20)
SIGNED = HEATMAP - 0.5
BYTE = 0.5001 / 255  # Pictures have colours of 8 bits.
REGION = np.hypot(ROW - 5, COLUMN - 8) < 4
LABELS = np.where(REGION, 2, 0)


def outlines(figure):
    return [
        lines for axes in figure.axes for lines in axes.patches if lines.get_label() == "region"
    ]


def colours_of(figure, axes=0):
    return np.asarray(figure.axes[axes].images[0].get_array()) / 255


def scale(maps, **given):
    return Style(**given).scale(maps)


def six(raw_map=SIGNED[::4, ::4], heatmap=HEATMAP, title=None, **changes):
    given = {"image": RGB, "truth": LABELS, "prediction": LABELS.T[: SHAPE[1]].T, "region": REGION}
    return viz.six_panels(Segmented(**given | changes), raw_map, heatmap, title=title)


def four(truth: Any = LABELS, region=None, pixel=None):
    given = Segmented(RGB, LABELS, truth, region, pixel=pixel)
    return viz.four_panels(given, HEATMAP)


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

MAPS = {("a", "c"): HEATMAP, ("a", "d"): None, ("b", "c"): SIGNED, ("b", "d"): 0 * HEATMAP}
CUBE = np.zeros((8, 8, 8), bool)
CUBE[3:5, 3:5, 3:5] = True
BRIGHT = np.ones(CUBE.shape)
LONG = "a title that is much longer than the room it was given " * 5


def portrait():
    """An instance in one bright modality."""
    maps, said = {"map": (BRIGHT, "flair")}, {"map": "peak 1 at 3 mm\nlowest 0"}
    return Portrait({"flair": BRIGHT}, BRIGHT, CUBE, maps, said, (4, 4, 4), (1, 1, 1), 4.0)


def comparison():
    """Two images of different shapes, one of them far taller than wide."""
    rows = [
        Row(RGB, [HEATMAP, Noted(SIGNED, "12 % negative")], "layer1", "3 x 5"),
        Row(RGB[:, :4], [None, HEATMAP[:, :4]], "a layer of a long name", region=REGION[:, :4]),
    ]
    return viz.gallery(rows, ["Grad-CAM", LONG], title=LONG, subtitle="net", caption=LONG)


FIGURES = {
    # Each with the number of axes it must have: panels and colour bars.
    "overlay": (lambda: viz.overlay(IMAGE, HEATMAP, region=REGION), 2),
    "overlay, one channel": (lambda: viz.overlay(IMAGE[..., None], SIGNED, title=LONG), 2),
    "overlay, tiny": (lambda: viz.overlay(np.ones((1, 1)), np.full((1, 1), 1e-310)), 2),
    "overlay, jax": (lambda: viz.overlay(jnp.asarray(RGB), jnp.ones(SHAPE, jnp.bfloat16)), 2),
    "six": (lambda: six(title=LONG), 6 + 3),
    "six, no truth": (lambda: six(truth=None, classes=Classes(explained=2)), 6 + 3),
    "four, pixel": (lambda: four(None, pixel=(5, 8)), 4 + 1),
    "montage": (lambda: viz.montage(IMAGE, MAPS, title="t", caption=LONG), 2 * 3 + 1),
    "gallery": (comparison, 2 * 3 + 1),
    "bias": (lambda: viz.bias_table(bias_rows(), title="t"), 2 * 3),
    "slices": (lambda: viz.slices(VOLUME, SALIENCY, region=SALIENCY > 0), 3 + 1),
    "portrait": (lambda: instance_portrait(portrait(), limit=1.0, title=LONG), 3 * 4 + 2),
    "marked": (lambda: marked_slices({"T1": BRIGHT}, {"lesion": ("#00D08A", CUBE)}, [3]), 2),
    "peaks": (lambda: peak_table({"flair": {"TP": [(1.0, -0.5)], "IGNORED": []}}, title="t"), 1),
    "points": (lambda: scatter(np.eye(2), [RGB, IMAGE], ["a", "b"], axes=("x", "y")), 1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_all_it_says(name):
    make, count = FIGURES[name]
    figure = make()
    assert len(figure.axes) == count
    assert not hidden_words(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for number_, one in enumerate(boxes):
        assert not any(one.padded(-1).overlaps(other) for other in boxes[:number_])
    pixels = viz.to_array(figure, dpi=40)
    width, height = figure.get_size_inches()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (int(height * 40), int(width * 40), 3)
    assert (pixels[0, 0] == 255).all()  # the margin
    assert len(np.unique(pixels)) > 5
    # Nothing but a margin is left around: no white page with a small figure in it.
    used = np.argwhere((pixels < 250).any(-1))
    assert (used.min(0) < 12).all()
    assert (np.array(pixels.shape[:2]) - used.max(0) < 14).all()


def test_figures_of_axes_before_have_the_pixels_of_new_ones():
    """Panels that change and such that stay, other words around them, other layouts in between."""
    few = np.zeros(SHAPE, bool)
    few[2, 3:5] = True
    cells = {("a", "c"): Noted(SIGNED, "9 %"), ("b", "c"): HEATMAP}
    makers = [
        lambda: six(title="one"),
        lambda: six(title="two", heatmap=2 * HEATMAP, raw_map=3 * SIGNED[::4, ::4]),
        lambda: viz.montage(RGB, cells, region=few, title="many"),
        lambda: six(truth=None, region=few, heatmap=Noted(0 * HEATMAP, "nothing"), title=LONG),
        lambda: viz.montage(RGB, {**cells, ("b", "c"): None}, title="many", caption="below"),
        lambda: six(title="one"),
    ]
    made, found = [], []
    with viz.reused():
        for make in makers:
            with viz.reused():
                made.append(make())
            found.append(viz.to_array(made[-1]))
    for make, pixels in zip(makers, found, strict=True):
        np.testing.assert_array_equal(pixels, viz.to_array(make()))
    assert made[0] is made[1] is made[3] is made[5]
    assert made[2] is made[4]
    assert six() is not six()


def test_what_leaves_its_panel_or_its_line_is_drawn_anew_like_all_else():
    """Letters that reach beyond their line, rings at a border, notes wider than a map."""
    narrow, zero = np.full((100, 4), 0.5), np.zeros((100, 4))
    others = {"raw_map": -SIGNED[::4, ::4]}
    makers = [
        lambda: viz.montage(RGB, {("a", "lo\u010f"): HEATMAP}, title="lo\u010f \u2044"),
        lambda: viz.montage(RGB, {("a", "lo\u010f"): HEATMAP[::-1]}, title="lo\u010f \u2044"),
        lambda: six(pixel=(0, 0), region=None),
        lambda: six(pixel=(0, 0), region=None, **others),
        lambda: six(pixel=(5, 0), region=None, **others),
        lambda: viz.montage(narrow, {("a", "b"): zero}),
        lambda: viz.montage(narrow + 0.1, {("a", "b"): zero}),
    ]
    with viz.reused():
        found = [viz.to_array(make()) for make in makers]
    for make, pixels in zip(makers, found, strict=True):
        np.testing.assert_array_equal(pixels, viz.to_array(make()))


@pytest.mark.parametrize("extents", [(24, 40), (60, 60), (5, 9), (12, 50), (37, 33)])
@pytest.mark.parametrize("smooth", [True, False])
def test_pictures_are_resampled_as_matplotlib_does_it(extents, smooth):
    """Pillow's filter is steeper than matplotlib's: of noise it leaves more, of a picture none."""
    colours = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    if smooth:
        row, column = np.indices(SHAPE)
        waves = [np.cos(row / 6 + k) * np.cos(column / 8) for k in range(3)]
        colours = (127 + 127 * np.stack(waves, -1)).astype(np.uint8)
    figure = Figure((extents[1] / 10, extents[0] / 10), dpi=10)
    axes = figure.add_axes((0, 0, 1, 1))
    place = (-0.5, SHAPE[1] - 0.5, SHAPE[0] - 0.5, -0.5)
    axes.set(xlim=place[:2], ylim=place[2:])
    show(axes, colours, place, smooth=smooth)
    how = "antialiased" if smooth else "nearest"
    other = AxesImage(axes, interpolation=how, origin="upper", extent=place, resample=True)
    other.set_data(colours)
    axes.add_image(other)
    expected, found = (each.make_image(None) for each in (other, axes.images[0]))
    assert found[1:3] == expected[1:3]
    np.testing.assert_allclose(found[0].astype(int), expected[0], atol=4 if smooth else 0)


def test_words_in_another_style_are_drawn_anew():
    with viz.reused():
        figure = viz.overlay(RGB, HEATMAP, title="one")
        upright = viz.to_array(figure)
        figure.texts[0].set_style("italic")
        assert (viz.to_array(figure) != upright).any()


def test_panels_move_where_words_above_grow_by_what_those_below_lose(monkeypatch):
    """The figure is as large as before."""

    def of_letters(figure, artist):
        return 0.0 if artist is None else 0.25 * len(artist.get_text())

    monkeypatch.setattr(layout, "_height", of_letters)
    cells = {("a", "c"): HEATMAP, ("b", "c"): HEATMAP}
    words = ({"title": "1", "caption": "22"}, {"title": "11", "caption": "2"})
    with viz.reused():
        found = [viz.to_array(viz.montage(RGB, cells, **each)) for each in words]
    assert found[0].shape == found[1].shape
    np.testing.assert_array_equal(found[1], viz.to_array(viz.montage(RGB, cells, **words[1])))


def test_a_figure_that_outlives_its_block_is_its_holders():
    with viz.reused():
        figure = viz.overlay(RGB, HEATMAP, title="one")
        before = viz.to_array(figure)
    with viz.reused():
        assert viz.overlay(RGB, -HEATMAP, title="two") is not figure
    np.testing.assert_array_equal(viz.to_array(figure), before)
    figure.add_artist(Line2D([0, 1], [0.5, 0.5], color="red"))
    assert (viz.to_array(figure) != before).any()


def test_a_figure_made_of_one_before_has_its_own_pixels_in_every_format(tmp_path):
    """Other renderers draw a figure, and so leave no sign that its axes have changed."""

    def changed():
        return six(title="two", heatmap=HEATMAP[::-1])

    expected = viz.to_array(changed())
    others = (
        lambda figure: viz.save(figure, tmp_path / "two.pdf"),
        lambda figure: viz.to_array(figure, dpi=2 * figure.dpi),
        lambda figure: figure._repr_png_(),
    )
    for draw_otherwise in others:
        with viz.reused():
            viz.save(six(title="one"), tmp_path / "one.png")
            figure = changed()
            draw_otherwise(figure)
            with Image.open(viz.save(figure, tmp_path / "two.png")) as found:
                np.testing.assert_array_equal(np.asarray(found), expected)


def test_words_that_hide_others_are_found():
    """Of `hidden_words`, on which the test above rests."""
    figure = viz.overlay(RGB, HEATMAP, title="above")
    figure.text(0.05, 0.98, "over the title", va="top")
    figure.text(0.93, 0.5, "leaves it")
    found = hidden_words(figure)
    assert ("leaves it", "leaves the figure") in found
    assert ("leaves it", "axes") in found
    assert ("over the title", "above") in found or ("above", "over the title") in found


def test_scales_are_told_and_are_those_of_the_values():
    bar = viz.overlay(RGB, 3 * HEATMAP).axes[-1]
    assert [text.get_text() for text in bar.get_xticklabels()] == ["0", "1.5", "3"]
    assert bar.get_xlabel() == "importance"
    signed = viz.overlay(RGB, SIGNED, style=Style(value_range=(-2, 2))).axes[-1]
    minus = "\N{MINUS SIGN}2"
    assert [text.get_text() for text in signed.get_xticklabels()] == [minus, "0", "2"]
    assert signed.get_xlabel() == "importance; negative: against it"
    # The colours of the bar are those of the scale, over middle grey.
    drawn = signed.collections[-1].get_cmap()([0, 255])[:, :3]
    expected = scale([SIGNED], value_range=(-2, 2)).blend(np.full((2, 3), 0.5), np.array([-2, 2]))
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_blend_is_its_formula():
    values = np.array([[0.0, 0.25, 1.0]])
    image = np.array([[0.2, 0.5, 0.9]])
    found = scale([values])
    base = grey(np.repeat(image[..., None], 3, -1))
    opacity = (0.6 * values**FADE)[..., None]
    expected = (1 - opacity) * base + opacity * found.colours(values)
    np.testing.assert_allclose(viz.blend(image, values, Style(alpha=0.6)), expected, atol=1e-12)
    np.testing.assert_allclose(viz.blend(image, values)[0, 0], base[0, 0])
    flat = viz.blend(image, values, Style(alpha=0.5, fade=False))
    np.testing.assert_allclose(flat, 0.5 * base + 0.5 * found.colours(values), atol=1e-12)


def test_a_notebook_shows_figures_without_pyplot():
    figure: Any = viz.overlay(IMAGE, HEATMAP)
    with Image.open(io.BytesIO(figure._repr_png_())) as shown:
        assert shown.size == viz.to_array(figure).shape[1::-1]


def test_blend_shows_the_image_without_its_colours():
    red, green = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    red[..., 0], green[..., 1] = 1, 1
    nothing = np.zeros((2, 2))
    for image, luma in ((red, 0.299), (green, 0.587)):
        out = viz.blend(image, nothing)
        np.testing.assert_allclose(out, 0.12 + 0.76 * luma)


def test_overlay_draws_what_blend_computes():
    drawn = colours_of(viz.overlay(RGB, SIGNED))
    np.testing.assert_allclose(drawn, viz.blend(RGB, SIGNED), atol=BYTE)


def test_the_kind_of_map_follows_its_values():
    assert not scale([HEATMAP]).signed
    assert scale([SIGNED]).signed
    assert not scale([HEATMAP - 1e-9]).signed, "rounding is no evidence"
    assert not scale([SIGNED], signed=False).signed
    assert scale([HEATMAP], signed=True).low == -1
    assert scale([HEATMAP, SIGNED]).signed
    assert scale([HEATMAP], value_range=(-2, 2)).signed
    assert scale([3 * HEATMAP]).high == pytest.approx(3)
    assert (scale([SIGNED]).low, scale([SIGNED]).high) == (-0.5, 0.5)


def test_zero_is_neutral_and_signs_have_their_colours():
    image = np.full((1, 3), 0.5)
    out = viz.blend(image, np.array([[-1.0, 0.0, 1.0]]))[0]
    assert out[0, 2] > out[0, 0]  # blue contradicts
    np.testing.assert_allclose(out[1], 0.5)
    assert out[2, 0] > out[2, 2]  # red supports


def test_jet_is_available():
    default, jet = viz.blend(RGB, HEATMAP), viz.blend(RGB, HEATMAP, Style("jet"))
    assert np.abs(default - jet).max() > 0.2
    assert len(viz.overlay(RGB, HEATMAP, style=Style("jet", fade=False, alpha=0.5)).axes) == 2


def test_value_range_makes_figures_comparable():
    half = viz.blend(RGB, 0.5 * HEATMAP, Style(value_range=(0, 1)))
    whole = viz.blend(RGB, HEATMAP, Style(value_range=(0, 1)))
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
    assert len(edges(np.ones((3, 5), bool))) == 4
    # Every unit edge by brute force, of regions of any form.
    for seed in range(20):
        region = np.random.default_rng(seed).random((5, 7)) < 0.5
        padded = np.pad(region, 1)
        across = {(x, y, 1, 0) for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])}
        along = {(x, y, 0, 1) for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])}
        found = []
        for start, end in edges(region) + 0.5:
            step = np.sign(end - start)
            length = int(np.abs(end - start).sum())
            found += [(*(start + k * step), *step) for k in range(length)]
        assert len(found) == len(set(found))
        assert set(found) == across | along


@pytest.mark.parametrize(
    ("figure", "count"),
    [
        (lambda region: viz.overlay(RGB, HEATMAP, region=region), 1),
        (lambda region: six(region=region), 1),
        (lambda region: four(None, region, (0, 0)), 1),
        (lambda region: viz.montage(RGB, {("a", "c"): SIGNED}, region=region), 2),
        (lambda region: viz.gallery([Row(RGB, [HEATMAP], region=region)], ["c"]), 2),
    ],
)
def test_outline_is_there(figure, count):
    assert len(outlines(figure(REGION))) == 2 * count  # a line and its shadow
    assert len(outlines(figure(REGION.astype(np.float32)))) == 2 * count
    assert not outlines(figure(np.zeros(SHAPE, bool)))
    assert not outlines(figure(None))


def test_notes_stand_in_the_corner_or_in_place_of_a_zero_map():
    cells = {("a", "b"): Noted(SIGNED, "9 % negative"), ("a", "c"): Noted(0 * SIGNED, "nothing")}
    figure = viz.montage(RGB, cells, caption="below")
    assert {"9 % negative", "nothing", "below"} <= set(words_of(figure))
    assert "zero map" not in words_of(figure)


def test_zero_maps_say_so():
    assert "zero map" in words_of(viz.overlay(RGB, 0 * HEATMAP))
    assert "zero map" not in words_of(viz.overlay(RGB, HEATMAP))
    assert words_of(six(raw_map=np.zeros((2, 2)), heatmap=0 * HEATMAP)).count("zero map") == 3
    assert words_of(six(heatmap=Noted(0 * HEATMAP, "no gradient"))).count("no gradient") == 2
    assert words_of(viz.slices(VOLUME, 0 * SALIENCY)).count("zero map") == 3
    assert "zero map" not in words_of(viz.slices(VOLUME, SALIENCY, cut=Cut((0, 0, 0))))


def test_six_panels_are_lettered_and_the_raw_map_is_as_it_is():
    figure = six()
    words = words_of(figure)
    for letter in "abcdef":
        assert sum(text.startswith(f"({letter}) ") for text in words) == 1
    assert "(d) raw map, 3 by 5" in words
    raw = colours_of(figure, axes=3)
    assert raw.shape == (3, 5, 3)
    np.testing.assert_allclose(raw, scale([SIGNED[::4, ::4]]).colours(SIGNED[::4, ::4]), atol=BYTE)
    assert "no ground truth" in words_of(six(truth=None))


def test_legend_names_the_classes_present():
    names = ["road", "car", "person", "sky"]
    words = words_of(six(classes=Classes(names, 1), truth=np.where(REGION, 255, 0)))
    assert {"car (explained)", "person", "road", "ignored"} <= set(words)
    assert "sky" not in words
    alone = words_of(six(classes=Classes(names), truth=np.where(REGION, -1, 0)))
    assert "unknown" in alone
    assert not {"ignored", "not predicted"} & set(alone)
    mixed = np.where(REGION, -1, 0)
    assert "not predicted" in words_of(six(prediction=mixed))
    assert "not predicted, unknown" in words_of(six(prediction=mixed, truth=mixed))
    assert {"class 2", "background"} <= set(words_of(six()))
    assert {"thing", "background"} <= set(words_of(six(classes=Classes({2: "thing"}))))
    assert "class 0" in words_of(six(classes=Classes(background=None)))
    assert "$x_1$" in words_of(six(classes=Classes({2: "$x_1$"})))  # not mathematics


def test_classes_keep_their_colours():
    labels = np.array([[0, 1], [7, 255]])
    colours = label_colours(labels)
    assert len({tuple(colour) for colour in colours.reshape(-1, 3)}) == 4
    np.testing.assert_allclose(colours[1, 0], class_colour(7))
    np.testing.assert_allclose(label_colours(np.array([[7]]), background=7), 0.88)
    many = {class_colour(k, background=None, ignored=None) for k in range(200)}
    assert len(many) == 200


def test_four_panels_mark_the_pixel():
    figure = four(pixel=(5, 8))
    marks = figure.axes[1].lines
    assert marks
    assert {tuple(np.ravel(line.get_xydata())) for line in marks} == {(8, 5)}
    assert "(b) overlay, pixel (5, 8)" in words_of(figure)


def test_montage_shares_one_scale_and_says_what_is_missing():
    maps = {("a", "c"): HEATMAP, ("b", "d"): 0.5 * HEATMAP, ("a", "d"): None}
    figure = viz.montage(IMAGE, maps, title="what")
    words = words_of(figure)
    assert words.count("no map") == 2
    assert words.count("importance") == 1
    assert {"a", "b", "c", "d", "what"} <= set(words)
    faint = colours_of(figure, axes=5)
    expected = viz.blend(IMAGE, 0.5 * HEATMAP, Style(value_range=(0, 1)))
    np.testing.assert_allclose(faint, expected, atol=BYTE)


def test_bias_table_takes_dataclasses_and_says_what_is_missing():
    row = dataclasses.make_dataclass("Row", list(bias_rows()[0]), frozen=True)
    rows = [row(**values) for values in bias_rows()]
    rows[0] = dataclasses.replace(rows[0], biased=np.nan, unbiased=np.nan, digit=np.nan)
    rows[1] = dataclasses.replace(rows[1], biased=np.nan, unbiased=np.nan, digit=np.nan)
    words = words_of(viz.bias_table(rows))
    assert words.count("n/a") == 3
    expected = {"grad_cam", "tap: encoder4", "weights: biased", "striped half", "digit"}
    assert expected <= set(words)
    assert "a map without preference" in words
    assert "a map without preference" not in words_of(viz.bias_table(rows, uniform=None))


def test_bias_table_places_its_dots():
    values = {"biased": 0.7, "unbiased": 0.1, "digit": 0.2}
    row = {"method": "m", "tap": "t", "weights": "w"} | values
    figure = viz.bias_table([row], uniform=None)
    for axes, share in zip(figure.axes, values.values(), strict=True):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [np.ravel(line.get_xydata())[0] for line in dots] == [share]


def test_peaks_say_what_their_dots_and_bars_are():
    """The note was left out, as it is longer than a panel is wide."""
    figure = peak_table({"flair": {"TP": [(1.0, -0.5), (2.0, 0.0)]}, "t1": {"FN": [(1.0, -1.0)]}})
    assert "Dots: each instance's highest and lowest value; bars: medians." in words_of(figure)
    assert {"flair", "t1", "TP\n(2)", "FN\n(1)"} <= set(words_of(figure))


def test_slices_pass_through_the_peak():
    words = words_of(viz.slices(VOLUME, SALIENCY))
    assert {"d = 4", "h = 2", "w = 7"} <= set(words)
    assert {"d = 1", "h = 0", "w = 3"} <= set(
        words_of(viz.slices(VOLUME, SALIENCY, cut=Cut((1, 0, 3))))
    )
    figure = viz.slices(VOLUME[..., None], SALIENCY)
    shapes = [colours_of(figure, axes=k).shape[:2] for k in range(3)]
    assert shapes == [(8, 10), (6, 10), (6, 8)]
    other = SALIENCY * 0 + 0.1
    other[1, 1, 1] = 0.2
    inside = np.zeros(SALIENCY.shape, bool)
    inside[1, 1, 1] = True
    assert "d = 1" in words_of(viz.slices(VOLUME, SALIENCY + other, region=inside))


def test_slices_have_the_proportions_of_their_voxels():
    def aspect(spacing):
        axes = viz.slices(VOLUME, SALIENCY, cut=Cut(spacing=spacing)).axes[1]
        corners = axes.transData.transform([(-0.5, 5.5), (9.5, -0.5)])
        width, height = corners[1] - corners[0]
        return height / width

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
        (lambda: viz.overlay(RGB, HEATMAP, style=Style("infermo")), "matplotlib has inferno"),
        (
            lambda: viz.overlay(RGB, HEATMAP, style=Style(alpha=1.5)),
            r"alpha is 1.5, expected a number in",
        ),
        (lambda: viz.overlay(RGB, HEATMAP, style=Style(value_range=(1, 0))), "low < high"),
        (lambda: viz.overlay(RGB, HEATMAP, style=Style(value_range=THREE)), "low < high"),
        (lambda: viz.overlay(RGB, SIGNED, style=Style(value_range=(-1, 2))), "symmetric|-limit"),
        (lambda: six(truth=LABELS[..., None] == np.arange(3)), "argmax"),
        (lambda: six(prediction=LABELS * 1.0), "class indices, integers"),
        (lambda: six(raw_map=NAN), "raw_map is NaN or infinite in 1 value;"),
        (lambda: Classes(["a", "b"], 2), r"class_names holds 2 names"),
        (lambda: Classes(explained=-1), "class_index is -1"),
        (lambda: four(), "neither region nor pixel"),
        (lambda: four(pixel=(12, 0)), "is outside"),
        (lambda: four(pixel=HALF), "row, column"),
        (lambda: viz.montage(RGB, {}), "no map was given"),
        (
            lambda: viz.montage(RGB, {("a", "c"): NAN}),
            "the map of 'a' at 'c' is NaN or infinite in 1 ",
        ),
        (lambda: viz.gallery([], ["c"]), "at least one row"),
        (lambda: viz.gallery([Row(RGB, [HEATMAP])], ["c", "d"]), "row 1 has 1 map for 2 columns"),
        (lambda: viz.gallery([Row(RGB, [HEATMAP.T])], ["c"]), "the map of row 1 at 'c' has shape"),
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
        (lambda: viz.slices(VOLUME, SALIENCY, cut=Cut((6, 0, 0))), "center .* outside"),
        (lambda: viz.slices(VOLUME, SALIENCY, cut=Cut(spacing=(1, 0, 1))), "three positive"),
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
    path = tmp_path / "x.pdf"
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
    assert wrap(None, 2.0, 10) == ""
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
    figure = instance_portrait(portrait(), limit=1.0)
    letters = [text for axes in figure.axes for text in axes.texts if text.get_text() in "LRAPIS"]
    assert len(letters) == 12
    assert all(letter.get_path_effects() for letter in letters)
    assert {"where", "flair", "prediction", "map", "axial", "coronal", "sagittal"} <= set(
        words_of(figure)
    )
    assert "All figures of the run share" in " ".join(" ".join(words_of(figure)).split())
    # If nobody knows which sides the axes run to, no letter and no plane is named.
    unknown = words_of(instance_portrait(dataclasses.replace(portrait(), sides=False), limit=1.0))
    assert {"across axis 1", "across axis 2", "across axis 3"} <= set(unknown)
    assert not {"axial", *"LRAPIS"} & set(unknown)


def test_portraits_of_thick_slices_are_to_scale_and_framed():
    """Voxels three times as tall as wide: the frame is around the 5 x 3 that are enlarged."""
    thick = dataclasses.replace(portrait(), spacing=(1, 1, 3), extent=5.0)
    whole, part = instance_portrait(thick, limit=1.0).axes[4:6]  # coronal
    (frame,) = (patch for patch in whole.patches if isinstance(patch, Rectangle))
    assert frame.get_bbox().bounds == (1.5, 1.5, 5, 3)
    assert part.images[0].get_extent() == [-0.5, 4.5, 2.5, -0.5]
    width, height = (abs(np.subtract(*ends)) for ends in (part.get_xlim(), part.get_ylim()))
    assert part.get_box_aspect() * width / height == pytest.approx(3)


@pytest.mark.parametrize(("volume", "words"), [(12.566, "12.57"), (114_702.0, "114,700")])
def test_volumes_are_written_out(volume, words):
    instance = Instance(3, "TP", 9, volume, ((0, 1),) * 3, False)
    assert portraits._words(instance) == f"instance 3 (TP), {words} mm³"


def test_an_attribution_of_colours_is_an_image(tmp_path):
    """Ten standard deviations are the whole range, grey the mean."""
    values = np.zeros((4, 5, 3))
    values[0, 0], values[1, 2, 0] = (3, 0, -3), 40
    path = viz.save_colours(values, tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        found = np.asarray(image)
    scaled = 0.5 + 0.1 * (values - values.mean()) / (values.std() + 1e-5)
    np.testing.assert_array_equal(found, (scaled.clip(0, 1) * 255).astype(np.uint8))
    assert found[1, 2].tolist() == [255, *[int(255 * scaled[1, 2, 1])] * 2]
    with pytest.raises(InputError, match="no colours"):
        viz.save_colours(values[..., :1], path)
