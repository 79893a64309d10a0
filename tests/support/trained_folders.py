"""Folders of trained networks as nnU-Net v2 and MONAI write them: tiny, with random weights."""

import json
from pathlib import Path

import numpy as np

SPACING = (1.0, 1.2, 0.9)  # of the scan's file, along its axes
EXTENTS = (19, 22, 17)
PATCH = (16, 16, 16)


def scan(channels=2):
    """Volumes with zeros around, a hole inside, and values without any pattern."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in EXTENTS), indexing="ij"))
    inside = (grid**2 / np.array([0.7, 0.9, 0.8])[:, None, None, None] ** 2).sum(0) < 1
    inside[9, 11, 8] = False
    rng = np.random.default_rng(3)
    smooth = [np.sin(3 * grid[at % 3] + at) * 40 + 100 for at in range(channels)]
    values = [each + rng.normal(0, 8, EXTENTS) for each in smooth]
    return np.stack([np.where(inside, each, 0) for each in values]).astype(np.float32)


def plans(**changed):
    """Plans of a network with anisotropic strides, in the layout of nnU-Net 2.8."""
    layers = "torch.nn.modules"
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "spacing": [0.8, 1.0, 1.3],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [True, False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 6, 8],
                "conv_op": f"{layers}.conv.Conv3d",
                "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"{layers}.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **changed,
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration.setdefault(f"resampling_fn_{what}", "resample_data_or_seg_to_shape")
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration.setdefault(f"resampling_fn_{what}_kwargs", options)
    intensities = {"mean": 90.0, "std": 31.0, "percentile_00_5": 40.0, "percentile_99_5": 130.0}
    return {
        "dataset_name": "Dataset900_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
        "configurations": {
            "3d_fullres": configuration,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


LABELS = {"background": 0, "edema": 1, "core": 2, "ignore": 3}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def dataset(labels, channels=2):
    """What `dataset.json` says."""
    names = {str(at): f"channel{at}" for at in range(channels)}
    order = {"regions_class_order": [1, 2]} if labels is REGIONS else {}
    return {"channel_names": names, "labels": labels, "file_ending": ".nii.gz", **order}


def drawn(module, seed=0):
    """A state dict of a module with random values, norms' near 1."""
    import torch

    rng, state, known = np.random.default_rng(seed), {}, {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        # nnU-Net's networks have each layer under several names.
        values = rng.normal(0, 0.4, tensor.shape) + ("norm" in name and name.endswith("weight"))
        state[name] = known.setdefault(id(tensor), torch.tensor(values.astype(np.float32)))
    return state


def write_scan(folder, channels=2):
    """Writes a scan, a file for each channel; its first axis leads to the left."""
    import nibabel

    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    files = [Path(folder) / f"channel{at}.nii.gz" for at in range(channels)]
    for values, file in zip(scan(channels), files, strict=True):
        nibabel.save(nibabel.Nifti1Image(values, affine), file)
    return files


def write_plans(folder, *, labels=LABELS, said=None):
    """Writes what a trained model of nnU-Net says of itself, without weights."""
    folder, said = Path(folder), said or plans()
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(said["configurations"].values()))
    (folder / "plans.json").write_text(json.dumps(said))
    about = dataset(labels, len(first["normalization_schemes"]))
    (folder / "dataset.json").write_text(json.dumps(about))


def write_nnunet(folder, *, folds=("fold_0",), labels=LABELS, said=None, name="3d_fullres"):
    """Writes a trained model of nnU-Net."""
    import torch

    from segcam_jax.networks.plans import Plan

    folder = Path(folder)
    write_plans(folder, labels=labels, said=said)
    module = Plan.read(folder, name).module()
    for seed, fold in enumerate(folds):
        (folder / fold).mkdir(exist_ok=True)
        checkpoint = {
            "network_weights": drawn(module, seed),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5), np.float32(0.25)], "lrs": [0.01]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {"configuration": name, "fold": 0, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(int(name[0]))),
        }
        torch.save(checkpoint, folder / fold / "checkpoint_final.pth")
    return folder


UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": "@classes",
    "channels": "$(4, 8)",
    "strides": [2],
    "norm": "instance",
}
TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": "@key"},
    {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "@key"},
    {"_target_": "Orientationd", "keys": "@key", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "@key", "pixdim": [1.5, 1.5, 2], "mode": "bilinear"},
    {"_target_": "NormalizeIntensityd", "keys": "@key", "nonzero": True, "channel_wise": True},
]
CONFIG = {
    "bundle_root": ".",
    "key": "image",
    "classes": 3,
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "network_def": UNET,
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS},
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 16],
        "sw_batch_size": 4,
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
    },
}
NAMES = {"0": "whole", "1": "core", "2": "enhancing"}


def write_bundle(folder, **changed):
    """Writes what a bundle of MONAI says of itself, without weights."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    config = {**CONFIG, **changed}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    about = {"network_data_format": {"outputs": {"pred": {"channel_def": NAMES}}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(about))
