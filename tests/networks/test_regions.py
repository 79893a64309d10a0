"""Regions are in coordinates of the image as displayed, before it is brought to a size."""

import numpy as np
import pytest
from PIL import Image

from segcam_jax.networks.regions import Region
from segcam_jax.types import InputError, TargetError

LOGITS = np.zeros((10, 10, 2), np.float32)


def resolved(words, fit, **options):
    region = Region.parse(words, **options)
    return region.resolve(LOGITS, 0, file_extent=(20, 40), fit=fit)


def test_masks_are_brought_to_size_with_the_image(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[4:8, 20:30] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(mask).save(path)
    # 40 columns become 10: a column holds four, and the nearest to its middle counts.
    stretched = resolved(f"mask:{path}", "stretch")
    np.testing.assert_array_equal(stretched, mask[1::2, 2::4] > 0)
    # Columns 10 to 29 are kept.
    cropped = resolved(f"mask:{path}", "crop")
    np.testing.assert_array_equal(cropped, mask[1::2, 11:30:2] > 0)
    np.testing.assert_array_equal(resolved(f"mask:{path}=255", "crop"), cropped)
    np.testing.assert_array_equal(resolved(f"mask:{path}", "crop", mask_threshold=9), cropped)
    with pytest.raises(InputError, match="no value 3"):
        resolved(f"mask:{path}=3", "crop")
    mask[:] = 0
    mask[4:8, :5] = 255
    Image.fromarray(mask).save(path)
    with pytest.raises(TargetError, match="no pixel left"):
        resolved(f"mask:{path}", "crop")


def test_pixels_are_brought_to_size_with_the_image():
    assert np.argwhere(resolved("pixel:19,39", "stretch")).tolist() == [[9, 9]]
    assert np.argwhere(resolved("pixel:6,21", "stretch")).tolist() == [[3, 5]]
    assert np.argwhere(resolved("pixel:6,21", "crop")).tolist() == [[3, 5]]
    assert np.argwhere(resolved("pixel:0,10", "crop")).tolist() == [[0, 0]]
    assert np.argwhere(resolved("pixel:0,29", "crop")).tolist() == [[0, 9]]
    with pytest.raises(TargetError, match="columns 10 to 29 are kept"):
        resolved("pixel:6,30", "crop")
    with pytest.raises(TargetError, match="outside"):
        resolved("pixel:20,0", "stretch")
