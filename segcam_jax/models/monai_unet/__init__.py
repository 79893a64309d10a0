"""MONAI's U-Net in 2D and 3D."""

from segcam_jax.models.monai_unet.config import MonaiUNetConfig as MonaiUNetConfig
from segcam_jax.models.monai_unet.model import MonaiUNet as MonaiUNet, monai_unet as monai_unet
from segcam_jax.models.monai_unet.weights import (
    monai_table as monai_table,
    monai_taps as monai_taps,
)
