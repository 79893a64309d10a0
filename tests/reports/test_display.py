"""What figures of commands show of maps that ReLU would hide, and of zero maps."""

import re

import numpy as np
import pytest

import segcam_jax
from segcam_jax import cli, viz
from segcam_jax.heatmap import hidden_share, over_image
from segcam_jax.reports import display
from segcam_jax.reports.display import Display
from tests.support import own_networks
from tests.support.drawn import prose_of
from tests.support.explained import rows_of

# What was drawn as one bright dot of importance 1.
DOT = np.full((4, 4), -0.92, np.float32)
DOT[1, 2] = 0.02
OWN = own_networks.__file__
EVEN = {"padded": (8, 8), "extent": (8, 8)}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture
def image(tmp_path):
    """Grey, and brighter downwards."""
    path = tmp_path / "image.npy"
    np.save(path, np.linspace(0.2, 0.8, 64, dtype=np.float32).reshape(8, 8))
    return path


@pytest.fixture
def drawn(monkeypatch):
    """All that the figures of a command say, by file, instead of the files."""
    said = {}

    def keep(figure, path, mark=None):
        said[path.name] = prose_of(figure)
        path.write_bytes(b"a figure")

    monkeypatch.setattr(viz, "save", keep)
    return said


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def shown(raw, method="grad_cam", profile=display.AUTO, **options):
    hidden = hidden_share(raw)
    signed = display.is_signed(profile, [(method, hidden)])
    return display.display(raw, method, profile=profile, signed=signed, **{**EVEN, **options})


def test_the_share_that_relu_hides():
    assert hidden_share(DOT) == pytest.approx(15 * 0.92 / (15 * 0.92 + 0.02))
    assert hidden_share(-DOT) == pytest.approx(0.02 / (15 * 0.92 + 0.02))
    assert hidden_share(np.array([3.0, -1.0, 0.0])) == 0.25
    assert hidden_share(np.zeros((2, 2))) == 0
    # Cells of padding, at the bottom and the right, do not count.
    padded = np.array([[1.0, -9.0], [-9.0, -9.0]])
    assert hidden_share(over_image(padded, (4, 4), (8, 8))) == 0
    assert over_image(padded, (5, 4), (8, 8)).shape == (2, 1)


def test_a_map_of_negative_evidence_is_drawn_with_its_sign():
    found = shown(DOT, padded=(4, 4), extent=(4, 4))
    assert (found.profile, found.zero) == ("signed", "")
    np.testing.assert_allclose(found.heat, DOT / 0.92, rtol=1e-6)  # The dot was 1.
    assert found.hidden == pytest.approx(0.99855, abs=1e-5)
    assert "ReLU would hide > 99 % of this map" in found.caption("cat", display.AUTO)
    assert "(profile signed: " in found.caption("cat", display.AUTO)
    every = shown(-np.ones((4, 4), np.float32))
    assert every.profile == "signed"
    assert every.heat.max() < 0
    assert "all of it speaks against cat" in every.caption("cat", display.AUTO)


@pytest.mark.parametrize(
    ("raw", "method", "profile", "expected"),
    [
        (-DOT, "grad_cam", display.AUTO, "segcam_jax"),
        (np.array([[1.0, -1.0], [0.5, -0.5]]), "eigen_grad_cam", display.AUTO, "segcam_jax"),
        (DOT, "eigen_cam", display.AUTO, "segcam_jax"),  # Against nothing: it knows no class.
        (DOT, "ablation_cam", display.AUTO, "signed"),
        (DOT, "grad_cam", "segcam_jax", "segcam_jax"),
        (DOT, "grad_cam", "pytorch_grad_cam", "pytorch_grad_cam"),
    ],
)
def test_all_others_are_drawn_by_the_profile(raw, method, profile, expected):
    raw = raw.astype(np.float32)
    found = shown(raw, method, profile)
    assert found.profile == expected
    heat = segcam_jax.heatmap(raw, (8, 8), expected)
    np.testing.assert_allclose(found.heat, heat, atol=1e-6)
    assert f"profile {expected}:" in found.caption("cat", profile)


def test_a_profile_asked_for_says_what_it_hides():
    words = shown(DOT, profile="seg_grad_cam").caption("cat", "seg_grad_cam")
    assert "ReLU hides > 99 % of the map, which speaks against cat" in words
    assert "hides" not in shown(DOT, profile="raw").caption("cat", "raw")
    assert "does not use the class" in shown(DOT, "eigen_cam").caption("cat", display.AUTO)


def test_maps_of_one_figure_are_drawn_alike():
    hidden = [("grad_cam", 0.1), ("ablation_cam", 0.6), ("eigen_cam", 0.5)]
    assert display.is_signed(display.AUTO, hidden)
    assert not display.is_signed(display.AUTO, [hidden[0], hidden[2]])
    assert not display.is_signed("segcam_jax", hidden)
    one = np.zeros((2, 2))
    maps = [Display(method, one, "signed", share) for method, share in hidden[:2]]
    maps.append(Display("eigen_cam", one, "segcam_jax", 0.5))
    words = display.in_words(maps, chosen=display.AUTO, signed=True)
    assert "up to 60 % of a map" in words
    assert "Eigen-CAM: profile segcam_jax" in words
    assert [each.note for each in maps] == ["10 % negative", "60 % negative", ""]
    plain = display.in_words(
        [Display("grad_cam", one, "segcam_jax", 0.1)], chosen="auto", signed=False
    )
    assert plain == "Drawn with the profile segcam_jax: ReLU hides up to 10 % of a map."


@pytest.mark.parametrize(
    ("raw", "method", "weights", "why"),
    [
        (np.zeros((2, 2)), "grad_cam", np.zeros(3), "no gradient reaches this tap"),
        (np.zeros((2, 2)), "grad_cam", np.ones(3), "the activation is zero"),
        (np.zeros((2, 2)), "hires_cam", None, "no gradient reaches this tap, or its activation"),
        (np.zeros((2, 2)), "layer_cam", None, "no positive gradient reaches this tap"),
        (np.zeros((2, 2)), "ablation_cam", np.zeros(3), "no ablation at this tap changes"),
        (np.zeros((2, 2)), "eigen_cam", None, "the activation is zero, or the same everywhere"),
        (-np.ones((2, 2)), "grad_cam", np.ones(3), "no evidence is positive"),
    ],
)
def test_zero_maps_say_why(raw, method, weights, why):
    found = shown(raw.astype(np.float32), method, "segcam_jax", weights=weights)
    assert why in found.zero == found.note


def test_figures_say_whether_the_explained_pixels_are_predicted_so(image, tmp_path, drawn):
    line = ("explain", image, "--weights", f"{OWN}:falling", "--tap", "hidden", "--class", 0)
    line = (*line, "--method", "grad_cam", "--reduce", "mean", "--of", "probabilities")
    line = (*line, "--outputs", "logits")
    assert run(*line, "--region", "pixel:3,5", "--out", tmp_path / "out") == 0
    said = "the mean of the probabilities of class 0 by own_networks-falling over 1 pixel "
    for words in drawn.values():
        assert said + "(pixel:3,5), 0 of which are predicted as it" in words


@pytest.mark.parametrize("network", ["falling", "fixed"])
def test_explain_draws_and_records_it(image, tmp_path, drawn, capsys, network):
    out = tmp_path / "out"
    line = ("explain", image, "--weights", f"{OWN}:{network}", "--tap", "hidden")
    line = (*line, "--outputs", "logits")
    assert run(*line, "--method", "grad_cam", "eigen_cam", "--out", out) == 0
    (row,) = rows_of(out)
    table = " ".join(capsys.readouterr().out.split())
    figure, montage = drawn["grad_cam.hidden.png"], drawn["montage.png"]
    assert "Explained: the sum of the logits of class 1 by " in figure
    assert "over the 64 pixels predicted as it" in figure
    assert "Grad-CAM at hidden" in figure
    if network == "falling":
        assert row["grad_cam.hidden.negative"] == 1
        assert np.load(out / "image/grad_cam.hidden.npy").max() < 0  # The file stays raw.
        assert re.search(r"grad_cam │ hidden │ \S+ │ \S+ │ 100 % │ signed ", table)
        assert re.search(r"eigen_cam │ hidden │ \S+ │ \S+ │ \S+ % │ segcam_jax ", table)
        assert "profile signed" in montage
        assert "profile segcam_jax; the class does not change the map" in montage
        assert "ReLU would hide 100 % of this map: all of it speaks against class 1" in figure
        assert "100 % negative" in montage
        assert "zero map" not in figure + montage
    else:
        assert row["grad_cam.hidden.negative"] == 0
        assert "zero map: no gradient reaches this tap" in table
        assert figure.count("no gradient reaches") == 3
        assert "no gradient reaches" in montage


def test_a_gallery_draws_and_lists_it(image, tmp_path, drawn):
    out = tmp_path / "out"
    line = ("gallery", image, "--weights", f"{OWN}:falling", "--tap", "hidden", "--out", out)
    assert run(*line, "--outputs", "logits", "--method", "grad_cam", "eigen_cam") == 0
    (words,) = drawn.values()
    assert "100 % negative" in words
    assert "Explained: logits, summed over the outlined pixels." in words
    assert "drawn with their sign" in words
    (kept,) = out.rglob("*.npz")
    with np.load(kept) as stored:
        assert stored["grad_cam"].max() < 0  # The file stays raw.
    (row,) = rows_of(out / "own_networks-falling.zarr")
    assert row["grad_cam.hidden.negative"] == 1


def test_a_class_that_the_network_rules_out(image, tmp_path, capsys):
    line = ("explain", image, "--weights", f"{OWN}:ruling_out", "--tap", "hidden")
    line = (*line, "--method", "grad_cam")
    assert run(*line, "--class", 1, "--out", tmp_path / "out") == 0
    (row,) = rows_of(tmp_path / "out")
    assert row["class_index"] == 1
    assert "zero map" not in capsys.readouterr().out
    assert run(*line, "--class", 2, "--region", "all", "--out", tmp_path / "none") == 3
    said = capsys.readouterr().err
    assert "class '2' is at -inf at 64 of the 64 explained pixels: the network rules it" in said


@pytest.mark.parametrize("command", ["explain", "gallery"])
def test_a_class_that_a_classifier_rules_out(image, tmp_path, capsys, command):
    line = (command, image, "--weights", f"{OWN}:ruling_out_images", "--size", 16)
    line = (*line, "--tap", "hidden", "--method", "grad_cam", "--out", tmp_path / command)
    assert run(*line, "--class", 2) == 3
    assert "the network rules" in capsys.readouterr().err
    assert run(*line, "--overwrite") == 0  # Class 1, of which nothing is wrong.
