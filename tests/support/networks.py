"""Small networks written out in `jnp`, with the ablation as an argument: what split is held to."""

import functools

import jax
import jax.numpy as jnp

from segcam_jax import tap

CLASSES = 3


def convolve(x, kernel, bias=None):
    """A convolution of one example, channels last, same padding, 2D or 3D."""
    letters = "DHW"[-(x.ndim - 1) :]
    dimensions = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    y = jax.lax.conv_general_dilated(
        x[None], kernel, (1,) * (x.ndim - 1), "SAME", dimension_numbers=dimensions
    )[0]
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def pool(x):
    window = (2,) * (x.ndim - 1) + (1,)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def upsample(x):
    for axis in range(x.ndim - 1):
        x = jnp.repeat(x, 2, axis=axis)
    return x


def skip_net(params, x, mask=None, change=None):
    """Encoder, bottleneck, decoder with a skip; `mask` multiplies and `change` adds to the tap."""
    skip = tap(jax.nn.relu(convolve(x, params["down"], params["bias"])), "encoder")
    deep = jax.nn.relu(convolve(pool(skip), params["deep"]))
    if mask is not None:
        deep = deep * mask
    if change is not None:
        deep = deep + change
    deep = tap(deep, "bottleneck")
    both = jnp.concatenate([upsample(deep), skip], axis=-1)
    up = tap(jax.nn.relu(convolve(both, params["up"])), "decoder")
    return convolve(up, params["head"])


def make_params(ndim=2, seed=0, dtype=jnp.float32, inputs=2, width=4):
    return dict(_drawn_params(ndim, seed, dtype, inputs, width))


# Drawn once, by a caller's trace too: each module would compile the drawing anew.
@functools.cache
def _drawn_params(ndim, seed, dtype, inputs, width):
    shapes = {
        "down": ((3,) * ndim, inputs, width),
        "deep": ((3,) * ndim, width, 2 * width),
        "up": ((3,) * ndim, 3 * width, width),
        "head": ((1,) * ndim, width, CLASSES),
    }
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        params = {
            name: jax.random.normal(key, (*space, i, o), dtype) * (2 / (i * len(space) * 3)) ** 0.5
            for key, (name, (space, i, o)) in zip(keys, shapes.items(), strict=True)
        }
        return {**params, "bias": jnp.linspace(-0.1, 0.2, width, dtype=dtype)}


@functools.cache
def make_input(ndim=2, seed=1, dtype=jnp.float32, inputs=2):
    extents = (8, 12) if ndim == 2 else (4, 6, 8)
    with jax.ensure_compile_time_eval():
        return jax.random.normal(jax.random.key(seed), (*extents, inputs), dtype)
