"""What is cached is keyed by: structure, shapes and dtypes of arguments, and settings of JAX."""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from segcam_jax.types import InputError

_NUMBERS = (bool, int, float, complex)
_ARRAY = (
    "give np.asarray(x, np.float32), of an image in the range that the model was trained on "
    "(/ 255 for [0, 1])"
)
# Models of other libraries: module and class, and how they are taken.
_MODELS = (
    ("flax.nnx", "Module", "from_nnx(model)"),
    ("flax.linen", "Module", "from_linen(module, variables)"),
)


def of(params: Any, x: Any) -> tuple[list[Any], Any]:
    """The leaves, and their structure, shapes and dtypes as a hashable signature."""
    if isinstance(x, list) and x and all(isinstance(leaf, _NUMBERS) for leaf in jax.tree.leaves(x)):
        raise InputError(f"x is a list of numbers, expected an array; {_ARRAY}")
    paths, tree = jax.tree_util.tree_flatten_with_path((params, x))
    avals = []
    for path, leaf in paths:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)) and (
            isinstance(leaf, (str, bytes)) or not np.isscalar(leaf)
        ):
            of_params = path[0].idx == 0
            name = ("params" if of_params else "x") + jax.tree_util.keystr(path[1:])
            todo = "keep what is not an array outside of `params`" if of_params else _ARRAY
            raise InputError(f"{name} is {type(leaf).__name__}, expected an array; {todo}")
        dtype: Any = getattr(leaf, "dtype", None) or np.result_type(leaf)
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        scalar = isinstance(leaf, _NUMBERS)
        avals.append((np.shape(leaf), dtype, getattr(leaf, "weak_type", scalar)))
    return [leaf for _, leaf in paths], (tree, tuple(avals))


def whole(leaves: Sequence[Any]) -> list[Any]:
    """The arrays, those that lie in shares along an explicit axis of a mesh put together.

    Raises:
        InputError: inside of `shard_map` with its check of what varies over devices.
    """
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    avals = [jax.typeof(array) for array in arrays]
    if any(map(_varies, avals)):
        raise InputError(
            "a split does not run inside of jax.shard_map with check_vma=True; give "
            "check_vma=False, or let explain_batch or Execution(mesh=...) share the work among "
            "devices"
        )
    return [
        jax.sharding.reshard(array, NamedSharding(aval.sharding.mesh, PartitionSpec()))
        if any(aval.sharding.spec)
        else array
        for array, aval in zip(arrays, avals, strict=True)
    ]


def _varies(aval: Any) -> bool:
    """Whether a value is known to differ between the devices of a `shard_map`."""
    kind = getattr(aval, "manual_axis_type", None)
    return bool(getattr(aval, "vma", None) or getattr(kind, "varying", None))


def check_function(fn: Any) -> None:
    """Raises `InputError` for what is not a function, or holds arrays as a model does."""
    advice = (
        "adapt a model with `fn, params = segcam_jax.from_equinox(model)` (from_nnx, "
        "from_linen), or pass the arrays of your own function in `params`"
    )
    if not callable(fn):
        raise InputError(
            f"`fn` is {type(fn).__name__}, expected a function of (params, x); {advice}"
        )
    for module, name, taken in _MODELS:
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(fn, cls):
            raise InputError(
                f"`fn` is {type(fn).__name__}, a {name} of {module}; adapt it with fn, params = "
                f"segcam_jax.{taken}"
            )
    if isinstance(fn, type):
        raise InputError(f"`fn` is the class {fn.__name__}; make a model from it, and {advice}")
    try:
        hash(fn)
        hash(getattr(fn, "__self__", None))  # Of a method, what it is bound to.
    except TypeError:
        name = getattr(fn, "__qualname__", type(fn).__name__)
        raise InputError(f"`fn` is {name}, which holds arrays and has no hash; {advice}") from None


def structs(signature: Any) -> list[jax.ShapeDtypeStruct]:
    """The arguments that a signature stands for, flat."""
    return [
        jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in signature[1]
    ]


def shapes(signature: Any) -> Any:
    """The structure, shapes and dtypes of a signature; weakly typed arrays pass for others."""
    return signature[0], [(shape, dtype) for shape, dtype, _ in signature[1]]


def mismatch(expected: Any, given: Any) -> str:
    """What differs between two signatures, in words."""
    if expected[0] != given[0]:
        return (
            f"params and x have structure {given[0]}, but the model was split for {expected[0]}; "
            "split it again"
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(
            jax.tree.unflatten(expected[0], list(range(len(expected[1]))))
        ),
        expected[1],
        given[1],
        strict=True,
    )
    same = shapes(expected) == shapes(given)
    read = 3 if same else 2
    path, old, new = next(
        (path, old, new) for (path, _), old, new in pairs if old[:read] != new[:read]
    )
    name = ("params" if path[0].idx == 0 else "x") + jax.tree_util.keystr(path[1:])
    if same:
        kinds = {True: "a Python number (weakly typed)", False: f"an array of {new[1]}"}
        return (
            f"{name} is {kinds[new[2]]}, but the model was split for {kinds[old[2]]}, which gives "
            "other dtypes; split it again"
        )
    whole = jnp.issubdtype(new[1], jnp.integer) and jnp.issubdtype(old[1], jnp.floating)
    todo = "give floats: x / 255, or x.astype(float32) if the model takes 0..255"
    return (
        f"{name} has shape {new[0]} and dtype {new[1]}, the model was split for {old[0]} {old[1]}; "
        f"{todo if whole else 'split it again for this shape'}{many(new[0], old[0])}"
    )


def many(given: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What to do with a batch, if a shape is one of an expected shape; else nothing."""
    batch = len(given) == len(expected) + 1 and given[1:] == expected
    return "; it is a batch: use `explain_batch`, or `jax.vmap`" if batch else ""


@jax.tree_util.register_static
class _Settings:
    """One object for each of the settings under which `_SETTINGS` was traced."""


_SETTINGS = jax.jit(lambda: _Settings())


def settings() -> Any:
    """The settings of JAX that a trace depends on, as `jax.jit` keys its traces by them.

    The same object for equal settings: of 64-bit types, of the precision of products, of random
    numbers, of promotion, of the default device, of the mesh, and whatever else JAX holds. Of a
    jitted function the structure of its result is kept for each: nothing is compiled or run.
    """
    return _SETTINGS.eval_shape()
