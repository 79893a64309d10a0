"""P15 and P16: metrics of given maps, and deletion at a tap; against other libraries, in one run.

python -m benchmarks.metric_speed [--size full|tiny] [--only P15 P16]

P15 has 7 maps of one image, each measured by deletion and insertion of 20 steps and by ROAD of 9
percentiles: torch-cam makes the former, pytorch-grad-cam the latter, of the same network and maps.
Where they are not installed, the row says so. P16 has one map of channels and one of positions at
the bottleneck of P1's network: whole forwards, the activation masked in the middle, against the
library's. Times are medians of turns, without compilation.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers, results, timing
from benchmarks.studies import CLASS, Study, study
from benchmarks.tables import markdown
from benchmarks.workloads import WORKLOADS, Size
from segcam_jax import files, metrics
from segcam_jax.types import MissingExtraError

OUT = Path(__file__).parent / "results" / "metric_speed.json"
_AT_TAP = ("channels", "positions")
TITLES = {
    "P15": "deletion, insertion and ROAD of 7 maps, ResNet-50, 224x224",
    "P16": "deletion by {}, U-Net's bottleneck, a 32x32 region",
}
_MAPS, _TURNS = 7, 3
_STEPS = {"full": 20, "tiny": 4}
_PERCENTILES = tuple(range(10, 100, 10))
_NAMES = ("deletion", "insertion", "road")
Table = dict[str, Any]


def measured(key: str, size: Size) -> list[Table]:
    """The rows of a workload."""
    return [_of_maps(size)] if key == "P15" else [_at_tap(what, size) for what in _AT_TAP]


def _of_maps(size: Size) -> Table:
    """P15."""
    given, steps = study(WORKLOADS["P3"], size), _STEPS[size]
    maps = _maps(given.x.shape[:2])

    def scored(params, x, target, maps):
        def each(map):
            said = (given.split, params, x, target, map)
            found = (
                metrics.deletion(*said, steps=steps).area,
                metrics.insertion(*said, steps=steps).area,
                metrics.road(*said, key=jax.random.key(0), percentiles=_PERCENTILES).combined,
            )
            return jnp.stack(found)

        return jax.lax.map(each, maps)

    program = jax.jit(scored).lower(given.params, given.x, given.target, maps)
    compiled: list[Any] = []
    compile_seconds = timing.seconds(lambda: compiled.append(program.compile()))

    def ours() -> np.ndarray:
        return np.asarray(compiled[0](given.params, given.x, given.target, maps))

    record: Table = {"name": TITLES["P15"], "compile_seconds": compile_seconds}
    try:
        theirs = _libraries(given, np.asarray(maps), steps)
    except MissingExtraError as missing:
        return {**record, "reason": str(missing), **_in_turns({"segcam_jax": ours})[0]}
    seconds, values = _in_turns({"segcam_jax": ours, "libraries": theirs})
    apart = np.abs(values["segcam_jax"] - values["libraries"]).max(0)
    scale = np.abs(values["libraries"]).max(0)
    return {**record, **seconds, "apart": dict(zip(_NAMES, (apart / scale).tolist(), strict=True))}


def _maps(space: tuple[int, ...]) -> jax.Array:
    """Smooth maps of values in [0, 1], as CAMs are when they are drawn."""
    coarse = np.random.default_rng(0).random((_MAPS, 7, 7), np.float32)
    maps = jax.image.resize(jnp.asarray(coarse), (_MAPS, *space), "linear")
    low, high = (end(maps, (1, 2), keepdims=True) for end in (jnp.min, jnp.max))
    return (maps - low) / (high - low)


def _libraries(given: Study, maps: np.ndarray, steps: int) -> Callable[[], np.ndarray]:
    """What users of torch-cam and of pytorch-grad-cam call, of the same network."""
    torch = peers.torch(2)
    try:
        from pytorch_grad_cam.metrics import road
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        from torchcam.metrics import DeletionInsertionMetric
    except ModuleNotFoundError as missing:
        raise MissingExtraError(f"{missing.name} is not installed") from None
    from benchmarks.peers import explainers

    device = peers.device(torch)
    peer = explainers.peer(given, device, channels_last=False, batch=1)
    maps = maps.copy()  # Theirs must be writable.
    cams = torch.from_numpy(maps).to(device)

    def run() -> np.ndarray:
        found = []
        for cam, map in zip(cams, maps, strict=True):
            curves = DeletionInsertionMetric(_Given(peer.model, cam[None]), steps=steps)
            curves.update(peer.x, CLASS)
            said = curves.summary()
            target = [ClassifierOutputTarget(CLASS)]
            combined = road.ROADCombined(list(_PERCENTILES))
            imputed = combined(peer.x, map[None], target, peer.model)
            found.append([said["deletion_auc"], said["insertion_auc"], float(imputed[0])])
        return np.array(found)

    return run


class _Given:
    """An extractor of torch-cam that returns the map it was given."""

    _hooks_off = staticmethod(contextlib.nullcontext)

    def __init__(self, model: Any, map: Any):
        self.model, self._map = model, map

    def __call__(self, *given: Any, **options: Any) -> list[Any]:
        return [self._map]

    def fuse_cams(self, cams: list[Any]) -> Any:
        """The only one."""
        return cams[0]


def _at_tap(what: str, size: Size) -> Table:
    """P16."""
    given, steps = study(WORKLOADS["P1"], size), _STEPS[size]
    split, params, x, target = given.split, given.params, given.x, given.target
    *space, channels = split.activation.shape
    shape = (channels,) if what == "channels" else tuple(space)
    steps = min(steps, int(np.prod(shape)))
    map = jnp.asarray(np.random.default_rng(0).random(shape, np.float32))

    def ours() -> np.ndarray:
        by: Any = what
        found = metrics.deletion(split, params, x, target, map, at="tap", by=by, steps=steps)
        return np.asarray(found.scores)

    masks = _masks(np.asarray(map), steps, len(space))

    @jax.jit
    def one(params, x, target, mask):
        activation, carry = split.encode(params, x)
        return target(split.decode(activation * mask, carry))

    def whole() -> np.ndarray:
        return np.array([float(one(params, x, target, mask)) for mask in masks])

    runs = {"segcam_jax": ours, "JAX, whole forwards": whole}
    with contextlib.suppress(MissingExtraError):
        runs["torch, whole forwards"] = _torch_whole(given, masks)
    seconds, values = _in_turns(runs)
    moved = np.ptp(values["JAX, whole forwards"])
    apart = np.abs(values["segcam_jax"] - values["JAX, whole forwards"]).max() / moved
    return {"name": TITLES["P16"].format(what), **seconds, "apart": {"scores": float(apart)}}


def _masks(map: np.ndarray, steps: int, rank: int) -> list[np.ndarray]:
    """0 for the largest values of a map: none, equal steps of them, and all."""
    order = np.argsort(-map, axis=None, kind="stable")
    found = []
    for step in range(steps + 1):
        kept = np.ones(map.size, np.float32)
        kept[order[: -(-map.size // steps) * step]] = 0
        found.append(kept.reshape((1,) * rank + (-1,) if map.ndim == 1 else (*map.shape, 1)))
    return found


def _torch_whole(given: Study, masks: list[np.ndarray]) -> Callable[[], np.ndarray]:
    torch = peers.torch(2)
    from benchmarks.peers import explainers

    device = peers.device(torch)
    peer = explainers.peer(given, device, channels_last=True, batch=1)
    kept = [torch.from_numpy(np.moveaxis(mask, -1, 0)[None].copy()).to(device) for mask in masks]

    def run() -> np.ndarray:
        scores = []
        with torch.no_grad():
            for mask in kept:
                activation, known = peer.model.prefix(peer.x)
                scores.append(float(peer.scores(peer.model.suffix(activation * mask, known))))
        return np.array(scores)

    return run


def _in_turns(runs: dict[str, Callable[[], np.ndarray]]) -> tuple[Table, dict[str, np.ndarray]]:
    """Median seconds of each, and what it found; a first turn warms up."""
    values = {name: run() for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_TURNS):
        for name, run in runs.items():
            taken[name].append(timing.seconds(run))
    spread = {name: [min(each), max(each)] for name, each in taken.items()}
    medians = {name: timing.median(each) for name, each in taken.items()}
    return {"seconds": medians, "spread": spread}, values


def table() -> str:
    """A line for each row."""
    lines = []
    for key, record in (files.read_json(OUT) or {}).items():
        for row in record["rows"]:
            ours = row["seconds"]["segcam_jax"]
            others = {n: each for n, each in row["seconds"].items() if n != "segcam_jax"}
            name = min(others, key=lambda each: others[each], default=None)
            cells = [key, row["name"], _OTHERS.get(str(name), name or row.get("reason", "-"))]
            faster = "-" if name is None else f"{others[name] / ours:.2g}x"
            cells += ["-" if name is None else f"{others[name]:.3g}", f"{ours:.3g} s", faster]
            cells.append(", ".join(f"{n} {v:.0e}" for n, v in row.get("apart", {}).items()) or "-")
            lines.append(cells)
    return markdown(" | study | others | seconds | segcam_jax | times faster | differ", lines)


_OTHERS = {"libraries": "torch-cam and pytorch-grad-cam"}


def main() -> None:
    """Measures, and writes the JSON after each workload."""
    if jax.default_backend() == "cpu":
        timing.limit_threads(2)
    else:
        # Or the library's forwards were rounded, unlike what its metrics are held to.
        jax.config.update("jax_default_matmul_precision", "highest")
    results.measure_each(lambda *given: {"rows": measured(*given)}, TITLES, OUT, __doc__)


if __name__ == "__main__":
    main()
