"""A network over a whole volume as one function: the blended sliding windows, differentiable.

    y[p] = sum_w s_w[p - c_w] f(x[window w])[p - c_w],    s_w = g / (sum_v g of window v)

c_w is the start of window w and g the Gaussian weights of `engine.sliding`, so y is the
segmentation's own output. The stitching is linear: the gradient of a score of y is the sum of its
windows' parts. A score of an instance needs those windows alone that the instance lies in; y is
not whole elsewhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segcam_jax.engine.sliding import Tiling
from segcam_jax.types import wide
from segcam_jax.volumes.crops import Crop, cut_out


@dataclasses.dataclass(frozen=True)
class Stitched:
    """A network over windows of its input, a function to `split` at its input.

    Backwards, windows run one after the other, each computed again, so that memory is that of one.

    Attributes:
        fn: the network, `fn(params, window) -> output`, whose positions are the window's.
        roi: extents of a window.
        one_example: the first axis of a volume is one of positions.
    """

    fn: Callable
    roi: tuple[int, ...]
    one_example: bool = True

    def __call__(self, params: Any, x: Float[Array, "*space c"]) -> Float[Array, "*space k"]:
        """The blended output.

        Args:
            params: `(parameters of the network, starts, shares)`, the latter as `around` has them.
        """
        network, starts, shares = params
        cut = jax.ShapeDtypeStruct((*self.roi, x.shape[-1]), x.dtype)
        output = jax.eval_shape(self.fn, network, cut)

        @jax.checkpoint
        def add(total, window):
            start, share = window
            at = [*start, jnp.zeros((), start.dtype)]
            part = wide(self.fn(network, jax.lax.dynamic_slice(x, at, cut.shape)))
            before = jax.lax.dynamic_slice(total, at, part.shape)
            added = before + part * share[..., None]
            return jax.lax.dynamic_update_slice(total, added, at), None

        total = jnp.zeros((*x.shape[:-1], output.shape[-1]), jnp.float32)
        return jax.lax.scan(add, total, (starts, shares))[0]


def around(
    x: Float[np.ndarray, "*space c"], mask: Bool[np.ndarray, "*space"], tiles: Tiling
) -> tuple[Crop, tuple[np.ndarray, np.ndarray]]:
    """The windows that an instance lies in, and the part of the volume that they cover.

    Parts are as large as two neighbouring windows along each axis, or larger where the instance
    is, and windows are a power of two: so the instances of a scan need few programs.

    Args:
        mask: the instance, somewhere True.

    Returns:
        `(part, (starts, shares))`: where each window starts in the part, and the share of its
        output in the blended one, 0 of a window that fills up.
    """
    starts, own = tiles.touching(np.pad(mask, tiles.padding))
    low, high = starts.min(0), starts.max(0) + tiles.roi
    both = np.array(tiles.roi) + tiles.steps
    sizes = np.minimum(tiles.padded, np.maximum(high - low, both))
    corner = np.minimum(low, tiles.padded - sizes)
    mass, weights = tiles.mass(), tiles.weights()
    shares = np.stack([weights / mass[tiles.at(start)] for start in starts])
    shares *= own.reshape(-1, *[1] * mask.ndim)
    part = [slice(int(c), int(c + n)) for c, n in zip(corner, sizes, strict=True)]
    crop = cut_out(x, mask, part, tiles.padding)
    return crop, ((starts - corner).astype(np.int32), shares.astype(np.float32))
