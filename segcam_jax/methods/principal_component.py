"""The first principal component of an activation."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def first_component(values: Float[Array, "*space c"]) -> tuple[Array, Array]:
    """Projects positions on their first principal direction.

        X = values as (positions, c), centred per channel;  X = U S V^T;  X V_1

    The sign of V_1 is free; it is chosen so that the projection goes up with the sum of channels
    (and, where both are unrelated, so that its largest magnitude is positive).

    Returns:
        `(projection, direction)`, `*space` and `c`.
    """
    rows = values.reshape(-1, values.shape[-1])
    # Divided first: squares of small gradients are 0 in float32, and those of large ones infinite.
    largest = jnp.abs(rows).max()
    size = jnp.where(largest > 0, largest, 1)
    away = centred(rows / size)
    direction = _first_right_singular_vector(away)
    projection = away @ direction
    agreement = projection @ away.sum(-1)
    largest = projection[jnp.argmax(jnp.abs(projection))]
    sign = jnp.where(agreement != 0, jnp.sign(agreement), jnp.where(largest < 0, -1.0, 1.0))
    return (sign * size * projection).reshape(values.shape[:-1]), sign * direction


def centred(rows: Float[Array, "p c"]) -> Float[Array, "p c"]:
    """Rows less their mean; 0 in channels whose values are equal, whose mean may be rounded."""
    away = rows - rows.mean(0, keepdims=True)
    return jnp.where(jnp.ptp(rows, 0, keepdims=True) == 0, 0, away)  # NaN stays NaN.


def _first_right_singular_vector(rows: Float[Array, "p c"]) -> Float[Array, "c"]:
    """V_1 of rows = U S V^T, from the smaller of the two Gram matrices: far cheaper than an SVD."""
    if rows.shape[1] <= rows.shape[0]:
        return jnp.linalg.eigh(rows.T @ rows)[1][:, -1]
    direction = rows.T @ jnp.linalg.eigh(rows @ rows.T)[1][:, -1]
    length = jnp.linalg.norm(direction)
    return direction / jnp.where(length > 0, length, 1)
