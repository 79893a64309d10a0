"""PyTorch modules: torch's operators run on JAX, by torchax."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax import faults
from segcam_jax.adapters import calls, torch_modules
from segcam_jax.adapters.torch_runtime import EXTRA, load_torchax, on_jax
from segcam_jax.extras import require
from segcam_jax.types import InputError, Outputs

if TYPE_CHECKING:
    import torch

_QUANTISED = ("torch.ao.nn", "torch.nn.quantized", "torch.nn.intrinsic.quantized")
_HALF = ("torch.float16", "torch.bfloat16")


@dataclasses.dataclass(frozen=True, eq=False)
class _Torch(calls.Adapted):
    image: str | None = None
    constants: tuple[jax.Array, ...] = ()

    def run(self, params: Any, x: Any) -> Any:
        import torch

        with torch.inference_mode(False):
            return self._run(params, x)

    def _run(self, params: Any, x: Any) -> Any:
        from torch.utils import _pytree as pytree

        if any(leaf.dtype == np.uint8 for leaf in jax.tree.leaves(x)):
            raise InputError(
                "x has dtype uint8, but the module computes in floating point; give floats in "
                "the range that it was trained on: x / 255 for [0, 1]"
            )
        if missing := [name for name in self.names if name not in params]:
            raise InputError(f"the parameters lack {missing[0]!r}; give what from_torch returned")
        env = load_torchax().default_env()
        # Every call has a copy of its own: modules may keep what they compute in attributes.
        registered = torch_modules.registered(self.model)
        tensors = {
            id(tensor): env.j2t_iso(jnp.asarray(params[name]))
            for name, tensor in registered.items()
        }
        loose = zip(torch_modules.loose_tensors(self.model), self.constants, strict=True)
        tensors |= {id(tensor): env.j2t_iso(value) for tensor, value in loose}
        module = torch_modules.copied(self.model, tensors)
        for path, submodule in module.named_modules():
            if path:
                forward = _marking(submodule.forward, path.replace(".", "/"), env)
                object.__setattr__(submodule, "forward", forward)
        arguments = jax.tree.map(functools.partial(_given, env), dict(self.arguments))
        inputs = env.j2t_iso(x)
        with on_jax() as watch:
            if self.call is not None:
                output = self.call(module, inputs, **arguments)
            elif self.image is not None:
                output = module(**{self.image: inputs}, **arguments)
            else:
                calls.check_arguments(type(module).forward, (module, inputs), arguments)
                output = module(inputs, **arguments)
            watch.check(pytree.tree_leaves(output))
            output = env.t2j_iso(output)
        return output if self.output is not None else _only(output)

    def same_model(self, other: Any) -> bool:
        """Whether the modules are of one structure; what cannot be compared is not."""
        mine, theirs = (list(each.model.named_modules()) for each in (self, other))
        return (
            not self.constants
            and not other.constants
            and [(path, type(each)) for path, each in mine]
            == [(path, type(each)) for path, each in theirs]
            and all(
                torch_modules.plain(a) == torch_modules.plain(b)
                for (_, a), (_, b) in zip(mine, theirs, strict=True)
            )
        )


def from_torch(
    module: "torch.nn.Module",
    *,
    batch_axis: int | None = 0,
    channel_axis: int = 0,
    image: str | None = None,
    call: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | str | int | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns a PyTorch module into `fn(params, x) -> output` and its parameters, in eval mode.

    torchax runs torch's operators on JAX, so that the module needs no change and no torch at run
    time but for its tracing: images, outputs and taps are `h w c` (`d h w c`), as everywhere here,
    while the module is given `1 c h w`. Every submodule's output is a tap, by its path:
    `encoder/layer4/0/conv1`, and `#2` where it is called again; of a submodule that returns several
    things, the one tensor among them.

    The module and its class stay as they are, in training mode too; what runs is a copy of its
    structure. Hooks of the module's own (weight norm, spectral norm, bound methods) run with it,
    those that others left on it do not, of which a warning tells. Where a submodule changes its
    input in place, as `ReLU(inplace=True)` does, the tap before it is the value before the change:
    torch's own hooks, which keep the tensor, show the value after it. Weights of half precision are
    computed with in float32. Random numbers of torch and JAX are not consumed: a module that draws
    some in eval mode gets the same in every call. What torchax cannot follow, a write into a view
    of a tensor that is read again, is refused.

    Args:
        module: called as `module(x, **arguments)`.
        batch_axis: 0 for a module that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: where the module has channels, without the batch: -1 for channels last.
        image: the name of the argument that the image is, if it is not the first.
        call: how a module is called otherwise, `call(module, x, **arguments)`, for example
            `lambda module, x: module.head(module.features(x))`.
        output: picks the logits from what the module returns: a key or a number (`"out"`, `0`), or
            a function. None: there is one tensor.
        outputs: what that is, `"logits"` or `"probabilities"`. None: found out by `split`.
        one_example: True where the first axis of `x` belongs to one example, though the model keeps
            its entries apart (slices of a volume, frames of a film); else it is taken for a batch.
        arguments: keyword arguments of every call; arrays and tensors become tensors of torchax.

    Returns:
        `(fn, params)`: `fn` is pure and hashable; `params` is a dict of the module's parameters and
        buffers by their names in `state_dict`, of JAX's widths (int64 as int32).

    Raises:
        InputError: if `module` is not a module, was made by `torch.jit` or `torch.export`, or is
            quantised, or a number in it is NaN or does not fit; by `fn` if it returns several
            tensors and you give no `output`, or if it uses an operator that torchax lacks.
        MissingExtraError: if torch or torchax is not installed.
    """
    torch = require("torch", extra=EXTRA)
    load_torchax()
    module = torch_modules.unwrapped(module)
    if type(module).__module__.startswith("torch.export.") or _is_exported(module):
        raise InputError(
            "from_torch was given a program of torch.export, which has no modules any more; give "
            "the module itself, with its state dict loaded"
        )
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"from_torch was given {type(module).__name__}, expected a torch.nn.Module"
        )
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise InputError(
            "from_torch was given a torch.jit.ScriptModule, whose code is no longer Python; give "
            "the module itself, with its state dict loaded"
        )
    if any(type(each).__module__.startswith(_QUANTISED) for each in module.modules()):
        raise InputError("from_torch was given a quantised module; give it in floating point")
    torch_modules.tell_mode(module)
    registered, loose = torch_modules.registered(module), torch_modules.loose_tensors(module)
    params = {name: _array(tensor, name) for name, tensor in registered.items()}
    constants = tuple(_array(tensor, "a tensor that the module keeps") for tensor in loose)
    calls.check_weights(params)
    shells: dict[int, Any] = {
        id(tensor): torch.nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
        for tensor in registered.values()
    }
    shells |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in loose}
    skeleton = torch_modules.copied(module, shells, tell=True)
    torch_modules.put_in_eval_mode(skeleton)
    picks = _Picked(output) if isinstance(output, (str, int)) else output
    told = (batch_axis, channel_axis, arguments, call, picks, outputs, one_example)
    return _Torch(skeleton, tuple(params), *told, image, constants), params


def _is_exported(module: Any) -> bool:
    """Whether it is the module of a program of torch.export."""
    return "_guards_fn" in getattr(module, "_modules", ()) or hasattr(module, "_export_root")


def _array(tensor: Any, name: str) -> jax.Array:
    """A tensor of torch for JAX: halves as float32, other numbers as JAX keeps them."""
    try:
        tensor = tensor.detach().cpu()
        array = (tensor.float() if str(tensor.dtype) in _HALF else tensor).numpy()
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"{name!r} is not an array of numbers ({faults.words_of(error)}); give a module whose "
            "weights are loaded, dense and not quantised"
        ) from error
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind in "iu" and array.size and not np.array_equal(array, array.astype(dtype)):
        raise InputError(
            f"{name!r} holds integers that {dtype} cannot; set jax_enable_x64 to keep them"
        )
    return jnp.array(array, dtype)


def _given(env: Any, value: Any) -> Any:
    """An argument of a call, arrays as torchax's tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        value = _array(value, "an argument")
    return env.j2t_iso(jnp.asarray(value)) if isinstance(value, (jax.Array, np.ndarray)) else value


def _marking(forward: Callable, path: str, env: Any) -> Callable:
    """A submodule's forward that names what it returns."""

    def marked(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        before = {id(each): each.jax() for each in given if hasattr(each, "_elem")}
        with calls.within(path):
            output = forward(*args, **kwargs)
        return _named(output, path, before, env)

    return marked


def _named(output: Any, path: str, before: Mapping[int, Any], env: Any) -> Any:
    """What a submodule returns, the only tensor in it named.

    Args:
        before: the values of its inputs before the call, by the `id` of their tensors.
    """
    import torch
    from torch.utils import _pytree as pytree

    if isinstance(output, torch.Tensor):
        array = output.jax()
        named = calls.named(array, path)
        if id(output) in before and before[id(output)] is not array:
            output._elem = named  # Changed in place: whoever holds the tensor holds the change.
            return output
        return output if named is array else env.j2t_iso(named)
    parts, tree = pytree.tree_flatten(output)
    tensors = [place for place, each in enumerate(parts) if isinstance(each, torch.Tensor)]
    if len(tensors) == 1:
        parts[tensors[0]] = _named(parts[tensors[0]], path, before, env)
        return pytree.tree_unflatten(parts, tree)
    return output


@dataclasses.dataclass(frozen=True)
class _Picked:
    """Picks the output of a key or number; raises `InputError` if there is none."""

    key: str | int

    def __call__(self, output: Any) -> Any:
        try:
            return output[self.key]
        except (KeyError, IndexError, TypeError):
            there = list(output) if isinstance(output, Mapping) else f"0 to {len(output) - 1}"
            raise InputError(
                f"output={self.key!r}: the module returns a {type(output).__name__}; choose from "
                f"{there}"
            ) from None


def _only(output: Any) -> Any:
    """The one array that a module returns."""
    leaves = jax.tree.leaves(output)
    if len(leaves) == 1:
        return leaves[0]
    keys = list(output) if isinstance(output, Mapping) else list(range(len(leaves)))
    shapes = ", ".join(
        f"{key!r}: {jnp.shape(leaf)}" for key, leaf in zip(keys, leaves, strict=False)
    )
    raise InputError(
        f"the module returns {len(leaves)} tensors in a {type(output).__name__} ({shapes}); say "
        f"which to explain: output={keys[0] if keys else 0!r}"
    )
