"""PyTorch modules: torch's operators run on JAX, by torchax."""

import contextlib
import copy
import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax import faults
from segcam_jax.adapters import calls
from segcam_jax.extras import require
from segcam_jax.types import InputError, Outputs

if TYPE_CHECKING:
    import torch

_EXTRA = "torchax"
# Modules that only carry another one, and where they hold it.
_CARRIERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_HALF = ("torch.float16", "torch.bfloat16")


@dataclasses.dataclass(frozen=True, eq=False)
class _Torch(calls.Adapted):
    image: str | None = None
    constants: Mapping[int, jax.Array] = dataclasses.field(default_factory=dict)

    def run(self, params: Any, x: Any) -> Any:
        import torch

        torchax = _torchax()
        env = torchax.default_env()
        # Every call has a copy of its own: modules may keep what they compute in attributes.
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        tensors = {
            id(tensor): env.j2t_iso(jnp.asarray(params[name])) for name, tensor in named.items()
        }
        constants = {key: env.j2t_iso(value) for key, value in self.constants.items()}
        module = _copied(self.model, {**tensors, **constants})
        for path, submodule in module.named_modules():
            if path:
                forward = _marking(submodule.forward, path.replace(".", "/"), env)
                object.__setattr__(submodule, "forward", forward)
        arguments = jax.tree.map(functools.partial(_given, env), dict(self.arguments))
        inputs = env.j2t_iso(x)
        with env, torch.device("jax"), _quietly(), _operators(torchax):
            if self.call is not None:
                output = self.call(module, inputs, **arguments)
            elif self.image is not None:
                output = module(**{self.image: inputs}, **arguments)
            else:
                calls.check_arguments(type(module).forward, (module, inputs), arguments)
                output = module(inputs, **arguments)
            output = env.t2j_iso(output)
        return output if self.output is not None else _only(output)


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
    `encoder/layer4/0/conv1`, and `#2` where it is called again. Of a submodule that returns several
    things, the one tensor among them is.

    The module and its class stay as they are, in training mode too; what runs is a copy of its
    structure. Hooks of the module's own (weight norm, spectral norm, bound methods) run with it,
    those that others left on it do not, of which a warning tells. Where a submodule changes its
    input in place, as `ReLU(inplace=True)` does, the tap before it is the value before the change:
    torch's own hooks, which keep the tensor, show the value after it. Weights of half precision are
    computed with in float32. Random numbers of torch and JAX are not consumed.

    Args:
        module: called as `module(x, **arguments)`.
        batch_axis: None for a module that takes one example without a batch.
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
        buffers by their names in `state_dict`, as float32 and int32.

    Raises:
        InputError: if `module` is no module, or compiled by `torch.jit`; by `fn` if it returns
            several tensors and `output` is not said, or uses an operator that torchax lacks.
        MissingExtraError: if torch or torchax is not installed.
    """
    torch = require("torch", extra=_EXTRA)
    _torchax()
    module = _unwrapped(module)
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"from_torch was given {type(module).__name__}, expected a torch.nn.Module"
        )
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise InputError(
            "from_torch was given a torch.jit.ScriptModule, whose code is no longer Python; give "
            "the module that was scripted or traced, with its state dict loaded"
        )
    _tell_mode(module)
    params = {name: _array(tensor) for name, tensor in module.named_parameters()}
    params |= {name: _array(tensor) for name, tensor in module.named_buffers()}
    shells = {
        id(tensor): torch.nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
        for tensor in (*module.parameters(), *module.buffers())
    }
    loose = [tensor for tensor in _loose_tensors(module) if id(tensor) not in shells]
    shells |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in loose}
    constants = {id(shells[id(tensor)]): _array(tensor) for tensor in loose}
    _tell_hooks(module)
    skeleton = _copied(module, shells).eval()
    picks = operator.itemgetter(output) if isinstance(output, (str, int)) else output
    return _Torch(
        skeleton,
        tuple(params),
        batch_axis,
        channel_axis,
        arguments,
        call,
        picks,
        outputs,
        one_example,
        image,
        constants,
    ), params


@functools.cache
def _torchax() -> Any:
    """torchax, also where its release is older than torch's.

    Its release 0.0.13 asks for overloads of named tensors, which torch 2.13 has no more.
    """
    torch = require("torch", extra=_EXTRA)
    packet: Any = torch._ops.OpOverloadPacket
    plain = packet.__getattr__

    def tolerant(self: Any, key: str) -> Any:
        try:
            return plain(self, key)
        except AttributeError:
            if key.startswith("__"):
                raise
            return object()

    packet.__getattr__ = tolerant
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torchax = require("torchax", extra=_EXTRA)
        torchax.default_env()
    except (AttributeError, ImportError, RuntimeError) as error:
        raise InputError(
            f"torchax does not work with torch {torch.__version__} ({faults.words_of(error)}); "
            f'run: pip install "segcam-jax[{_EXTRA}]"'
        ) from error
    finally:
        packet.__getattr__ = plain
        torch.backends.mha.set_fastpath_enabled(fast)
    return torchax


def _unwrapped(module: Any) -> Any:
    """The module that one of torch's own carries, compiled or parallel."""
    while type(module).__module__.startswith("torch.") and type(module).__name__ in _CARRIERS:
        module = getattr(module, _CARRIERS[type(module).__name__])
    return module


def _array(tensor: Any) -> jax.Array:
    """A tensor of torch for JAX: halves as float32, other numbers as JAX keeps them."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) in _HALF:
        tensor = tensor.float()
    array = tensor.numpy()
    return jnp.array(array, jax.dtypes.canonicalize_dtype(array.dtype))


def _given(env: Any, value: Any) -> Any:
    """An argument of a call, arrays as torchax's tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        value = _array(value)
    return env.j2t_iso(jnp.asarray(value)) if isinstance(value, (jax.Array, np.ndarray)) else value


def _copied(module: Any, tensors: Mapping[int, Any]) -> Any:
    """A copy of a module's structure with other tensors in it.

    Args:
        module: it.
        tensors: by the `id` of a tensor in it, what the copy has there. Hooks are copied if they
            are the module's own.
    """
    memo: dict[int, Any] = dict(tensors)
    hooks = []
    for submodule in module.modules():
        for name in _HOOKS:
            there = getattr(submodule, name)
            memo[id(there)] = type(there)()
            hooks.append((there, memo[id(there)]))
    copied = copy.deepcopy(module, memo)
    owned = {id(each) for each in module.modules()}
    for there, fresh in hooks:
        kept = {key: hook for key, hook in there.items() if _is_own(hook, owned)}
        fresh.update(copy.deepcopy(kept, memo))
    return copied


def _is_own(hook: Any, modules: set[int]) -> bool:
    """Whether a hook is a part of the model: one of torch's, or a method of one of its modules."""
    function = getattr(hook, "func", hook)
    owner = getattr(function, "__self__", function)
    return id(owner) in modules or type(owner).__module__.startswith("torch.nn.utils.")


def _tell_hooks(module: Any) -> None:
    owned = {id(each) for each in module.modules()}
    for path, submodule in module.named_modules():
        for name in _HOOKS[:2]:
            foreign = [h for h in getattr(submodule, name).values() if not _is_own(h, owned)]
            if foreign:
                warnings.warn(
                    f"a hook on the submodule {path!r} ({_name_of(foreign[0])}) does not run: it "
                    "is no part of the module; what a model computes belongs into its forward",
                    stacklevel=3,
                )


def _name_of(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


def _tell_mode(module: Any) -> None:
    kinds = ("BatchNorm", "Dropout", "DropPath")
    live = {type(each).__name__ for each in module.modules() if each.training}
    found = sorted(name for name in live if any(kind in name for kind in kinds))
    if module.training and found:
        warnings.warn(
            f"the module is in training mode, and is explained in eval mode ({', '.join(found)}); "
            "call module.eval() first",
            stacklevel=3,
        )


def _loose_tensors(module: Any) -> Iterator[Any]:
    """Tensors that modules keep as plain attributes, alone or in lists, tuples and dicts."""
    import torch

    registered = {"_parameters", "_buffers", "_modules", *_HOOKS}
    for submodule in module.modules():
        values = [value for name, value in vars(submodule).items() if name not in registered]
        while values:
            value = values.pop()
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, (list, tuple)):
                values.extend(value)
            elif isinstance(value, Mapping):
                values.extend(value.values())


def _marking(forward: Callable, path: str, env: Any) -> Callable:
    """A submodule's forward that names what it returns."""

    def marked(*args: Any, **kwargs: Any) -> Any:
        before = {id(each): each.jax() for each in args if hasattr(each, "_elem")}
        with calls.within(path):
            output = forward(*args, **kwargs)
        return _named(output, path, before, env)

    return marked


def _named(output: Any, path: str, before: Mapping[int, Any], env: Any) -> Any:
    """What a submodule returns, the only tensor in it named.

    Args:
        output: of the submodule.
        path: of the submodule.
        before: the values of its inputs before the call, by the `id` of their tensors.
        env: of torchax.
    """
    import torch

    if isinstance(output, torch.Tensor):
        array = output.jax()
        named = calls.named(array, path)
        if id(output) in before and before[id(output)] is not array:
            output._elem = named  # Changed in place: whoever holds the tensor holds the change.
            return output
        return output if named is array else env.j2t_iso(named)
    if type(output) in (tuple, list):
        tensors = [place for place, each in enumerate(output) if isinstance(each, torch.Tensor)]
        if len(tensors) == 1:
            parts = list(output)
            parts[tensors[0]] = _named(parts[tensors[0]], path, before, env)
            return type(output)(parts)
    return output


def _only(output: Any) -> Any:
    """The one array that a module returns.

    Raises:
        InputError: if there are several; says how to pick one.
    """
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Runs torch's modules on JAX, as they are written, by torch's rules and JAX's widths.

    Fused attention takes tensors of torch alone. Shapes and dtypes promote as in torch, however
    strict JAX is set to be. Sizes and indices are int64 in torch and int32 in JAX, of which nothing
    is to tell.
    """
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
        ):
            warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _operators(torchax: Any) -> Iterator[None]:
    """An operator that torchax lacks is told in one line."""
    try:
        yield
    except torchax.tensor.OperatorNotFound as error:
        where = next(iter(getattr(error, "__notes__", ())), "in the module")
        raise InputError(
            f"{where}: torchax {torchax.__version__} lacks an operator of torch ({error}); write "
            "it by others, or define it by torchax.default_env().override_op_definition"
        ) from error
