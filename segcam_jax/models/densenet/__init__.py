"""Densely connected networks."""

from segcam_jax.models.densenet.model import (
    BLOCKS as BLOCKS,
    DenseLayer as DenseLayer,
    DenseNet as DenseNet,
    DenseNetConfig as DenseNetConfig,
    Transition as Transition,
    densenet as densenet,
)
