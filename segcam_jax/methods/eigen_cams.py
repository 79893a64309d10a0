"""CAMs from the first principal component of the activation, or of activation times gradient."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, wide


def first_component(values: Float[Array, "*space c"]) -> tuple[Array, Array]:
    """Projects positions on their first principal direction.

        X = values as (positions, c), centred per channel;  X = U S V^T;  X V_1

    The sign of V_1 is free; it is chosen so that the projection goes up with the sum of channels
    (and, where both are unrelated, so that its largest magnitude is positive).

    Returns:
        `(projection, direction)`, `*space` and `c`.
    """
    rows = values.reshape(-1, values.shape[-1])
    centred = rows - rows.mean(0, keepdims=True)
    direction = _first_right_singular_vector(centred)
    projection = centred @ direction
    agreement = projection @ centred.sum(-1)
    largest = projection[jnp.argmax(jnp.abs(projection))]
    sign = jnp.where(agreement != 0, jnp.sign(agreement), jnp.where(largest < 0, -1.0, 1.0))
    return (sign * projection).reshape(values.shape[:-1]), sign * direction


def _first_right_singular_vector(rows: Float[Array, "p c"]) -> Float[Array, "c"]:
    """V_1 of rows = U S V^T, from the smaller of the two Gram matrices: far cheaper than an SVD."""
    if rows.shape[1] <= rows.shape[0]:
        return jnp.linalg.eigh(rows.T @ rows)[1][:, -1]
    direction = rows.T @ jnp.linalg.eigh(rows @ rows.T)[1][:, -1]
    length = jnp.linalg.norm(direction)
    return direction / jnp.where(length > 0, length, 1)


@method(
    "activation",
    title="Eigen-CAM",
    cost="1 forward, 1 eigenvector",
    paper="Muhammad and Yeasin, IJCNN 2020",
    uses_target=False,
)
def eigen_cam(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """Eigen-CAM: the first principal component of the activation; independent of the target.

        map = X V_1,    X the centred activation as (positions, c), X = U S V^T

    Returns:
        `map` `*space`, `weights` `c` (V_1), `score`.

    References:
        Muhammad and Yeasin, Eigen-CAM, IJCNN 2020. Deviations: channels are centred, as
        pytorch-grad-cam does, and the sign is fixed (see `first_component`); there it depends on
        the linear algebra library.
    """
    activation, _, score = engine.baseline(split, params, x, target, execution)
    projection, direction = first_component(wide(activation))
    return Explanation(map=projection, score=score, weights=direction)


@method(
    "activation",
    title="Eigen-Grad-CAM",
    cost="1 forward, 1 backward, 1 eigenvector",
    paper="pytorch-grad-cam; Eigen-CAM of Muhammad and Yeasin, IJCNN 2020",
)
def eigen_grad_cam(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """Eigen-Grad-CAM: the first principal component of gradient times activation.

        map = X V_1,    X the centred g A as (positions, c), X = U S V^T

    Returns:
        `map` `*space`, `weights` `c` (V_1), `score`.
    """
    activation, carry = engine.encode(split, params, x, execution)
    score, gradient = engine.value_and_gradient(split, activation, carry, target, execution)
    projection, direction = first_component(wide(gradient) * wide(activation))
    return Explanation(map=projection, score=score, weights=direction)
