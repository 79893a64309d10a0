"""A method becomes one compiled kernel: a program that `programs` jits and keeps."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax.engine import devices, memory
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.functions import FunctionTarget, function_target
from segcam_jax.engine.programs import Anew, Program, Programs, kept
from segcam_jax.taps import Split
from segcam_jax.targets import Difference, Target
from segcam_jax.types import Explanation, InputError, TargetError, nearest_first

F = TypeVar("F", bound=Callable)
Static = tuple[tuple[str, Any], ...]
_STATIC = (str, int, bool, tuple, type(None), Execution, FunctionType, functools.partial)
_SETTLED = (str, int, float, bool, type(None), Execution, jax.Array)


def compiled(method: F) -> F:
    """Compiles `method(split, params, x, target, **options)` once per split and static options.

    Options that are strings, integers, booleans, tuples, functions, None or an `Execution` are part
    of the program; floats, arrays and keys are its inputs, so that another value does not compile
    again. A function that is not compiled itself may read values that change: its program is traced
    anew for each call. Further positional arguments, such as the map that a metric is of, are
    options too.
    Inside a caller's own `jit`, `vmap` or `grad` the method is traced along.

    A target may be a pytree with a `check(output)` method, or any function `output -> scalar`. A
    function is traced whenever it is given. What it computes is part of the program; arrays that it
    closes over, or that its object holds as attributes, are inputs. So another lambda that computes
    the same runs the same program; a number in it that is another one compiles again. Of all
    programs the last `programs.MOST_PROGRAMS` used are kept.

    The result has the attribute `program`, which takes the same arguments and returns the compiled
    program without running it.
    """
    signature = inspect.signature(method)

    def kernel(split, static, halvings, params, x, target, traced):
        run, mesh = functools.partial(_run, method, split, static), _execution(static).mesh
        with memory.halved(halvings):
            return devices.on_mesh(run, mesh)(params, x, target, traced)

    programs = Programs(kernel)

    @functools.wraps(method)
    def call(split: Split, params: Any, x: Any, target: Any, *more: Any, **options: Any):
        given = (split, params, x, target, *more)
        return programs.run(*_prepared(method, signature, given, options))

    def program(
        split: Split, params: Any, x: Any, target: Any, *more: Any, **options: Any
    ) -> Program:
        given = (split, params, x, target, *more)
        return programs.compiled(*_prepared(method, signature, given, options))

    cast(Any, call).program = program
    return cast(F, call)


def compiled_function(function: F) -> F:
    """Compiles a function of arrays that is not a method, for rooms above the engine.

    Positional arguments are its inputs. Those by keyword are part of the program, and hashable. It
    is one of the programs of which the last `programs.MOST_PROGRAMS` used are kept.
    """

    def kernel(static: Static, *inputs: Any) -> Any:
        return function(*inputs, **dict(static))

    @functools.wraps(function)
    def call(*inputs: Any, **static: Any) -> Any:
        return kept(kernel, (tuple(sorted(static.items())),), inputs)(*inputs)

    return cast(F, call)


def _prepared(
    method: Callable, signature: inspect.Signature, given: tuple, options: Mapping
) -> tuple[Split, Static, tuple, Execution]:
    """Checked arguments of the kernel: `(split, static, inputs, execution)`."""
    split, params, x, target, *more = given
    if not isinstance(split, Split):
        raise InputError(
            f"the first argument is a {type(split).__name__}, expected a Split; make one with "
            "split(fn, tap_name, params, x)"
        )
    _check_options(method, signature, options)
    signature.bind(*given, **options)
    options = {**dict(zip(list(signature.parameters)[4:], more, strict=False)), **options}
    if not jnp.issubdtype(split.activation.dtype, jnp.floating):
        raise InputError(
            f"the activation at tap {split.tap!r} has dtype {split.activation.dtype}; expected "
            "floating point (convert images to float32 in [0, 1])"
        )
    target = checked_target(target, split)
    static, traced = divided(options)
    inputs = (params, x, target, traced)
    execution = _execution(static)
    if execution.mesh is not None:
        inputs = devices.replicate(inputs, execution.mesh)
    return split, static, inputs, execution


def _check_options(method: Callable, signature: inspect.Signature, options: Mapping) -> None:
    """Raises `InputError` if a method has no such option, or lacks one that it needs."""
    kinds = {each.kind for each in signature.parameters.values()}
    named = {
        name: each for name, each in signature.parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    unknown = next((name for name in options if name not in signature.parameters), None)
    if unknown is not None and inspect.Parameter.VAR_KEYWORD not in kinds:
        choices = ", ".join(nearest_first(unknown, named)) or "none"
        raise InputError(f"{_name(method)} has no option {unknown!r}; its options are {choices}")
    for name, each in named.items():
        if each.default is each.empty and name not in options:
            example = "; give a key, such as jax.random.key(0)" if name == "key" else ""
            raise InputError(f"{_name(method)} needs the option {name}={example}")


def _name(method: Callable) -> str:
    return getattr(method, "__name__", type(method).__name__)


def _run(method, split, static, params, x, target, traced):
    return _undefined(method(split, params, x, target, **dict(static), **traced))


def _undefined(found: Any) -> Any:
    """What was found, NaN where the score is not finite: an explanation of that has zeros in it."""
    if not isinstance(found, Explanation):
        return found
    known = jnp.isfinite(found.score)

    def told(leaf):
        return jnp.where(known, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return dataclasses.replace(jax.tree.map(told, found), score=found.score)


def _execution(static: Static) -> Execution:
    return dict(static).get("execution", Execution())


def divided(options: Mapping[str, Any]) -> tuple[Static, dict[str, Any]]:
    """Options that are part of a program, sorted by name, and those that are its inputs."""
    options = {key: _plain(value) for key, value in options.items()}
    static = tuple((k, v) for k, v in sorted(options.items()) if _is_static(v))
    static = static if _is_settled(static) else Anew(static)
    return static, {k: v for k, v in options.items() if not _is_static(v)}


def _is_static(option: Any) -> bool:
    """Whether an option is part of a program: of what can be called, all but pytrees are."""
    if isinstance(option, _STATIC):
        return True
    return callable(option) and jax.tree_util.all_leaves([option])


def _is_settled(option: Any) -> bool:
    """Whether a part of a program computes the same whenever it is given, as far as can be known.

    A function may read a global, or an attribute, that changes; a compiled method does not.
    """
    if isinstance(option, tuple):
        return all(_is_settled(each) and not isinstance(each, jax.Array) for each in option)
    if isinstance(option, functools.partial):
        held = (option.func, *option.args, *option.keywords.values())
        return all(map(_is_settled, held))
    return hasattr(option, "program") if callable(option) else isinstance(option, _SETTLED)


def checked_target(target: Any, split: Split) -> Any:
    """The target as a pytree, told what the output holds, and checked as far as it can be.

    A function is traced.
    """
    if not callable(target):
        raise TargetError(
            f"the target is {type(target).__name__}; expected a Target or a function "
            "output -> scalar"
        )
    if hasattr(target, "check"):
        target.check(split.output)
    if isinstance(target, Target):
        _check_classes(split)
        told = split.outputs if target.outputs is None else target.outputs
        if split.declared is not None and told != split.declared:
            raise TargetError(
                f"the target has outputs={told!r}, but `split` or the adapter was given "
                f"outputs={split.declared!r}; give both the same"
            )
        if told is None and target.of == "probabilities":
            raise TargetError(
                "of='probabilities': the model's last operations do not tell whether it returns "
                "logits or probabilities; give outputs='logits' or outputs='probabilities' to "
                "`split` or the adapter (--outputs on the command line)"
            )
        return dataclasses.replace(target, outputs=told)
    if isinstance(target, Difference):
        both = (checked_target(each, split) for each in (target.first, target.second))
        # Windows are of one region; without them, regions of any extent share a program.
        return Difference(*(_without_window(each) for each in both))
    return target if isinstance(target, FunctionTarget) else function_target(target, split)


def _without_window(target: Any) -> Any:
    if not isinstance(target, Target):
        return target
    return dataclasses.replace(target, extent=None, corner=None)


def _check_classes(split: Split) -> None:
    """Raises `TargetError` if the output is one value per position, without an axis of classes."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(split.input)]
    output = tuple(split.output.shape)
    if len(output) > 1 and any(output == shape[:-1] for shape in shapes):
        raise TargetError(
            f"the model returns {output} for an input that has these positions, so its last axis "
            "is not an axis of classes; let it return logits[..., None], whose one class is 0"
        )


def _plain(option: Any) -> Any:
    """Lists as tuples, and numpy's integers as Python's: both are part of the program."""
    if isinstance(option, list):
        return tuple(_plain(each) for each in option)
    return int(option) if isinstance(option, np.integer) else option
