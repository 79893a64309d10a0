"""The frame that a network was trained on: scans brought to it and back, whatever their storage."""

import csv
import itertools
import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from segcam_jax import InputError, cli, models
from segcam_jax.cli import cache
from segcam_jax.data import nifti, scans, volume as volumes
from segcam_jax.data.frames import Frame
from segcam_jax.data.preparation import CropToNonzero, Exchange, Orient
from segcam_jax.metrics import lesion_scores
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNet, MonaiUNetConfig
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.outputs import Meaning
from segcam_jax.reports import instances as report
from segcam_jax.volumes import SegmentOptions, read_input, segmentation
from segcam_jax.volumes.scan_inputs import frame_notes

SHAPE = (12, 10, 8)
STORAGES = ("RAS", "LPS", "ASR", "PIR")
# About 20 degrees off the patient's axes; voxels of 2 x 2 x 3 mm.
TURN = np.array([[0.94, -0.34, 0.02], [0.34, 0.94, -0.05], [0.0, 0.05, 1.0]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN / np.linalg.norm(TURN, axis=0) * [2, 2, 3]
AFFINE[:3, 3] = [-9, 4, 30]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr(cache, "enable", lambda: None)


def stored_as(image, codes):
    """An image with its axes in another order, by nibabel."""
    there = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(there)


def patient():
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units("mm")
    return image


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def network(path, **metadata):
    """A 3D network of random weights: it tells every orientation from every other."""
    config = MonaiUNetConfig(in_channels=1, channels=(2, 4), strides=(2,), norm="instance")
    model = MonaiUNet(config, rngs=nnx.Rngs(1))
    stored.save(path, "monai_unet", model, {"classes": ["none", "lesion"], **metadata})
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_a_turn_is_nibabels():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 4, 5))
    every = itertools.permutations(("LR", "PA", "IS"))
    codes = ["".join(each) for ends in every for each in itertools.product(*ends)]
    assert len(set(codes)) == 48
    for _ in range(3):
        affine = np.eye(4)
        sheared = np.linalg.qr(rng.normal(size=(3, 3)))[0] + 0.05 * rng.normal(size=(3, 3))
        affine[:3, :3], affine[:3, 3] = sheared * rng.uniform(0.3, 4, 3), rng.normal(size=3)
        image = nibabel.Nifti1Image(values, affine)
        assert volumes.orientation(affine) == "".join(nibabel.aff2axcodes(affine))
        for letters in codes:
            turn, right = volumes.turn_to(affine, letters), stored_as(image, letters)
            np.testing.assert_array_equal(turn.of(values), right.get_fdata())
            np.testing.assert_allclose(turn.affine(affine, values.shape), right.affine, atol=1e-12)
            np.testing.assert_array_equal(turn.back.of(turn.of(values)), values)
            assert turn.of(values)[turn.index((1, 2, 3), values.shape)] == values[1, 2, 3]


def test_all_storages_of_a_patient_are_one_scan(tmp_path):
    image = patient()
    for codes in (*STORAGES, "LIA"):
        path = save(stored_as(image, codes), tmp_path / f"{codes}.nii.gz")
        scan = scans.read_scan([path], frame=Frame("RAS"))
        np.testing.assert_array_equal(scan.values[..., 0], image.get_fdata(dtype=np.float32))
        np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-5)
        back = scan.restored(scan.values[..., 0])
        np.testing.assert_array_equal(back, nibabel.load(path).get_fdata(dtype=np.float32))
        assert bool(scan.notes) == (codes != "RAS")
        as_is = scans.read_scan([path])
        np.testing.assert_array_equal(as_is.values[..., 0], back)
        assert as_is.notes == ()


def test_a_file_that_does_not_say_how_it_lies_stays_and_is_noted(tmp_path):
    image = patient()
    image.set_sform(AFFINE, 0)
    image.set_qform(AFFINE, 0)
    scan = scans.read_scan([save(image, tmp_path / "a.nii")], frame=Frame("LPS"))
    np.testing.assert_array_equal(scan.values[..., 0], image.get_fdata(dtype=np.float32))
    assert any("its axes are assumed to be LPS" in note for note in scan.notes)
    # Figures name the sides by that, too, and what is written has the file's header.
    for done in (scan, Orient("LPS")(scans.read_scan([scan.file.path]))):
        assert done.grid.oriented
        assert not done.file.oriented
        assert not done.resampled
        np.testing.assert_allclose(done.grid.affine[:3, :3], np.diag([-2, -2, 3]), atol=1e-5)
        turned = volumes.canonical(done.values, done.grid.affine)
        np.testing.assert_array_equal(turned, done.values[::-1, ::-1])
        back = nifti.write_map(
            tmp_path / "b.nii", done.restored(done.values[..., 0]), like=done.file
        )
        np.testing.assert_array_equal(nibabel.load(back).get_fdata(), image.get_fdata())
        assert nibabel.load(back).header["sform_code"] == 0
    again = Orient("RAS")(Orient("LPS")(scans.read_scan([scan.file.path])))
    np.testing.assert_array_equal(again.values, turned)


@pytest.mark.parametrize("letters", ["RAS", "LAS", "PIR"])
def test_a_truth_with_the_affine_of_a_scan_that_does_not_say_how_it_lies(tmp_path, letters):
    """nibabel writes an image with such an affine as if it were one that is known."""
    image = patient()
    for form in (image.set_sform, image.set_qform):
        form(None, 0)
    path = save(image, tmp_path / "a.nii")
    mask = np.zeros(image.shape, np.uint8)
    mask[1, 2, 3] = 1
    truth = save(nibabel.Nifti1Image(mask, nibabel.load(path).affine), tmp_path / "truth.nii")
    assert nibabel.load(truth).header["sform_code"] > 0
    scan = scans.read_scan([path], frame=Frame(letters))
    for resample in (False, True):
        found = scans.read_labels(truth, scan.file, resample=resample)
        np.testing.assert_array_equal(scan.framed(found.values, nearest=True), mask)
    scans.check_grids(scans.ScanFiles("a", (path,), truth))
    other = nibabel.Nifti1Image(mask[:-1], nibabel.load(path).affine)
    with pytest.raises(InputError, match=r"\d x \d+ x \d+ voxels\) lies on .* one grid"):
        scans.read_labels(save(other, tmp_path / "other.nii"), scan.file)


def test_files_that_do_not_say_how_they_lie_share_a_grid_by_their_voxels_alone(tmp_path):
    image = patient()
    known = save(image, tmp_path / "known.nii")
    for form in (image.set_sform, image.set_qform):
        form(AFFINE, 0)
    first, second = (save(image, tmp_path / name) for name in ("a.nii", "b.nii"))
    small = nibabel.Nifti1Image(image.get_fdata()[1:], None, image.header.copy())
    small = save(small, tmp_path / "small.nii")
    assert nibabel.load(small).header["sform_code"] == 0
    scan = scans.read_scan([first, second], frame=Frame("PIR"))
    np.testing.assert_array_equal(scans.read_labels(second, scan.file).values, scan.values[..., 1])
    # Where one lies on the other is not known.
    for paths in ([first, known], [known, first], [first, small]):
        with pytest.raises(
            InputError, match="does not give its orientation, so .* lies on the grid"
        ):
            scans.read_scan(paths, resample=True)
        with pytest.raises(
            InputError, match="does not give its orientation, so .* lies on the grid"
        ):
            scans.check_grids(scans.ScanFiles("a", tuple(paths)))


def test_other_voxels_are_noted_and_resampled_on_request(tmp_path):
    """A ramp in mm is what linear interpolation keeps."""
    affine = np.diag([-1.0, 2, 4, 1])  # 1 x 2 x 4 mm, the first axis to the left
    place = np.stack(np.indices((12, 8, 6)), -1) @ affine[:3, :3].T
    ramp = (place @ [1, 10, 100] + 7).astype(np.float32)
    path = save(nibabel.Nifti1Image(ramp, affine), tmp_path / "ramp.nii")
    told = scans.read_scan([path], frame=Frame("RAS", (2.0,)))
    assert told.values.shape == (12, 8, 6, 1)
    assert not told.resampled
    assert any("1 x 2 x 4 mm" in note and "--match-spacing" in note for note in told.notes)
    scan = scans.read_scan([path], frame=Frame("RAS", (2.0,)), match_spacing=True)
    assert scan.resampled
    assert scan.values.shape == (6, 8, 12, 1)
    np.testing.assert_allclose(scan.grid.spacing, (2, 2, 2))
    place = np.stack(np.indices(scan.grid.shape), -1) @ scan.grid.affine[:3, :3].T
    expected = (place + scan.grid.affine[:3, 3]) @ [1, 10, 100] + 7
    inner = np.s_[:, :, 1:-1]  # the outer halves of the outer voxels are their values
    np.testing.assert_allclose(scan.values[..., 0][inner], expected[inner], rtol=1e-5)
    back = scan.restored(expected)
    assert back.shape == ramp.shape
    np.testing.assert_allclose(back[1:-1], ramp[1:-1], rtol=1e-5)
    labels = (expected > 500).astype(np.int16)
    assert set(np.unique(scan.restored(labels, nearest=True))) == {0, 1}
    same = scans.read_scan([path], frame=Frame("ASR", (2, 4, 1)), match_spacing=True)
    assert not same.resampled


def test_what_is_no_frame_is_one_line():
    for orientation, spacing, words in (
        ("RAX", None, "'RAX'.*such as RAS"),
        ("RL", None, "'RL'"),
        ("RLS", None, "'RLS'"),
        ("RAS", (1.0, 2.0), "spacing 1.0 2.0; .*one number or three"),
        ("RAS", (0.0,), "spacing 0"),
        (None, (1.0, 1.0, 2.0), "without an orientation"),
    ):
        with pytest.raises(InputError, match=words):
            Frame(orientation, spacing)
    assert Frame("lps", (1,)) == Frame("LPS", (1.0, 1.0, 1.0))
    assert Frame.of(Frame("LPS", (1,)).metadata) == Frame("LPS", (1,))
    assert Frame.of({"classes": ["a"]}) == Frame()


@pytest.fixture(scope="module")
def storages(tmp_path_factory):
    """One patient in four storages, a truth in each, and networks."""
    folder = tmp_path_factory.mktemp("patient")
    image = patient()
    truth = np.zeros(SHAPE, np.int16)
    truth[1:4, 2:5, 1:3], truth[8:11, 6:9, 4:7] = 1, 2
    lesions = nibabel.Nifti1Image(truth, AFFINE)
    for codes in STORAGES:
        save(stored_as(image, codes), folder / codes / "t1.nii.gz")
        save(stored_as(lesions, codes), folder / codes / "truth.nii.gz")
    network(folder / "ras.safetensors", orientation="RAS", spacing=[2.0, 2.0, 3.0])
    network(folder / "unknown.safetensors")
    return folder


def command(name, folder, out, *more, weights="ras.safetensors", codes=STORAGES):
    files = [folder / each / "t1.nii.gz" for each in codes]
    options = ("--weights", folder / weights, "--roi", 8, "--min-voxels", 3, "--threshold", 0.6)
    return (name, *files, *options, "--out", out, *more)


def truths(folder, codes=STORAGES):
    chosen = [folder / each / "truth.nii.gz" for each in codes]
    return ("--truth", *chosen, "--truth-labels", "instances")


def test_all_storages_give_the_same_instances_and_maps(storages, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "instance_portrait", lambda *given, **more: Figure())
    out = tmp_path / "out"
    line = command("instances", storages, out, *truths(storages))
    assert run(*line, "--method", "gradient") == 0
    assert "turned from PIR to RAS" in capsys.readouterr().err
    rows = table(out / "instances.csv")
    apart = [[{**row, "scan": ""} for row in rows if row["scan"] == codes] for codes in STORAGES]
    assert len(apart[0]) == 3  # as they lie in their files: 3, 5, 8, 5
    assert len({row["group"] for row in apart[0]}) > 1
    assert all(each == apart[0] for each in apart)
    image = nibabel.load(storages / "RAS" / "t1.nii.gz")
    files = sorted((out / "RAS").rglob("*.nii.gz"))
    assert len(files) > 5
    for path, codes in itertools.product(files, STORAGES):
        here = nibabel.load(out / codes / path.relative_to(out / "RAS"))
        assert here.shape == stored_as(image, codes).shape
        back = nibabel.as_closest_canonical(here)
        np.testing.assert_array_equal(back.get_fdata(), nibabel.load(path).get_fdata())
        np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)
    # A run that resumes reads its files back.
    for codes in STORAGES:
        (out / codes / "instance-002" / "record.json").unlink()
    assert run(*line, "--method", "gradient") == 0
    assert table(out / "instances.csv") == rows


def test_context_is_the_same_of_all_storages(storages, tmp_path, capsys):
    """By a frame that is given, for weights that say nothing of theirs.

    One has voxels that are larger by 0.5 %, which is the frame's size, too: distances in mm are
    those of the frame.
    """
    out = tmp_path / "out"
    given = ("--orientation", "ras", "--spacing", 2, 2, 3, "--match-spacing", "--steps", 1)
    line = command("context", storages, out, *given, weights="unknown.safetensors")
    image = nibabel.load(storages / "LPS" / "t1.nii.gz")
    wider = nibabel.Nifti1Image(image.get_fdata(), image.affine @ np.diag([1.005] * 3 + [1]))
    assert run(line[0], save(wider, tmp_path / "wider" / "t1.nii"), *line[1:]) == 0
    assert "does not say" not in capsys.readouterr().err
    rows = table(out / "context-instances.csv")
    volume = {row["scan"]: float(row.pop("volume_mm3")) for row in rows if row["instance"] == "1"}
    assert volume["wider"] == pytest.approx(1.005**3 * volume["LPS"])
    codes = ("wider", *STORAGES)
    apart = [
        [{**row, "scan": "", "volume_mm3": ""} for row in rows if row["scan"] == each]
        for each in codes
    ]
    assert {row["distance_mm"] for row in rows} == {"2"}
    assert apart[0]
    assert all(each == apart[0] for each in apart)


def test_what_is_cut_off_a_scan_is_of_the_scan(tmp_path, monkeypatch):
    """An nnU-Net sees the box of what is not 0; scores of voxels and borders are of the file."""
    values, truth = np.zeros((10, 12, 14), np.float32), np.zeros((10, 12, 14), np.int16)
    values[2:, 3:9, 4:10] = 1
    values[2:4, 4:6, 4:6] = values[8:10, 4:6, 6:8] = 2
    truth[2:4, 4:6, 4:7] = truth[0, 0, 0:3] = 1
    files = [
        save(nibabel.Nifti1Image(each, AFFINE), tmp_path / name)
        for name, each in (("a.nii", values), ("b.nii", truth))
    ]
    steps = (Exchange((1, 0, 2)), CropToNonzero())
    options = SegmentOptions(preparation=steps, roi=(8,))
    monkeypatch.setattr(segmentation, "sliding_window", lambda fn, params, x, **more: 9 * (x - 1.5))
    network = SimpleNamespace(fn=None, params=None, labels=("lesion",), meaning=Meaning())
    given = read_input(scans.ScanFiles("scan", (files[0],), files[1]), options)
    found = segmentation.segment(network, given, options)
    assert found.probability.shape == (6, 8, 6)
    # The first lies where the box begins, the second where the file ends.
    assert [each.touches_border for each in found.predicted.instances] == [False, True]
    assert found.scores.voxel_fpr == pytest.approx(8 / (values.size - 12))
    whole = lesion_scores(values == 2, np.where(values > 0, truth, 0) > 0, min_iou=None)
    assert found.scores.normalised_dice == pytest.approx(whole.normalised_dice)
    assert any("3 voxels of its lesions are where all" in note for note in found.notes)


def test_what_weights_do_not_say_is_told(storages, tmp_path, capsys):
    out, unknown = tmp_path / "out", "unknown.safetensors"
    # Too few voxels to be studied: scans are segmented only.
    line = command("context", storages, out, "--max-voxels", 3, weights=unknown, codes=STORAGES[:2])
    assert run(*line) == 0
    told = capsys.readouterr().err
    assert "does not state the orientation that it was trained with" in told
    assert "(LPS, RAS)" in told
    assert "does not state the voxel size that it was trained with" in told
    found = [json.loads((out / codes / "record.json").read_text()) for codes in STORAGES[:2]]
    assert [len(each["instances"]) for each in found] == [3, 5]
    line = command("context", storages, tmp_path / "none", "--match-spacing", weights=unknown)
    assert run(*line) == 2
    assert "add --spacing" in capsys.readouterr().err
    spec = NetworkSpec.parse(str(storages / "ras.safetensors"))
    known = open_network(spec, OpenOptions(ndims=(3,)))
    options = segmentation.checked(SegmentOptions(frame=Frame("LPS"), roi=(8,)), known)
    assert options.frame == Frame("LPS", (2, 2, 3))
    (note,) = frame_notes(known, options.frame, [])
    assert "was trained on orientation RAS, but you ask for LPS" in note


def test_finer_voxels_are_resampled_and_maps_come_back(storages, tmp_path):
    """Every voxel eight times: their means, at the network's voxels, are the patient again."""
    image = nibabel.load(storages / "ASR" / "t1.nii.gz")
    fine = image.get_fdata(dtype=np.float32).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = image.affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = image.affine[:3, 3] - image.affine[:3, :3] @ [0.25, 0.25, 0.25]
    folder = tmp_path / "data"
    save(nibabel.Nifti1Image(fine, affine), folder / "FINE" / "t1.nii.gz")
    save(patient(), folder / "RAS" / "t1.nii.gz")
    weights = storages / "ras.safetensors"
    both, out = ("FINE", "RAS"), tmp_path / "out"
    line = command("instances", folder, out, "--match-spacing", weights=weights, codes=both)
    line = (*line, "--method", "gradient")
    assert run(*line) == 0
    rows = table(out / "instances.csv")
    ours, right = ([row for row in rows if row["scan"] == name] for name in both)
    assert len(ours) == len(right) > 1
    for mine, other in zip(ours, right, strict=True):
        assert (mine["instance"], mine["voxels"]) == (other["instance"], other["voxels"])
        # The input's rounding is resampling's.
        np.testing.assert_allclose(float(mine["score"]), float(other["score"]), rtol=1e-3)
    found = nibabel.load(out / "FINE" / "instances.nii.gz")
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    labels = stored_as(nibabel.load(out / "RAS" / "instances.nii.gz"), "ASR").get_fdata()
    expected = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(found.get_fdata(), expected)
    maps = nibabel.load(out / "FINE" / "instance-001" / "gradient.t1.nii.gz")
    assert maps.shape == fine.shape
    (out / "FINE" / "instance-001" / "record.json").unlink()
    assert run(*line) == 0
    assert table(out / "instances.csv") == rows


def test_bundled_weights_say_what_they_were_trained_on():
    assert Frame.of(models.load("lesions").metadata) == Frame("RAS", (2.0,))
