"""Writes sliding.npz: what MONAI's SlidingWindowInferer makes of a network that knows its place.

Run in an environment with monai: `python tests/goldens/generate_sliding.py`. The network multiplies
a window by a ramp, so that every position says from which windows, with which weights, it came.
"""

from pathlib import Path

import numpy as np

# extents, window, overlap
CASES = (
    ((11, 9, 7), (6, 4, 5), 0.25),
    ((11, 5, 7), (6, 8, 7), 0.5),
    ((13, 8), (5, 6), 0.25),
    ((4, 3), (8, 8), 0.25),
)


def volume(extents):
    """Values without any pattern, two channels."""
    values = np.sin(np.arange(2 * np.prod(extents)) ** 1.5)
    return values.reshape(*extents, 2).astype(np.float32)


def ramp(roi):
    """A factor for each position of a window."""
    return 1 + np.arange(np.prod(roi), dtype=np.float32).reshape(roi) / np.prod(roi)


if __name__ == "__main__":
    import monai
    import torch

    found = {}
    for number, (extents, roi, overlap) in enumerate(CASES):
        inferer = monai.inferers.SlidingWindowInferer(roi, 4, overlap, "gaussian", 0.125)
        factor = torch.from_numpy(ramp(roi))
        x = torch.from_numpy(np.moveaxis(volume(extents), -1, 0).copy())[None]
        output = inferer(x, lambda window, factor=factor: window * factor)[0].numpy()
        found[f"case{number}"] = np.moveaxis(output, 0, -1)
    np.savez_compressed(Path(__file__).with_name("sliding.npz"), version=monai.__version__, **found)
