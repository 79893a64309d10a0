"""Networks with random weights and random BatchNorm statistics: for tests and benchmarks."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

Model = TypeVar("Model", bound=nnx.Module)


def randomised(make: Callable[[], Model], *, seed: int = 0) -> Model:
    """Makes a network and draws all its weights, quickly, in NumPy.

    Kernels are at He's scale, so that activations neither vanish nor explode. BatchNorm gets
    scales in [0.5, 1.5], biases and means of standard deviation 0.1, variances in [0.5, 2]: far
    from their neutral values, so that a mix-up shows. The last BatchNorm of a residual branch
    (`residual_norm` of its block) has its scale divided by four, since branches add up.

    Args:
        make: returns the network; traced only.
        seed: of all draws.

    Example:
        >>> from segcam_jax.models.resnet import resnet
        >>> model = randomised(lambda: resnet(18, classes=10))
        >>> model.head.kernel.shape
        (512, 10)
    """
    model = nnx.eval_shape(make)
    generator = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    for path, leaf in nnx.to_flat_state(state):
        damping = 0.25 if "residual_norm" in path else 1.0
        value = _drawn(str(path[-1]), leaf.shape, damping, generator)
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model


def _drawn(kind: str, shape: tuple[int, ...], damping: float, generator: np.random.Generator):
    match kind:
        case "kernel":
            scale = np.float32((2 / np.prod(shape[:-1])) ** 0.5)
            return scale * generator.standard_normal(shape, np.float32)
        case "scale":
            return damping * generator.uniform(0.5, 1.5, shape)
        case "var":
            return generator.uniform(0.5, 2.0, shape)
        case _:
            return generator.normal(0.0, 0.1, shape)
