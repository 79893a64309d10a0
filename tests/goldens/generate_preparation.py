"""Writes preparation.npz: what nnU-Net v2 and MONAI make of a scan, and nnU-Net of a tiny network.

Run in an environment with nnunetv2 and monai: `python -m tests.goldens.generate_preparation`. Of
volumes, every other voxel along each axis is kept.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from tests.support.trained_folders import (
    LABELS,
    REGIONS,
    plans,
    write_nnunet,
    write_scan,
)

# What plans say, which labels there are, how many folds, whether inputs are mirrored.
NNUNET = {
    "plain": ({}, LABELS, 1, False),
    "mirrored": ({}, LABELS, 1, True),
    "regions": ({}, REGIONS, 2, False),
    "slices": ({"spacing": [0.8, 3.9, 1.0]}, LABELS, 1, False),
}
WINDOWS = (((16, 12, 9), (16, 16, 10), 0.5), ((40, 23, 16), (16, 10, 16), 0.5))
SPACING = (1.5, 0.7, 1.1)


def thinned(values):
    """Every other voxel, channels last."""
    return np.moveaxis(np.asarray(values, np.float32), 0, -1)[::2, ::2, ::2]


@contextlib.contextmanager
def summing_in_float32():
    """nnU-Net adds up windows in half precision, which its smallest weights have hardly any of."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as module

    half, weights = torch.half, module.compute_gaussian
    torch.half, module.compute_gaussian = torch.float32, lambda *a, **k: weights(*a, **k).float()
    try:
        yield
    finally:
        torch.half, module.compute_gaussian = half, weights


def of_nnunet(said, labels, folds, mirrored):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    with tempfile.TemporaryDirectory() as folder:
        files = write_scan(folder)
        model = Path(folder) / "model"
        names = [f"fold_{at}" for at in range(folds)]
        write_nnunet(model, folds=names, labels=labels, said=plans(**said))
        predictor = nnUNetPredictor(
            use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(model), use_folds=None)
        plan, how = predictor.plans_manager, predictor.configuration_manager
        data, _, about = DefaultPreprocessor(verbose=False).run_case(
            [str(file) for file in files], None, plan, how, predictor.dataset_json
        )
        data = np.asarray(data, np.float32)
        half = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float()
        with summing_in_float32():
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        spacing = [about["spacing"][axis] for axis in plan.transpose_forward]
        inside = how.resampling_fn_probabilities(
            logits, about["shape_after_cropping_and_before_resampling"], how.spacing, spacing
        )
        whole = np.zeros((len(logits), *about["shape_before_cropping"]), np.float32)
        box = tuple(slice(*along) for along in about["bbox_used_for_cropping"])
        whole[(slice(None), *box)] = inside
        whole = whole.transpose(0, *(axis + 1 for axis in plan.transpose_backward))
        # To the axes of the file.
        return {
            "x": thinned(data),
            "half": thinned(half),
            "logits": thinned(logits),
            "restored": thinned(whole.transpose(0, 3, 2, 1)),
        }


def of_windows(extents, patch, step):
    import torch
    from nnunetv2.inference.sliding_window_prediction import (
        compute_gaussian,
        compute_steps_for_sliding_window,
    )

    padded = tuple(map(max, extents, patch))
    steps = compute_steps_for_sliding_window(padded, patch, step)
    weights = compute_gaussian(patch, 1 / 8, 10, torch.float16, torch.device("cpu"))
    starts = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    return {"starts": starts, "weights": weights.float().numpy()}


def of_monai(folder):
    import monai.transforms as monai

    files = write_scan(folder)
    keys = {"keys": ["image"]}
    made = {
        "range": [
            monai.Orientationd(**keys, axcodes="LPS"),
            monai.Spacingd(**keys, pixdim=SPACING, mode="bilinear"),
            monai.ScaleIntensityRanged(**keys, a_min=60, a_max=120, b_min=-1, b_max=1, clip=True),
        ],
        "zscore": [monai.NormalizeIntensityd(**keys, nonzero=True, channel_wise=True)],
        "together": [monai.NormalizeIntensityd(**keys), monai.ScaleIntensityd(**keys, maxv=3)],
    }
    read = [
        monai.LoadImaged(**keys, reader="NibabelReader"),
        monai.EnsureChannelFirstd(**keys),
    ]
    return {
        name: thinned(monai.Compose([*read, *each])({"image": [str(f) for f in files]})["image"])
        for name, each in made.items()
    }


if __name__ == "__main__":
    found = {}
    for name, said in NNUNET.items():
        found |= {f"{name}.{what}": values for what, values in of_nnunet(*said).items()}
    for at, said in enumerate(WINDOWS):
        found |= {f"windows{at}.{what}": values for what, values in of_windows(*said).items()}
    with tempfile.TemporaryDirectory() as folder:
        found |= {f"monai.{name}": values for name, values in of_monai(folder).items()}
    np.savez_compressed(Path(__file__).with_name("preparation.npz"), **found)
