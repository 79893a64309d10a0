"""U-Net (Ronneberger et al., 2015) in 2D and 3D."""

from segcam_jax.models.unet.model import UNet as UNet, UNetConfig as UNetConfig
from segcam_jax.models.unet.weights import load_unet as load_unet, save_unet as save_unet
