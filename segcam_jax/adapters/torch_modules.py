"""What a PyTorch module is made of: its tensors, wherever they are kept, its hooks, and a copy."""

import copy
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

# Modules that only carry another one, and where they hold it.
_CARRIERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_REGISTERED = ("_parameters", "_buffers", "_modules", *_HOOKS)


def unwrapped(module: Any) -> Any:
    """The module that one of torch's own carries, compiled or parallel."""
    while type(module).__module__.startswith("torch.") and type(module).__name__ in _CARRIERS:
        module = getattr(module, _CARRIERS[type(module).__name__])
    return module


def registered(module: Any) -> dict[str, Any]:
    """Parameters and buffers by name, those of two names by the first."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def loose_tensors(module: Any) -> list[Any]:
    """Tensors that modules keep as plain attributes, alone or in lists, tuples and dicts.

    Those of modules that are kept so too, which torch does not register.
    """
    import torch

    known = set(map(id, registered(module).values()))
    values = [value for _, value in _kept(module)]
    for value in values:
        if isinstance(value, torch.nn.Module):
            values.extend(registered(value).values())
    found = {id(each): each for each in values if isinstance(each, torch.Tensor)}
    return [tensor for key, tensor in found.items() if key not in known]


def _kept(module: Any) -> list[tuple[str, Any]]:
    """Tensors and modules that modules keep as plain attributes, however deep, by their names."""
    import torch

    seen = set(map(id, module.modules()))
    left = list(module.named_modules())
    found, values = [], []
    while left:
        path, owner = left.pop()
        values = [
            (f"{path}.{name}".strip("."), value)
            for name, value in vars(owner).items()
            if name not in _REGISTERED
        ]
        while values:
            name, value = values.pop()
            if isinstance(value, torch.nn.Module) and id(value) not in seen:
                found.append((name, value))
                inside = [(f"{name}.{each}".strip("."), m) for each, m in value.named_modules()]
                left.extend(inside)
                seen.update(id(each) for _, each in inside)
            elif isinstance(value, torch.Tensor):
                found.append((name, value))
            elif isinstance(value, (list, tuple)):
                values.extend((f"{name}[{at}]", each) for at, each in enumerate(value))
            elif isinstance(value, Mapping):
                values.extend((f"{name}[{key!r}]", each) for key, each in value.items())
    return found


def copied(module: Any, tensors: Mapping[int, Any], *, tell: bool = False) -> Any:
    """A copy of a module's structure with other tensors in it.

    Args:
        tensors: by the `id` of a tensor in it, what the copy has there. Hooks are copied if they
            are the module's own.
        tell: whether to warn of those that are not.
    """
    memo: dict[int, Any] = dict(tensors)
    owned = {id(each) for each in module.modules()}
    hooks = []
    for path, submodule in module.named_modules():
        for name in _HOOKS:
            there = getattr(submodule, name)
            fresh = memo[id(there)] = type(there)()
            own = {key: hook for key, hook in there.items() if _is_own(hook, owned)}
            hooks.append((own, fresh))
            if tell and len(own) < len(there):
                foreign = next(hook for key, hook in there.items() if key not in own)
                warnings.warn(
                    f"a hook on the submodule {path!r} ({_name_of(foreign)}) does not run, "
                    "because it is not part of the module; move what the model computes into its "
                    "forward",
                    stacklevel=3,
                )
    copied = copy.deepcopy(module, memo)
    for own, fresh in hooks:
        fresh.update(copy.deepcopy(own, memo))
    return copied


def _is_own(hook: Any, modules: set[int]) -> bool:
    """Whether a hook is a part of the model: one of torch's, or a method of one of its modules."""
    function = getattr(hook, "func", hook)
    owner = getattr(function, "__self__", function)
    return id(owner) in modules or type(owner).__module__.startswith("torch.nn.utils.")


def plain(module: Any) -> dict[str, Any]:
    """What a module is besides its tensors and submodules; hooks are told apart.

    Lists of its parameters, as recurrent layers keep them, are the names of these.
    """
    import torch
    from torch.utils import _pytree as pytree

    names = {id(tensor): name for name, tensor in registered(module).items()}

    def named(leaf: Any) -> Any:
        if isinstance(leaf, weakref.ref) and isinstance(leaf(), torch.Tensor):
            return weakref.ref
        return names.get(id(leaf), id(leaf)) if isinstance(leaf, torch.Tensor) else leaf

    kept = {name: each for name, each in vars(module).items() if name not in _REGISTERED[:3]}
    kept = {name: dict(each) if name in _HOOKS else each for name, each in kept.items()}
    return pytree.tree_map(named, kept)


def _name_of(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


def tell_mode(module: Any) -> None:
    """Warns of a module in training mode that computes otherwise then."""
    kinds = ("BatchNorm", "Dropout", "DropPath")
    live = {type(each).__name__ for each in module.modules() if each.training}
    found = sorted(name for name in live if any(kind in name for kind in kinds))
    if module.training and found:
        warnings.warn(
            f"the module is in training mode, but is explained in eval mode ({', '.join(found)}); "
            "call module.eval() first",
            stacklevel=3,
        )


def put_in_eval_mode(module: Any) -> None:
    """Puts a module in eval mode, with those that it does not register; tells of them."""
    import torch

    module.eval()
    loose = [(name, each) for name, each in _kept(module) if isinstance(each, torch.nn.Module)]
    for _, each in loose:
        each.eval()
    if loose:
        more = f" and {len(loose) - 1} more" if len(loose) > 1 else ""
        warnings.warn(
            f"{type(module).__name__} keeps {loose[0][0]}{more} in plain attributes, where torch "
            "registers no submodules: they have no taps, and their parameters are constants; use "
            "nn.ModuleList or nn.ModuleDict",
            stacklevel=3,
        )
