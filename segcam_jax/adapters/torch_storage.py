"""Tensors that share their memory in torch: writes that torchax does not follow are refused.

In torchax a view (`x.permute(...)`, `x.chunk(2)`) is a tensor of its own, but for `x[...]`. So
where one of a family is written to in place, the others are out of date; to read one is an error.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

# Functions of torch whose result shares the memory of their first argument.
_VIEWS = frozenset(
    """
    __getitem__ __get__ view view_as reshape reshape_as flatten ravel permute transpose t swapaxes
    swapdims movedim moveaxis chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind
    select narrow squeeze unsqueeze expand expand_as broadcast_to diagonal detach unfold unflatten
    view_as_real view_as_complex real imag as_strided atleast_2d atleast_3d
    """.split()
)
# Those that torchax's tensors answer themselves, where no mode of torch sees them.
_METHODS = ("flatten", "detach")
_NO_WRITES = frozenset(("requires_grad_", "retain_grad_"))


class LostWriteError(Exception):
    """A tensor that is read after a write that it should show."""


@dataclasses.dataclass(eq=False)
class _Member:
    """A tensor of a family: the value that is known of it, and the last write that it shows."""

    tensor: Any
    value: Any
    shows: int


@dataclasses.dataclass(eq=False)
class _Family:
    """Tensors that share their memory in torch, by their `id`, and how often one was written to."""

    members: dict[int, _Member] = dataclasses.field(default_factory=dict)
    writes: int = 0

    def update(self) -> None:
        """Finds writes since the last look: each shows on its tensor, if that was up to date."""
        for member in self.members.values():
            value = member.tensor._elem
            if value is not member.value:
                member.value = value
                up_to_date = member.shows == self.writes
                self.writes += 1
                member.shows = self.writes if up_to_date else member.shows


@functools.cache
def storage() -> type:
    """A mode of torch that watches writes, to be put inside of torchax's own."""
    import torch
    import torchax
    from torch.utils import _pytree as pytree

    class Storage(torch.overrides.TorchFunctionMode):
        """Keeps the families of tensors, and the tensors, for the time of a trace."""

        def __init__(self):
            super().__init__()
            self._families: dict[int, _Family] = {}
            self._plain: dict[str, Any] = {}

        def __enter__(self):
            for name in _METHODS:
                plain = self._plain[name] = vars(torchax.tensor.Tensor)[name]
                setattr(torchax.tensor.Tensor, name, self._watched(plain))
            return super().__enter__()

        def __exit__(self, *raised: Any):
            for name, plain in self._plain.items():
                setattr(torchax.tensor.Tensor, name, plain)
            return super().__exit__(*raised)

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            given = [each for each in pytree.tree_leaves((args, kwargs)) if _is_ours(each)]
            self.check(given)
            first = given[0] if given else None
            before = None if first is None else _root(first)._elem
            result = func(*args, **kwargs)
            if not _writes(name):
                result = pytree.tree_map(_sized, result)
            if first is not None and name in _VIEWS:
                self._join(first, pytree.tree_leaves(result))
            lost = first is not _root(first) and _writes(name) and _root(first)._elem is before
            if lost:
                raise LostWriteError(_WORDS)
            return result

        def check(self, tensors: Iterable[Any]) -> None:
            """Raises `LostWriteError` for a tensor that does not show a write to its memory."""
            for root in map(_root, filter(_is_ours, tensors)):
                family = self._families.get(id(root))
                if family is not None:
                    family.update()
                    if family.members[id(root)].shows != family.writes:
                        raise LostWriteError(_WORDS)

        def _watched(self, plain: Any) -> Any:
            @functools.wraps(plain)
            def method(tensor: Any, *args: Any, **kwargs: Any) -> Any:
                self.check([tensor])
                result = plain(tensor, *args, **kwargs)
                self._join(tensor, [result])
                return result

            return method

        def _join(self, tensor: Any, views: Iterable[Any]) -> None:
            root = _root(tensor)
            family = self._families.setdefault(id(root), _Family())
            family.members.setdefault(id(root), _Member(root, root._elem, 0))
            family.update()
            shows = family.members[id(root)].shows
            for view in map(_root, filter(_is_ours, views)):
                if id(view) not in self._families:
                    family.members[id(view)] = _Member(view, view._elem, shows)
                    self._families[id(view)] = family

    def _is_ours(value: Any) -> bool:
        return isinstance(value, (torchax.tensor.Tensor, torchax.view.View))

    def _sized(value: Any) -> Any:
        """A tensor whose size torch knows too, though it was transposed in place."""
        if isinstance(value, torchax.tensor.Tensor) and known(value) != value.shape:
            return torchax.tensor.Tensor(value._elem, value._env)
        return value

    def known(tensor: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return torch._C.TensorBase.size(tensor)

    return Storage


def _root(tensor: Any) -> Any:
    """The tensor that is read and written; torchax's `x[...]` reads and writes x."""
    while hasattr(tensor, "parent"):
        tensor = tensor.parent
    return tensor


def _writes(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in _NO_WRITES


_WORDS = (
    "the module reads a tensor after it has written into a view of it in place (or the reverse), "
    "which torchax does not follow; compute a new tensor instead"
)
