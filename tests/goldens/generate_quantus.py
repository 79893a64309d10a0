"""Writes `quantus.npz`: what Quantus says of a given map of one channel, of one image in a batch.

The tests read the `.npz` only. To write it again, in an environment of its own (Python 3.11, CPU):

    pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
    pip install quantus==0.6.0
    python tests/goldens/generate_quantus.py

Maps are neither normalised nor made positive, scores are logits, and what is removed becomes the
least value of the image, which is 0. Arrays are channels last, without a batch axis.

    kernel, bias, head, image, map, mask    convolution 3x3, ReLU, mean over positions, product
    pixel_flipping                          scores after 1, 2, ..., 24 steps of 8 pixels
    selectivity                             scores after 1, 2, ..., 12 patches of 4x4
    most, least                             falls of the score after 1, 2, ..., 6 of these patches
    faithfulness_estimate                   of groups of 8 pixels
    any other                               the metric of that name
    other, spearman                         another map, and Quantus' correlation with the first
"""

from pathlib import Path

import numpy as np
import quantus
import torch
from quantus.functions.similarity_func import correlation_spearman

CLASS, EXTENT = 2, (12, 16)
PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "display_progressbar": False}


class Net(torch.nn.Module):
    """A convolution, a mean, and a head."""

    def __init__(self, kernel, bias, head):
        super().__init__()
        self.kernel, self.bias, self.head = kernel, bias, head

    def forward(self, x):
        hidden = torch.nn.functional.conv2d(x, self.kernel, self.bias, padding=1).relu()
        return hidden.mean((2, 3)) @ self.head


def main():
    random = np.random.default_rng(11)
    found = {
        "kernel": random.normal(size=(3, 3, 1, 6)).astype(np.float32) / 2,
        "bias": random.normal(size=6).astype(np.float32) / 5,
        "head": random.normal(size=(6, 4)).astype(np.float32),
        "map": random.random(EXTENT).astype(np.float32),
        "other": random.random(EXTENT).astype(np.float32),
    }
    image = random.random((*EXTENT, 1)).astype(np.float32)
    found["image"] = image - image.min()
    found["map"] /= found["map"].max()
    found["mask"] = np.zeros(EXTENT, bool)
    found["mask"][3:9, 4:10] = True
    weights = torch.from_numpy(found["kernel"].transpose(3, 2, 0, 1).copy())
    model = Net(weights, torch.from_numpy(found["bias"]), torch.from_numpy(found["head"])).eval()
    given = {
        "model": model,
        "x_batch": found["image"].transpose(2, 0, 1)[None].copy(),
        "y_batch": np.array([CLASS]),
        "a_batch": found["map"][None, None],
        "s_batch": found["mask"][None, None],
        "softmax": False,
        "channel_first": True,
        "device": "cpu",
    }
    black = {"perturb_baseline": "black", **PLAIN}
    metrics = {
        "pixel_flipping": quantus.PixelFlipping(features_in_step=8, **black),
        "selectivity": quantus.Selectivity(patch_size=4, **black),
        "most": quantus.RegionPerturbation(patch_size=4, regions_evaluation=6, **black),
        "least": quantus.RegionPerturbation(
            patch_size=4, regions_evaluation=6, order="lerf", **black
        ),
        "faithfulness_estimate": quantus.FaithfulnessEstimate(features_in_step=8, **black),
        "pointing_game": quantus.PointingGame(**PLAIN),
        "rank_accuracy": quantus.RelevanceRankAccuracy(**PLAIN),
        "mass_accuracy": quantus.RelevanceMassAccuracy(**PLAIN),
        "attribution_localisation": quantus.AttributionLocalisation(**PLAIN),
        "top_k_intersection": quantus.TopKIntersection(k=50, **PLAIN),
        "auc": quantus.AUC(**PLAIN),
        "sparseness": quantus.Sparseness(**PLAIN),
        "entropy": quantus.Complexity(**PLAIN),
    }
    for name, metric in metrics.items():
        found[name] = np.asarray(metric(**given), np.float64).squeeze()
        print(name, found[name])
    found["spearman"] = correlation_spearman(found["map"].ravel(), found["other"].ravel())
    np.savez_compressed(Path(__file__).with_name("quantus.npz"), **found)


if __name__ == "__main__":
    main()
