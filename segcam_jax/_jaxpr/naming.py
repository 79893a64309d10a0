"""How an activation gets its name in a traced program, and which name wins.

Authors name activations (`taps.tap`), each name once. Adapters name the outputs of submodules by
their paths: a name that is given again is numbered (`name`, `name#2`, ...), and one that the author
has given to something else gets `#module`. This is settled after the trace, where all names are
known, in order of evaluation: a traced call may be used more than once.

An adapter says with `layout` how arrays lie inside of its model; what is named then has its
channels last and no batch axis, whoever names it.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

PREFIX = "segcam:"
# Begins the name of a submodule's output.
_MODULE = "module@"
_RESERVED = frozenset(("input",))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How arrays lie inside of a model.

    Attributes:
        ndim: axes of one example.
        batch_axis: an axis of size one that the model insists on.
        channel_axis: where channels are, in arrays of as many axes as the example.
    """

    ndim: int
    batch_axis: int | None = None
    channel_axis: int = -1

    def native(self, x: Any) -> Any:
        """An example, or what was made canonical, as it lies inside of the model."""
        if x.ndim == self.ndim:
            x = jnp.moveaxis(x, -1, self.channel_axis)
        return x if self.batch_axis is None else jnp.expand_dims(x, self.batch_axis)

    def canonical(self, x: Any) -> Any:
        """The array with its channels last and no batch axis."""
        if self.batch_axis is not None:
            x = jnp.squeeze(x, self.batch_axis)
        return jnp.moveaxis(x, self.channel_axis, -1) if x.ndim == self.ndim else x

    def has_batch(self, x: Any) -> bool:
        """Whether the array has the batch axis that would be taken away."""
        if self.batch_axis is None:
            return True
        return -x.ndim <= self.batch_axis < x.ndim and x.shape[self.batch_axis] == 1


_PLAIN = Layout(ndim=0)
_LAYOUT: contextvars.ContextVar[Layout] = contextvars.ContextVar("layout", default=_PLAIN)


@contextlib.contextmanager
def layout(inside: Layout) -> Iterator[None]:
    """Names given in the block are of arrays that lie as `inside` says."""
    token = _LAYOUT.set(inside)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def is_without_batch(x: Any) -> bool:
    """Whether an array inside of an adapted model has the axes of one example, and no batch."""
    inside = _LAYOUT.get()
    return inside is not _PLAIN and inside.batch_axis is None and jnp.ndim(x) == inside.ndim


def mark(x: Any, name: str) -> Any:
    """Names an activation for its author; the value passes through unchanged."""
    return jax.tree.map(lambda leaf: _mark(leaf, PREFIX + name), x)


def mark_module(x: Any, path: str) -> Any:
    """Names the output of the submodule at a path."""
    return _mark(x, PREFIX + _MODULE + path)


def _mark(x: Any, name: str) -> Any:
    inside = _LAYOUT.get()
    if inside is _PLAIN or not hasattr(x, "ndim") or not inside.has_batch(x):
        return checkpoint_name(x, name)
    return inside.native(checkpoint_name(inside.canonical(x), name))


def is_module(name: str) -> bool:
    """Whether a name found in a program, without `PREFIX`, is one of a submodule."""
    return name.startswith(_MODULE)


def numbered(name: str, *taken: Collection[str]) -> str:
    """The name, with a number if it is one of a submodule that was given before."""
    if not is_module(name):
        return name
    number, free = 1, name
    while any(free in each for each in taken):
        number += 1
        free = f"{name}#{number}"
    return free


def settled(*found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The names of a whole program as they are shown; those of authors stay as they are.

    Args:
        found: name -> anything, in order of evaluation; the names of all are told apart.
    """
    taken = {name for names in found for name in names if not is_module(name)} | _RESERVED
    shown = []
    for names in found:
        final = {}
        for name, value in names.items():
            if is_module(name):
                name = name.removeprefix(_MODULE)
                while name in taken:
                    name += "#module"
                taken.add(name)
            final[name] = value
        shown.append(final)
    return shown
