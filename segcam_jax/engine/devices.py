"""Several devices: the rows of one study, or many images, dealt over the axes of a mesh.

    "ablations"   rows of a study: its ablations, or the samples of a mean
    "images"      the images of `explain_batch`

A method runs whole on every device, in one `shard_map`; what is dealt is its loop. Every device
encodes for itself, which takes less time than sending the carry, then scores its own rows, and all
devices gather all scores. So results are alike everywhere, for any number of devices and of
processes (`jax.distributed`): a mesh of devices of several processes is a mesh like any other.

Sharp edge: in several processes, every one must make the same calls with the same arguments.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from segcam_jax._jaxpr import graph
from segcam_jax.types import InputError, counted

IMAGES, ABLATIONS = "images", "ablations"
Device = Any
OnBatch = Callable[[Any, Any], Any]


def device_mesh(devices: int | Sequence[Device] | None = None, *, images: int = 1) -> Mesh:
    """A mesh for `Execution(mesh=...)`, with the axes `"images"` and `"ablations"`.

    Args:
        devices: how many of `jax.devices()`, or which; None: all, those of other processes too.
        images: along how many of them images are dealt; the rest share the ablations of an image.
            1 for one study on all devices; for many images, as many as there are devices.

    Raises:
        InputError: if there are fewer devices, or `images` does not divide their number.

    Example:
        >>> device_mesh(1).axis_names
        ('images', 'ablations')
    """
    if devices is None or isinstance(devices, int):
        devices = _first(jax.devices(), devices)
    if images < 1 or len(devices) % images or not devices:
        raise InputError(
            f"images={images} does not divide the {counted(len(devices), 'device')} of a mesh"
        )
    shape = (images, len(devices) // images)
    return jax.make_mesh(shape, (IMAGES, ABLATIONS), (AxisType.Auto,) * 2, devices=devices)


def local_mesh(count: int, *, images: int = 1) -> Mesh | None:
    """A mesh of the first devices of this process; None for one device, which needs no mesh."""
    devices = _first(jax.local_devices(), count)
    return None if count == 1 else device_mesh(devices, images=images)


def _first(there: Sequence[Device], count: int | None) -> Sequence[Device]:
    """The first `count` of some devices; all for None; raises `InputError` if they are fewer."""
    count = len(there) if count is None else count
    if 1 <= count <= len(there):
        return there[:count]
    if count < 1:
        raise InputError(f"{count} devices were asked for; give at least 1")
    virtual = "; XLA_FLAGS=--xla_force_host_platform_device_count=N splits a CPU into N devices"
    raise InputError(
        f"{count} devices were asked for, and there "
        + ("is 1" if len(there) == 1 else f"are {len(there)}")
        + (virtual if there[0].platform == "cpu" else "")
    )


def check_mesh(mesh: Any) -> None:
    """Raises `InputError` unless the mesh has the axes that studies are dealt over."""
    if not isinstance(mesh, Mesh):
        raise InputError(
            f"mesh is {type(mesh).__name__}; make one with segcam.device_mesh(devices)"
        )
    unknown = [name for name in mesh.axis_names if name not in (IMAGES, ABLATIONS)]
    if unknown or not mesh.axis_names:
        raise InputError(
            f"the mesh has axes {tuple(mesh.axis_names)}; expected {IMAGES!r}, {ABLATIONS!r} or "
            "both, as segcam.device_mesh makes them"
        )


def on_mesh(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The function on every device of the mesh, each with all of the arguments.

    Results must be alike on all devices. Inside of another `on_mesh` or `over_images` it stays as
    it is: the devices run it already.
    """
    if mesh is None:
        return _off_explicit_axes(function)
    if _inside(mesh):
        return function
    whole = PartitionSpec()
    return _mapped(function, mesh, whole, whole)


def over_images(
    function: Callable[[Any, Any], Any], mesh: Mesh | None
) -> Callable[[Any, Any], Any]:
    """`function(shared, batch) -> results`, with the leading axes of batch and results dealt.

    Args:
        function: treats every entry of the batch apart from the others.
        mesh: the length of the batch is a multiple of its axis `"images"`, if it has one.
    """
    if mesh is None:
        return _off_explicit_axes(function)
    if _inside(mesh):
        return function
    along = PartitionSpec(IMAGES if IMAGES in mesh.axis_names else None)
    mapped = _mapped(function, mesh, (PartitionSpec(), along), along)
    everywhere = NamedSharding(_auto(mesh), PartitionSpec())

    def run(shared, batch):
        return jax.lax.with_sharding_constraint(mapped(shared, batch), everywhere)

    return run


def _off_explicit_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it runs without a mesh, as splits are traced, where the caller's is explicit.

    Such axes show in the types of what is computed.
    """

    def run(*arguments):
        with graph.on_any_mesh() if _is_explicit() else contextlib.nullcontext():
            return function(*arguments)

    return run


def image_devices(mesh: Mesh | None) -> int:
    """Over how many devices a batch of images is dealt."""
    return 1 if mesh is None else mesh.shape.get(IMAGES, 1)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays copied to every device of a mesh; those that are there already stay as they are.

    Methods do so with all that they are given. Do it once with parameters that serve many calls.

    Args:
        tree: pytree of arrays, in several processes the same in each.
    """
    return _placed(tree, NamedSharding(_auto(mesh), PartitionSpec()))


def deal_images(tree: Any, mesh: Mesh) -> Any:
    """Arrays placed with their leading axis dealt over the images axis of a mesh.

    Args:
        tree: pytree of arrays on the host, in several processes the same in each, or of global
            arrays. A process reads only its own devices' part of a host array.
        mesh: the length of leading axes is a multiple of its axis `"images"`, if it has one.
    """
    along = PartitionSpec(IMAGES if IMAGES in mesh.axis_names else None)
    return _placed(tree, NamedSharding(_auto(mesh), along))


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of a study that this device does: `first`, `first + devices`, ...

    Rows that come one after the other go to different devices: where the first ones are those that
    take time, no device has more than one of them more than another.

    Attributes:
        first: this device's first row, from 0 to `devices - 1`.
    """

    count: int
    devices: int
    first: Int[Array, ""]

    def __len__(self) -> int:
        return -(-self.count // self.devices)

    def rows(self, chunk: int) -> tuple[Int[Array, "r chunk"], Array]:
        """The device's rows in chunks, and which of them are its own.

        The last chunk is filled up with the study's last row.
        """
        chunks = -(-len(self) // chunk)
        own = jnp.arange(chunks * chunk, dtype=jnp.int32).reshape(chunks, chunk)
        rows = self.first + self.devices * own
        return jnp.minimum(rows, self.count - 1), rows < self.count

    def gathered(self, values: Array) -> Array:
        """The values of all rows in order, from each device's own, `len(self) ...` or longer."""
        own = values[: len(self)]
        if self.devices > 1:
            every = jax.lax.all_gather(own, ABLATIONS, axis=1)
            own = every.reshape(-1, *own.shape[1:])
        return own[: self.count]

    def summed(self, value: Array) -> Array:
        """The sum over the devices, of which there are several."""
        return jax.lax.psum(value, ABLATIONS)


def share(count: int, mesh: Mesh | None) -> Share:
    """This device's share of the rows of a study; all of them outside of `on_mesh`."""
    alone = mesh is None or ABLATIONS not in mesh.axis_names or not _inside(mesh)
    if alone or jax.lax.axis_size(ABLATIONS) == 1:
        return Share(count, 1, jnp.zeros((), jnp.int32))
    return Share(count, jax.lax.axis_size(ABLATIONS), jax.lax.axis_index(ABLATIONS))


def _inside(mesh: Mesh) -> bool:
    """Whether what is traced runs on every device of the mesh already."""
    return set(mesh.axis_names) <= set(jax.sharding.get_abstract_mesh().manual_axes)


def _mapped(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    # Models are evaluated equation by equation, as they were traced outside: the check of what
    # varies over devices would refuse them.
    return jax.shard_map(
        function, mesh=_auto(mesh), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _auto(mesh: Mesh) -> Mesh:
    """The mesh without explicit axes, which would show in the types of all that is computed later.

    A mesh that the caller has set (`jax.set_mesh`) must stay as it is.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    if jax.sharding.get_abstract_mesh().manual_axes:
        return tree

    def place(leaf):
        if isinstance(leaf, Tracer):
            return leaf
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if sharding.is_fully_addressable or is_global(leaf):
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def off_explicit_axes(tree: Any) -> Any:
    """Arrays that lie along explicit axes of the mesh that is set, on the same devices without.

    Such axes show in the types of all that is computed of them, and what is made beside them has
    none.
    """

    def moved(leaf):
        sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
        mesh = getattr(sharding, "mesh", None)
        if mesh is None or AxisType.Explicit not in mesh.axis_types or is_global(leaf):
            return leaf
        automatic = (AxisType.Auto,) * mesh.devices.ndim
        alike = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)
        return jax.device_put(leaf, NamedSharding(alike, PartitionSpec()))

    return jax.tree.map(moved, tree) if _is_explicit() else tree


def _is_explicit() -> bool:
    """Whether the caller has set a mesh of explicit axes."""
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def is_global(leaf: Any) -> bool:
    """Whether an array lies, in part, on devices of other processes."""
    known = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    return known and not leaf.is_fully_addressable
