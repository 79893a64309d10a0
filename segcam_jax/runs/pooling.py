"""The kernel that pools activations: an image becomes a vector for each of several layers.

pool.TAP   (item, channel.TAP)     mean or maximum over positions
thumbnail  (item, y, x, c)         the image, every few pixels, for figures
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from segcam_jax import _files, engine
from segcam_jax.engine import devices
from segcam_jax.methods import MethodCall
from segcam_jax.networks.image_inputs import Sample
from segcam_jax.networks.layers import find_layer
from segcam_jax.runs.job import Job, OpenJob
from segcam_jax.runs.programs import ImageKernel, batches
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.results import file_of_row
from segcam_jax.runs.shard import Group, Pending, Ran
from segcam_jax.runs.store import Block, Variable
from segcam_jax.runs.work import StudyOptions

Pool = Literal["mean", "max"]
THUMBNAIL = "thumbnail"
_LARGEST = 192  # pixels of a thumbnail's longer side


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolOptions(StudyOptions):
    """All that determines what is stored, but for the images; nothing is explained."""

    UNUSED: ClassVar[frozenset[str]] = frozenset(
        ("methods", "options", "classes", "outputs", "multi_label", "threshold", "labels", "region")
        + ("min_probability", "mask_threshold", "of", "reduce", "precision", "store")
        + ("store_images", "importance", "truth", "truth_threshold", "truth_value", "truth_labels")
    )

    pool: Pool = "mean"

    @property
    def calls(self) -> tuple[MethodCall, ...]:
        """No method runs."""
        return ()


class PoolJob(Job):
    """A run of pooled activations; its options are `PoolOptions`."""

    @staticmethod
    def kind() -> type[OpenJob]:
        """What it is when it is open."""
        return OpenPoolJob


class PoolKernel(ImageKernel):
    """Pools what images activate; its options are `PoolOptions`."""

    def taps(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """The layers, for images of a shape `h w c`."""
        given = self.network.list_taps(shape)
        found = (find_layer(self.network, word, given) for word in self.options.taps)
        return tuple(dict.fromkeys(found))

    @functools.cache  # noqa: B019 - the kernel lives as long as the run.
    def _pooled(self, shape: tuple[int, ...]) -> Callable[..., tuple[jax.Array, ...]]:
        """All layers of an image in one function, so that they share the pass."""
        splits = [self.network.split(tap, shape) for tap in self.taps(shape)]
        assert isinstance(self.options, PoolOptions)
        reduce = {"mean": jnp.mean, "max": jnp.max}[self.options.pool]

        def pooled(params, image):
            each = (split.encode(params, image)[0] for split in splits)
            return tuple(reduce(a, axis=tuple(range(a.ndim - 1))) for a in each)

        return pooled

    def check(self, shape: tuple[int, ...]) -> None:
        """Finds the layers for images of a shape `h w c`."""
        self.taps(shape)

    def check_output(self, sample: Sample) -> None:
        """What the network returns has no part in it."""

    def _predict(self, group: Group) -> None:
        images = [loaded.sample.padded for loaded in group.loaded]
        pooled, ran = self._pooled(images[0].shape), Ran(())
        group.found.append(ran)
        for chosen, size in batches(
            len(images), self._most_predicted, devices.image_devices(self._mesh)
        ):
            batch = np.stack([images[index] for index in chosen])
            with self.network.blamed(batch.shape[1:]):
                found = engine.predict_together(
                    pooled, self._params, batch, execution=self.execution
                )
            ran.batches.append(([(index, (0,)) for index in dict.fromkeys(chosen)], found))
            group.programs.append(f"pool {group.name} x{size}")

    def explain(self, pending: Pending) -> None:
        """All is started."""

    def _of_group(self, group: Group) -> tuple[list[Block], list[dict[str, Any]]]:
        """The arrays of the images of one extent, and their rows."""
        rows = [file_of_row(group, member) for member in range(len(group.members))]
        if group.goals:
            for row, (goal, *_) in zip(rows, group.goals, strict=True):
                row |= {"error": goal.reason if isinstance(goal, Failure) else None}
            return [], rows
        taps, programs = self.taps(group.loaded[0].sample.padded.shape), group.programs
        values: dict[int, list[np.ndarray]] = {}
        for asked, found in (batch for ran in group.found for batch in ran.batches):
            host = [np.asarray(each, np.float32) for each in found]
            values |= {n: [each[k] for each in host] for k, (n, _) in enumerate(asked)}
        for member, row in enumerate(rows):
            broken = [
                tap
                for tap, each in zip(taps, values[member], strict=True)
                if not np.isfinite(each).all()
            ]
            row["error"] = f"the activation at {broken[0]} is not finite" if broken else None
            row["program"] = None if broken else "; ".join(dict.fromkeys(programs))
        able = [member for member, row in enumerate(rows) if row["error"] is None]
        if not able:
            return [], rows
        names = pool_names(taps)
        variables = [
            Variable(
                names[tap],
                ("item", f"channel.{names[tap].removeprefix('pool.')}"),
                np.stack([values[member][k] for member in able]),
                {"tap": tap},
            )
            for k, tap in enumerate(taps)
        ]
        small = np.stack([_thumbnail(group.loaded[member].sample.shown) for member in able])
        variables.append(Variable(THUMBNAIL, ("item", "y", "x", "c"), small))
        items = np.array([rows[member]["item"] for member in able], np.int64)
        return [Block(group.name, items, tuple(variables))], rows


class OpenPoolJob(OpenJob):
    """A run of pooled activations whose network is open and whose images are listed."""

    kernel_of = PoolKernel

    def check(self) -> None:
        """Raises `InputError` also if the list says what is to be explained of each image."""
        self.items.check_plain()
        super().check()


def pool_names(taps: Sequence[str]) -> dict[str, str]:
    """What the array of each layer is called."""
    names = _files.unique_names([tap.replace("/", ".") for tap in taps])
    return {tap: f"pool.{name}" for tap, name in zip(taps, names, strict=True)}


def _thumbnail(shown: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "u v c"]:
    step = max(1, -(-max(shown.shape[:2]) // _LARGEST))
    return shown[::step, ::step]
