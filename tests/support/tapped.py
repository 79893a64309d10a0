"""All tapped activations of one forward pass."""

import contextlib
from unittest import mock

import jax

from segcam_jax.models.densenet import model as densenet
from segcam_jax.models.efficientnet_lite import model as efficientnet_lite
from segcam_jax.models.inception import model as inception
from segcam_jax.models.monai_unet import blocks as monai_blocks, model as monai_unet
from segcam_jax.models.resnet import model as resnet
from segcam_jax.models.vgg_unet import model as vgg_unet


def activations(fn, params, x):
    """Returns `(tap -> activation, output)`."""

    modules = (densenet, efficientnet_lite, inception, monai_blocks, monai_unet, resnet, vgg_unet)

    @jax.jit
    def run(params, x):
        seen = {}

        def keep(value, name):
            assert name not in seen, name
            seen[name] = value
            return value

        with contextlib.ExitStack() as stack:
            for module in modules:
                stack.enter_context(mock.patch.object(module, "tap", keep))
            return fn(params, x), seen

    output, seen = run(params, x)
    return seen, output
