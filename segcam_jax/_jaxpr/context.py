"""The settings of JAX under which a program was traced."""

import jax


class Context:
    """The settings of JAX that a trace depends on, as `jax.jit` keys its traces by them.

    Equal for equal settings: of 64-bit types, of the precision of products, of random numbers, of
    promotion, of the default device, of the mesh, and whatever else JAX holds.
    """

    def __init__(self):
        # One and the same program comes back while no setting is another.
        self._program = _NOTHING()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self._program is other._program

    def __hash__(self) -> int:
        return id(self._program)


_NOTHING = jax.make_jaxpr(lambda: ())
