"""MONAI's U-Net in 2D and 3D."""

from segcam_jax.models.monai_unet.config import MonaiUNetConfig as MonaiUNetConfig
from segcam_jax.models.monai_unet.model import MonaiUNet as MonaiUNet, monai_unet as monai_unet
