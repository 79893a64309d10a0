"""The commands about one network: its layers, its explanations, what they would cost."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from segcam_jax.cli.arguments import Images, MaybeFile, MaybeName, MaybeNumber, Names, optional


@dataclasses.dataclass(frozen=True)
class Layers:
    """List the taps of a network with their shapes.

    For example: segcam layers --weights texture-mnist-unbiased --size 128 96

    Attributes:
        weights: Bundled weights by name, or a .safetensors file.
        model: The network expected in the file.
        size: Height and width of an image.
    """

    weights: str
    model: MaybeName = None
    size: tuple[int, int] = (64, 64)


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explain a network's segmentation of images: maps, figures, and a manifest.

    For example:

      segcam explain scan.png --weights texture-mnist-unbiased --out results

      segcam explain a.png b.png --weights my.safetensors --class-index 2 --region largest
      --tap bottleneck decoder1 --method grad_cam ablation_cam integrated_gradients

      segcam explain --repeat results/manifest.json --out again

    Attributes:
        images: Image files (PNG, JPEG, TIFF, ... or .npy arrays in [0, 1]).
        weights: Bundled weights by name (`texture-mnist-unbiased`, `texture-mnist-biased`), or a
            .safetensors file.
        model: The network expected in the file.
        tap: Where to explain (`segcam layers` lists taps). Default: the bottleneck. Methods of the
            input always use the input.
        method: Methods by name (`segcam methods` lists them).
        class_index: Number or name of the class. Default: the class predicted most often that is
            not named background.
        region: The explained pixels: predicted, all, largest, smallest, component:K, at:ROW,COL,
            pixel:ROW,COL or mask:FILE.
        min_probability: Predicted pixels need a probability above this; 0.5 is Seg-Grad-CAM's.
        of: What is explained.
        reduce: How the region's pixels are reduced to one score.
        profile: How raw maps become heatmaps (`segcam methods` lists profiles).
        smoothing: Standard deviation, in pixels, of a Gaussian on the heatmaps.
        window: fast_ablation_cam: extent of a window.
        stride: fast_ablation_cam: distance of windows, at most the window.
        samples: smooth_grad: noisy copies.
        sigma: smooth_grad: noise, as a share of the image's range.
        steps: integrated_gradients: points of the quadrature.
        seed: Of all random numbers.
        colormap: A matplotlib colour table, for example jet.
        out: Folder of the results. A run that was interrupted there is resumed.
        overwrite: Replace another run in that folder; other people's files stay.
        devices: How many devices share the ablations of an image.
        share: K/N: explain only every N-th image, from the K-th on. So N processes, each with its
            own K, fill one folder together; the last to finish writes the manifest.
        repeat: A manifest.json: do the same again, with the same maps.
    """

    images: Images = ()
    weights: MaybeName = None
    model: MaybeName = None
    tap: Names = ()
    method: Names = ("grad_cam", "ablation_cam")
    class_index: MaybeName = None
    region: str = "predicted"
    min_probability: MaybeNumber = None
    of: Literal["logits", "probabilities"] = "logits"
    reduce: Literal["sum", "mean"] = "sum"
    profile: str = "segcam_jax"
    smoothing: float = 0.0
    window: int = 1
    stride: int = 1
    samples: int = 50
    sigma: float = 0.15
    steps: int = 50
    seed: int = 0
    colormap: MaybeName = None
    out: Path = Path("segcam-out")
    overwrite: bool = False
    devices: int = 1
    share: Annotated[str | None, optional("K/N")] = None
    repeat: MaybeFile = None


@dataclasses.dataclass(frozen=True)
class Plan(Explain):
    """Tell what `segcam explain` would do with the same arguments, and what it would cost.

    For example: segcam plan scan.png --weights texture-mnist-unbiased --region largest

    Operations of each evaluation before and after every optimisation, evaluations, memory.
    Nothing is written. The other options are those of `segcam explain`.

    Attributes:
        measure: Also run a few evaluations to estimate the time.
    """

    measure: bool = False
