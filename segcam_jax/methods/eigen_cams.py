"""CAMs from the first principal component of the activation, or of activation times gradient."""

from typing import Any

from jaxtyping import Array

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.principal_component import first_component
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, wide


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
