"""EfficientNet-Lite0."""

from segcam_jax.models.efficientnet_lite.model import (
    EfficientNetLite as EfficientNetLite,
    EfficientNetLiteConfig as EfficientNetLiteConfig,
    efficientnet_lite0 as efficientnet_lite0,
)
