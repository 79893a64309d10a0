"""What is scored of a run of images: the network, and of each row its image, target and maps."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars
from jaxtyping import Bool, Float, Int

from segcam_jax import targets
from segcam_jax.engine import Execution
from segcam_jax.methods import MethodCall
from segcam_jax.networks.image_inputs import Sample, read_sample
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.runs.stored_run import StoredRun
from segcam_jax.runs.work import StudyOptions
from segcam_jax.targets import Difference, Target
from segcam_jax.types import InputError


def compares(run: StoredRun) -> bool:
    """Whether a run explains a class rather than another one."""
    return run.table["rather_than"].is_not_null().any()


class ScoredImages:
    """A stored run of images, and all that metrics are given of it.

    Raises:
        InputError: if its network cannot be opened.
    """

    def __init__(self, run: StoredRun):
        self._run, record = run, run.manifest.network
        options = StudyOptions.of_words(run.manifest.options, f"manifest of {str(run.path)!r}")
        spec = options.network.from_anywhere(Path(record.absolute))
        self.network: Network = open_network(spec, options.opening)
        self.threshold = self.network.meaning.threshold
        self._options = options
        self._params = jax.device_put(self.network.params)
        self._calls = {call.method.name: call for call in options.calls}

    @property
    def compares(self) -> bool:
        """Whether a class is explained rather than another one."""
        return compares(self._run)

    @property
    def taps(self) -> tuple[str, ...]:
        """Those that maps are of."""
        return self._run.taps

    @functools.cached_property
    def shards(self) -> Mapping[int, list[dict[str, Any]]]:
        """The rows that have results, by the number of their shard."""
        found: dict[int, list[dict[str, Any]]] = {}
        per = self._run.manifest.items_per_shard
        for item in self._run.table["item"].unique().sort():
            found.setdefault(item // per, [])
        for row in self._run.table.filter(polars.col("error").is_null()).iter_rows(named=True):
            found[row["item"] // per].append(row)
        return found

    def pairs(self, row: int) -> list[tuple[str, str]]:
        """The maps of a row, by method and tap."""
        run = self._run
        return [(m, tap) for tap in run.taps for m in run.methods(tap) if run.has_map(row, tap, m)]

    def explained(self, about: Mapping[str, Any], tap: str) -> tuple[Any, ...]:
        """The split at a tap, the parameters, the input and the target."""
        sample = self._sample(about["path"], about["sha256"])
        split = self.network.split(tap, sample.padded.shape)
        return split, self._params, sample.padded, self._target(about)

    def extent(self, about: Mapping[str, Any]) -> tuple[int, int]:
        """Extents of the input."""
        height, width = map(int, about["padded"].split("x"))
        return height, width

    def inside(self, about: Mapping[str, Any]) -> tuple[slice, ...]:
        """The part of the input that is the image."""
        return tuple(slice(0, int(extent)) for extent in about["extent"].split("x"))

    def map(self, about: Mapping[str, Any], method: str, tap: str) -> Float[np.ndarray, "u v"]:
        """The raw map."""
        return self._run.map(about["row"], tap, method)

    def region(self, about: Mapping[str, Any]) -> Bool[np.ndarray, "u v"] | None:
        """The explained pixels over the padded image; None of a classifier."""
        region = self._run.region(about["row"])
        if region is None:
            return None
        whole = np.zeros(self.extent(about), bool)
        whole[: region.shape[0], : region.shape[1]] = region
        return whole

    def labels(self, about: Mapping[str, Any]) -> Int[np.ndarray, "u v"]:
        """The predicted class of each pixel over the padded image, -1 where there is none."""
        found = self._run.prediction(about["row"])
        assert found is not None
        whole = np.full(self.extent(about), -1, np.int32)
        whole[: found.shape[0], : found.shape[1]] = found
        return whole

    def method(self, about: Mapping[str, Any], name: str, tap: str) -> tuple[Callable, tuple]:
        """What explains again, the same object for the same method, and its options."""
        call = self._calls[name]
        return self._explainer(call), call.options

    @functools.cache  # noqa: B019
    def _explainer(self, call: MethodCall) -> Callable:
        """The method as the run called it: at its precision, with its key where it needs one."""
        given: dict[str, Any] = {"execution": Execution(precision=self._options.precision)}
        if call.method.needs_key:
            given["key"] = jax.random.key(self._options.seed)
        return functools.partial(call.function, **given)

    def randomised(self, given: Sequence[Any]) -> tuple[Any, Any]:
        """The split and the parameters whose layers are drawn anew, of what `explained` gives."""
        return given[0], given[1]

    def drawn(self, about: Mapping[str, Any], params: Any) -> Any:
        """Parameters that were drawn anew, as the split takes them."""
        return params

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _sample(self, path: str, sha256: str) -> Sample:
        form = self._run.manifest.network.images
        assert form is not None
        sample = read_sample(Path(path), form)
        if sample.sha256 != sha256:
            raise InputError(f"{path!r} is not the file that was explained (SHA-256)")
        return sample

    def _target(self, about: Mapping[str, Any]) -> Target | Difference:
        meaning, options, region = self.network.meaning, self._options, self.region(about)
        said: Any = {"of": options.of, "reduce": options.reduce, "outputs": meaning.outputs}
        said["exclusive"] = meaning.exclusive

        def of_class(index: int) -> Target:
            if region is None:
                return targets.whole_image(index, **said)
            return targets.region(index, region, **said)

        target = of_class(about["class_index"])
        if not about["rather_than"]:
            return target
        other = list(self._run.manifest.network.labels).index(about["rather_than"])
        return Difference(target, of_class(other))
