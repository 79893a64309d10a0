"""Volumes on disk: grids kept, modalities on one grid, every broken file named in one line."""

import gzip

import nibabel
import nrrd
import numpy as np
import pytest

from segcam_jax import InputError
from segcam_jax.data import nifti, scans, volume as volumes
from segcam_jax.data.nifti import read_volume, write_map

SHAPE = (6, 5, 4)
# Sagittal slices, axes to the back, the bottom and the left; oblique, voxels of 1 x 2 x 3 mm.
TURN = np.array([[0.05, -0.1, -1], [-1, 0.05, 0.1], [-0.05, -1, 0.1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN / np.linalg.norm(TURN, axis=0) * [1, 2, 3]
AFFINE[:3, 3] = [-20, 30, 7]


def save(path, values=None, affine=AFFINE, *, kind=nibabel.Nifti1Image, codes=(2, 1), dtype=None):
    if values is None:
        values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image = kind(values, affine)
    if dtype is not None:
        image.set_data_dtype(dtype)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1], strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def test_what_is_written_has_the_grid_of_what_was_read(tmp_path):
    for kind, name in ((nibabel.Nifti1Image, "a.nii.gz"), (nibabel.Nifti2Image, "b.nii")):
        volume = read_volume(save(tmp_path / name, kind=kind))
        assert volume.values.dtype == np.float32
        assert volume.notes == ()
        np.testing.assert_allclose(volume.spacing, (1, 2, 3), rtol=1e-6)
        written = nibabel.load(write_map(tmp_path / "out" / name, volume.values * 2, like=volume))
        before = nibabel.load(tmp_path / name)
        np.testing.assert_array_equal(written.get_fdata(), before.get_fdata() * 2)
        np.testing.assert_array_equal(written.affine, before.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b"):
            np.testing.assert_array_equal(written.header[field], before.header[field])
        assert isinstance(written, kind)
        assert written.get_data_dtype() == np.float32


def test_labels_are_stored_as_integers_that_hold_them(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii"))
    labels = np.zeros(SHAPE, np.int64)
    for top, dtype in ((7, np.int16), (40_000, np.int32)):
        labels[0, 0, 0] = top
        written = nibabel.load(write_map(tmp_path / "labels.nii.gz", labels, like=volume))
        assert written.get_data_dtype() == dtype
        assert written.get_fdata().max() == top
    assert (
        nibabel.load(write_map(tmp_path / "m.nii", labels > 0, like=volume)).get_fdata().sum() == 1
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_scaled_integers_and_a_fourth_axis_of_one_are_read(tmp_path):
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(*SHAPE, 1), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stored = nibabel.load(tmp_path / "a.nii.gz").get_fdata()
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").values, stored[..., 0])
    assert nifti.read_grid(tmp_path / "a.nii.gz")[0] == SHAPE


def test_a_header_without_orientation_is_noted(tmp_path):
    read = read_volume(save(tmp_path / "a.nii", codes=(0, 0)))
    assert "orientation" in read.notes[0]


def test_units_of_nifti_are_read_and_written_back(tmp_path):
    values = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    for unit, scale, note in (
        ("micron", 1e-3, ""),
        ("meter", 1e3, ""),
        ("mm", 1, ""),
        ("unknown", 1, "does not give its units; segcam assumes millimetres"),
    ):
        path = save(tmp_path / f"{unit}.nii.gz", values)
        image = nibabel.load(path)
        image.header.set_xyzt_units(unit)
        nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)
        volume = read_volume(path)
        np.testing.assert_allclose(volume.spacing, np.multiply((1, 2, 3), scale), rtol=1e-6)
        np.testing.assert_allclose(volume.affine[:3, 3], np.multiply((-20, 30, 7), scale))
        np.testing.assert_allclose(
            volume.voxel_volume, abs(np.linalg.det(AFFINE[:3, :3])) * scale**3, rtol=1e-5
        )
        np.testing.assert_array_equal(nifti.read_grid(path)[1], volume.affine)
        assert " ".join(volume.notes).find(note) >= 0
        assert bool(volume.notes) == bool(note)
        written = nibabel.load(write_map(tmp_path / "map.nii.gz", values, like=volume))
        assert written.header.get_xyzt_units()[0] == unit
        np.testing.assert_array_equal(written.affine, image.affine)
    path = save(tmp_path / "odd.nii", values)
    image = nibabel.load(path)
    image.header["xyzt_units"] = 5
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)
    assert "unknown code, 5" in read_volume(path).notes[0]


def test_voxels_below_a_micron_are_no_plane(tmp_path):
    affine = np.diag([5e-4, 5e-4, 1e-3, 1])  # mm: half a micron, 2.5e-10 mm^3
    volume = read_volume(save(tmp_path / "fine.nii", affine=affine))
    np.testing.assert_allclose(volume.voxel_volume, 2.5e-10, rtol=1e-6)
    written = nibabel.load(write_map(tmp_path / "map.nii", volume.values, like=volume))
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)
    volumes.check_affine(np.diag([1e-6, 1e-6, 1e-6, 1]), tmp_path)
    for plane in ([[1, 0, 1], [0, 1, 1], [0, 0, 0]], np.diag([1, 1, 0]), np.full((3, 3), 1e3)):
        affine[:3, :3] = plane
        with pytest.raises(InputError, match="onto a plane"):
            volumes.check_affine(affine, tmp_path)


def test_which_of_two_affines_is_taken_is_said(tmp_path):
    path = save(tmp_path / "a.nii")
    image = nibabel.load(path)
    moved = AFFINE.copy()
    moved[:3, 3] += [0, 120, -50]  # as an atlas's and its scanner's
    image.set_qform(moved, 1, strip_shears=True)
    nibabel.save(image, path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    (note,) = volume.notes
    assert "sform and qform differ by up to 130 mm; segcam uses the sform" in note
    written = nibabel.load(write_map(tmp_path / "map.nii", volume.values, like=volume))
    np.testing.assert_array_equal(written.get_qform(), image.get_qform())
    np.testing.assert_array_equal(written.get_sform(), image.get_sform())
    image.set_sform(AFFINE, 0)
    nibabel.save(image, path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, image.get_qform(), atol=1e-5)
    assert volume.notes == ()
    written = nibabel.load(write_map(tmp_path / "map.nii", volume.values, like=volume))
    assert (written.header["sform_code"], written.header["qform_code"]) == (0, 1)
    np.testing.assert_array_equal(written.affine, image.get_qform())


def test_what_is_written_says_nothing_else_of_its_input(tmp_path):
    values = np.arange(120, dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_intent("label", name="atlas")
    image.header.set_slope_inter(0.5, 3)
    for field in ("descrip", "aux_file", "db_name"):
        image.header[field] = b"J. Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe, 1970"))
    nibabel.save(image, tmp_path / "a.nii")
    assert b"Doe" in (tmp_path / "a.nii").read_bytes()
    volume = read_volume(tmp_path / "a.nii")
    for array in (volume.values / 7, values.astype(np.int32)):
        path = write_map(tmp_path / "map.nii", array, like=volume)
        assert b"Doe" not in path.read_bytes()
        written = nibabel.load(path)
        np.testing.assert_array_equal(written.get_fdata(), array)
        assert written.header.get_intent() == ("none", (), "")
        assert not written.header.extensions


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # nrrd.write
def test_units_of_nrrd_are_read(tmp_path):
    values = np.zeros(SHAPE, np.float32)
    header = {"space": "RAS", "space directions": np.diag([2.0, 3, 4]), "space origin": [5, 6, 7]}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header, index_order="F")
    nrrd.write(str(tmp_path / "b.nrrd"), values, {"spacings": [2, 3, 4]}, index_order="F")
    plain, sizes = ((tmp_path / f"{name}.nrrd").read_bytes() for name in "ab")
    path = tmp_path / "c.nrrd"
    microns = ("\u00b5m", "\u03bcm", "um", "UM", "micron", "microns", "micrometer", "micrometers")
    spelled = [(unit.encode(), 1e-3) for unit in (*microns, "micrometre", "\u00b5meter")]
    spelled += [("\u00b5m".encode("latin-1"), 1e-3), (b"mm", 1), (b"m", 1e3), (b"cm", 10)]
    for unit, scale in (*spelled, (b"nm", 1e-6), (b"furlong", 1), (b"", 1)):
        words = b" ".join([b'"%s"' % unit] * 3)
        path.write_bytes(plain.replace(b"\n\n", b"\nspace units: %s\n\n" % words, 1))
        volume = read_volume(path)
        np.testing.assert_allclose(volume.spacing, np.multiply((2, 3, 4), scale), rtol=1e-9)
        np.testing.assert_allclose(volume.affine[:3, 3], np.multiply((5, 6, 7), scale))
        np.testing.assert_array_equal(nifti.read_grid(path)[1], volume.affine)
        assert bool(volume.notes) == (unit in (b"furlong", b""))
        path.write_bytes(sizes.replace(b"\n\n", b"\nunits: %s\n\n" % words, 1))
        np.testing.assert_allclose(read_volume(path).spacing, np.multiply((2, 3, 4), scale))
    path.write_bytes(sizes.replace(b"\n\n", b'\nunits: "mm" "mm" "um"\n\n', 1))
    np.testing.assert_allclose(read_volume(path).spacing, (2, 3, 4e-3))
    assert "does not give its units" in read_volume(tmp_path / "a.nrrd").notes[0]


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # nrrd.write
def test_nrrd_is_read_in_ras(tmp_path):
    values = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    to_lps = np.diag([-1.0, -1, 1])
    header = {
        "space": "left-posterior-superior",
        "space directions": (to_lps @ AFFINE[:3, :3]).T,
        "space origin": to_lps @ AFFINE[:3, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), values, header, index_order="F")
    read = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(read.values, values)
    assert nifti.read_grid(tmp_path / "a.nrrd")[0] == SHAPE
    written = nibabel.load(write_map(tmp_path / "map.nii.gz", read.values, like=read))
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.header.get_xyzt_units()[0] == "mm"
    nrrd.write(str(tmp_path / "b.nrrd"), values, {"spacings": [1, 2, 3]}, index_order="F")
    plain = read_volume(tmp_path / "b.nrrd")
    assert plain.spacing == (1, 2, 3)
    assert "orientation" in plain.notes[0]


def test_orientation_and_the_turn_for_figures():
    assert volumes.orientation(np.eye(4)) == "RAS"
    assert volumes.orientation(AFFINE) == "PIL"
    values = np.random.default_rng(2).normal(size=(*SHAPE, 2))
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, AFFINE))
    turned = volumes.canonical(values, AFFINE)
    np.testing.assert_array_equal(turned, image.get_fdata())
    at = volumes.canonical_index((1, 2, 3), SHAPE, AFFINE)
    np.testing.assert_array_equal(turned[at], values[1, 2, 3])
    np.testing.assert_allclose(
        volumes.canonical_spacing(AFFINE), image.header.get_zooms()[:3], rtol=1e-6
    )


def test_modalities_share_a_grid_or_are_resampled(tmp_path):
    first = save(tmp_path / "flair.nii")
    close = AFFINE + 1e-5
    close[3] = [0, 0, 0, 1]
    scan = scans.read_scan([first, save(tmp_path / "t1.nii.gz", affine=close)])
    assert scan.modalities == ("flair", "t1")
    assert scan.values.shape == (*SHAPE, 2)
    moved = AFFINE.copy()
    moved[:3, 3] += AFFINE[:3, 0]  # one voxel along the first axis
    other = save(tmp_path / "late.nii", affine=moved)
    with pytest.raises(InputError, match=r"late.*another grid .*than .*flair.*--resample"):
        scans.read_scan([first, other])
    scan = scans.read_scan([first, other], resample=True)
    before = nibabel.load(other).get_fdata(dtype=np.float32)
    np.testing.assert_allclose(scan.values[1:, ..., 1], before[:-1], atol=1e-5)
    np.testing.assert_allclose(scan.values[0, ..., 1], 0, atol=1e-5)
    assert "resampled linearly" in scan.notes[0]
    labels = scans.read_labels(other, scan.grid, resample=True)
    assert set(np.unique(labels.values)) <= {0, *np.unique(before)}
    with pytest.raises(InputError, match="another grid"):
        scans.check_grids(scans.ScanFiles("a", (first,), other))
    with pytest.raises(InputError, match="names? each|one name each"):
        scans.read_scan([first, other], modalities=["x", "x"])
    with pytest.raises(InputError, match=r"flair.nii' is given as modality 1 and as modality 2"):
        scans.read_scan([first, first])
    with pytest.raises(InputError, match="as modality 1 and as modality 3"):
        scans.read_scan([first, tmp_path / "t1.nii.gz", tmp_path / "x" / ".." / "flair.nii"])


def test_scans_are_found_in_a_layout(tmp_path):
    for patient, session in (("p2", "s1"), ("p1", "s1"), ("p1", "s2")):
        folder = tmp_path / patient / session
        folder.mkdir(parents=True)
        for name in ("flair_3d.nii.gz", "flair_3d_old.nii.gz", "t1.nii", "mask_final.nii.gz"):
            save(folder / name)
    (tmp_path / "p3" / "empty").mkdir(parents=True)
    found = scans.find_scans(tmp_path, ["flair_3d", "t1.nii"], truth="mask")
    assert [scan.name for scan in found] == ["p1-s1", "p1-s2", "p2-s1"]
    assert [file.name for file in found[0].files] == ["flair_3d.nii.gz", "t1.nii"]
    assert found[0].truth == tmp_path / "p1" / "s1" / "mask_final.nii.gz"
    with pytest.raises(InputError, match=r"p1/s1.*2 volumes that begin with 'fl'"):
        scans.find_scans(tmp_path, ["fl", "t1"])
    (tmp_path / "p2" / "s1" / "t1.nii").unlink()
    with pytest.raises(InputError, match=r"p2/s1' lacks the volume 't1'"):
        scans.find_scans(tmp_path, ["flair_3d", "t1"])
    with pytest.raises(InputError, match="begins with 'pd'"):
        scans.find_scans(tmp_path, ["pd"])
    with pytest.raises(InputError, match="is not a folder"):
        scans.find_scans(tmp_path / "missing", ["pd"])


def test_zscore_is_of_voxels_that_are_not_zero():
    values = np.random.default_rng(3).normal(5, 2, (*SHAPE, 3)).astype(np.float32)
    values[:2] = 0
    values[..., 1] = np.where(values[..., 1] != 0, 4, 0)
    values[..., 2] = 0
    scaled = scans.zscore(values)
    assert not scaled[:2].any()
    assert not scaled[..., 1:].any()
    inside = scaled[2:, ..., 0]
    assert abs(inside.mean()) < 1e-6
    assert abs(inside.std() - 1) < 1e-6


def broken_files(folder):
    """name -> (file, what its error must say)."""
    good = save(folder / "good.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(good[: len(good) // 2])
    plain = gzip.decompress(good)
    (folder / "cut.nii").write_bytes(plain[:-40])
    (folder / "header.nii").write_bytes(plain[:100])
    (folder / "words.nii").write_bytes(b"not a volume" * 40)
    holes = np.zeros(SHAPE, np.float32)
    holes[1, 2, :3] = np.nan, np.inf, np.nan
    save(folder / "holes.nii", holes)
    save(folder / "time.nii.gz", np.zeros((*SHAPE, 7), np.float32))
    save(folder / "flat.nii", np.zeros((6, 5), np.float32))
    save(folder / "waves.nii", np.zeros(SHAPE, np.complex64))
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.float32), None)
    image.header["sform_code"] = 1
    nibabel.save(image, folder / "plane.nii")
    (folder / "cut.nrrd").write_bytes(b"NRRD0004\ntype: float\ndimension: 3\nsizes: 6 5 4\n"
                                      b"encoding: raw\nendian: little\n\n\0\0")  # fmt: skip
    (folder / "words.nrrd").write_bytes(b"words")
    (folder / "a.png").write_bytes(b"")
    return {
        "cut.nii.gz": "truncated",
        "cut.nii": "truncated",
        "header.nii": "truncated",
        "words.nii": "truncated or damaged",
        "holes.nii": r"is NaN or infinite in 3 voxels",
        "time.nii.gz": r"is 4D \(6 x 5 x 4 x 7\)",
        "flat.nii": "expected three",
        "waves.nii": "expected real numbers",
        "plane.nii": "onto a plane",
        "cut.nrrd": "truncated",
        "words.nrrd": "truncated or damaged",
        "a.png": "is not a volume",
        "missing.nii": "does not exist",
    }


def test_every_broken_file_is_named_in_one_line(tmp_path):
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(InputError, match=words) as caught:
            read_volume(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_written_is_said(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii"))
    with pytest.raises(InputError, match="does not end in .nii"):
        write_map(tmp_path / "a.png", volume.values, like=volume)
    with pytest.raises(InputError, match=r"extents \(3,\)"):
        write_map(tmp_path / "b.nii", np.zeros(3), like=volume)
    with pytest.raises(InputError, match="complex"):
        write_map(tmp_path / "b.nii", np.zeros(SHAPE, complex), like=volume)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path / "file" / "b.nii", volume.values, like=volume)
