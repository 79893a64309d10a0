"""`segcam occlude`: images with masks and without, what resumes, and what is refused."""

import dataclasses
import functools

import numpy as np
import polars
import pytest
from flax import nnx
from PIL import Image

from segcam_jax import cli, metrics, viz
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.networks.image_truths import TruthReading
from segcam_jax.networks.open import open_network
from segcam_jax.runs import job, occlusion, open_store
from segcam_jax.types import InputError
from tests.support.drawn import prose_of

_OPENED = functools.cache(open_network)


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)
    monkeypatch.setattr(job, "open_network", _OPENED)


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


def test_images_and_masks_are_studied_and_resume(folder, capsys, monkeypatch):
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

    monkeypatch.setattr(occlusion, "occlusion_study", recorded)
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
    assert "2 images occluded" in capsys.readouterr().out
    assert run(folder, *given) == 0
    assert len(studies) == 2  # They were there already.
    assert polars.read_csv(out / "occlusion.csv").equals(table)


def predict(monkeypatch, logits):
    def predicted(forward, params, batch, **options):
        return np.stack([logits] * len(batch))

    monkeypatch.setattr("segcam_jax.engine.predict_together", predicted)


def nothing(*given, shares, places, occluded, **options):
    patches = metrics.occlusion.patches_of(shares, places, occluded)
    count, ones = len(patches), np.ones((len(patches), 3))
    falls = metrics.Quality(ones, ones, ones), metrics.Quality(*np.ones((3, count)))
    before = metrics.Quality(1.0, np.nan, 0.5)
    return metrics.OcclusionStudy(patches, np.ones((count, 8, 8), bool), before, *falls)


def test_a_mask_of_one_of_three_classes_says_nothing_of_the_others(folder, monkeypatch):
    seen, truths = [], []

    def recorded(split, params, x, truth, *, background, **options):
        truths.append(truth)
        seen.append((set(np.unique(truth).tolist()), background))
        return nothing(**options)

    monkeypatch.setattr(occlusion, "occlusion_study", recorded)
    model = UNet(UNetConfig(in_channels=3, classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    names = ["background", "cut", "bruise"]
    save_unet(folder / "three.safetensors", model, {"classes": names})
    given = {"images": "peaches/pesca001.png", "weights": "three.safetensors"}
    line = ("--no-figures", "--truth")
    mask = (folder / "masks" / "taglio001.png", "--truth-threshold", "100")
    assert run(folder, *line, *mask, **given, out="three-mask") == 0
    labels = np.zeros((15, 16), np.uint8)
    labels[3:9, 4:9] = 1
    Image.fromarray(labels).save(folder / "labels.png")
    assert (
        run(folder, *line, folder / "labels.png", "--truth-labels", **given, out="three-map") == 0
    )
    # Classes that overlap in the prediction: the foreground is where its own class is predicted.
    logits = np.full((16, 16, 3), -1.0, np.float32)
    logits[..., 0] = 1
    logits[3:9, 4:9, 1] = 0.5
    predict(monkeypatch, logits)
    assert run(folder, "--no-figures", "--multi-label", **given, out="three-label") == 0
    # Of a mask the others are none of the classes; of a map of classes the background is known.
    assert seen == [({-1, 1, 3}, None), ({-1, 0, 1}, 0), ({-1, 1, 3}, None)]
    assert truths[-1][:15].tolist() == np.where(logits[:15, :, 1] > 0, 1, 3).tolist()


def test_outside_of_the_only_class_is_not_that_class(folder, capsys, monkeypatch):
    """Of a sigmoid a mask and a map of 0 and 1 say the same: the class is number 0 inside."""
    truths, studies = [], []

    def recorded(split, params, x, truth, **options):
        truths.append(truth)
        if not studies:
            studies.append(metrics.occlusion_study(split, params, x, truth, **options))
        return studies[0]

    monkeypatch.setattr(occlusion, "occlusion_study", recorded)
    model = UNet(UNetConfig(in_channels=3, classes=1, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(folder / "one.safetensors", model, {"classes": ["cut"]})
    inside = np.zeros((15, 16), np.uint8)
    inside[4:12, 2:9] = 1
    for name, values in {"mask": 200 * inside, "map": inside, "three": 3 * inside}.items():
        Image.fromarray(values).save(folder / f"one-{name}.png")
    unknown = np.where(np.arange(16) == 15, 255, inside).astype(np.uint8)
    Image.fromarray(unknown).save(folder / "one-unknown.png")
    given = {"images": "peaches/pesca001.png", "weights": "one.safetensors"}
    for name, *more in (("mask",), ("map", "--truth-labels"), ("unknown", "--truth-labels")):
        line = ("--no-figures", "--shares", "1", "--truth", folder / f"one-{name}.png", *more)
        assert run(folder, *line, **given, out=f"one-{name}") == 0
    expected = np.full((16, 16), -1)  # The padding, the last row.
    expected[:15] = 1 - inside
    for truth in truths[:2]:
        np.testing.assert_array_equal(truth, expected)
    expected[:, 15] = -1
    np.testing.assert_array_equal(truths[2], expected)
    (study,) = studies
    assert [each.region for each in study.patches] == ["map", "foreground", "background"]
    mean = [float(getattr(study.before, side)) for side in ("foreground", "background")]
    table = polars.read_csv(folder / "one-mask" / "occlusion.csv")
    assert table["foreground"][0] == pytest.approx(mean[0], rel=1e-5)
    assert table["background"][0] == pytest.approx(mean[1], rel=1e-5)
    line = ("--no-figures", "--truth", folder / "one-three.png", "--truth-labels")
    assert run(folder, *line, **given, out="three-none") == 2
    assert "the value 3, neither outside nor inside, 0 to 1" in capsys.readouterr().err
    # Another threshold is another study: more is predicted, and read of each occlusion.
    logits = np.linspace(-2, 2, 16 * 16, dtype=np.float32).reshape(16, 16, 1)
    predict(monkeypatch, logits)
    for threshold in ("0.5", "0.3", "0.3"):
        line = ("--no-figures", "--shares", "1", "--threshold", threshold)
        assert run(folder, *line, **given, out=f"threshold{threshold}") == 0
    first, second = truths[-2:]
    assert (first == 0).sum() == 240 - 128
    assert (second == 0).sum() == (logits[:15] > np.log(0.3 / 0.7)).sum() > (first == 0).sum()
    assert len(truths) == 3 + 2


def test_names_of_classes_that_were_mended_are_another_study(folder, monkeypatch):
    """With them in another order, a name means another class."""
    seen = []

    def recorded(*given, class_index, background, **options):
        seen.append((class_index, background))
        return nothing(**options)

    monkeypatch.setattr(occlusion, "occlusion_study", recorded)
    given = {"images": "peaches/pesca001.png"}
    mask = ("--truth", folder / "masks" / "taglio001.png", "--truth-threshold", "100")
    for names in (("background", "cut"), ("cut", "background"), ("cut", "background")):
        (folder / f"{names[0]}.txt").write_text("\n".join(names))
        line = (*mask, "--no-figures", "--labels", folder / f"{names[0]}.txt")
        assert run(folder, *line, **given, out=f"of-{names[0]}") == 0
        # How images would be brought to a size is the same, whether it is said or not.
        assert run(folder, *line, "--fit", "crop", **given, out=f"of-{names[0]}") == 0
    assert seen == [(1, 0), (0, 1)]


def test_an_image_that_fails_is_told_and_the_others_go_on(folder, capsys, monkeypatch):
    monkeypatch.setattr(occlusion, "occlusion_study", nothing)
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
    assert table["background_after"].null_count() == len(table) == 9
    assert run(folder, *more, "--on-error", "stop", out="stop") == 2


def test_figures_are_drawn_again_from_the_run_and_files_follow_it(folder, capsys, monkeypatch):
    """No network runs again; another study is refused, and replaces the files where it may."""
    monkeypatch.setattr(occlusion, "occlusion_study", nothing)
    out = folder / "again"
    given = {"images": "peaches/pesca001.png", "out": "again"}
    more = ("--truth", folder / "masks" / "taglio001.png", "--truth-threshold")
    assert run(folder, *more, "100", "--no-figures", **given) == 0
    assert not [*out.rglob("*.png")]
    (out / "pesca001" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(occlusion, "occlusion_study", None)
        assert run(folder, *more, "100", **given) == 0
        assert len([*out.rglob("*.png")]) == 3
        (out / "pesca001" / "ablations.csv").unlink()
        assert run(folder, *more, "100", **given) == 0
    assert len([*out.rglob("*.csv")]) == 3
    table = (out / "occlusion.csv").read_bytes()
    assert run(folder, *more, "255", **given) == 2
    assert "holds another run: the option 'truth_threshold'" in capsys.readouterr().err
    assert (out / "occlusion.csv").read_bytes() == table
    assert run(folder, *more, "255", "--overwrite", **given) == 3  # Nothing is inside.
    assert "nothing to occlude" in capsys.readouterr().err
    left = {each.name for each in out.rglob("*") if each.suffix in (".csv", ".png", ".txt")}
    assert left == {"notes.txt"}
    assert open_store(out).table["error"].null_count() == 0


def test_an_image_that_cannot_be_read_loses_its_files(folder, capsys, monkeypatch):
    monkeypatch.setattr(occlusion, "occlusion_study", nothing)
    images = folder / "some"
    images.mkdir()
    for number, height in ((1, 15), (11, 9)):
        with Image.open(folder / "peaches" / f"pesca{number:03d}.png") as image:
            image.crop((0, 0, 16, height)).save(images / f"pesca{number:03d}.png")
    more, logits = ("--no-figures",), np.zeros((16, 16, 2), np.float32)
    logits[4:9, 4:9, 1] = 1

    def predicted(forward, params, batch, **options):
        return np.stack([logits[: batch.shape[1]]] * len(batch))

    monkeypatch.setattr("segcam_jax.engine.predict_together", predicted)
    given = {"images": "some", "out": "known"}
    assert run(folder, *more, **given) == 0
    (images / "pesca001.png").write_bytes(b"no image")
    assert run(folder, *more, "--on-error", "stop", **given) == 2
    assert run(folder, *more, **given) == 3
    assert "1 image occluded" in capsys.readouterr().out
    assert not (folder / "known" / "pesca001").exists()
    assert (
        polars.read_csv(folder / "known" / "occlusion.csv")["image"].unique().item() == "pesca011"
    )


@pytest.mark.parametrize("side", ["foreground", "background"])
def test_a_mean_that_is_infinite_is_refused_in_a_line(folder, capsys, monkeypatch, side):
    def ruled_out(*given, **options):
        study = nothing(**options)
        before = metrics.Quality(**{**vars(study.before), side: -np.inf})
        return dataclasses.replace(study, before=before)

    monkeypatch.setattr(occlusion, "occlusion_study", ruled_out)
    more = ("--truth", folder / "masks" / "taglio001.png", "--truth-threshold", "100")
    given = {"images": "peaches/pesca001.png", "out": "infinite"}
    assert run(folder, *more, "--no-figures", "--on-error", "stop", **given) == 2
    said = capsys.readouterr().err
    assert f"the output for the {side} is -inf" in said
    assert len(said.strip().splitlines()) == 1
    assert not [*(folder / "infinite").rglob("*.csv")]


def test_files_of_others_stay_and_an_interrupted_study_goes_on(folder, capsys, monkeypatch):
    monkeypatch.setattr(occlusion, "occlusion_study", nothing)
    given = ("--truth", folder / "masks", "--truth-threshold", "100")
    out = folder / "shared"
    (out / "pesca001").mkdir(parents=True)
    theirs = [out / "occlusion.csv", out / "pesca001" / "occlusion.png"]
    for file in theirs:
        file.write_text("theirs")
        assert run(folder, *given, out="shared") == 2
        assert f"already holds '{file.relative_to(out)}'" in capsys.readouterr().err
        assert file.read_text() == "theirs"
        file.unlink()
    (out / "pesca011").write_text("theirs")
    assert run(folder, *given, "--overwrite", out="shared") == 2
    assert "is a file" in capsys.readouterr().err
    (out / "pesca011").unlink()

    def stopped(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(viz, "save", stopped)
        assert run(folder, *given, out="shared") == 130
    monkeypatch.setattr(occlusion, "occlusion_study", None)
    assert run(folder, *given, out="shared") == 0
    assert len([*out.rglob("*.csv")]) == 5
    assert len([*out.rglob("*.png")]) == 5


@pytest.mark.parametrize(("of", "one"), [("logits", "logit"), ("probabilities", "probability")])
def test_figures_say_what_the_output_holds(of, one, folder, monkeypatch):
    figures = []
    monkeypatch.setattr(occlusion, "occlusion_study", nothing)
    monkeypatch.setattr(viz, "save", lambda figure, path, **more: figures.append(figure))
    logits = np.zeros((16, 16, 2), np.float32) + np.float32(0.5)
    logits[4:9, 4:9] = 0.25, 0.75
    predict(monkeypatch, logits)
    given = {"images": "peaches/pesca001.png", "out": f"of-{of}"}
    assert run(folder, "--outputs", of, **given) == 0
    said = prose_of(figures[0])
    assert f"maps occluded: {of}" in said
    assert f"mean {one}" in said
    assert f"the {one} falls" in said
    assert ("logit" in said) == (of == "logits")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--truth", "masks/taglio001.png"), "no mask (pesca011.png)"),
        (("--truth", "masks", "--on-error", "stop"), "--truth-value"),
        (("--truth-threshold", "100"), "need --truth"),
        (("--truth", "masks", "--truth-labels", "--truth-value", "3"), "leave out"),
        (("--truth", "masks", "--truth-labels", "--on-error", "stop"), "no class of the network's"),
        (("--tap", "bottleneck", "encoder1"), "one class and one tap"),
        (("--tap", "bottlenek"), "bottleneck"),
        (("--tap", "conv:0"), "convolutions; name a tap"),
        (("--shares", "0"), "shares"),
        (("--shares", "2"), "shares"),
        (("--places", "0"), "places=0"),
        (("--occluded", "x"), "occluded"),
        (("--value", "nan"), "value=nan"),
        (("--memory-limit", "nonsense"), "--memory-limit"),
        (("--class", "stone"), "one class and one tap"),
    ],
)
def test_what_is_refused_in_a_line_before_an_image_is_seen(
    folder, capsys, more, words, monkeypatch
):
    given = [str(folder / each) if each.startswith("masks") else each for each in more]
    if "--on-error" not in more:
        monkeypatch.setattr("segcam_jax.engine.predict_together", None)
    assert run(folder, *given, out="none") == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not (folder / "none").exists()


def test_a_truth_is_read_in_one_way():
    with pytest.raises(InputError, match="give one of"):
        TruthReading(threshold=3, value=2)
