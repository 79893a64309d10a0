"""A U-Net whose encoder is VGG-16, as segmentation_models builds it."""

from segcam_jax.models.vgg_unet.model import VggUNet as VggUNet, VggUNetConfig as VggUNetConfig
