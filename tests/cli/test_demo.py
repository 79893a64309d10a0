import csv
import dataclasses

import msgspec
import numpy as np
import pytest
from PIL import Image

import segcam_jax as segcam
from segcam_jax import models, viz
from segcam_jax.cli import main
from segcam_jax.cli.demo import images, page, volume
from segcam_jax.data.samples import lesions as samples, load as load_samples
from segcam_jax.data.samples.lesions import FLAIR_ONLY, LESION, T1_ONLY
from segcam_jax.reports.planted_bias import PLACES, BiasRow, bias_rows, proportion_rows
from segcam_jax.runs import open_store
from segcam_jax.types import InputError
from segcam_jax.viz.slices import marked_slices
from segcam_jax.weights import store
from tests.support import stored_runs

SHAPE = (80, 96, 80)


@pytest.fixture(scope="module")
def case():
    return samples.load()


def test_the_bundled_case_is_small_and_whole(case):
    assert samples.PATH.stat().st_size < 1e6
    assert case.image.shape == (*SHAPE, 2)
    assert case.image.dtype == np.float32
    assert set(np.unique(case.kind)) == {0, LESION, T1_ONLY, FLAIR_ONLY}
    np.testing.assert_array_equal(case.lesions > 0, case.kind == LESION)
    np.testing.assert_array_equal(*np.moveaxis(case.image > 0, -1, 0))
    assert "McGill" in samples.PATH.with_name("NOTICE.md").read_text()


def test_a_case_is_kept_as_it_is_saved(case, tmp_path):
    for name in ("one.npz", "two.npz"):
        samples.save(tmp_path / name, case)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = samples.load(tmp_path / "one.npz")
    for field in dataclasses.fields(case):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(case, field.name))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:1000])
    for name in ("cut.npz", "none.npz"):
        with pytest.raises(InputError, match="lesions_samples"):
            samples.load(tmp_path / name)


def test_the_bundled_weights_say_what_they_reach():
    path = models.path_of("lesions")
    assert path.stat().st_size < 4e6
    about = store.metadata(path)
    assert about["model"] == "monai_unet"
    assert about["modalities"] == ["flair", "t1"]
    assert about["scores"]["mean_dice"] >= 0.7


def test_the_overview_marks_regions(case):
    images = {"FLAIR": np.clip(case.image[..., 0] / 255, 0, 1)}
    regions = {"lesion": ("#00D08A", case.kind == LESION)}
    cut = int((case.kind == LESION).sum((0, 1)).argmax())
    plain, marked = (
        viz.to_array(marked_slices(images, {"lesion": (regions["lesion"][0], where)}, [cut]))
        for where in (np.zeros(SHAPE, bool), regions["lesion"][1])
    )
    assert (plain != marked).any()
    with pytest.raises(InputError, match="at least one"):
        marked_slices(images, regions, [])


# --- the planted bias ------------------------------------------------------------------------


def test_the_bias_is_where_heatmaps_lie(tmp_path):
    """Means and their errors, against loops over rows, places and pixels."""
    stored_runs.write(tmp_path / "run.zarr")
    run = open_store(tmp_path / "run.zarr")
    random = np.random.default_rng(0)
    kinds = {row: random.integers(0, 3, (8, 8)) for row in (0, 1, 2, 6)}
    places = {row: np.stack([kind == k for k in range(3)]) for row, kind in kinds.items()}
    found, rows = bias_rows(run, places), proportion_rows(run, places)
    assert [(row.method, row.tap) for row in found[:2]] == [
        ("grad_cam", "body"),
        ("ablation_cam", "body"),
    ]
    assert {row.weights for row in found} == {"net"}
    for row in found:
        shares, masses = [], []
        for number, where in places.items():
            raw = np.maximum(run.map(number, row.tap, row.method), 0)
            heat = np.asarray(segcam.heatmap(raw, (8, 8)))
            if not heat.any():
                continue
            density = [heat[place].mean() for place in where]
            shares.append([each / sum(density) for each in density])
            masses.append([heat[place].sum() / heat[where.any(0)].sum() for place in where])
        count = len(shares)
        means, errors = np.mean(shares, 0), np.std(shares, 0, ddof=1) / count**0.5
        np.testing.assert_allclose([row.biased, row.unbiased, row.digit], means, rtol=1e-5)
        wanted = [row.biased_error, row.unbiased_error, row.digit_error]
        np.testing.assert_allclose(wanted, errors, rtol=1e-4)
        assert row.preferred == np.mean([one > other for one, other, _ in shares])
        assert (row.samples, row.zero_maps) == (count, 4 - count)
        alike = [each for each in rows if (each["method"], each["tap"]) == (row.method, row.tap)]
        assert [each["image"] for each in alike] == [run.row(n)["item"] for n in places]
        told = [[each[name] for name in PLACES] for each in alike if each["digit"]]
        np.testing.assert_allclose(told, masses, rtol=1e-5)
        told = [[each[f"{name}_per_area"] for name in PLACES] for each in alike if each["digit"]]
        np.testing.assert_allclose(told, shares, rtol=1e-5)
    assert sum(row.zero_maps for row in found) == 1  # All of one map is negative.
    (first, *_) = bias_rows(run, {0: places[0]})
    assert np.isnan(first.biased_error)
    assert np.isfinite(first.biased)
    with pytest.raises(InputError, match="keeps negative values"):
        bias_rows(run, places, profile="signed")
    with pytest.raises(InputError, match="no row was given"):
        bias_rows(run, {})


def bias_row(tap, method, biased, unbiased, error=0.01):
    shares = (biased, unbiased, 1 - biased - unbiased)
    return BiasRow(method, tap, "net", *shares, error, error, error, 1.0, 13, 0)


def test_the_telling_tap_is_where_the_networks_differ_most():
    """A method tells them apart if the biased network leans to the stripes, beyond two errors."""
    biased = [
        bias_row("a", "one", 0.6, 0.2),  # 0.4 beside 0.1: beyond its error of 0.02
        bias_row("a", "two", 0.3, 0.5),  # leans away
        bias_row("b", "one", 0.34, 0.3),
        bias_row("b", "two", 0.34, 0.3, error=0.1),
    ]
    fair = [bias_row(tap, name, 0.35, 0.25) for tap in "ab" for name in ("one", "two")]
    found = images.gaps({images.BIASED: biased, images.UNBIASED: fair})
    assert [tells for _, tells in found["a"]] == [True, False]
    np.testing.assert_allclose([gap for gap, _ in found["a"]], [0.3, -0.3])
    assert [tells for _, tells in found["b"]] == [False, False]
    assert images.telling_tap({images.BIASED: biased[:1], images.UNBIASED: fair[:1]}) == "a"


# --- the page --------------------------------------------------------------------------------


def record(label, group, flair, t1, distance=0.0):
    values = {
        name: {
            "modality": name,
            "peak_positive": peak,
            "peak_negative": -peak / 2,
            "peak_positive_distance_mm": distance,
        }
        for name, peak in (("flair", flair), ("t1", t1))
    }
    about = {"instance": label, "group": group, "voxels": 12, "mean_probability": 0.8}
    files = [f"case/instance-{label:03}/map.nii.gz"]
    return {"instance": about, "maps": [{"modalities": list(values.values())}], "files": files}


def lesions(records):
    return volume.finding(records, 3, {"scores": {"mean_dice": 0.8}})


def words_of(found):
    return " ".join(page.render(found).split())


def test_the_section_on_lesions_tells_what_was_found():
    records = [record(1, "TP", 0.5, 0.1), record(2, "TP", 0.3, 0.4, 2.0), record(3, "FP", 1, 1)]
    text = words_of({"volume": lesions(records)})
    assert "FLAIR does not carry the decision here" in text
    assert "3 lesions were planted; the network marks 3 instances: 2 on a lesion, 1" in text
    assert "In 1 of the 2 instances" in text
    assert "in 1 of them, the peak of the FLAIR map lies" in text
    assert text.count("<figure>") == 2 + 3
    assert "not learned from is 0.80" in text
    assert "Instance 3, 12 voxels: false alarm (FP)." in text  # FP is what its figure says.
    assert "<code>segcam demo</code> with the same" in text
    assert "shortcut shows" not in text
    assert "FLAIR carries the decision" in words_of({"volume": lesions([record(1, "TP", 1, 0.1)])})
    assert "found no lesion" in words_of({"volume": lesions([record(1, "FN", 0.5, 0.1)])})


def shortcut(telling=6):
    return images.Finding(
        tap="encoder4",
        telling={"encoder4": telling, "bottleneck": 1},
        methods=7,
        halves={images.BIASED: ("62 %", "17 %"), images.UNBIASED: ("30 %", "29 %")},
        table=[("biased", "grad_cam", ["64 ± 1 %", "15 ± 1 %", "<b>"])],
        images=13,
        left_out={"unbiased": 2},
        quality={"biased": "0.954"},
        proof={},
        twos=("two-03", "two-07"),
    )


def test_the_section_on_images_tells_whether_the_shortcut_shows():
    text = words_of({"images": shortcut()})
    assert "The shortcut shows.</strong> At the tap <code>encoder4</code>, 6 of 7 methods" in text
    assert "(at <code>bottleneck</code> 1)" in text
    assert "62 % and 17 % of a heatmap, per area" in text
    assert "13 images of a 2 (2 left out for the unbiased network, because" in text
    assert "<td>64 ± 1 %</td>" in text
    assert "± standard error of that mean" in text
    assert "&lt;b&gt;" in text  # Nothing that is told of a run is taken for HTML.
    assert "<b>" not in text
    assert "--item two-03" in text
    assert "replaced" not in text  # Of weights that say nothing of it.
    assert "does not show clearly here" in words_of({"images": shortcut(3)})


def test_one_thing_has_one_word_on_the_page():
    both = {"images": shortcut(), "volume": lesions([record(1, "TP", 1, 0.1)])}
    text = words_of(both)
    for other in ("tile", "saliency", "importance", "adds a section"):
        assert other not in text
    # A word is explained before a section uses it.
    first = text.index('<section id="images">')
    for word in ("Class", "Score", "Tap", "Method", "Map", "Heatmap"):
        assert text.index(f"<dt>{word}</dt>") < first
    assert first < text.index('<section id="volume">')


def test_a_page_keeps_the_section_that_is_there(tmp_path):
    """Each command writes its own section; one of another version is left out."""
    found = {"images": shortcut(), "volume": lesions([record(1, "TP", 1, 0.1)])}
    assert page.findings(tmp_path) == {}
    for name, each in found.items():
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(each))
    assert page.findings(tmp_path) == found
    (tmp_path / "volume.json").write_text('{"planted": 3}')
    assert page.findings(tmp_path) == {"images": found["images"]}


def test_other_peoples_files_stay(tmp_path, capsys):
    (tmp_path / "index.html").write_text("mine")
    for line in ((), ("--volume",)):
        assert main(["demo", *line, "--out", str(tmp_path)]) == 2
        assert "already holds 'index.html'; give another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "digit-3.png").write_text("mine too")
    (tmp_path / "index.html").unlink()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "exists and holds something else" in capsys.readouterr().err
    assert (tmp_path / "images" / "digit-3.png").read_text() == "mine too"


@pytest.mark.slow
def test_the_demo_of_images_runs_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "demo"
    for _ in range(2):
        assert main(["demo", "--out", str(out)]) == 0
    text = (out / "index.html").read_text()
    for part in text.split('src="')[1:]:
        assert (out / part.split('"')[0]).is_file()
    assert "The shortcut shows." in text
    run = open_store(out / images.STORES[0])
    assert len(run.table) == len(images.DIGITS) + images.TWOS
    # The bundled pixels themselves were explained.
    one = run_image(out / "images" / "two-01.png")
    np.testing.assert_array_equal(one, load_samples().biased.image[0, ..., 0])


def run_image(path):
    return np.asarray(Image.open(path), np.float32) / 255


@pytest.mark.slow
def test_the_demo_runs_and_goes_on_where_it_was(tmp_path, capsys):
    pytest.importorskip("nibabel")
    out = tmp_path / "demo"
    for _ in range(2):
        assert main(["demo", "--volume", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    text = (out / "index.html").read_text()
    for part in text.split('src="')[1:]:
        assert (out / part.split('"')[0]).is_file()
    rows = list(csv.DictReader((out / "lesions" / "instances.csv").read_text().splitlines()))
    assert {row["modality"] for row in rows} == {"flair", "t1"}
    assert sum(row["group"] == "TP" for row in rows) >= 8
    volumes = {path.name for path in out.rglob("*.nii.gz")}
    assert {"flair.nii.gz", "probability.nii.gz", "instance_smooth_grad.t1.nii.gz"} <= volumes
