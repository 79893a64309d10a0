"""Deep feature factorization: the concepts that an activation is made of, where they are, and what
each does for the score.

It finds several maps, not one, and is therefore not in the registry of methods.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.ablation import scaled
from segcam_jax.taps import Split
from segcam_jax.types import InputError, wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factorization:
    """Concepts of an activation, the strongest first.

    Attributes:
        maps: how much of each concept is at each position, not negative.
        concepts: the channels of each concept, of length 1 (before `offset` is added).
        offset: of each channel, its minimum where that is negative, else 0.
        drops: how far the score falls without each concept's share of the activation.
        scores: the score without each.
        score: the score of the unchanged input.
        error: length of what the concepts leave unexplained, as a share of the activation's.
    """

    maps: Float[Array, "*space m"]
    concepts: Float[Array, "m c"]
    offset: Float[Array, "c"]
    drops: Float[Array, "m"]
    scores: Float[Array, "m"]
    score: Float[Array, ""]
    error: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ConceptMasks:
    """Mask m takes concept m's share H_m W_m / sum_j H_j W_j of each element away."""

    maps: Float[Array, "*space m"]
    concepts: Float[Array, "m c"]

    def __len__(self) -> int:
        return self.concepts.shape[0]

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*space c"]:
        whole = self.maps @ self.concepts
        own = self.maps[..., index, None] * self.concepts[index].reshape(
            (1,) * (self.maps.ndim - 1) + (-1,)
        )
        return 1 - jnp.where(whole > 0, own / jnp.where(whole > 0, whole, 1), 0)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        def taken(index):
            return ((1 - self(index).astype(values.dtype)) * values).sum()

        return jax.lax.map(taken, jnp.arange(len(self), dtype=jnp.int32))


@engine.compiled
def deep_feature_factorization(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    components: int = 5,
    iterations: int = 200,
    relative: bool = False,
    execution: Execution = Execution(),
) -> Factorization:
    """Factorizes an activation into concepts, and ablates each.

        A - offset ~ H W,    H >= 0 `*space m`,    W >= 0 `m c`
        d_m = S - S(A (1 - H_m W_m / sum_j H_j W_j))

    Args:
        components: how many concepts; at most positions and channels.
        iterations: of the factorization.
        relative: divide the drops by |S|; a score of exactly 0 divides by 1.

    Raises:
        InputError: if `components` or `iterations` do not fit.

    References:
        Collins, Achanta and Süsstrunk, Deep Feature Factorization, ECCV 2018, for the maps. That
        concepts are ablated is of this library; pytorch-grad-cam runs the classifier on W, which
        has no meaning for a decoder.
    """
    activation, carry = engine.encode(split, params, x, execution)
    channels = activation.shape[-1]
    most = min(channels, activation.size // channels)
    if not 1 <= components <= most:
        raise InputError(f"components={components}; tap {split.tap!r} allows 1 to {most}")
    if iterations < 1:
        raise InputError(f"iterations={iterations}; at least 1 is needed")
    rows = wide(activation).reshape(-1, channels)
    offset = jnp.minimum(rows.min(0), 0)
    values = rows - offset[None]
    maps, concepts = factorized(values, components=components, iterations=iterations)
    left = jnp.linalg.norm(values - maps @ concepts)
    size = jnp.linalg.norm(values)
    maps = maps.reshape(*activation.shape[:-1], components)
    masks = _ConceptMasks(maps, concepts)
    score, drops = engine.ablation_drops(split, activation, carry, target, masks, execution)
    error = left / jnp.where(size > 0, size, 1)
    falls = scaled(drops, score, relative=relative)
    return Factorization(maps, concepts, offset, falls, score - drops, score, error)


def factorized(
    values: Float[Array, "p c"], *, components: int, iterations: int
) -> tuple[Float[Array, "p m"], Float[Array, "m c"]]:
    """Non-negative matrix factorization V ~ H W by HALS, from singular vectors: deterministic.

        H_m = max(0, H_m + (V W^T - H W W^T)_m / (W W^T)_mm),    W alike, in turn

    To factorize several images together, put their positions below one another.

    Returns:
        `(H, W)`, components by falling magnitude, rows of W of length 1.

    References:
        Cichocki and Phan, Fast Local Algorithms for Nonnegative Matrix Factorization, 2009 (HALS);
        Boutsidis and Gallopoulos, 2008 (the start, NNDSVD).
    """
    start = _start(values, components)

    def step(_, factors):
        left, right = factors
        left = _updated(left, values @ right.T, right @ right.T)
        right = _updated(right.T, values.T @ left, left.T @ left).T
        return left, right

    left, right = jax.lax.fori_loop(0, iterations, step, start)
    lengths = jnp.linalg.norm(right, axis=1)
    right = right / jnp.where(lengths > 0, lengths, 1)[:, None]
    left = left * lengths[None]
    order = jnp.argsort(-jnp.linalg.norm(left, axis=0))
    return left[:, order], right[order]


def _updated(factor: Array, products: Array, gram: Array) -> Array:
    """One pass over the columns of a factor, each seeing those before it already changed."""
    for m in range(factor.shape[1]):
        curve = gram[m, m]
        step = (products[:, m] - factor @ gram[:, m]) / jnp.where(curve > 0, curve, 1)
        factor = factor.at[:, m].set(jnp.maximum(factor[:, m] + step, 0))
    return factor


def _start(values: Float[Array, "p c"], components: int) -> tuple[Array, Array]:
    """Of each singular pair the positive or the negative parts, whichever carry more."""
    lefts, sizes, rights = jnp.linalg.svd(values, full_matrices=False)

    @functools.partial(jax.vmap, out_axes=(1, 0))
    def pair(u, size, v):
        signs = jnp.array([1.0, -1.0], u.dtype)
        parts = [(jnp.maximum(s * u, 0), jnp.maximum(s * v, 0)) for s in signs]
        carried = jnp.stack([jnp.linalg.norm(a) * jnp.linalg.norm(b) for a, b in parts])
        best = jnp.argmax(carried)
        a, b = (jnp.stack(each)[best] for each in zip(*parts, strict=True))
        scale = jnp.sqrt(size * carried[best])
        return _unit(a) * scale, _unit(b) * scale

    return pair(lefts[:, :components].T, sizes[:components], rights[:components])


def _unit(vector: Array) -> Array:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1)
