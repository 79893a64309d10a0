"""`segcam demo`: two networks, one of which learned a shortcut, explained on bundled images."""

import dataclasses
import io
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax import _files, viz
from segcam_jax.cli import commands, console, demo_volume, page
from segcam_jax.data.samples import (
    BACKGROUND,
    CLASSES,
    TextureMnistSample,
    load as load_samples,
)
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec
from segcam_jax.reports.figures import own_scale
from segcam_jax.sweep import batch, store
from segcam_jax.sweep.bias import BiasStudy, regions_of, study_of_maps

BIASED, UNBIASED = "texture-mnist-biased", "texture-mnist-unbiased"
TITLES = {BIASED: "biased network", UNBIASED: "unbiased network"}
TAPS = ("encoder4", "bottleneck", "decoder1")
DIGITS = (3, 5, 8)
BIASED_CLASS = 2
# The page must be there within seconds; `benchmarks/planted_bias.py` takes all 200 samples.
STUDY_SAMPLES = 13
CHUNK = 8  # with three digits, two full chunks
_FEWEST_PIXELS = 60
# Methods of one gradient, and exact ablations.
CAMS = (
    "grad_cam",
    "hires_cam",
    "grad_cam_pp",
    "xgrad_cam",
    "layer_cam",
    "ablation_cam",
    "fast_ablation_cam",
)
WINDOWS = 8  # along an axis, for fast_ablation_cam
COMPARED = ("ablation_cam", "xgrad_cam", "layer_cam", "grad_cam")
SHOWN_METHOD = "ablation_cam"


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """Images explained with one network: those of `NAMES` first, then those of the study alone.

    Attributes:
        samples: the images with their ground truth.
        classes: the explained class of each.
        prediction: predicted class of each pixel.
        maps: raw maps by tap and method.
    """

    samples: TextureMnistSample
    classes: Int[np.ndarray, "n"]
    prediction: Int[np.ndarray, "n h w"]
    maps: dict[str, dict[str, Float[np.ndarray, "n *space"]]]

    @property
    def regions(self) -> Bool[np.ndarray, "n h w"]:
        """The explained pixels: those predicted as the class."""
        return self.prediction == self.classes[:, None, None]

    def heatmap(self, tap: str, method: str, n: int) -> Float[np.ndarray, "h w"]:
        """The heatmap of image `n`; those of `NAMES` share one compiled program."""
        few = self.maps[tap][method][: len(NAMES)]
        return batch.heatmaps(few, self.samples.image.shape[1:3], "segcam_jax")[n]


def demo(command: commands.Demo, line: Sequence[str]) -> None:
    """Writes the page and its figures."""
    if command.volume:
        demo_volume.demo(command, line)
        return
    start = time.perf_counter()
    folder = command.out or Path("segcam-demo")
    store.RunFolder(folder, _files.key_of("demo"), FILES)
    networks = {name: open_network(NetworkSpec.parse(name)) for name in (BIASED, UNBIASED)}
    samples = load_samples()
    with console.progress("demo", len(FILES) + 2 * len(networks)) as advance:
        twos = _telling(samples.biased, networks)
        shown, studies = {}, {}
        for name, network in networks.items():
            advance(1, f"explaining {STUDY_SAMPLES + len(DIGITS)} images, {TITLES[name]}")
            shown[name] = _explained(network, samples, twos)
            studies[name] = _study(shown[name], TITLES[name])
        advance(1, "the figures")
        tap = page.telling_tap(studies)
        for file, draw in _figures(shown, studies, tap).items():
            viz.save(draw(), folder / file)
            advance(1)
    for file, image in zip(IMAGES, shown[UNBIASED].samples.image, strict=False):
        _files.write_bytes(folder / file, _png(image))
    facts = page.Facts(
        studies=studies,
        samples=STUDY_SAMPLES,
        seconds=time.perf_counter() - start,
        metadata={name: net.model.metadata for name, net in networks.items()},
        methods=CAMS,
        taps=TAPS,
    )
    _files.write_bytes(folder / PAGE, page.render(facts).encode())
    place = (folder / PAGE).resolve()
    print(f"The demo is in {folder}; open {place.as_uri()}")
    if command.open:
        webbrowser.open(place.as_uri())


PAGE = "index.html"
IMAGES = tuple(f"images/{name}.png" for name in (*(f"digit-{d}" for d in DIGITS), "two-a", "two-b"))
FIGURES = (
    *(f"figures/digit-{digit}.png" for digit in DIGITS),
    *(f"figures/two-{letter}-networks.png" for letter in "ab"),
    *(f"figures/two-a-{weights}.png" for weights in ("biased", "unbiased")),
    "figures/montage.png",
    "figures/bias.png",
)
NAMES = (*(f"digit {digit}" for digit in DIGITS), "biased 2 (a)", "biased 2 (b)")
FILES = (*FIGURES, *IMAGES, PAGE)


def _take(samples: TextureMnistSample, indices: Sequence[int]) -> TextureMnistSample:
    chosen = np.asarray(indices)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], samples)


def _telling(samples: TextureMnistSample, networks: dict[str, Network]) -> list[int]:
    """Two samples that both networks see a 2 in, with the biased tile at the top and the bottom."""
    few = _take(samples, range(min(40, len(samples.image))))
    seen = [(_predicted(network, few) == BIASED_CLASS).sum((1, 2)) for network in networks.values()]
    usable = np.min(seen, axis=0) >= _FEWEST_PIXELS
    on_top = few.biased_tile[:, 0, 0]
    found = []
    for side in (True, False):
        first = [*np.flatnonzero(usable & (on_top == side)), *np.flatnonzero(on_top == side)]
        found.append(int(first[0]) if first else len(found))
    return found


def _predicted(network: Network, samples: TextureMnistSample) -> Int[np.ndarray, "n h w"]:
    images = np.asarray(samples.image, np.float32)
    logits = batch.batch_logits(network.fn, network.params, images, chunk=CHUNK)
    return network.predicted_labels(logits)


def _explained(network: Network, samples: Any, twos: Sequence[int]) -> Shown:
    """Maps of all CAM methods at all taps: three digits, two telling 2s, and 2s for the study."""
    others = [n for n in range(len(samples.biased.image)) if n not in twos]
    study = [*twos, *others][:STUDY_SAMPLES]
    parts = (_take(samples.unbiased, DIGITS), _take(samples.biased, study))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    classes = np.array([*DIGITS, *[BIASED_CLASS] * len(study)])
    prediction = _predicted(network, joined)
    maps = {}
    for tap in TAPS:
        split = network.split(tap, joined.image.shape[1:])
        maps[tap] = batch.batch_maps(
            split,
            network.params,
            joined.image,
            classes,
            prediction == classes[:, None, None],
            batch.cam_options(CAMS, split, windows=WINDOWS),
            chunk=CHUNK,
        )
    return Shown(joined, classes, prediction, maps)


def _study(shown: Shown, title: str) -> BiasStudy:
    """The planted bias, over the 2s in which a 2 is seen."""
    seen = shown.regions.any(axis=(1, 2))
    usable = seen & (np.arange(np.size(seen)) >= len(DIGITS))
    maps = {
        tap: {method: raw[usable] for method, raw in by_method.items()}
        for tap, by_method in shown.maps.items()
    }
    places = regions_of(shown.samples)[usable]
    return study_of_maps(
        maps, places, weights=title.split()[0], left_out=STUDY_SAMPLES - int(usable.sum())
    )


def _figures(
    shown: dict[str, Shown], studies: dict[str, BiasStudy], tap: str
) -> dict[str, Callable]:
    """What draws each of `FIGURES`."""
    fair, biased = shown[UNBIASED], shown[BIASED]
    first = len(DIGITS)
    rows = [row for name in (BIASED, UNBIASED) for row in studies[name].rows]
    draws: list[Callable] = [
        *((lambda n=n: _six(fair, n, TITLES[UNBIASED], "bottleneck")) for n in range(first)),
        *((lambda n=n: _networks(shown, n, tap)) for n in (first, first + 1)),
        lambda: _six(biased, first, TITLES[BIASED], tap),
        lambda: _six(fair, first, TITLES[UNBIASED], tap),
        lambda: _montage(fair, 0),
        lambda: viz.bias_table(rows, title=f"Class 2 on {STUDY_SAMPLES} biased images"),
    ]
    return dict(zip(FIGURES, draws, strict=True))


def _six(shown: Shown, n: int, network: str, tap: str):
    return viz.six_panels(
        shown.samples.image[n],
        shown.samples.label[n],
        shown.prediction[n],
        shown.maps[tap][SHOWN_METHOD][n],
        shown.heatmap(tap, SHOWN_METHOD, n),
        region=shown.regions[n],
        class_names=CLASSES,
        class_index=int(shown.classes[n]),
        background=BACKGROUND,
        ignored=None,
        title=f"{NAMES[n]}, {network}: {SHOWN_METHOD} at {tap}",
    )


def _networks(shown: dict[str, Shown], n: int, tap: str):
    """The two networks side by side on one image."""
    order = (BIASED, UNBIASED)
    cells = {
        (method, TITLES[name]): own_scale(shown[name].heatmap(tap, method, n))
        for name in order
        for method in COMPARED
    }
    return viz.montage(
        shown[BIASED].samples.image[n],
        cells,
        rows=COMPARED,
        columns=[TITLES[name] for name in order],
        region=shown[BIASED].samples.digit_with_infill[n],
        title=f"{NAMES[n]}: what speaks for a 2? (tap {tap})",
    )


def _montage(shown: Shown, n: int):
    cells = {
        (tap, method): own_scale(shown.heatmap(tap, method, n)) for tap in TAPS for method in CAMS
    }
    return viz.montage(
        shown.samples.image[n],
        cells,
        rows=TAPS,
        columns=CAMS,
        region=shown.regions[n],
        title=f"{NAMES[n]}: {len(CAMS)} methods, {len(TAPS)} taps",
    )


def _png(image: Float[np.ndarray, "h w 1"]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()
