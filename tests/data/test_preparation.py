"""What nnU-Net v2 and MONAI do to scans, held to their own values, and the way back."""

import msgspec
import numpy as np
import pytest

from segcam_jax import InputError
from segcam_jax.data.preparation import (
    CropToNonzero,
    Exchange,
    Linear,
    NonzeroZScore,
    Normalise,
    Orient,
    Resize,
    Respace,
    Step,
    ZScore,
    prepared,
    spacing_after,
)
from segcam_jax.data.scans import read_scan
from segcam_jax.engine.sliding import tiling
from segcam_jax.networks.plans import Plan
from tests import goldens
from tests.goldens.generate_preparation import NNUNET, SPACING, WINDOWS
from tests.support.trained_folders import EXTENTS, plans, write_plans, write_scan

GOLDEN = np.load(goldens.FOLDER / "preparation.npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pytest.importorskip("nibabel")
    return write_scan(tmp_path_factory.mktemp("scan"))


def thinned(values):
    return values[::2, ::2, ::2]


@pytest.mark.parametrize("name", ["plain", "slices"])
def test_scans_are_prepared_and_brought_back_as_by_nnunet(name, files, tmp_path):
    said, labels, *_ = NNUNET[name]
    write_plans(tmp_path, labels=labels, said=plans(**said))
    steps = Plan.read(tmp_path, "3d_fullres").steps
    scan = prepared(read_scan(files), steps)
    np.testing.assert_allclose(thinned(scan.values), GOLDEN[f"{name}.x"], atol=2e-5)
    assert spacing_after(steps) == tuple(said.get("spacing", (0.8, 1.0, 1.3)))
    # A ramp goes back linearly, slice by slice where it came so, and lies in the box alone.
    restored = scan.restored(np.ones(scan.grid.shape, np.float32))
    assert restored.shape == EXTENTS
    np.testing.assert_array_equal(thinned(restored) > 0, (GOLDEN[f"{name}.restored"] != 0).any(-1))
    # A run keeps the steps as JSON.
    kept = msgspec.json.decode(msgspec.json.encode(steps), type=tuple[Step, ...])
    assert kept == steps


def test_scans_are_prepared_as_by_monai(files):
    made = {
        "range": (
            Orient("LPS"),
            Respace(SPACING),
            Normalise((Linear(60, 60, 2, -1, after=(-1, 1)),)),
        ),
        "zscore": (Normalise((NonzeroZScore(),)),),
        "together": (Normalise((ZScore(),), together=True), Normalise((Linear(gain=3),), True)),
    }
    for name, steps in made.items():
        scan = prepared(read_scan(files), steps)
        np.testing.assert_allclose(thinned(scan.values), GOLDEN[f"monai.{name}"], atol=1e-4)


@pytest.mark.parametrize("number", range(len(WINDOWS)))
def test_windows_lie_and_weigh_as_those_of_nnunet(number):
    extents, patch, overlap = WINDOWS[number]
    tiles = tiling(extents, patch, overlap=overlap, windows="nnunet")
    np.testing.assert_array_equal(tiles.starts(), GOLDEN[f"windows{number}.starts"])
    np.testing.assert_allclose(tiles.weights(), GOLDEN[f"windows{number}.weights"], rtol=1e-3)
    assert tiling((8, 8), 4, windows="constant").weights().tolist() == np.ones((4, 4)).tolist()


def test_what_is_cut_off_comes_back_as_zeros(files):
    scan = prepared(read_scan(files), (Exchange((2, 0, 1)), CropToNonzero()))
    values = scan.file.values
    places = np.nonzero(np.stack([each.values for each in read_scan(files).volumes]).any(0))
    box = tuple(slice(along.min(), along.max() + 1) for along in places)
    np.testing.assert_array_equal(scan.volumes[0].values, values[box].transpose(2, 0, 1))
    np.testing.assert_array_equal(scan.framed(values), scan.volumes[0].values)
    np.testing.assert_array_equal(scan.restored(scan.volumes[0].values), values)
    # Each voxel stays where it is in space.
    first = scan.grid.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(first, scan.file.affine @ [*(along.start for along in box), 1])
    assert not scan.resampled


def test_voxels_that_fit_stay(files):
    scan = read_scan(files)
    same = prepared(scan, (Resize(scan.grid.spacing), Respace(scan.grid.spacing)))
    assert same.notes == scan.notes
    np.testing.assert_array_equal(same.values, scan.values)


def test_a_modality_of_one_value_is_centred():
    """Also of one that float32 rounds: the mean of 8,000 times 0.1 in float32 is not 0.1."""
    values = np.full((20, 20, 20), 0.1, np.float32)
    values[0] = 0
    found = NonzeroZScore()(values, values != 0)
    np.testing.assert_array_equal(found, np.zeros_like(values))


def test_schemes_are_one_or_one_for_each_volume(files):
    with pytest.raises(InputError, match="3 normalisations for 2 volumes"):
        prepared(read_scan(files), (Normalise((ZScore(),) * 3),))
