"""CAMs from the activation alone: what stands out at a tap, whatever the target."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.methods.principal_component import centred
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, InputError, wide

_MOST_POSITIONS = 4096


@method(
    "activation", title="FEM", cost="1 forward", paper="Fuad et al., IPTA 2020", uses_target=False
)
def fem(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    deviations: float = 2.0,
    execution: Execution = Execution(),
) -> Explanation:
    """Feature explanation method: channels weighted by how much of them is rare; no target.

        w_k = share of positions p with A[p, k] > mean_k + deviations std_k
        map[p] = sum_k w_k A[p, k]

    Args:
        target: gives `score` only.
        deviations: the K of the K-sigma rule; 2 in the paper.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    References:
        Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA
        2020. Deviation: the map is pytorch-grad-cam's. The paper's weights are the means of the
        channels, and it adds up where they are rare: sum_k mean_k [A[p, k] > mean_k + K std_k].
    """
    activation, _, score = engine.baseline(split, params, x, target, execution)
    activation = wide(activation)
    space = tuple(range(activation.ndim - 1))
    mean, spread = (f(activation, space, keepdims=True) for f in (jnp.mean, jnp.std))
    rare = activation > mean + jnp.asarray(deviations, activation.dtype) * spread
    return weighted(activation, rare.astype(activation.dtype).mean(space), score)


@method(
    "activation",
    title="KPCA-CAM",
    cost="1 forward, 1 eigenvector of positions x positions",
    paper="Karmani et al., 2024",
    uses_target=False,
)
def kpca_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    kernel: Literal["sigmoid", "rbf", "linear"] = "sigmoid",
    gamma: float | None = None,
    execution: Execution = Execution(),
) -> Explanation:
    """KPCA-CAM: the first principal component of the activation under a kernel; no target.

        K[p, q] = tanh(gamma X_p.X_q + 1)   (sigmoid),   exp(-gamma |X_p - X_q|^2)   (rbf),
                  X_p.X_q   (linear: Eigen-CAM)
        map = sqrt(l) v,    l and v the largest eigenvalue of K, centred, and its eigenvector

    X is the activation as (positions, c), centred per channel.

    Args:
        target: gives `score` only.
        kernel: `"sigmoid"`, `"rbf"` or `"linear"`.
        gamma: scale inside the kernel; 1 / c if None.

    Returns:
        `map` `*space`, `score`.

    Raises:
        InputError: if the kernel is unknown, or the tap has more than 4096 positions: the matrix
            has the square of that.

    References:
        Karmani et al., KPCA-CAM, 2024 (arXiv 2410.00267); kernels and centring as in scikit-learn,
        which pytorch-grad-cam calls. Deviation: the sign is fixed, as in `eigen_cam`: the map goes
        up with the sum of channels.
    """
    activation, _, score = engine.baseline(split, params, x, target, execution)
    rows = wide(activation).reshape(-1, activation.shape[-1])
    if rows.shape[0] > _MOST_POSITIONS:
        raise InputError(
            f"kpca_cam at tap {split.tap!r}: {rows.shape[0]} positions, more than "
            f"{_MOST_POSITIONS}; choose a deeper tap"
        )
    rows = centred(rows)
    matrix = _kernel(rows, kernel, 1 / rows.shape[1] if gamma is None else gamma)
    across = matrix.mean(0, keepdims=True)
    matrix = matrix - across - across.T + matrix.mean()
    values, vectors = jnp.linalg.eigh(matrix)
    projection = jnp.sqrt(jnp.maximum(values[-1], 0)) * vectors[:, -1]
    agreement = projection @ rows.sum(-1)
    projection = jnp.where(agreement < 0, -projection, projection)
    return Explanation(projection.reshape(activation.shape[:-1]), score)


def _kernel(rows: Float[Array, "p c"], kernel: str, gamma: Any) -> Float[Array, "p p"]:
    """The kernel less its value at 0, which centring cancels: beside it small products round."""
    products = rows @ rows.T
    if kernel == "linear":
        return products
    scale = jnp.asarray(gamma, rows.dtype)
    if kernel == "sigmoid":
        one, above = math.tanh(1), jnp.tanh(scale * products)
        return above * (1 - one**2) / (1 + one * above)
    squares = jnp.diagonal(products)
    return jnp.expm1(-scale * (squares[:, None] + squares[None] - 2 * products))


@method(
    "activation",
    title="Given weights",
    cost="1 forward",
    paper="the importance vector of MODAL-UNINA, Eurocon 2023",
    aliases=("importance",),
    uses_target=False,
)
def given_weights(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    weights: Float[Array, "c"] | tuple[float, ...] | None = None,
    execution: Execution = Execution(),
) -> Explanation:
    """A map from channel weights that are known: an importance vector, of this image or others.

        map[p] = sum_k w_k A[p, k]

    Args:
        target: gives `score` only.
        weights: w, a number for each channel, as methods that weigh channels return them
            (`Explanation.weights`); None: 1 for each, the sum of the maps.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    Raises:
        InputError: if there is another number of weights than of channels.

    References:
        The code of "Ablation studies in activation maps for explainable semantic segmentation in
        Industry 4.0", IEEE Eurocon 2023, which has 256 numbers. Deviation: it takes the mean over
        channels, 1 / c of this map.
    """
    activation, _, score = engine.baseline(split, params, x, target, execution)
    activation = wide(activation)
    channels = activation.shape[-1]
    given = jnp.ones(channels) if weights is None else jnp.asarray(weights)
    if given.shape != (channels,):
        raise InputError(
            f"the weights have shape {given.shape}, and tap {split.tap!r} has {channels} channels; "
            "give one for each (--importance FILE on the command line)"
        )
    return weighted(activation, given.astype(activation.dtype), score)
