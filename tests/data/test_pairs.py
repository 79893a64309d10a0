from pathlib import Path

import pytest

from segcam_jax.data.pairs import paired
from segcam_jax.types import InputError


def files(*names):
    return [Path("folder") / name for name in names]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("a.jpg", "b.jpg"), ("a.png", "b.png")),
        (("a1.jpg", "a2.jpg"), ("a1_mask.png", "a2-Label.png")),
        (("pesca001.png", "pesca952.png"), ("taglio1.png", "taglio952.png")),
        # The same names decide, though the last numbers are the same too.
        (("x1_5.png", "x2_5.png"), ("x1_5.png", "x2_5.png")),
    ],
)
def test_images_get_the_masks_of_their_names_or_numbers(images, masks):
    images, masks = files(*images), files(*masks)
    expected = list(zip(images, masks, strict=True))
    assert paired(images, masks) == expected
    assert paired(images, masks[::-1]) == expected


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (("a.png", "b.png"), ("a.png",), r"1 image has no mask \(b.png\); add"),
        (("a.png",), ("a.png", "c.png"), r"1 mask has no image \(c.png\); add"),
        (("p1.png", "p2.png"), ("t1.png", "t3.png"), r"\(p2.png\) and 1 mask .* \(t3.png\); add"),
        (("a.png", "b.png"), ("c.png",), "2 images have no mask .* the same name, or the same num"),
        # One number twice: a pair would be a guess.
        (("p1.png", "q1.png"), ("t1.png", "t2.png"), "2 images have no mask"),
        # A cat would get the mask of a dog.
        (("cat_2.png", "dog_3.png"), ("cat_3_mask.png", "dog_2_mask.png"), "2 images have no"),
        ([f"{n}.png" for n in range(9)], ["0.png"], "8 images .*1.png, .*5.png and 3 more"),
    ],
)
def test_those_without_a_partner_are_named(images, masks, message):
    with pytest.raises(InputError, match=message):
        paired(files(*images), files(*masks))
