"""Ablation of channels against ablation of positions, at every block of a DenseNet-169.

python -m benchmarks.fast_ablation

The network has random weights, which decide neither how many passes there are nor what they cost,
but for dead channels; the image is a photograph of scikit-image, 224 x 224.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import segcam_jax as segcam
from benchmarks import timing
from benchmarks.tables import markdown
from segcam_jax import files
from segcam_jax.extras import require
from segcam_jax.models import randomised
from segcam_jax.models.densenet import densenet

OUT = Path(__file__).parent / "results" / "fast_ablation.json"
TAPS = ("block1", "block2", "block3", "block4", "features/relu")
METHODS = {"channels": segcam.methods.ablation_cam, "positions": segcam.methods.fast_ablation_cam}
SIZE = 224


def photograph(size: int = SIZE) -> jax.Array:
    """A cat, as ImageNet's networks are given it."""
    data = require("skimage.data", extra="train")
    side = Image.fromarray(data.chelsea()).resize((size, size), Image.Resampling.BILINEAR)
    image = np.asarray(side, np.float32) / 255
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return jnp.asarray((image - np.array(mean)) / np.array(deviation), jnp.float32)


def measured(repeats: int) -> list[dict[str, Any]]:
    """One row per tap: passes, operations and seconds, by channels and by positions."""
    fn, params = segcam.from_nnx(randomised(functools.partial(densenet, 169)))
    x = photograph()
    target = segcam.targets.whole_image(int(jnp.argmax(fn(params, x))))
    rows = []
    for tap in TAPS:
        split = segcam.split(fn, tap, params, x)
        row: dict[str, Any] = {"tap": tap, "activation": list(split.activation.shape)}
        for name, method in METHODS.items():
            run = functools.partial(method, split, params, x, target)
            plan = segcam.explain_plan(split, params, x, target, method=method, compile=False)
            jax.block_until_ready(run())
            taken = [
                timing.seconds(lambda run=run: jax.block_until_ready(run())) for _ in range(repeats)
            ]
            row[name] = {
                "passes": plan.masks,
                "live": plan.live,
                "gflop": plan.steps[-1].flops / 1e9,
                "whole_gflop": plan.steps[0].flops / 1e9,
                "seconds": timing.median(taken),
            }
            print(tap, name, row[name], flush=True)
        rows.append(row)
    return rows


def table() -> str:
    """One row per tap, in Markdown."""
    lines = []
    for row in json.loads(OUT.read_text())["rows"]:
        cells = [f"`{row['tap']}`", "x".join(map(str, row["activation"]))]
        for name in METHODS:
            each = row[name]
            dead = 0 if each["live"] is None else each["passes"] - each["live"]
            passes = f"{each['passes']}" + (f" ({dead} dead)" if dead else "")
            cells += [passes, f"{each['gflop']:.3g}", f"{each['seconds']:.3g}"]
        lines.append(cells)
    each = (f"{name}: passes | GFLOP each | seconds" for name in METHODS)
    return markdown(" | ".join(["layer | activation", *each]), lines)


def main() -> None:
    """Measures all rows, and writes them whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found = {"environment": timing.environment(), "rows": measured(options.repeats)}
    files.write_bytes(options.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
