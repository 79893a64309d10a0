"""Scores of a stored run: what metrics say of each of its maps, in columns beside it.

    run.zarr/scores/deletion/00012.parquet      of shard 12; a row for each map

A part holds the digest of all that it was made of. One that is there of the same is kept: a scoring
that was killed goes on, and another metric costs itself alone. What fails is a row that says why.
"""

import dataclasses
import functools
import inspect
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars
from jaxtyping import Bool, Float

from segcam_jax import _files, engine, metrics, targets
from segcam_jax.methods import MethodCall
from segcam_jax.metrics.controls import mask_shaped, random_map
from segcam_jax.metrics.removal import brought
from segcam_jax.metrics.segments import superpixels
from segcam_jax.networks.image_inputs import Sample, read_sample
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.runs import parquet
from segcam_jax.runs.measures import Measure
from segcam_jax.runs.pipeline import Progress
from segcam_jax.runs.stored_run import StoredRun
from segcam_jax.runs.table import FOLDER as PARTS, failure
from segcam_jax.runs.work import StudyOptions
from segcam_jax.taps import INPUT
from segcam_jax.targets import Difference, Target
from segcam_jax.types import InputError, SegcamError

FOLDER = "scores"
CONTROL = "control"  # In place of a tap.
RANDOM, MASK = "random map", "mask-shaped map"
_SUPERPIXELS, _MOST_SUPERPIXELS = 100, 160
SCHEMA: Mapping[str, Any] = {
    "row": polars.Int64,
    "item": polars.Int64,
    "method": polars.String,
    "tap": polars.String,
    "metric": polars.String,
    "value": polars.Float64,
    "normalised": polars.Float64,  # What methods are ranked by, of a metric that has it.
    "fractions": polars.List(polars.Float64),
    "scores": polars.List(polars.Float64),
    "error": polars.String,
}
# Those of a map at its own positions: a control has others.
_WITHOUT_CONTROLS = frozenset({"completeness"})


def compares(run: StoredRun) -> bool:
    """Whether a run explains a class rather than another one."""
    return run.table["rather_than"].is_not_null().any()


class Scoring:
    """Scores the maps of a stored run.

    Args:
        run: it.
        measures: by which metrics.
        seed: of all random numbers.
        controls: whether a random map, and of regions a mask-shaped one, are scored beside each.

    Raises:
        InputError: if the network is not that of the run, or a metric asks for regions that the run
            does not have.
    """

    def __init__(
        self,
        run: StoredRun,
        measures: Sequence[Measure],
        *,
        seed: int = 0,
        controls: bool = True,
    ):
        self.run, self.measures, self.seed, self.controls = run, tuple(measures), seed, controls
        record = run.manifest.network
        origin = f"manifest of {str(run.path)!r}"
        self.options = StudyOptions.of_words(run.manifest.options, origin)
        spec = self.options.network.from_anywhere(Path(record.absolute))
        self.network: Network = open_network(spec, self.options.opening)
        if self.network.sha256 != record.sha256:
            raise InputError(
                f"{record.given!r} is not the network of {str(run.path)!r} (SHA-256): its weights "
                "or its source changed since"
            )
        for each in self.measures:
            asked = {"mask", "region"} & set(each.metric.needs)
            if asked and record.classifies:
                raise InputError(
                    f"{each.metric.name} needs a region, and {record.title} classifies whole "
                    "images; leave it out"
                )
            where = dict(each.options).get("where", "all")
            if compares(run) and ("region" in each.metric.needs or where != "all"):
                raise InputError(
                    f"{each.metric.name} reads the region of one class, and the run explains a "
                    "class rather than another; leave it out, or score a run of one class"
                )
        self._params = jax.device_put(self.network.params)
        self._calls = {call.method.name: call for call in self.options.calls}

    @property
    def shards(self) -> list[int]:
        """Those of the run that have results."""
        per = self.run.manifest.items_per_shard
        return sorted({item // per for item in self.run.table["item"].to_list()})

    def compute(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        *,
        stop_on_error: bool = False,
    ) -> Progress:
        """Scores what is not scored yet, shard after shard.

        Args:
            report: is told after each shard.
            stop_on_error: stop at the first map that fails; what is finished stays.

        Raises:
            SegcamError: if something cannot be written, or a map failed and that is to stop it.
        """
        progress, start = Progress(), time.perf_counter()
        for shard in self.shards:
            rows = self._rows(shard)
            items = len({row["item"] for row in rows})
            todo = [each for each in self.measures if self._part(each, shard) is None]
            for measure in self.measures:
                if measure in todo:
                    continue
                part = self._part(measure, shard)
                progress.failures += 0 if part is None else part["error"].count()
            for measure in todo:
                found = list(self._scored(measure, rows, stop_on_error))
                table = polars.DataFrame(found, schema=dict(SCHEMA), orient="row")
                progress.failures += table["error"].count()
                self._write(measure, shard, table)
            if todo:
                progress.items += items
            else:
                progress.before += items
            progress.seconds = progress.busy = time.perf_counter() - start
            report(dataclasses.replace(progress))
        return progress

    def table(self) -> polars.DataFrame:
        """All scores of these metrics that are there."""
        parts = [self._part(each, shard) for each in self.measures for shard in self.shards]
        return polars.concat(
            [polars.DataFrame(schema=dict(SCHEMA)), *(part for part in parts if part is not None)]
        )

    # ---- parts

    def _file(self, measure: Measure, shard: int) -> Path:
        return self.run.path / FOLDER / measure.folder / f"{shard:05d}.parquet"

    def _key(self, measure: Measure, shard: int) -> str:
        part = self.run.path / PARTS / f"{shard:05d}.parquet"
        made_of = [self.run.manifest.key, _files.sha256_of(part), self.seed, self.controls]
        made_of.append(list(SCHEMA))
        return _files.key_of([measure.metric.name, [list(o) for o in measure.options], *made_of])

    def _part(self, measure: Measure, shard: int) -> polars.DataFrame | None:
        data = _files.read_if_there(self._file(measure, shard))
        found = None if data is None else parquet.decode(data)
        if found is None or found[1].get("key") != self._key(measure, shard):
            return None
        return found[0]

    def _write(self, measure: Measure, shard: int, table: polars.DataFrame) -> None:
        data = parquet.encode(table, {"key": self._key(measure, shard)})
        _files.write_bytes(self._file(measure, shard), data)

    # ---- maps

    def _rows(self, shard: int) -> list[dict[str, Any]]:
        per = self.run.manifest.items_per_shard
        inside = polars.col("item").is_between(shard * per, shard * per + per - 1)
        return self.run.table.filter(inside & polars.col("error").is_null()).to_dicts()

    def _scored(
        self, measure: Measure, rows: Sequence[Mapping[str, Any]], stop: bool
    ) -> Iterator[dict[str, Any]]:
        for about in rows:
            for method, tap in self._pairs(measure, about["row"]):
                place = {"row": about["row"], "item": about["item"], "method": method, "tap": tap}
                try:
                    yield {**place, **self._score(measure, about, method, tap)}
                except SegcamError as error:
                    said = failure({"path": about["path"], "error": error})
                    if stop:
                        raise type(error)(f"{measure.metric.name} of {method}: {said}") from None
                    yield {**place, "metric": measure.metric.name, "error": said}

    def _pairs(self, measure: Measure, row: int) -> list[tuple[str, str]]:
        """The maps of a row, by method and tap, and the controls."""
        run = self.run
        found = [(m, tap) for tap in run.taps for m in run.methods(tap) if run.has_map(row, tap, m)]
        alone = "method" in measure.metric.needs or measure.metric.name in _WITHOUT_CONTROLS
        if self.controls and not alone:
            found += [(RANDOM, CONTROL)]
            found += [] if run.manifest.network.classifies else [(MASK, CONTROL)]
        return found

    def _score(
        self, measure: Measure, about: Mapping[str, Any], method: str, tap: str
    ) -> dict[str, Any]:
        metric, options = measure.metric, dict(measure.options)
        key = jax.random.fold_in(jax.random.key(self.seed), about["row"])
        if metric.needs_key:
            options["key"] = _apart(key, metric.name)
        if (
            "region" in metric.needs
            and "threshold" in inspect.signature(metric.function).parameters
        ):
            options.setdefault("threshold", self.network.meaning.threshold)
        region = self._region(about)
        if "network" not in metric.needs and "method" not in metric.needs:
            masks = () if region is None or "mask" not in metric.needs else (jnp.asarray(region),)
            map = self._map(about, method, tap, key, region)
            found = _of_map(map, *masks, function=metric.function, options=measure.options)
        else:
            sample = self._sample(about["path"], about["sha256"])
            # Of the input, maps of all taps take one program.
            at = INPUT if measure.at_input else self.run.taps[0] if tap == CONTROL else tap
            split = self.network.split(at, sample.padded.shape)
            given = (split, self._params, sample.padded, self._target(about, region))
            if "superpixels" in metric.needs:
                found = superpixels(sample.padded, _SUPERPIXELS)
                options["segments"] = jnp.minimum(found, _MOST_SUPERPIXELS - 1)
                options["count"] = _MOST_SUPERPIXELS
            if "method" in metric.needs:
                call = self._calls[method]
                given = (*given, self._explainer(call))
                found = metric.function(*given, options=call.options, **options)
            else:
                map = self._map(about, method, tap, key, region)
                map = brought(map, split.activation.shape) if measure.at_input else map
                found = metric.function(*given, map, **options)
        values = {name: float(each) for name, each in metric.values(found).items()}
        return {
            "metric": metric.name,
            "value": values[metric.name],
            "normalised": float(found.normalised) if isinstance(found, metrics.Curve) else None,
            "fractions": _listed(getattr(found, "fractions", None)),
            "scores": _listed(getattr(found, "scores", None)),
        }

    @functools.cache  # noqa: B019
    def _explainer(self, call: MethodCall) -> Callable:
        """The method, with the run's key where it needs one; the same object for the same call."""
        arguments = call.arguments(self.options.seed)
        if "key" not in arguments:
            return call.method.function
        return functools.partial(call.method.function, key=arguments["key"])

    def _map(
        self,
        about: Mapping[str, Any],
        method: str,
        tap: str,
        key: jax.Array,
        region: Bool[np.ndarray, "u v"] | None,
    ) -> Float[np.ndarray, "u v"]:
        if method == RANDOM:
            return np.asarray(random_map(_apart(key, CONTROL), _extent(about["padded"])))
        if method == MASK:
            assert region is not None
            return np.asarray(mask_shaped(region))
        return self.run.map(about["row"], tap, method)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _sample(self, path: str, sha256: str) -> Sample:
        form = self.run.manifest.network.images
        assert form is not None
        sample = read_sample(Path(path), form)
        if sample.sha256 != sha256:
            raise InputError(f"{path!r} is not the file that was explained (SHA-256)")
        return sample

    def _region(self, about: Mapping[str, Any]) -> Bool[np.ndarray, "u v"] | None:
        """The explained pixels over the padded image; None of a classifier."""
        region = self.run.region(about["row"])
        if region is None:
            return None
        whole = np.zeros(_extent(about["padded"]), bool)
        whole[: region.shape[0], : region.shape[1]] = region
        return whole

    def _target(
        self, about: Mapping[str, Any], region: Bool[np.ndarray, "u v"] | None
    ) -> Target | Difference:
        meaning, options = self.network.meaning, self.options
        said: Any = {"of": options.of, "reduce": options.reduce, "outputs": meaning.outputs}
        said["exclusive"] = meaning.exclusive

        def of_class(index: int) -> Target:
            if region is None:
                return targets.whole_image(index, **said)
            return targets.region(index, region, **said)

        target = of_class(about["class_index"])
        if not about["rather_than"]:
            return target
        other = list(self.run.manifest.network.labels).index(about["rather_than"])
        return Difference(target, of_class(other))


@engine.compiled_function
def _of_map(map: Any, *masks: Any, function: Callable, options: tuple) -> Any:
    return function(map, *masks, **dict(options))


def _apart(key: jax.Array, word: str) -> jax.Array:
    """A key of its own for each use, none of which is that of a sample."""
    return jax.random.fold_in(key, zlib.crc32(word.encode()))


def _listed(values: Any) -> list[float] | None:
    return None if values is None or np.ndim(values) != 1 else np.asarray(values).tolist()


def _extent(words: str) -> tuple[int, int]:
    height, width = map(int, words.split("x"))
    return height, width
