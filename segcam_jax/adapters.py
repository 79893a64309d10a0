"""Models of other libraries as the plain functions `fn(params, x)` that `split` takes.

Their libraries are imported when an adapter runs, so that `import segcam_jax` stays light.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax import nnx


@dataclasses.dataclass(frozen=True)
class _Apply:
    """Equal graphs make equal functions, so that splits and compilations are shared."""

    graph: Any

    def __call__(self, params: Any, x: Any) -> Any:
        from flax import nnx

        return nnx.merge(self.graph, params)(x)


def from_nnx(model: "nnx.Module") -> tuple[_Apply, Any]:
    """Turns a Flax NNX model into `fn(params, x) -> output` and its parameters, in eval mode.

    The user's model is left as it is: a view with dropout off and BatchNorm on its running
    averages is taken.

    Args:
        model: called as `model(x)` with one example.

    Returns:
        `(fn, params)`: `fn` is pure and hashable; `params` is a pytree of arrays.
    """
    from flax import nnx

    view = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graph, params = nnx.split(view)
    return _Apply(graph), params
