"""The one registry of metrics: what each is called, what it is given, which direction is better.

What a metric is given first says `needs`:

    network            metric(split, params, x, target, map, ...)
    network, method    metric(split, params, x, target, method, ...)    it explains again
    mask               metric(map, mask, ...)                           a truth, or a region
    nothing            metric(map, ...)
    labels             metric(map, labels, class_index, classes=)       what is predicted where
    network, labels    metric(split, params, x, target, labels, ...)    it asks no map

`split` is the model, cut at the tap that the map is of; `params` its parameters; `x` one example;
`target` the score that was explained; `map` a raw map, signed, of other positions than where it is
used resized linearly; `method` a method of `segcam_jax.methods`. All are pure and work under `jit`
and `vmap`, in 2D and 3D. Those of a network are compiled as methods are: `execution` says how the
engine runs them, and changes no result. Where something is removed, `baseline` takes its place, as
in `Scene.empty`, and `at` says where: at the input, or at the activation of the tap.

A metric returns a number, or a dataclass whose first field is the number that maps are compared by.
A map that orders nothing, because it is constant or holds NaN, has the value NaN; `segcam score`
counts those.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segcam_jax import engine
from segcam_jax.metrics.removal import check_baseline
from segcam_jax.options import Option, check_choices, options_of
from segcam_jax.types import Explanation, InputError, none_of, wide

F = TypeVar("F", bound=Callable)
Need = Literal["network", "method", "mask", "region", "superpixels", "labels"]
_ROUNDING = 8
# What a scoring gives by itself.
_GIVEN = ("key", "options", "execution", "segments", "count", "draw", "added", "classes")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        name: of its function.
        function: what computes it.
        needs: what it is given besides a map: see above. `region`: a target that has one.
            `superpixels`: a partition of the image.
        title: what people call it.
        higher_is_better: the direction; None where neither end is better by itself.
        range: the least and the largest value that is possible.
        cost: what it runs, in words.
        paper: where it comes from.
        constant: whether a constant map has a value.
        by_magnitude: whether the sign says nothing of what is better: means and ranks are of the
            magnitudes.
    """

    name: str
    function: Callable
    needs: tuple[Need, ...]
    title: str
    higher_is_better: bool | None
    range: tuple[float, float]
    cost: str
    paper: str
    constant: bool = False
    by_magnitude: bool = False

    @functools.cached_property
    def options(self) -> Mapping[str, Option]:
        """The options that words can give, by name."""
        return options_of(self.function, _GIVEN)

    @property
    def needs_key(self) -> bool:
        """Whether it takes a `key` of `jax.random`."""
        return "key" in inspect.signature(self.function).parameters

    def values(self, found: Any) -> dict[str, Float[Array, ""]]:
        """The numbers of a result by name; that which maps are compared by has the metric's."""
        if not dataclasses.is_dataclass(found):
            return {self.name: found}
        first, *others = dataclasses.fields(found)
        named = {f"{self.name}.{field.name}": getattr(found, field.name) for field in others}
        numbers = {n: each for n, each in named.items() if getattr(each, "ndim", None) == 0}
        return {self.name: getattr(found, first.name), **numbers}


METRICS: dict[str, Metric] = {}
# The least and the largest value of options that are numbers.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rate", "share"), (0, 1)),
    **dict.fromkeys(("noise", "deviation", "radius", "tolerance"), (0, math.inf)),
    **dict.fromkeys(
        ("samples", "steps", "subset", "grid", "side", "k", "patch", "regions", "thresholds"),
        (1, math.inf),
    ),
}


def metric(
    *needs: Need, constant: bool = False, check: Callable[..., None] | None = None, **fields: Any
) -> Callable[[F], F]:
    """Enters a metric in the registry under its function's name; compiles those of a network.

    Args:
        check: raises for arguments that cannot be right, which it is given by their names, outside
            of the program.
    """

    def register(function: F) -> F:
        of_map = "map" in inspect.signature(function).parameters
        made: Any = _undefined(function, constant) if of_map else function
        made = engine.compiled(made) if "network" in needs else made
        made = made if check is None else _checked(made, check)
        name = function.__name__
        METRICS[name] = Metric(name, _in_range(made, name), needs, constant=constant, **fields)
        return cast(F, METRICS[name].function)

    return register


def find(name: str) -> Metric:
    """The metric of a name; case, spaces, underscores and hyphens do not matter.

    Raises:
        InputError: if there is none; lists those there are, the nearest name first.
    """
    plain = _plain(name)
    for known in METRICS.values():
        if plain in (_plain(known.name), _plain(known.title)):
            return known
    raise none_of(f"unknown metric {name!r}", name, METRICS)


def is_defined(map: Float[Array, "..."], constant: bool) -> Bool[Array, ""]:
    """Whether a map is finite, and not the same everywhere (with `constant`: not 0 everywhere)."""
    return jnp.isfinite(map).all() & ((map != 0).any() if constant else differ(map))


def differ(values: Float[Array, "..."], among: Bool[Array, "..."] | None = None) -> Bool[Array, ""]:
    """Whether values, or those among some, differ by more than float32 rounds.

    >>> bool(differ(jnp.array([1.0, 1.0, 2.0]), jnp.array([True, True, False])))
    False
    """
    eps = min(float(jnp.finfo(kind).eps) for kind in (values.dtype, jnp.float32))
    high = values.max(initial=-jnp.inf, where=among)
    low = values.min(initial=jnp.inf, where=among)
    return high - low > _ROUNDING * eps * jnp.maximum(jnp.abs(high), jnp.abs(low))


def _checked(function: Callable, check: Callable[..., None]) -> Callable:
    """The function, called once what is known of its arguments passed a check."""
    signature, names = inspect.signature(function), list(inspect.signature(check).parameters)

    @functools.wraps(function)
    def run(*given: Any, **options: Any):
        bound = signature.bind(*given, **options)
        bound.apply_defaults()
        check(**{name: bound.arguments[name] for name in names})
        return function(*given, **options)

    return run


def _undefined(function: Callable, constant: bool) -> Callable:
    """The function, whose result is NaN for a map that has none."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run(*given: Any, **options: Any):
        bound = signature.bind(*given, **options)
        map = bound.arguments["map"]
        if isinstance(map, Explanation):
            raise InputError("a metric takes a map, not an Explanation; give explanation.map")
        map = jnp.asarray(map)
        floating = jnp.issubdtype(map.dtype, jnp.floating)
        # Sums over a map of float16 are infinite, and its small shares 0.
        map = wide(map) if floating else map.astype(jnp.float32)
        defined = is_defined(map, constant)
        # Of a map of zeros, so that nothing that is computed of NaN or of infinity traps.
        bound.arguments["map"] = jnp.where(jnp.isfinite(map), map, 0)
        found = function(*bound.args, **bound.kwargs)

        def told(leaf):
            number = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.where(defined, leaf, jnp.nan) if number else leaf

        return jax.tree.map(told, found)

    return run


def _in_range(function: F, name: str) -> F:
    """The function, which refuses options of another kind than it says, or as `check_option`."""
    kinds = {name: p.annotation for name, p in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def run(*given: Any, **options: Any):
        check_choices(METRICS[name].options, options)
        for option, value in options.items():
            if kinds.get(option) is int and not isinstance(value, (int, np.integer, jax.Array)):
                raise InputError(f"{option}={value!r}; give a whole number")
            check_option(option, value)
        return function(*given, **options)

    return cast(F, run)


def check_option(name: str, value: Any) -> None:
    """Raises `InputError` for a value that an option has in no metric."""
    if name == "baseline":
        check_baseline(value)
    known = name in _RANGES and isinstance(value, (int, float, np.number))
    if known and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        least, most = _RANGES[name]
        ends = f"at least {least}" if most == math.inf else f"a number from {least} to {most}"
        raise InputError(f"{name}={value}; give {ends}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
