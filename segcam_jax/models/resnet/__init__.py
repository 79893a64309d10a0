"""Residual networks."""

from segcam_jax.models.resnet.model import (
    BLOCKS as BLOCKS,
    Block as Block,
    ResNet as ResNet,
    ResNetConfig as ResNetConfig,
    resnet as resnet,
)
