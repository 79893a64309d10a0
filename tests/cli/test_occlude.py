"""`segcam occlude`: images with masks and without, what is gone on with, and what is refused."""

import json

import numpy as np
import polars
import pytest
from flax import nnx
from PIL import Image

from segcam_jax import cli, metrics, viz
from segcam_jax.cli import occlude
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.networks.image_truths import TruthReading
from segcam_jax.reports.occlusion import OccludedImage, write_image
from segcam_jax.types import InputError
from tests.support.drawn import prose_of


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of an odd extent, and masks with the noise of a lossy file."""
    folder = tmp_path_factory.mktemp("peaches")
    (folder / "peaches").mkdir()
    (folder / "masks").mkdir()
    for number in (1, 11):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (15, 16, 3), dtype=np.uint8)
        mask = rng.integers(0, 90, (15, 16), dtype=np.uint8)
        mask[4:12, 2:9] = rng.integers(120, 256, (8, 7))
        Image.fromarray(image).save(folder / "peaches" / f"pesca{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"taglio{number:03d}.png")
    model = UNet(UNetConfig(in_channels=3, classes=2, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(folder / "tiny.safetensors", model, {"classes": ["background", "cut"]})
    return folder


def run(folder, *more, out="out", images="peaches", weights="tiny.safetensors"):
    given = [folder / images, "--weights", folder / weights, "--class", "cut"]
    return cli.main(["occlude", *map(str, (*given, "--out", folder / out, *more))])


def test_images_and_masks_are_studied_and_gone_on_with(folder, capsys, monkeypatch):
    studies = []

    def recorded(split, params, x, truth, **options):
        studies.append(metrics.occlusion_study(split, params, x, truth, **options))
        return check(x, truth) or studies[-1]

    def check(x, truth):
        name = "pesca001", "pesca011"
        path = folder / "peaches" / f"{name[len(studies) - 1]}.png"
        image = np.asarray(Image.open(path), np.float32) / 255
        np.testing.assert_allclose(x, np.pad(image, [(0, 1), (0, 0), (0, 0)], mode="reflect"))
        expected = np.zeros((16, 16), int)
        expected[4:12, 2:9] = 1
        expected[15] = -1  # The padding.
        np.testing.assert_array_equal(truth, expected)

    monkeypatch.setattr(occlude, "occlusion_study", recorded)
    given = ("--truth", folder / "masks", "--truth-threshold", "100", "--shares", "0.5", "1")
    assert run(folder, *given) == 0
    out = folder / "out"
    table = polars.read_csv(out / "occlusion.csv")
    assert len(table) == 2 * 5
    for name, study in zip(("pesca001", "pesca011"), studies, strict=True):
        kind = polars.col("image") == name, polars.col("region") == "background"
        row = table.filter(*kind, polars.col("share") == 0.5).to_dicts()[0]
        chosen = study.chosen("background", 0.5)
        assert len(chosen) == 2
        for read in ("foreground", "background", "dice"):
            expected = getattr(study.together, read)[chosen].mean()
            assert row[f"{read}_fall"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        maps = polars.read_csv(
            out / name / "ablations.csv", schema_overrides={"map": polars.String}
        )
        assert maps["map"].to_list() == ["all", *map(str, study.order)]
        falls = study.falls.foreground[0][study.order]
        np.testing.assert_allclose(maps["foreground_fall"][1:], falls, rtol=1e-4)
        parts = polars.read_csv(
            out / name / "occlusions.csv", schema_overrides={"map": polars.String}
        )
        assert len(parts) == 6 * (1 + len(study.order))
        assert (out / name / "patches.png").stat().st_size > 1000
        assert json.loads((out / name / "record.json").read_text())["image"] == name
    assert "2 images occluded" in capsys.readouterr().out
    assert run(folder, *given) == 0
    assert len(studies) == 2  # They were there already.
    assert polars.read_csv(out / "occlusion.csv").equals(table)


def nothing(*given, **options):
    ones = np.ones((2, 3))
    patches = (metrics.Patch("map", 1.0), metrics.Patch("foreground", 1.0))
    falls = metrics.Quality(ones, ones, ones), metrics.Quality(*ones.T)
    before = metrics.Quality(1.0, np.nan, 0.5)
    return metrics.OcclusionStudy(patches, np.ones((2, 8, 8), bool), before, *falls)


def test_a_mask_of_one_of_three_classes_says_nothing_of_the_others(folder, monkeypatch):
    seen = []

    def recorded(split, params, x, truth, *, background, **options):
        seen.append((set(np.unique(truth).tolist()), background))
        return nothing()

    monkeypatch.setattr(occlude, "occlusion_study", recorded)
    model = UNet(UNetConfig(in_channels=3, classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    names = ["background", "cut", "bruise"]
    save_unet(folder / "three.safetensors", model, {"classes": names})
    given = {"images": "peaches/pesca001.png", "weights": "three.safetensors", "out": "three"}
    line = ("--no-figures", "--truth")
    mask = (folder / "masks" / "taglio001.png", "--truth-threshold", "100")
    assert run(folder, *line, *mask, **given) == 0
    labels = np.zeros((15, 16), np.uint8)
    labels[3:9, 4:9] = 1
    Image.fromarray(labels).save(folder / "labels.png")
    assert run(folder, *line, folder / "labels.png", "--truth-labels", **given) == 0
    # Of a mask the others are none of the classes; of a map of classes the background is known.
    assert seen == [({-1, 1, 3}, None), ({-1, 0, 1}, 0)]


def test_an_image_that_fails_is_told_and_the_others_go_on(folder, capsys, monkeypatch):
    monkeypatch.setattr(occlude, "occlusion_study", nothing)
    masks = folder / "few"
    masks.mkdir()
    half = np.zeros((15, 16), np.uint8)
    half[3:12, 4:12] = 255
    Image.fromarray(half).save(masks / "1.png")
    Image.fromarray(half[:14]).save(masks / "11.png")
    more = ("--truth", masks, "--no-figures")
    assert run(folder, *more, out="partly") == 3
    said = capsys.readouterr()
    assert "extents (14, 16)" in said.err
    assert "1 image occluded" in said.out
    assert not [*(folder / "partly").rglob("*.png")]
    table = polars.read_csv(folder / "partly" / "occlusion.csv")
    assert table["background_after"].to_list() == [None, None]
    assert run(folder, *more, "--on-error", "stop", out="stop") == 2


def test_files_of_an_earlier_study_do_not_stay(folder, monkeypatch):
    monkeypatch.setattr(occlude, "occlusion_study", nothing)
    out = folder / "again"
    given = {"images": "peaches/pesca001.png", "out": "again"}
    more = ("--truth", folder / "masks" / "taglio001.png", "--truth-threshold")
    assert run(folder, *more, "100", **given) == 0
    assert len([*out.rglob("*.png")]) == 3
    (out / "pesca001" / "notes.txt").write_text("mine")
    assert run(folder, *more, "100", "--no-figures", **given) == 0
    assert not [*out.rglob("*.png")]
    assert len([*out.rglob("*.csv")]) == 3
    assert run(folder, *more, "255", **given) == 2
    assert [each.name for each in (out / "pesca001").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("of", "one"), [("logits", "logit"), ("probabilities", "probability")])
def test_figures_say_what_the_output_holds(of, one, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(viz, "save", lambda figure, path: figures.append(figure))
    study = nothing()
    pixels, mask = np.zeros((8, 8, 1)), np.eye(8, dtype=bool)
    found = OccludedImage("pesca001", pixels, mask, (8, 8), "cut", study, of)
    assert write_image(found, tmp_path, {})["outputs"] == of
    said = prose_of(figures[0])
    assert f"mean {of}" in said
    assert f"the {one} falls" in said
    assert ("logit" in said) == (of == "logits")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--truth", "masks/taglio001.png"), "no mask (pesca011.png)"),
        (("--truth", "masks"), "--truth-value"),
        (("--truth-threshold", "100"), "need --truth"),
        (("--truth", "masks", "--truth-labels", "--truth-value", "3"), "leave out"),
        (("--truth", "masks", "--truth-labels"), "no class of the network's 0 to 1"),
        (("--tap", "bottleneck", "encoder1"), "one class and one tap"),
        (("--tap", "bottlenek"), "bottleneck"),
        (("--shares", "0"), "shares"),
        (("--class", "stone"), "one class and one tap"),
    ],
)
def test_what_is_refused_in_a_line(folder, capsys, more, words):
    given = [str(folder / each) if each.startswith("masks") else each for each in more]
    assert run(folder, *given, "--on-error", "stop", out="none") == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not (folder / "none").exists()


def test_a_truth_is_read_in_one_way():
    with pytest.raises(InputError, match="give one of"):
        TruthReading(threshold=3, value=2)
