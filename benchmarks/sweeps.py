"""P13 and P14: sweeps of many images, files in, store out; against memory alone, and a loop.

python -m benchmarks.sweeps [--size full|tiny] [--only P13 P14]

A sweep is measured when its programs are compiled, as a long one is. *In memory* runs the same
programs on the same batches, one after the other, with all inputs there and nothing read, looked at
or written. The loop is pytorch-grad-cam's over the same images, methods and layers, of which it is
given the first few, and projected.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import results, timing
from benchmarks.tables import markdown
from segcam_jax import engine, files
from segcam_jax.data import samples
from segcam_jax.extras import require
from segcam_jax.runs import Job, OpenJob, StudyOptions

OUT = Path(__file__).parent / "results" / "sweeps.json"
_TURNS = 3
_UNET_METHODS = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}
_LITE_METHODS = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "ablation_cam": "AblationCAM",
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A workload.

    Attributes:
        methods: our names, and those of pytorch-grad-cam.
        draw: writes so many images into a folder.
        images: how many, by size.
        looped: images that the loop is given, by size.
    """

    title: str
    weights: str
    taps: tuple[str, ...]
    methods: dict[str, str]
    draw: Callable[[Path, int], None]
    images: dict[str, int]
    looped: dict[str, int]


def _digits(folder: Path, count: int) -> None:
    """Bundled samples, each moved by a few pixels: greyscale PNGs of 64x64."""
    found = samples.load()
    images = np.concatenate([found.unbiased.image, found.biased.image])[..., 0]
    generator = np.random.default_rng(0)
    for index in range(count):
        moved = np.roll(images[index % len(images)], generator.integers(-6, 7, 2), (0, 1))
        Image.fromarray(np.round(255 * moved).astype(np.uint8)).save(folder / f"{index:05}.png")


def _photographs(folder: Path, count: int) -> None:
    """Crops of 224x224 of four photographs of scikit-image."""
    data = require("skimage.data", extra="train")
    photographs = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    generator = np.random.default_rng(0)
    for index in range(count):
        whole = photographs[index % len(photographs)]
        row, column = (int(generator.integers(0, n - 223)) for n in whole.shape[:2])
        crop = whole[row : row + 224, column : column + 224]
        Image.fromarray(crop).save(folder / f"{index:05}.png")


SWEEPS = {
    "P13": Sweep(
        "64x64 images, the bundled U-Net, seven CAMs at three taps",
        "texture-mnist-unbiased",
        ("bottleneck", "decoder3", "decoder1"),
        _UNET_METHODS,
        _digits,
        {"full": 2000, "tiny": 130},
        {"full": 20, "tiny": 2},
    ),
    "P14": Sweep(
        "224x224 photographs, EfficientNet-Lite0, four CAMs at the last block",
        "efficientnet-lite0-imagenet",
        ("last",),
        _LITE_METHODS,
        _photographs,
        {"full": 200, "tiny": 4},
        {"full": 1, "tiny": 1},
    ),
}


def measured(key: str, size: str) -> dict[str, Any]:
    """Seconds of a sweep, of its programs alone, and of the loop."""
    sweep = SWEEPS[key]
    count = sweep.images[size]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        folder.mkdir()
        sweep.draw(folder, count)
        options = StudyOptions(weights=sweep.weights, taps=sweep.taps, methods=tuple(sweep.methods))
        opened = Job(options, (folder,), Path(place) / "0.zarr").open()
        start = time.perf_counter()
        with _Recorder() as recorder:
            _run(opened, Path(place) / "0.zarr")
        with_compiling = time.perf_counter() - start
        whole, memory = [], []
        for turn in range(_TURNS):
            whole.append(_run(opened, Path(place) / f"{turn + 1}.zarr"))
            memory.append(timing.seconds(recorder.again))
        first = opened.first
        assert first is not None
        record = {
            "title": f"{count} {sweep.title}",
            "images": count,
            "maps": count * len(opened.kernel.places(first.sample.padded.shape)),
            "first_seconds": with_compiling,
            "seconds": timing.median(whole),
            "memory_seconds": timing.median(memory),
            "programs": recorder.programs,
            "bytes": sum(
                f.stat().st_size for f in (Path(place) / "0.zarr").rglob("*") if f.is_file()
            ),
        }
        return {**record, **_loop(key, sweep, folder, sweep.looped[size], count)}


def _run(opened: OpenJob, out: Path) -> float:
    """Seconds of a whole sweep into a new store."""
    opened.job = dataclasses.replace(opened.job, out=out)
    start = time.perf_counter()
    with opened.create() as store:
        opened.compute(store, range(opened.shards))
        store.finish()
    return time.perf_counter() - start


class _Recorder:
    """Keeps what the engine is asked for, so that it can be asked again."""

    def __init__(self):
        self._calls: list[tuple[Callable, tuple, dict]] = []
        self._kept = (engine.explain_together, engine.predict_together)

    def __enter__(self) -> "_Recorder":
        engine.explain_together, engine.predict_together = map(self._recording, self._kept)
        return self

    def __exit__(self, *about: Any) -> None:
        engine.explain_together, engine.predict_together = self._kept

    def _recording(self, function: Callable) -> Callable:
        def run(*arguments, **options):
            self._calls.append((function, arguments, options))
            return function(*arguments, **options)

        return run

    @property
    def programs(self) -> int:
        """How many differ by shapes or windows."""
        kinds = {
            (
                function.__name__,
                str(jax.tree.map(np.shape, arguments[2:])),
                str((options.get("window") or (None,))[0]),
                len(arguments[0]) if isinstance(arguments[0], list) else 0,
            )
            for function, arguments, options in self._calls
        }
        return len(kinds)

    def again(self) -> None:
        """All of it once more, one call after the other."""
        found = None
        for function, arguments, options in self._calls:
            found = function(*arguments, **options)
        jax.block_until_ready(found)


def _loop(key: str, sweep: Sweep, folder: Path, looped: int, count: int) -> dict[str, Any]:
    """Seconds of pytorch-grad-cam, projected to all images; nothing where it is not installed."""
    try:
        import pytorch_grad_cam
        import torch
    except ModuleNotFoundError as missing:
        return {"loop_reason": f"{missing.name} is not installed"}
    from benchmarks.peers import bundled

    if key == "P13":
        model = bundled.bundled_unet(sweep.weights)
        layers = [model.tap(name) for name in sweep.taps]
    else:
        model, last = bundled.efficientnet_lite0()
        layers = [last]
    files = sorted(folder.iterdir())[:looped]

    def read(path: Path) -> Any:
        pixels = np.asarray(Image.open(path), np.float32) / 255
        pixels = pixels[..., None] if pixels.ndim == 2 else (pixels - 0.498) / 0.502
        return torch.from_numpy(np.moveaxis(pixels, -1, 0)[None].copy())

    def explain(path: Path, names: Sequence[str]) -> None:
        x = read(path)
        with torch.no_grad():
            output = model(x)
        chosen, weight = _chosen(output)
        target = [lambda out: (out[chosen] * weight).sum()]
        for layer in layers:
            for name in names:
                cam = getattr(pytorch_grad_cam, name)(model=model, target_layers=[layer])
                with cam:
                    cam(input_tensor=x, targets=target)

    every = list(sweep.methods.values())
    explain(files[0], every[:1])
    seconds = timing.seconds(lambda: [explain(path, every) for path in files])
    return {"loop_seconds": seconds * count / looped, "looped": looped}


def _chosen(output: Any) -> tuple[int, Any]:
    """The class predicted first but the background, and its pixels."""
    if output.ndim == 2:
        return int(output.argmax()), 1.0
    labels = output[0].argmax(0)
    counts = np.bincount(labels.flatten().numpy(), minlength=output.shape[1])
    counts[samples.BACKGROUND] = 0
    chosen = int(counts.argmax())
    return chosen, (labels == chosen).float()


def table() -> str:
    """One row per sweep."""
    lines = []
    for key, each in (files.read_json(OUT) or {}).items():
        count = each["images"]
        rates = [count / each[name] for name in ("seconds", "memory_seconds")]
        loop = faster = "-"
        if "loop_seconds" in each:
            loop = f"~{count / each['loop_seconds']:.3g} ({each['looped']} of {count})"
            faster = f"{each['loop_seconds'] / each['seconds']:,.0f}x"
        cells = [f"{key}: {each['title']}", *(f"{rate:.1f}" for rate in rates)]
        cells += [f"{rates[0] / rates[1]:.0%}", str(each["programs"]), loop, faster]
        lines.append(cells)
    heads = "sweep | images/s | its programs alone | share | programs | pytorch-grad-cam | times"
    return markdown(heads, lines)


def main() -> None:
    """Measures, and writes the JSON after each workload."""
    results.measure_each(measured, SWEEPS, OUT, __doc__)


if __name__ == "__main__":
    main()
