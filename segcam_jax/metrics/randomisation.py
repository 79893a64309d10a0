"""Sanity checks: a map that does not change when the network or the class does explains neither.

The parameters are inputs of a method's program: all layers of a network take one program a tap.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.metrics.registry import is_defined, metric
from segcam_jax.metrics.similarity import rank_correlation, ssim
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import Explanation, InputError, TargetError

_CORRELATION = (-1.0, 1.0)
_BINS = 100
Options = tuple[tuple[str, Any], ...]
Draw = Callable[[Array, Array], Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["last", "spearman", "ssim", "maps"],
    meta_fields=["layers", "independent", "permuted"],
)
@dataclasses.dataclass(frozen=True)
class Randomisation:
    """How alike the maps of a network and of its randomised copies are, layer by layer.

    Attributes:
        last: Spearman's correlation of magnitudes when the last step is done: all parameters at
            random, or of independent steps the mean of those that have one; NaN if a map holds NaN.
        spearman: of each step; NaN where a map is constant.
        ssim: structural similarity of the magnitudes, each by its largest value, of each step.
        layers: names of the parameters that each step draws anew.
        maps: of each step.
        independent: whether each step draws one layer alone.
        permuted: names of the arrays whose initialiser is not known: their values are permuted.
    """

    last: Float[Array, ""]
    spearman: Float[Array, "s"]
    ssim: Float[Array, "s"]
    layers: tuple[str, ...]
    maps: Float[Array, "s *space"]
    independent: bool = False
    permuted: tuple[str, ...] = ()

    @property
    def fractions(self) -> Float[np.ndarray, "s"] | None:
        """Share of the layers that are at random at each step: what a curve is drawn over.

        None of independent steps, which are values of single layers and no curve.
        """
        if self.independent:
            return None
        return np.arange(1, len(self.layers) + 1) / len(self.layers)

    @property
    def scores(self) -> Float[Array, "s"]:
        """`spearman`: what a curve shows."""
        return self.spearman


@metric(
    "method",
    title="Parameter randomisation",
    higher_is_better=False,
    range=_CORRELATION,
    by_magnitude=True,
    cost="one explanation a layer, and one",
    paper="Adebayo et al., NeurIPS 2018",
)
def parameter_randomisation(
    split: Split,
    params: Any,
    x: Any,
    target: Any,
    method: Callable[..., Explanation],
    *,
    key: Array,
    independent: bool = False,
    draw: Draw | None = None,
    options: Options = (),
) -> Randomisation:
    """Parameter randomisation: the map's likeness to its own while layers are drawn at random.

    Layers are the parameters that lie together in the pytree, from the output to the input. Each
    array is drawn by a key of its own, as the model initialises it. Models of this library tell how
    they do, as do those of Flax Linen, those of Equinox, and those of Flax NNX that keep what their
    constructor was given (`rngs` aside) under the names of its arguments. Values of other arrays
    are put in another order, which keeps their distribution, and leaves an array of equal values
    as it is; `Randomisation.permuted` names these arrays.

    Args:
        split, params, x, target, method: see `metrics.registry`; nothing else of it is compiled.
        key: of the draws.
        independent: randomise each layer alone; else all from the output up to it.
        draw: `(key, array) -> array`, in place of the model's initialisers.
        options: of the method, as pairs of name and value.

    Raises:
        InputError: if the model has no parameters.

    References:
        Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018. Quantus draws layers of equal
        shape alike, by one seed.
    """
    layers = layers_of(split, params)
    leaves, tree = jax.tree.flatten(params)
    anew, kept = redrawn(split, params, key, draw)
    whole = _magnitude(method(split, params, x, target, **dict(options)).map)
    names, found, now = [], [], list(leaves)
    for name, members in reversed(list(layers.items())):
        now = list(leaves) if independent else now
        for index in members:
            now[index] = anew[index]
        given = jax.tree.unflatten(tree, now)
        found.append(method(split, given, x, target, **dict(options)).map)
        names.append(name)
    maps = jnp.stack(found)
    spearman, alike = _likeness(whole, maps)
    mean = jnp.where(jnp.isnan(maps).any(), jnp.nan, jnp.nanmean(spearman))
    last = mean if independent else spearman[-1]
    return Randomisation(last, spearman, alike, tuple(names), maps, independent, kept)


@metric(
    "method",
    title="Random class",
    higher_is_better=False,
    range=_CORRELATION,
    by_magnitude=True,
    cost="2 explanations",
    paper="Sixt et al., ICML 2020",
)
def random_class(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    method: Callable[..., Explanation],
    *,
    key: Array,
    options: Options = (),
) -> Float[Array, ""]:
    """Random class: the structural similarity of the map to that of another class, at random.

    The region stays. Arguments as in `parameter_randomisation`.

    Raises:
        TargetError: if the target has no class, or the model no other.

    References:
        Sixt et al., When explanations lie, ICML 2020.
    """
    classes = jax.tree.leaves(split.output)[0].shape[-1]
    if not isinstance(target, Target) or classes < 2:
        raise TargetError(
            "the model has no other class; give a Target of a model with several classes"
        )
    step = jax.random.randint(key, (), 1, classes, jnp.int32)
    other = dataclasses.replace(target, class_index=(target.class_index + step) % classes)
    maps = [method(split, params, x, each, **dict(options)).map for each in (target, other)]
    return _likeness(_magnitude(maps[0]), maps[1][None])[1][0]


@metric(
    "method",
    title="Efficient MPRT",
    higher_is_better=True,
    range=(-1.0, math.inf),
    cost="2 explanations",
    paper="Hedström et al., 2024",
)
def efficient_mprt(
    split: Split,
    params: Any,
    x: Any,
    target: Any,
    method: Callable[..., Explanation],
    *,
    key: Array,
    draw: Draw | None = None,
    options: Options = (),
) -> Float[Array, ""]:
    """Efficient MPRT: how much more complex the map is when all parameters are at random.

        (H after - H before) / H before,    H the entropy of a histogram of the map in 100 bins

    Arguments as in `parameter_randomisation`. NaN where one of both maps is constant or holds NaN.

    References:
        Hedström et al., A fresh look at sanity checks for saliency maps, 2024.
    """
    anew, _ = redrawn(split, params, key, draw)
    both = (params, jax.tree.unflatten(jax.tree.structure(params), anew))
    before, after = (
        _entropy(method(split, given, x, target, **dict(options)).map) for given in both
    )
    return (after - before) / jnp.where(before > 0, before, jnp.nan)


def layers_of(split: Split, params: Any) -> dict[str, list[int]]:
    """The leaves of each layer by its name, layers in the order in which they are computed.

    A layer is what lies together in the pytree, as the kernel and the bias of a convolution do.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    if not paths:
        raise InputError("the model has no parameters to randomise")
    order = np.argsort(split.parameter_order, kind="stable")
    found: dict[str, list[int]] = {}
    for index in order.tolist():
        path = paths[index][0]
        if not jnp.issubdtype(jnp.result_type(paths[index][1]), jnp.floating):
            continue
        # The box that NNX and Linen put around an array is no layer.
        path = path[:-1] if len(path) > 1 and str(path[-1]) == ".value" else path
        inside = path[:-1] if len(path) > 1 else path
        found.setdefault(jax.tree_util.keystr(inside), []).append(index)
    return found


def redrawn(
    split: Split, params: Any, key: Array, draw: Draw | None = None
) -> tuple[list[Array], tuple[str, ...]]:
    """All parameters drawn anew, in the order of the leaves, and names of those only permuted."""
    told = {} if draw else initialised(split, params, key)
    found, unknown = [], []
    for index, (name, leaf) in enumerate(_named(params)):
        own = jax.random.fold_in(key, index)
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            found.append(leaf)
        elif draw or name not in told:
            found.append((draw or permuted)(own, jnp.asarray(leaf)))
            unknown += [] if draw else [name.removesuffix(".value") or "params"]
        else:
            found.append(told[name])
    return found, tuple(unknown)


def initialised(split: Split, params: Any, key: Array) -> dict[str, Array]:
    """Parameters that the model draws itself, by their path; others are left out."""
    draw = getattr(split.fn, "initialised", None)
    if draw is None:
        return {}
    x = jax.tree.map(lambda struct: jnp.zeros(struct.shape, struct.dtype), split.input)
    call = functools.partial(draw, params, x)
    try:
        jax.eval_shape(call, key)
    except Exception:  # Any exception of the user's constructor, which then tells nothing.
        return {}
    structs = {name: (jnp.shape(leaf), jnp.result_type(leaf)) for name, leaf in _named(params)}
    return {n: v for n, v in _named(call(key)) if structs.get(n) == (jnp.shape(v), v.dtype)}


def _named(tree: Any) -> list[tuple[str, Array]]:
    return [(jax.tree_util.keystr(p), v) for p, v in jax.tree_util.tree_leaves_with_path(tree)]


def permuted(key: Array, values: Array) -> Array:
    """The values in another order."""
    return jax.random.permutation(key, values.ravel()).reshape(values.shape)


def _magnitude(map: Float[Array, "*space"]) -> Float[Array, "*space"]:
    size = jnp.abs(map)
    return size / jnp.where(size.max() > 0, size.max(), 1)


@engine.compiled_function
def _likeness(
    whole: Float[Array, "*space"], maps: Float[Array, "s *space"]
) -> tuple[Float[Array, "s"], Float[Array, "s"]]:
    """Spearman's correlation and structural similarity of magnitudes."""
    sizes = jax.vmap(_magnitude)(maps)
    against = functools.partial(rank_correlation, whole)
    return jax.vmap(against)(sizes), jax.vmap(functools.partial(ssim, whole))(sizes)


@engine.compiled_function
def _entropy(map: Float[Array, "*space"]) -> Float[Array, ""]:
    shares = jnp.histogram(jnp.where(jnp.isfinite(map), map, 0).ravel(), _BINS)[0] / map.size
    told = jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0)
    return jnp.where(is_defined(map, False), -told.sum(), jnp.nan)
