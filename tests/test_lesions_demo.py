import csv
import dataclasses

import numpy as np
import pytest

from segcam_jax import models, viz
from segcam_jax.cli import main, page_volume
from segcam_jax.data.samples import lesions as samples
from segcam_jax.data.samples.lesions import FLAIR_ONLY, LESION, T1_ONLY
from segcam_jax.types import InputError
from segcam_jax.viz.planted import marked_slices
from segcam_jax.weights import store

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
    return {"instance": about, "maps": [{"modalities": list(values.values())}]}


def page(records):
    return page_volume.render(
        page_volume.Facts(
            records=records,
            planted=3,
            figures=[f"results/{n}.png" for n in range(len(records))],
            peaks="results/peaks.png",
            metadata={"scores": {"mean_dice": 0.8}},
            samples=10,
            fewest=3,
            seconds=1.0,
        )
    )


def test_the_page_tells_what_was_found():
    text = page([record(1, "TP", 0.5, 0.1), record(2, "TP", 0.3, 0.4, 2.0), record(3, "FP", 1, 1)])
    assert "FLAIR does not carry the decision here" in text
    assert "3 lesions were planted; the network marks 3 instances: 2 on a lesion, 1" in text
    assert "In 1 of the 2 instances" in text
    assert "in 1 of them, the peak of the FLAIR map lies" in text
    assert text.count("<figure>") == 2 + 3
    assert "0.80" in text
    assert "FLAIR carries the decision" in page([record(1, "TP", 0.5, 0.1)])
    assert "found no lesion" in page([record(1, "FN", 0.5, 0.1)])


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
    rows = list(csv.DictReader((out / "results" / "instances.csv").read_text().splitlines()))
    assert {row["modality"] for row in rows} == {"flair", "t1"}
    assert sum(row["group"] == "TP" for row in rows) >= 8
    volumes = {path.name for path in out.rglob("*.nii.gz")}
    assert {"flair.nii.gz", "probability.nii.gz", "instance_smooth_grad.t1.nii.gz"} <= volumes
