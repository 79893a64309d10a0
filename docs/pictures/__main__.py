"""Makes the pictures of the README: `python docs/pictures` (two minutes on two cores).

`own_unet.png` is what the README's lines on a network of one's own draw: they are read from the
page and run, with `my_project.py` beside this file as the user's project. `first_page.png` shows
two bundled networks: a 2D one that has learned a shortcut, and a 3D one that finds lesions.
`occlusion.png` is what `segcam occlude` draws of the former.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

import segcam_jax as segcam
from segcam_jax import cli, models, viz
from segcam_jax.data import instances, samples, scans
from segcam_jax.data.samples import lesions

HERE = Path(__file__).parent
README = HERE.parent.parent / "README.md"
CLASS, TAP = 2, "encoder4"
LESION, SIDE = 6, 32


def own_unet() -> None:
    """Runs the README's lines on a model of one's own; they write `own_unet.png`."""
    (code, *_) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    os.chdir(HERE)
    exec(code, {})


def planted_bias() -> dict[str, np.ndarray]:
    """A digit on textures: prediction and heatmaps of the network with the shortcut."""
    model = models.load("texture-mnist-biased")
    biased = samples.load().biased
    fn, params = model.fn, model.params
    image = biased.image[0]
    logits = fn(params, image)
    split = segcam.split(fn, TAP, params, image)
    target = segcam.targets.predicted(logits, CLASS)

    def heatmap(method):
        raw = method(split, params, image, target).map
        return np.asarray(segcam.heatmap(raw, image.shape[:2], "segcam_jax"))

    return {
        "image": image[..., 0],
        "prediction": np.asarray(logits.argmax(-1)),
        "Seg-Grad-CAM": heatmap(segcam.methods.seg_grad_cam),
        "Ablation-CAM": heatmap(segcam.methods.ablation_cam),
    }


def lesion() -> dict[str, np.ndarray]:
    """A lesion of a bundled brain: a slice of FLAIR, its outline, its saliency."""
    model = models.load("lesions")
    case = lesions.load()
    x = scans.zscore(case.image)
    logits = segcam.engine.sliding_window(model.fn, model.params, x, roi=96)
    found = instances.find_instances(np.asarray(jax.nn.softmax(logits)[..., 1]))
    mask = found.labels == LESION
    center = [int(np.mean(axis)) for axis in np.nonzero(mask)]
    low = [max(0, min(c - SIDE // 2, n - SIDE)) for c, n in zip(center, mask.shape, strict=True)]
    window = tuple(slice(start, start + SIDE) for start in low)
    inside, part = x[window], mask[window]
    split = segcam.split(model.fn, "input", model.params, inside)
    explanation = segcam.methods.instance_smooth_grad(
        split,
        model.params,
        inside,
        segcam.targets.region(1, part),
        key=jax.random.key(0),
        aggregation="max",
        samples=4,
    )
    flair = np.asarray(explanation.attribution)[..., 0]
    # An axial slice, its front up: the axes of the case are right, anterior, superior.
    height = int(part.sum((0, 1)).argmax())
    slices = {"image": inside[..., 0], "region": part, "map": flair}
    return {name: np.rot90(values[:, :, height]) for name, values in slices.items()}


def first_page() -> Figure:
    """Input, prediction, two methods on a shortcut, and a lesion with what it rests on."""
    digit, found = planted_bias(), lesion()
    figure = Figure(figsize=(10, 2.75), dpi=150, layout="compressed")
    panels = figure.subplots(1, 6)
    panels[0].imshow(digit["image"], cmap="gray")
    panels[1].imshow(digit["prediction"] == CLASS, cmap=ListedColormap(["0.9", "#E69F00"]))
    for axes, name in zip(panels[2:4], ("Seg-Grad-CAM", "Ablation-CAM"), strict=True):
        axes.imshow(digit["image"], cmap="gray")
        heat = axes.imshow(digit[name], cmap="inferno", alpha=np.clip(digit[name], 0.0, 0.8))
        axes.contour(digit["prediction"] == CLASS, [0.5], colors="white", linewidths=0.8)
    for axes in panels[4:]:
        axes.imshow(found["image"], cmap="gray")
        axes.contour(found["region"], [0.5], colors="white", linewidths=0.8)
    limit = np.abs(found["map"]).max()
    scale = Normalize(-limit, limit)
    shown = np.abs(found["map"]) / limit
    panels[5].imshow(found["map"], cmap="RdBu_r", norm=scale, alpha=np.sqrt(shown))
    titles = (
        "a digit on\ntextures",
        "segmented\nas a 2",
        f"Seg-Grad-CAM\nat {TAP}",
        f"Ablation-CAM\nat {TAP}",
        "a lesion found\nin 3D (FLAIR)",
        "Instance Smooth-\nGrad at the input",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, of, words in (
        (
            panels[2:4],
            ScalarMappable(Normalize(0, 1), heat.cmap),
            "importance for the pixels of the 2",
        ),
        (panels[5], ScalarMappable(scale, "RdBu_r"), "gradient of its logits"),
    ):
        bar = figure.colorbar(of, ax=axes, location="bottom", fraction=0.06, pad=0.03, aspect=25)
        low, high = of.get_clim()
        bar.set_ticks(
            [low, (low + high) / 2, high],
            labels=[f"{v:.2g}" for v in (low, 0.5 * (low + high), high)],
        )
        bar.ax.tick_params(labelsize=9)
        bar.set_label(words, fontsize=9)
    return figure


def occlusion() -> None:
    """Occludes the activation maps that segment the same digit; writes `occlusion.png`."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "digit-2.npy"
        np.save(image, samples.load().biased.image[0])
        given = ["--weights", "texture-mnist-biased", "--class", str(CLASS), "--tap", TAP]
        cli.main(["occlude", str(image), *given, "--out", f"{folder}/out"])
        shutil.copy(f"{folder}/out/{image.stem}/occlusion.png", HERE / "occlusion.png")


def main() -> None:
    """Writes the pictures beside this file."""
    viz.save(first_page(), HERE / "first_page.png", dpi=150)
    own_unet()
    occlusion()


if __name__ == "__main__":
    main()
