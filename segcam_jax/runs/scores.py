"""Scores of a stored run: what metrics say of each of its maps, in columns beside it.

    run.zarr/scores/deletion/00012.parquet      of shard 12; a row for each map

A part holds the digest of all that it was made of. One that is there of the same is kept: a scoring
that was killed resumes, and another metric costs itself alone. What fails is a row that says why.
Of a run over scans, each instance is scored as an image is.
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

from segcam_jax import _files, engine, metrics
from segcam_jax.engine.compiled import divided
from segcam_jax.metrics import randomisation
from segcam_jax.metrics.controls import mask_shaped, random_map
from segcam_jax.metrics.removal import brought
from segcam_jax.metrics.segments import superpixels
from segcam_jax.runs import parquet
from segcam_jax.runs.measures import Measure, check
from segcam_jax.runs.pipeline import Progress
from segcam_jax.runs.scored_images import ScoredImages
from segcam_jax.runs.scored_scans import ScoredScans
from segcam_jax.runs.stored_run import StoredRun
from segcam_jax.runs.stored_scans import StoredScans
from segcam_jax.runs.table import FOLDER as PARTS, failure
from segcam_jax.taps import INPUT
from segcam_jax.types import Explanation, InputError, SegcamError

FOLDER = "scores"
CONTROL = "control"  # In place of a tap.
RANDOM, MASK = "random map", "mask-shaped map"
NO_MAP = "no map"  # In place of a method.
_TOLD_EVERY = 5.0  # Seconds.
_SUPERPIXELS, _MOST_SUPERPIXELS = 100, 160
# Of what parts hold: raised when the same metric of the same map gives something else.
_VERSION = 3
_DRAWN = 1  # Likewise, of how parameters are drawn anew.
_PERMUTED = "permuted"
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


class Scoring:
    """Scores the maps of a stored run.

    Args:
        controls: whether a random map, and of regions a mask-shaped one, are scored beside each.

    Raises:
        InputError: if the network is not that of the run, or a metric asks for regions that the run
            does not have.
    """

    def __init__(
        self,
        run: StoredRun | StoredScans,
        measures: Sequence[Measure],
        *,
        seed: int = 0,
        controls: bool = True,
    ):
        self.run, self.measures, self.seed, self.controls = run, tuple(measures), seed, controls
        self._kept: tuple[str, ...] = ()
        scans = isinstance(run, StoredScans)
        self.scored = ScoredScans(run) if scans else ScoredImages(run)
        self.network, record = self.scored.network, run.manifest.network
        if self.network.sha256 != record.sha256:
            raise InputError(
                f"{record.given!r} is not the network of {str(run.path)!r} (SHA-256): its weights "
                "or its source changed since"
            )
        check(self.measures, record, compares=self.scored.compares)
        for each in self.measures:
            if scans and "labels" in each.metric.needs:
                raise InputError(
                    f"{each.metric.name} reads the predicted class of each pixel, and a run over "
                    "scans keeps the explained class alone; score a run of images"
                )

    @property
    def shards(self) -> list[int]:
        """Those of the run that have results."""
        return sorted(self.scored.shards)

    def compute(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        *,
        stop_on_error: bool = False,
    ) -> Progress:
        """Scores what is not scored yet, shard after shard.

        Args:
            report: is told every few seconds, and after each shard, how many rows of the run were
                scored by a metric.
            stop_on_error: stop at the first map that fails; what is finished stays.

        Raises:
            SegcamError: if something cannot be written, or a map failed and that is to stop it.
        """
        progress, start = Progress(), time.perf_counter()
        told = start

        def tell(least: float = 0.0) -> None:
            nonlocal told
            now = time.perf_counter()
            progress.seconds = progress.busy = now - start
            if now - told >= least:
                told = now
                report(dataclasses.replace(progress))

        for shard in self.shards:
            rows = self.scored.shards[shard]
            for measure in self.measures:
                table = self._part(measure, shard)
                if table is not None:
                    progress.before += len(rows)
                    progress.failures += table["error"].count()
                    continue
                found: list[dict[str, Any]] = []
                for about in rows:
                    found += self._scored(measure, about, stop_on_error)
                    progress.items += 1
                    tell(_TOLD_EVERY)
                table = polars.DataFrame(found, schema=dict(SCHEMA), orient="row")
                progress.failures += table["error"].count()
                self._write(measure, shard, table)
            tell()
        self._redrawn.cache_clear()
        self._together.cache_clear()
        return progress

    def table(self) -> polars.DataFrame:
        """All scores of these metrics that are there."""
        parts = [self._part(each, shard) for each in self.measures for shard in self.shards]
        return polars.concat(
            [polars.DataFrame(schema=dict(SCHEMA)), *(part for part in parts if part is not None)]
        )

    @property
    def permuted(self) -> list[str]:
        """The arrays that randomisation permuted, for want of a known initialiser."""
        randomised = [each for each in self.measures if each.randomises]
        parts = [self._read(each, shard) for each in randomised for shard in self.shards]
        found = [part[1].get(_PERMUTED, "").splitlines() for part in parts if part is not None]
        return list(dict.fromkeys(name for names in found for name in names))

    # ---- parts

    def _file(self, measure: Measure, shard: int) -> Path:
        return self.run.path / FOLDER / measure.folder / f"{shard:05d}.parquet"

    def _key(self, measure: Measure, shard: int) -> str:
        part = self.run.path / PARTS / f"{shard:05d}.parquet"
        made_of = [self.run.manifest.key, _files.sha256_of(part), self.seed, self.controls]
        made_of += [list(SCHEMA), _VERSION, *([_DRAWN] if measure.randomises else [])]
        return _files.key_of([measure.metric.name, [list(o) for o in measure.options], *made_of])

    def _part(self, measure: Measure, shard: int) -> polars.DataFrame | None:
        found = self._read(measure, shard)
        return None if found is None else found[0]

    def _read(self, measure: Measure, shard: int) -> tuple[polars.DataFrame, Any] | None:
        data = _files.read_if_there(self._file(measure, shard))
        found = None if data is None else parquet.decode(data)
        return found if found and found[1].get("key") == self._key(measure, shard) else None

    def _write(self, measure: Measure, shard: int, table: polars.DataFrame) -> None:
        about = {"key": self._key(measure, shard)}
        if measure.randomises:
            about[_PERMUTED] = "\n".join(self._kept)
        data = parquet.encode(table, about)
        _files.write_bytes(self._file(measure, shard), data)

    # ---- maps

    def _scored(
        self, measure: Measure, about: Mapping[str, Any], stop: bool
    ) -> Iterator[dict[str, Any]]:
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
        if measure.asks_no_map:
            return [(NO_MAP, tap) for tap in ((INPUT,) if measure.at_input else self.scored.taps)]
        found = self.scored.pairs(row)
        alone = "method" in measure.metric.needs or measure.metric.name in _WITHOUT_CONTROLS
        if self.controls and not alone:
            found += [(RANDOM, CONTROL)]
            found += [] if self.run.manifest.network.classifies else [(MASK, CONTROL)]
        return found

    def _score(
        self, measure: Measure, about: Mapping[str, Any], method: str, tap: str
    ) -> dict[str, Any]:
        metric, options = measure.metric, dict(measure.options)
        if metric.needs_key:
            options["key"] = self._key_of(about["row"], metric.name)
        known = inspect.signature(metric.function).parameters
        if "region" in metric.needs and "threshold" in known:
            options.setdefault("threshold", self.scored.threshold)
        region = self.scored.region(about)
        if "network" not in metric.needs and "method" not in metric.needs:
            map, masks = self._map(about, method, tap, region), ()
            if region is not None and "mask" in metric.needs:
                map, region = self._without_padding(about, map, region)
                masks = (jnp.asarray(region),)
            if "labels" in metric.needs:
                labels = self._labels(about)
                map, masks = brought(map, (*labels.shape, 1)), (labels, about["class_index"])
                options["classes"] = self.network.config.classes
            found = _of_map(map, *masks, function=metric.function, options=tuple(options.items()))
        else:
            # Of the input, maps of all taps take one program.
            at = INPUT if measure.at_input else self.scored.taps[0] if tap == CONTROL else tap
            given = self.scored.explained(about, at)
            if "superpixels" in metric.needs:
                found = superpixels(given[2], _SUPERPIXELS)
                options["segments"] = jnp.minimum(found, _MOST_SUPERPIXELS - 1)
                options["count"] = _MOST_SUPERPIXELS
            if measure.asks_no_map:
                found = metric.function(*given, self._labels(about), **options)
            elif "method" in metric.needs:
                function, own = self.scored.method(about, method, tap)
                if measure.randomises:
                    function, own = self._remade(about["row"], method, tap), ()
                    given = (*self.scored.randomised(given), *given[2:])
                    drawn = self._redrawn(about["row"], metric.name)
                    options["draw"] = lambda key, _: drawn[_bytes(key)]
                found = metric.function(*given, function, options=own, **options)
            else:
                map = self._map(about, method, tap, region)
                map = brought(map, given[0].activation.shape) if measure.at_input else map
                found = metric.function(*given, map, **options)
        curve = getattr(found, "curves", {}).get("dice", found)
        values = {name: float(each) for name, each in metric.values(found).items()}
        return {
            "metric": metric.name,
            "value": values[metric.name],
            "normalised": float(found.normalised) if isinstance(found, metrics.Curve) else None,
            "fractions": _listed(getattr(curve, "fractions", None)),
            "scores": _listed(getattr(curve, "scores", None)),
        }

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _redrawn(self, row: int, metric: str) -> dict[bytes, jax.Array]:
        """Each array drawn anew by the key that it is drawn with, once for all methods of a row.

        They are as large as the parameters of the network together.
        """
        given = self.scored.explained(self._about(row), self.scored.taps[0])
        split, params = self.scored.randomised(given)
        key = self._key_of(row, metric)
        leaves, self._kept = randomisation.redrawn(split, params, key)
        keys = (jax.random.fold_in(key, index) for index in range(len(leaves)))
        return dict(zip(map(_bytes, keys), leaves, strict=True))

    def _about(self, row: int) -> Mapping[str, Any]:
        shards = self.scored.shards.values()
        return next(each for rows in shards for each in rows if each["row"] == row)

    def _key_of(self, row: int, word: str) -> jax.Array:
        """A key of its own for each row and use, none of which is that of a sample."""
        key = jax.random.fold_in(jax.random.key(self.seed), row % 2**32)
        return jax.random.fold_in(key, zlib.crc32(word.encode()))

    def _remade(self, row: int, method: str, tap: str) -> Callable[..., Explanation]:
        """What explains a row again by other parameters, all maps of it in one program."""
        together = self._together(row)
        return lambda split, params, x, target: together(params)[method, tap]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _together(self, row: int) -> Callable[[Any], Mapping[tuple[str, str], Explanation]]:
        """All maps of a row by given parameters, once for the same arrays of them."""
        scored, pairs, about = self.scored, self.scored.pairs(row), self._about(row)
        calls, traced = [], []
        for name, tap in pairs:
            split, _, x, target = scored.explained(about, tap)  # All taps have the last two.
            function, options = scored.method(about, name, tap)
            static, inputs = divided({**function.keywords, **dict(options)})
            calls.append((function.func, split, static))
            traced.append(inputs)
        known: dict[tuple[int, ...], tuple[Any, Mapping[tuple[str, str], Explanation]]] = {}

        def explain(params: Any) -> Mapping[tuple[str, str], Explanation]:
            leaves = jax.tree.leaves(params)
            place = tuple(map(id, leaves))
            if place not in known:
                given = (scored.drawn(about, params), x, target, traced)
                found = _maps_that_fit(*given, calls=tuple(calls))
                # Arrays that are kept have numbers of their own.
                known[place] = leaves, dict(zip(pairs, found, strict=True))
            return known[place][1]

        return explain

    def _map(
        self,
        about: Mapping[str, Any],
        method: str,
        tap: str,
        region: Bool[np.ndarray, "*space"] | None,
    ) -> Float[np.ndarray, "*space"]:
        if method == RANDOM:
            key = self._key_of(about["row"], CONTROL)
            return np.asarray(random_map(key, self.scored.extent(about)))
        if method == MASK:
            assert region is not None
            return np.asarray(mask_shaped(region))
        return self.scored.map(about, method, tap)

    def _without_padding(
        self, about: Mapping[str, Any], map: np.ndarray, region: np.ndarray
    ) -> tuple[Any, np.ndarray]:
        """A map and a region of the image alone: what is added to it lies in no region."""
        place = self.scored.inside(about)
        if region[place].shape == region.shape:
            return map, region
        return brought(map, (*region.shape, 1))[place], region[place]

    def _labels(self, about: Mapping[str, Any]) -> jax.Array:
        assert isinstance(self.scored, ScoredImages)
        return jnp.asarray(self.scored.labels(about))


@engine.compiled_function
def _of_map(map: Any, *masks: Any, function: Callable, options: tuple) -> Any:
    return function(map, *masks, **dict(options))


def _each_map(
    params: Any, x: Any, target: Any, traced: Any, *, calls: tuple[tuple[Callable, Any, Any], ...]
) -> list[Explanation]:
    """The maps of all calls: a method, its split and those of its options that are no inputs."""
    return [
        method(split, params, x, target, **dict(static), **inputs)
        for (method, split, static), inputs in zip(calls, traced, strict=True)
    ]


_all_maps = engine.compiled_function(_each_map)


def _maps_that_fit(*given: Any, calls: tuple[tuple[Callable, Any, Any], ...]) -> list[Explanation]:
    """The maps of all calls by one program; one by one, in smaller chunks, if memory is out."""
    try:
        # A device says that its memory is exhausted when it runs, which may be later.
        return jax.block_until_ready(_all_maps(*given, calls=calls))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    return _each_map(*given, calls=calls)


def _bytes(key: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(key)).tobytes()


def _listed(values: Any) -> list[float] | None:
    return None if values is None or np.ndim(values) != 1 else np.asarray(values).tolist()
