"""Tables that map the tensors of a foreign weights file onto a model, strictly.

A table is data: rules of a source pattern, a target template and a transform.

Example:
    >>> import numpy as np
    >>> table = Table((Rule("layer{stage}.conv.weight", "stages/{stage-1}/conv/kernel", "conv"),))
    >>> source = {"layer1.conv.weight": np.zeros((8, 3, 5, 5), np.float32)}
    >>> found = converted(source, table, {"stages/0/conv/kernel": (5, 5, 3, 8)}, "weights.pth")
    >>> {name: array.shape for name, array in found.items()}
    {'stages/0/conv/kernel': (5, 5, 3, 8)}
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segcam_jax.types import InputError, counted

Shapes = Mapping[str, tuple[int, ...]]


def _conv(tensor: np.ndarray) -> np.ndarray:
    """Out in [depth] height width -> [depth] height width in out; depthwise kernels too."""
    return np.moveaxis(tensor, (1, 0), (-2, -1)) if tensor.ndim > 3 else tensor


def _transposed_conv(tensor: np.ndarray) -> np.ndarray:
    """In out [depth] height width -> space in out, back to front: PyTorch convolves with that."""
    if tensor.ndim < 4:
        return tensor
    return np.flip(np.moveaxis(tensor, (0, 1), (-2, -1)), tuple(range(tensor.ndim - 2)))


def _dense(tensor: np.ndarray) -> np.ndarray:
    """Out in -> in out."""
    return tensor.T if tensor.ndim == 2 else tensor


def _scalar(tensor: np.ndarray) -> np.ndarray:
    """A vector of one value -> the value."""
    return tensor.reshape(()) if tensor.shape == (1,) else tensor


# name -> change of layout; a tensor of a rank that it is not for stays as it is
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda tensor: tensor,
    "conv": _conv,
    "transposed_conv": _transposed_conv,
    "dense": _dense,
    "scalar": _scalar,
}
_SHOWN = 12
_PLACEHOLDER = re.compile(r"\{(\w+)([+-]\d+)?\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where a tensor goes.

    Attributes:
        source: name in the file; `{word}` stands for a number.
        target: name in the model; `{word}`, `{word+1}` and `{word-1}` are filled in.
        transform: one of `TRANSFORMS`.
    """

    source: str
    target: str
    transform: str = "same"


@dataclasses.dataclass(frozen=True)
class Table:
    """All that a file may hold.

    Attributes:
        rules: the first that matches a name decides.
        ignored: names that are left out on purpose, with `*` for anything.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a library lays out a network's weights.

    Attributes:
        table: `(config, names in the file) -> Table`.
        sizes: shapes in the file -> what they say of the configuration's fields.
        normalisation: what the library's trained weights expect of an image; None for a network
            that does nothing to it.
        check: `(shapes in the file, its name)`; raises `InputError` for variants of the network
            that are told from their tensors, but are not supported.
    """

    table: Callable[[Any, tuple[str, ...]], Table]
    sizes: Callable[[Shapes], Mapping[str, Any]]
    normalisation: str | None = None
    check: Callable[[Shapes, str], None] | None = None


def extents(shapes: Shapes, tensor: str, rank: int, **axes: int) -> dict[str, int]:
    """The extents of a tensor by the fields that they are; none where it has another rank.

    >>> extents({"fc.weight": (10, 512)}, "fc.weight", 2, classes=0)
    {'classes': 10}
    """
    shape = shapes.get(tensor, ())
    return {field: shape[axis] for field, axis in axes.items()} if len(shape) == rank else {}


def norm_rules(source: str, target: str) -> tuple[Rule, ...]:
    """The rules of a BatchNorm of PyTorch."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return tuple(Rule(f"{source}.{old}", f"{target}/{new}") for old, new in names.items())


def keras_norm_rules(source: str, target: str) -> tuple[Rule, ...]:
    """The rules of a BatchNorm of Keras."""
    names = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    return tuple(Rule(f"{source}/{old}", f"{target}/{new}") for old, new in names.items())


def converted(
    source: Mapping[str, np.ndarray],
    table: Table,
    expected: Mapping[str, tuple[int, ...]],
    origin: str,
) -> dict[str, np.ndarray]:
    """Maps tensors by a table; every one is used or named as ignored, every target is filled.

    Args:
        source: name -> tensor of the file.
        expected: name -> shape of the model's tensors.
        origin: the file's name, for the message.

    Returns:
        name -> tensor of the model, float32.

    Raises:
        InputError: one message with all that does not fit.
    """
    found: dict[str, np.ndarray] = {}
    unknown, surplus, misshapen = [], [], []
    for name, tensor in source.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in table.ignored):
            continue
        target, transform = _target(name, table)
        if target is None:
            unknown.append(name)
        elif target not in expected or target in found:
            surplus.append(f"{name} -> {target}")
        else:
            moved = _transformed(tensor, transform)
            found[target] = moved
            if moved.shape != tuple(expected[target]):
                misshapen.append(f"{name} {moved.shape} -> {target} {tuple(expected[target])}")
    missing = [name for name in expected if name not in found]
    problems = {
        "unknown to the table": unknown,
        "without a place in the model": surplus,
        "of another shape, after the change of layout": misshapen,
        "not in the file": missing,
    }
    if not found:
        raise InputError(
            f"weights of {origin!r} are not this network's: none of their {len(source)} tensors "
            f"has a place in it (the first is {next(iter(source), None)!r}); choose another model"
        )
    if any(problems.values()):
        raise InputError(_message(problems, origin))
    return found


def _target(name: str, table: Table) -> tuple[str | None, str]:
    for rule in table.rules:
        match = _pattern(rule.source).fullmatch(name)
        if match:
            return _filled(rule.target, match.groupdict()), rule.transform
    return None, "same"


def _filled(template: str, numbers: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda m: str(int(numbers[m[1]]) + int(m[2] or 0)), template)


@functools.cache
def _pattern(source: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", source)
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [rf"(?P<{word}>\d+)" for word in pieces[1::2]]
    return re.compile("".join(pieces))


def _transformed(tensor: np.ndarray, transform: str) -> np.ndarray:
    tensor = TRANSFORMS[transform](np.asarray(tensor))
    return np.asarray(tensor, np.float32, order="C")


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The names; of very many the first ones, and how many more there are."""
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return separator.join([*names[:_SHOWN], *more])


def _message(problems: Mapping[str, list[str]], origin: str) -> str:
    total = sum(map(len, problems.values()))
    parts = [f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names]
    return (
        f"weights of {origin!r} do not fit the model, {counted(total, 'mismatch')}: "
        f"{'; '.join(parts)}"
    )
