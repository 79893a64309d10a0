"""Inception-v3."""

from segcam_jax.models.inception.model import (
    Inception as Inception,
    InceptionConfig as InceptionConfig,
    inception_v3 as inception_v3,
)
