"""Convolutions as matrix products: the form in which XLA trains 3D networks fast on a CPU.

XLA's CPU backend runs 3D convolutions slowly and their weight gradients far more slowly. Gathering
what each output position sees, and one matrix product, is the same sum. The gradient of a strided
convolution is a transposed one and the other way round, so that every gradient is such a product.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Volume = Float[Array, "n d h w c"]
Kernel = Float[Array, "3 3 3 c k"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Volume, kernel: Kernel, stride: int) -> Float[Array, "n d2 h2 w2 k"]:
    """A 3D convolution with a kernel of 3, one zero of padding and a stride of 1 or 2.

    Args:
        x: volumes; with stride 2 of even extents.
        kernel: as `nnx.Conv` has it.
        stride: along every axis.
    """
    return _seen(x, stride) @ kernel.reshape(-1, kernel.shape[-1])


@jax.custom_vjp
def convolve_transposed(x: Volume, kernel: Kernel) -> Float[Array, "n d2 h2 w2 k"]:
    """A transposed convolution with a kernel of 3 and a stride of 2 that doubles the extents.

    Along an axis, `y[2i] = x[i] w[1]` and `y[2i + 1] = x[i] w[0] + x[i + 1] w[2]`.

    Args:
        x: volumes.
        kernel: as `nnx.ConvTranspose` has it.
    """
    n, *space, _ = x.shape
    outputs = kernel.shape[-1]
    weights = kernel.transpose(3, 0, 1, 2, 4).reshape(kernel.shape[3], -1)
    products = jnp.pad(x @ weights, ((0, 0), *((0, 1),) * 3, (0, 0)))
    products = products.reshape(*products.shape[:-1], 3, 3, 3, outputs)
    parts = []
    for parity in itertools.product(range(2), repeat=3):
        total = jnp.zeros((), x.dtype)
        for taps in itertools.product(*((0, 2) if odd else (1,) for odd in parity)):
            i, j, k = (slice(t // 2, t // 2 + e) for t, e in zip(taps, space, strict=True))
            total += products[:, i, j, k, *taps]
        parts.append(total)
    stacked = jnp.stack(parts, axis=-2).reshape(n, *space, 2, 2, 2, outputs)
    doubled = [2 * extent for extent in space]
    return stacked.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, *doubled, outputs)


def _seen(x: Volume, stride: int) -> Float[Array, "n d2 h2 w2 27c"]:
    """What each output position of a convolution sees, tap by tap."""
    n, *extents, channels = x.shape
    space = [extent // stride for extent in extents]
    padded = jnp.pad(x, ((0, 0), *((1, 1),) * 3, (0, 0)))
    # By phases: a tap is then a slice without strides.
    grouped = [size for extent in padded.shape[1:-1] for size in (extent // stride, stride)]
    phases = padded.reshape(n, *grouped, channels).transpose(2, 4, 6, 0, 1, 3, 5, 7)
    seen = []
    for taps in itertools.product(range(3), repeat=3):
        i, j, k = (slice(t // stride, t // stride + e) for t, e in zip(taps, space, strict=True))
        seen.append(phases[tuple(t % stride for t in taps)][:, i, j, k])
    return jnp.concatenate(seen, axis=-1)


def _turned(kernel: Kernel) -> Float[Array, "3 3 3 k c"]:
    """Back to front along each axis, outputs as inputs."""
    return kernel[::-1, ::-1, ::-1].swapaxes(-1, -2)


def _outer(rows: Float[Array, "*n a"], columns: Float[Array, "*n b"]) -> Float[Array, "a b"]:
    """The sum of outer products over all positions."""
    return rows.reshape(-1, rows.shape[-1]).T @ columns.reshape(-1, columns.shape[-1])


def _convolve_forward(x, kernel, stride):
    return convolve(x, kernel, stride), (x, kernel)


def _convolve_backward(stride, saved, cotangent):
    x, kernel = saved
    of_kernel = _outer(_seen(x, stride), cotangent).reshape(kernel.shape)
    turned = _turned(kernel)
    if stride == 1:
        return convolve(cotangent, turned, 1), of_kernel
    return convolve_transposed(cotangent, turned), of_kernel


def _transposed_forward(x, kernel):
    return convolve_transposed(x, kernel), (x, kernel)


def _transposed_backward(saved, cotangent):
    x, kernel = saved
    seen = _seen(cotangent, 2)
    turned = _turned(kernel)
    of_turned = _outer(seen, x).reshape(turned.shape)
    of_x = seen @ turned.reshape(-1, turned.shape[-1])
    return of_x, _turned(of_turned)


convolve.defvjp(_convolve_forward, _convolve_backward)
convolve_transposed.defvjp(_transposed_forward, _transposed_backward)


class Product(nnx.Module):
    """An `nnx.Conv` or `nnx.ConvTranspose` of kernel 3, with its parameters, as a product."""

    def __init__(self, module: nnx.Conv | nnx.ConvTranspose):
        self.kernel, self.bias = module.kernel, module.bias
        self.transposed = isinstance(module, nnx.ConvTranspose)
        (self.stride,) = set(_strides(module))

    def __call__(self, x: Volume) -> Float[Array, "n d2 h2 w2 k"]:
        """Returns what the module does, up to rounding."""
        kernel = self.kernel[...]
        y: Any = (
            convolve_transposed(x, kernel) if self.transposed else convolve(x, kernel, self.stride)
        )
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, 1, -1)


def _strides(module: nnx.Conv | nnx.ConvTranspose) -> tuple[int, ...]:
    strides: Any = module.strides or 1
    return (strides,) * 3 if isinstance(strides, int) else tuple(strides)


def as_products(model: nnx.Module) -> None:
    """Replaces a network's 3D convolutions of kernel 3, in place; its parameters keep their names.

    Strides other than 2, and 1 of what is not transposed, stay as they are. Volumes must have the
    batch dimension, and twofold extents where they are halved.
    """
    for _, module in list(nnx.iter_modules(model)):
        for name, part in list(vars(module).items()):
            if not isinstance(part, nnx.Conv | nnx.ConvTranspose):
                continue
            allowed = ({2},) if isinstance(part, nnx.ConvTranspose) else ({1}, {2})
            if tuple(part.kernel_size) == (3, 3, 3) and set(_strides(part)) in allowed:
                setattr(module, name, Product(part))
