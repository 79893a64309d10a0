"""The kernel that explains images: the samples of a shard become arrays and rows.

Images of one extent are computed together, and never padded beyond what the network itself asks
for. A shard has three steps, which different shards pass at the same time: `predict` starts the
network on all images; `explain` finds what is to be explained of each, on the host, and starts the
methods; `collect` waits for them. What a batch holds depends on the study and the shard alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax import components, engine
from segcam_jax.engine import Call, Execution, devices
from segcam_jax.networks.class_queries import Prediction, check_possible
from segcam_jax.networks.image_inputs import Sample
from segcam_jax.networks.layers import find_layers
from segcam_jax.networks.network import Network
from segcam_jax.runs import results
from segcam_jax.runs.items import Item
from segcam_jax.runs.reading import Failure, Taken
from segcam_jax.runs.shard import Asked, Explained, Group, Loaded, Pending, Place, Ran
from segcam_jax.runs.store import Block
from segcam_jax.runs.work import Goal, StudyOptions
from segcam_jax.taps import INPUT
from segcam_jax.targets import Difference, Target
from segcam_jax.types import SegcamError, counted

# A study of ablations fills a device with one image; a few keep it from waiting for the host.
_MOST_IN_TURN = 8
Targets = Target | Difference


class ImageKernel:
    """Explains images by a network.

    Args:
        targets: of an image at most: rows that the store has for it.
    """

    def __init__(self, network: Network, options: StudyOptions, targets: int, execution: Execution):
        self.network, self.options, self.targets = network, options, targets
        self.execution = dataclasses.replace(execution, precision=options.precision)
        self._key = jax.random.key(options.seed)
        self._params = network.params
        if execution.mesh is not None:
            self._params = devices.replicate(self._params, execution.mesh)
        else:
            self._params = jax.device_put(self._params)

    # ---- the three steps

    def predict(self, taken: Sequence[Taken[Item, Loaded]]) -> Pending:
        """Starts the network on the images of a shard."""
        pending = Pending()
        for each in taken:
            if isinstance(each.read, Failure):
                pending.failures.append((each.item, each.read))
                continue
            extent = each.read.sample.extent
            group = pending.groups.setdefault(extent, Group(extent))
            group.members.append(each.item)
            group.loaded.append(each.read)
        for group in pending.groups.values():
            try:
                self._predict(group)
            except SegcamError as error:
                group.fail(error)
        return pending

    def explain(self, pending: Pending) -> None:
        """Finds what is to be explained of each image, and starts the methods."""
        for group in pending.groups.values():
            if not group.outputs:
                continue
            outputs = np.concatenate([np.asarray(each, np.float32) for each in group.outputs])
            group.outputs.clear()
            for loaded, item, output in zip(group.loaded, group.members, outputs, strict=True):
                group.goals.append(self._goals(loaded.sample, item, output))
            try:
                self._explain(group)
            except SegcamError as error:
                group.fail(error)

    def collect(self, pending: Pending) -> tuple[list[Block], list[Mapping[str, Any]]]:
        """Waits for a shard: its arrays, and a row for every target of its items."""
        blocks: list[Block] = []
        rows: list[Mapping[str, Any]] = []
        for item, failure in pending.failures:
            rows.append(results.failed_row(item, self.targets, failure))
        for group in pending.groups.values():
            made, said = self._of_group(group)
            blocks += made
            rows += said
        return blocks, sorted(rows, key=lambda row: row["row"])

    def _of_group(self, group: Group) -> tuple[list[Block], list[results.Row]]:
        """The arrays of the images of one extent, and their rows."""
        return results.of_group(self.network, self.options, self.targets, group)

    # ---- of one extent

    def _predict(self, group: Group) -> None:
        most = self._most_predicted
        images = [loaded.sample.padded for loaded in group.loaded]
        forward = self._forward(images[0].shape)
        for chosen, size in batches(len(images), most, devices.image_devices(self._mesh)):
            batch = np.stack([images[index] for index in chosen])
            with self.network.blamed(batch.shape[1:]):
                group.outputs.append(
                    engine.predict_together(forward, self._params, batch, execution=self.execution)[
                        : len(set(chosen))
                    ]
                )
            group.programs.append(f"predict {group.name} x{size}")

    def _goals(
        self, sample: Sample, item: Item, output: Float[np.ndarray, "*space k"]
    ) -> list[Explained | Failure]:
        network = self.network
        asked = item.goals or [Goal(query, self.options.where) for query in self.options.queries]
        try:
            network.check_output(output)
            output = sample.cropped(output)
            prediction = Prediction.of(output, network.labels, network.meaning, network.background)
        except SegcamError as error:
            return [Failure.of(error)] * len(asked)
        found: list[Explained | Failure] = []
        for goal in asked:
            try:
                found.append(self._goal(goal, sample, output, prediction))
            except SegcamError as error:
                found.append(Failure.of(error))
        return found

    def _goal(
        self,
        goal: Goal,
        sample: Sample,
        output: Float[np.ndarray, "*space k"],
        prediction: Prediction,
    ) -> Explained:
        labels = self.network.labels
        only = prediction.masks is not None and len(labels) == 1
        index, second = (0, None) if only else goal.query.resolve(prediction, labels)
        region = None
        if prediction.masks is not None:
            region = self._region(goal, index, sample, output, prediction)
        for each in (index,) if second is None else (index, second):
            check_possible(output, each, region, labels)
        return Explained(goal, index, second, region, prediction)

    def _region(
        self,
        goal: Goal,
        index: int,
        sample: Sample,
        output: Float[np.ndarray, "h w k"],
        prediction: Prediction,
    ) -> Bool[np.ndarray, "h w"]:
        where = goal.region
        if where.kind == "predicted" and where.min_probability is None:
            return prediction.region(index, self.network.labels)
        return where.resolve(
            output,
            index,
            self.network.meaning,
            file_extent=sample.file_extent,
            fit=self.options.fit,
        )

    def _explain(self, group: Group) -> None:
        """Starts all methods: classes by themselves, and those that are compared with another."""
        for compared in (False, True):
            asked = [(index, _numbers(goals, compared)) for index, goals in enumerate(group.goals)]
            asked = [(index, numbers) for index, numbers in asked if numbers]
            if asked:
                self._explain_targets(group, asked, self._targets(group, asked))

    def _explain_targets(self, group: Group, asked: Sequence[Asked], targets: Targets) -> None:
        places = self.places(group.loaded[0].sample.padded.shape)
        together = [place for place in places if not place.call.method.ablates]
        in_turn = [place for place in places if place.call.method.ablates]
        if together:
            most = self._images_at_once(group, tuple(together), targets)
            self._run(group, asked, together, targets, most, None)
        if in_turn:
            self._run(group, asked, in_turn, targets, _MOST_IN_TURN, self._window(targets))

    def _run(
        self,
        group: Group,
        asked: Sequence[Asked],
        places: Sequence[Place],
        targets: Targets,
        most: int,
        window: tuple[tuple[int, ...], Int[np.ndarray, "n rank"]] | None,
    ) -> None:
        """Starts methods on the images that have something to explain, in batches."""
        shape = group.loaded[0].sample.padded.shape
        calls = [self.call(place, shape) for place in places]
        kind = "gradients" if window is None and not calls[0].in_turn else "ablations"
        _, count = _shape(targets)
        of = f" of {counted(count, 'target')}" if count > 1 else ""
        of = f" of {counted(count, 'difference')}" if isinstance(targets, Difference) else of
        seen = "" if window is None else f" window {'x'.join(map(str, window[0]))}"
        ran = Ran(tuple(places))
        group.found.append(ran)
        for chosen, size in batches(len(asked), most, devices.image_devices(self._mesh)):
            rows = np.asarray(chosen)
            images = np.stack([group.loaded[asked[index][0]].sample.padded for index in chosen])
            found = engine.explain_together(
                calls,
                self._params,
                images,
                jax.tree.map(lambda leaf, rows=rows: leaf[rows], targets),
                key=self._key,
                window=None if window is None else (window[0], window[1][rows]),
                execution=self.execution,
            )
            ran.batches.append(([asked[n] for n in dict.fromkeys(chosen)], found))
            group.programs.append(f"{kind} {group.name} x{size}{of}{seen}")

    def _targets(self, group: Group, asked: Sequence[Asked]) -> Targets:
        """For each image its targets, as many as the image with the most has; some stand twice."""
        count = max(len(numbers) for _, numbers in asked)
        count = 1 << (count - 1).bit_length()  # A few counts only: each is a program.
        filled = []
        for index, numbers in asked:
            goals = [each for n in numbers if isinstance(each := group.goals[index][n], Explained)]
            filled.append([*goals, *goals[:1] * count][:count])
        classes = np.array([[goal.class_index for goal in row] for row in filled], np.int32)
        mask = None
        if filled[0][0].region is not None:
            mask = np.zeros((*classes.shape, *group.padded), bool)
            height, width = group.extent
            for place in np.ndindex(*classes.shape):
                mask[place][:height, :width] = filled[place[0]][place[1]].region
        meaning, options = self.network.meaning, self.options
        # An array per image and target, so that one program serves all classes.
        index: Any = classes
        targets = Target(
            index,
            mask,
            options.of,
            options.reduce,
            outputs=meaning.outputs,
            exclusive=meaning.exclusive,
        )
        if filled[0][0].second is None:
            return targets
        other: Any = np.array([[goal.second for goal in row] for row in filled], np.int32)
        return Difference(targets, dataclasses.replace(targets, class_index=other))

    @staticmethod
    def _window(targets: Targets) -> tuple[tuple[int, ...], Int[np.ndarray, "n rank"]] | None:
        """One size of windows for all images, a square of a few sizes, and the corner of each."""
        if isinstance(targets, Difference) or targets.mask is None:
            return None
        regions = np.logical_or.reduce(targets.mask, axis=1)
        extents = regions.shape[1:]
        most = max(max(components.region_window(region)[0]) for region in regions)
        size = tuple(min(most, extent) for extent in extents)
        if size == extents:
            return None
        corners = [components.region_window(region, size)[1] for region in regions]
        return size, np.stack(corners)

    # ---- what a study asks of a network, for images of one shape

    def places(self, shape: tuple[int, ...]) -> tuple[Place, ...]:
        """The methods, each at every tap where it looks, for images of a shape `h w c`."""
        return self._places(tuple(shape))

    @functools.cache  # noqa: B019 - the kernel lives as long as the run.
    def _places(self, shape: tuple[int, ...]) -> tuple[Place, ...]:
        given = self.network.list_taps(shape)
        hidden = find_layers(self.network, self.options.taps, given)
        return tuple(
            Place(call, tap, tuple(given[tap].shape))
            for call in self.options.calls
            for tap in ((INPUT,) if call.method.explains == "input" else hidden)
        )

    @functools.cache  # noqa: B019
    def _forward(self, shape: tuple[int, ...]) -> Callable[[Any, Any], Any]:
        """The network for images of a shape `h w c`, of the trace that its methods are made of."""
        if not (places := self.places(shape)):
            return self.network.fn
        split = self.network.split(places[0].tap, shape)
        return lambda params, image: split.decode(*split.encode(params, image))

    def check(self, shape: tuple[int, ...]) -> None:
        """Traces all methods for images of a shape `h w c`, and runs none."""
        shape = tuple(shape)
        image, target = jax.ShapeDtypeStruct(shape, np.float32), self.any_target(shape)
        for place in self.places(shape):
            try:
                engine.check_call(
                    self.call(place, shape), self._params, image, target, execution=self.execution
                )
            except SegcamError as error:
                name = place.call.method.name
                raise type(error)(f"{name} at tap {place.tap!r}: {error}") from None

    def check_output(self, sample: Sample) -> None:
        """Runs the network on an image."""
        images = np.stack([sample.padded] * devices.image_devices(self._mesh))
        with self.network.blamed(sample.padded.shape):
            output = engine.predict_together(
                self._forward(images.shape[1:]), self._params, images, execution=self.execution
            )[0]
        self.network.check_output(np.asarray(output, np.float32))

    def any_target(self, shape: tuple[int, ...]) -> Target:
        """A target like those of the study, for images of a shape `h w c`."""
        mask = None if self.network.classifies else np.ones(shape[:-1], bool)
        meaning, options = self.network.meaning, self.options
        first: Any = np.zeros((), np.int32)
        return Target(
            first,
            mask,
            options.of,
            options.reduce,
            outputs=meaning.outputs,
            exclusive=meaning.exclusive,
        )

    @functools.cache  # noqa: B019
    def call(self, place: Place, shape: tuple[int, ...]) -> Call:
        """What the engine is given of a place, for images of a shape `h w c`."""
        call, method = place.call, place.call.method
        split = self.network.split(place.tap, shape)
        return Call(call.function, split, call.options, method.ablates, method.needs_key)

    @functools.cache  # noqa: B019
    def _at_once(self, shape: tuple[int, ...], places: tuple[Place, ...], targets: int) -> int:
        return engine.images_at_once(
            [self.call(place, shape) for place in places],
            self._params,
            jax.ShapeDtypeStruct(shape, np.float32),
            self.any_target(shape),
            targets=targets,
            execution=self.execution,
        )

    def _images_at_once(self, group: Group, places: tuple[Place, ...], targets: Targets) -> int:
        images, count = _shape(targets)
        if self.options.batch is not None or images == 1:
            return self.options.batch or 1
        shape = group.loaded[0].sample.padded.shape
        return self._at_once(shape, places, count)

    @property
    def _most_predicted(self) -> int:
        return self.options.batch or 32

    @property
    def _mesh(self) -> Any:
        return self.execution.mesh


def _numbers(goals: Sequence[Explained | Failure], compared: bool) -> list[int]:
    """The targets of an image that are explained, by themselves or compared with another class."""
    return [
        number
        for number, goal in enumerate(goals)
        if isinstance(goal, Explained) and (goal.second is not None) == compared
    ]


def _shape(targets: Targets) -> tuple[int, ...]:
    """Of how many images they are, and how many of each."""
    return np.shape((targets.first if isinstance(targets, Difference) else targets).class_index)


def batches(count: int, most: int, multiple: int = 1) -> Iterator[tuple[list[int], int]]:
    """Indices in batches of a few sizes: of `most`, and of the least power of two for the rest.

    The last batch is filled up by its last index.

    Args:
        most: in a batch, on one device.
        multiple: devices that a batch is dealt over.

    Yields:
        The indices, and how many they are.
    """
    most = most * multiple
    for start in range(0, count, most):
        left = min(most, count - start)
        size = most
        while size // 2 >= left and (size // 2) % multiple == 0:
            size //= 2
        yield [min(start + index, count - 1) for index in range(size)], size
