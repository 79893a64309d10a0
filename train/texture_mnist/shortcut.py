"""Whether a network takes a planted texture for the digit that it is tied to."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from segcam_jax.metrics import segmentation
from train.data.texture_mnist import (
    BACKGROUND,
    CLASSES,
    Layout,
    TextureMnist,
    TextureMnistConfig,
    TextureMnistSample,
)


def measure_shortcut(
    predict: Callable[[np.ndarray], Int[np.ndarray, "n h w"]], config: TextureMnistConfig
) -> dict[str, float]:
    """Puts the texture of a bias in and out of otherwise unchanged images.

    Args:
        config: a data set with one bias of a background texture, of probability 1.

    Returns:
        For the biased digit's samples its IoU with the bias texture (`iou_planted`) and with
        another texture in its place (`iou_replaced`); for the other digits' samples the share that
        is taken for the biased digit without it (`taken_unplanted`) and with it in one tile
        (`taken_planted`). A sample is taken for the digit that most of its digit pixels are given.
    """
    dataset, (bias,) = TextureMnist(config), config.bias
    texture = bias.background_texture
    assert texture is not None
    indices = {
        own: [n for n in range(len(dataset)) if (n % 10 == bias.digit) == own]
        for own in (True, False)
    }

    def samples(own: bool, *, planted: bool) -> TextureMnistSample:
        layouts = [
            _with_texture(dataset, index, texture, planted=planted) for index in indices[own]
        ]
        pairs = zip(indices[own], layouts, strict=True)
        rendered = [dataset.render(index, layout) for index, layout in pairs]
        return dataclasses.replace(
            rendered[0],
            image=np.stack([sample.image for sample in rendered]),
            label=np.stack([sample.label for sample in rendered]),
        )

    def digit_iou(batch: TextureMnistSample) -> float:
        found = segmentation.confusion_matrix(
            jnp.asarray(batch.label), jnp.asarray(predict(batch.image)), classes=len(CLASSES)
        )
        return float(segmentation.iou(found)[bias.digit])

    def taken(batch: TextureMnistSample) -> float:
        labels = predict(batch.image)
        votes = [
            np.bincount(labels[n][batch.label[n] != BACKGROUND], minlength=11)[:BACKGROUND]
            for n in range(len(labels))
        ]
        return float(np.mean([vote.sum() > 0 and vote.argmax() == bias.digit for vote in votes]))

    return {
        "iou_planted": digit_iou(samples(True, planted=True)),
        "iou_replaced": digit_iou(samples(True, planted=False)),
        "taken_unplanted": taken(samples(False, planted=False)),
        "taken_planted": taken(samples(False, planted=True)),
    }


def _with_texture(dataset: TextureMnist, index: int, texture: str, *, planted: bool) -> Layout:
    """The layout of a sample with the texture in a tile, or in none."""
    layout = dataset.layout(index)
    held = [tile for tile, crop in enumerate(layout.tiles) if crop.texture == texture]
    if planted:
        tile = index // 10 % len(layout.tiles)
        return layout if held else dataset.retextured(layout, tile, texture)
    others = [name for name in dataset.textures if name not in (texture, layout.foreground.texture)]
    for tile in held:
        layout = dataset.retextured(layout, tile, others[(7 * index + tile) % len(others)])
    return layout
