"""P17 and P18: Ablation-CAM of PyTorch modules here and in torch, on the same weights, in one run.

python -m benchmarks.torch_speed [--only P17 P18]

*By hand* computes what precedes the tap once, and runs the rest on batches of ablated activations.
*Whole* runs whole forwards, one an ablation. Torch's rows are given the first ablations of the
study, and projected. *By operations* is how many times ours they are, and so
the gain at an equal rate: where a norm over all of space follows the tap (P18), a change reaches
everything. Errors are of the first drops, against torch in float64, relative to the largest of
them.
"""

import argparse
import copy
import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segcam_jax as segcam
from benchmarks import foreign, results, timing
from benchmarks.foreign import Network
from benchmarks.tables import markdown
from segcam_jax import files
from segcam_jax.adapters import from_torch
from segcam_jax.engine import Plan
from segcam_jax.extras import require

OUT = Path(__file__).parent / "results" / "torch_speed.json"
_TURNS = 3
_CHECKED = 8


@dataclasses.dataclass(frozen=True)
class Study:
    """An ablation study.

    Attributes:
        corner: of the explained region.
        extent: of the region along each axis.
        parts: `encode(module, x) -> features` and `decode(module, features) -> output`, of which
            the last feature is the tap.
        looped: ablations that torch's rows are given.
        batch: ablations at once, in torch.
        library: whether pytorch-grad-cam takes it.
    """

    title: str
    network: Network
    corner: int
    extent: int
    parts: tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]
    looped: int
    batch: int
    library: bool

    @property
    def window(self) -> tuple[slice, ...]:
        """The explained pixels."""
        side = slice(self.corner, self.corner + self.extent)
        return (side,) * (len(self.network.shape) - 1)


STUDIES = {
    "P17": Study(
        "smp U-Net (ResNet-34), 256x256, encoder/layer4, 512 channels, a region of 32x32",
        Network(
            "segmentation_models_pytorch",
            lambda m: m.Unet("resnet34", encoder_weights=None, classes=4),
            (256, 256, 3),
            "encoder/layer4",
        ),
        112,
        32,
        (lambda m, x: m.encoder(x), lambda m, f: m.segmentation_head(m.decoder(f))),
        32,
        16,
        library=True,
    ),
    "P18": Study(
        "nnU-Net PlainConvUNet, 64x64x64, encoder/stages/3, 128 channels, an instance of 8x8x8",
        dataclasses.replace(foreign.NETWORKS["nnU-Net PlainConvUNet"], shape=(64, 64, 64, 1)),
        28,
        8,
        (lambda m, x: m.encoder(x), lambda m, f: m.decoder(f)),
        8,
        4,
        library=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures studies, and writes the JSON after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    found = files.read_json(OUT) or {}
    for name in parser.parse_args(arguments).only:
        found[name] = {
            **measured(STUDIES[name]),
            "commit": results.commit(),
            "environment": timing.environment(),
        }
        print(json.dumps(found[name], indent=1), flush=True)
        results.save(OUT, found)


def measured(study: Study) -> dict[str, Any]:
    """Seconds and errors of every way to compute a study."""
    torch = require("torch", extra="bench")
    module = foreign.made(study.network)
    x: Any = np.random.default_rng(1).normal(size=study.network.shape).astype(np.float32)
    image = torch.from_numpy(np.moveaxis(x, -1, 0)[None].copy())
    fn, params = from_torch(module)
    split = segcam.split(fn, study.network.tap, params, x)
    channels = split.activation.shape[-1]
    mask = np.zeros(x.shape[:-1], bool)
    mask[study.window] = True
    target = segcam.targets.region(1, mask)

    def ours(count: int) -> np.ndarray:
        found = segcam.methods.ablation_cam(split, params, x, target)
        return np.asarray(jax.block_until_ready(found.drops))[:count]

    ways = {"by hand": _by_hand(study, module, image), "whole": _whole(study, module, image)}
    if study.library:
        ways["pytorch-grad-cam"] = _library(study, module, image)
    exact = _by_hand(study, copy.deepcopy(module).double(), image.double())(_CHECKED)
    rows = {"segcam_jax": {"ablations": channels, "error": _error(ours(_CHECKED), exact)}}
    for name, run in ways.items():
        rows[name] = {"ablations": study.looped, "error": _error(run(_CHECKED), exact)}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(_TURNS):
        times["segcam_jax"].append(timing.seconds(lambda: ours(channels)))
        for name, run in ways.items():
            took = timing.seconds(lambda run=run: run(study.looped))
            times[name].append(took * channels / study.looped)
    for name, row in rows.items():
        row["seconds"] = statistics.median(times[name])
    first = rows["segcam_jax"]["seconds"]
    ratios = {name: row["seconds"] / first for name, row in rows.items() if name != "segcam_jax"}
    plan = segcam.explain_plan(split, params, x, target, compile=False)
    return {
        "title": study.title,
        "rows": rows,
        "times faster": ratios,
        "times fewer operations": fewer_operations(plan, ratios),
        "plan": str(plan),
    }


def fewer_operations(plan: Plan, ways: Iterable[str]) -> dict[str, float]:
    """How many times the operations of ours other ways take: the bound at equal rates."""
    totals = [step.total for step in plan.steps if step.total is not None]
    assert len(totals) == len(plan.steps), "the operations of a step are not known"
    whole_forwards, forwards_after_tap, *_, ours = totals
    by_hand = plan.network_flops - plan.decode_flops + forwards_after_tap
    return {
        way: (by_hand if way == "by hand" else whole_forwards) / (ours + plan.once_flops)
        for way in ways
    }


def _score(study: Study, output: Any) -> Any:
    """The sum of the logits of class 1 in the region, of each example."""
    return output[(slice(None), 1, *study.window)].flatten(1).sum(1)


def _by_hand(study: Study, module: Any, image: Any) -> Callable[[int], np.ndarray]:
    torch = require("torch", extra="bench")
    encode, decode = study.parts

    def run(count: int) -> np.ndarray:
        drops = []
        with torch.no_grad():
            features = list(encode(module, image))
            score = _score(study, decode(module, features))
            for first in range(0, count, study.batch):
                size = min(study.batch, count - first)
                repeated = [each.repeat(size, *[1] * (each.ndim - 1)) for each in features]
                repeated[-1][torch.arange(size), first + torch.arange(size)] = 0
                drops.append(score - _score(study, decode(module, repeated)))
        return torch.cat(drops).numpy()

    return run


def _whole(study: Study, module: Any, image: Any) -> Callable[[int], np.ndarray]:
    torch = require("torch", extra="bench")
    submodule = module.get_submodule(study.network.tap.replace("/", "."))

    def run(count: int) -> np.ndarray:
        drops = []
        with torch.no_grad():
            score = _score(study, module(image))
            for channel in range(count):

                def ablate(_: Any, __: Any, output: Any, channel: int = channel) -> Any:
                    output = output.clone()
                    output[:, channel] = 0
                    return output

                handle = submodule.register_forward_hook(ablate)
                drops.append(score - _score(study, module(image)))
                handle.remove()
        return torch.cat(drops).numpy()

    return run


def _library(study: Study, module: Any, image: Any) -> Callable[[int], np.ndarray]:
    torch = require("torch", extra="bench")
    # It imports torch.
    from benchmarks.peers.explainers import first_channels

    first, recording = first_channels()

    def target(output: Any) -> Any:
        return _score(study, output[None])[0]

    def run(count: int) -> np.ndarray:
        layer = first()
        layer.count = count
        with torch.no_grad():
            score = float(target(module(image)[0]))
        submodule = module.get_submodule(study.network.tap.replace("/", "."))
        with recording(module, [submodule], ablation_layer=layer, batch_size=study.batch) as cam:
            cam(input_tensor=image, targets=[target])
            return score * np.asarray(cam.weights[0, :count], np.float64)

    return run


def _error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


def table() -> str:
    """The studies as a table."""
    found = files.read_json(OUT) or {}
    lines = []
    for name, study in found.items():
        for way, row in study["rows"].items():
            ratio = study["times faster"].get(way)
            what = f"**{name}** {study['title']}" if ratio is None else ""
            fewer = study["times fewer operations"].get(way)
            faster, bound = ("" if each is None else f"{each:.1f}" for each in (ratio, fewer))
            seconds, error = f"{row['seconds']:.1f}", f"{row['error']:.0e}"
            lines.append((what, way, seconds, faster, bound, error))
    return markdown("study |  | seconds | times faster | by operations | error", lines)


if __name__ == "__main__":
    main()
