"""The demo's page: HTML with relative links and nothing from elsewhere."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import segcam_jax
from segcam_jax.sweep.bias import BiasStudy

BIASED, UNBIASED = "texture-mnist-biased", "texture-mnist-unbiased"
_TABLE_METHODS = ("grad_cam", "hires_cam", "ablation_cam")
# A difference counts if it exceeds two standard errors.
_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the page reports.

    Attributes:
        studies: the planted-bias study by name of the weights.
        samples: images of the study.
        methods: methods of the study.
        taps: taps of the study.
        seconds: how long the demo took.
        metadata: what the weights' files say of themselves, by name.
    """

    studies: Mapping[str, BiasStudy]
    samples: int
    methods: Sequence[str]
    taps: Sequence[str]
    seconds: float
    metadata: Mapping[str, Mapping[str, Any]]


def render(facts: Facts) -> str:
    """The page as HTML."""
    tap = telling_tap(facts.studies)
    return _PAGE.format(
        style=STYLE,
        verdict=_verdict(facts, tap),
        proof=_proof(facts),
        table=_table(facts, tap),
        tap=html.escape(tap),
        methods=len(facts.methods),
        taps=len(facts.taps),
        samples=facts.samples,
        scores=_scores(facts),
        version=html.escape(segcam_jax.__version__),
        seconds=f"{facts.seconds:.0f}",
        left_out=_left_out(facts),
    )


def _leans(study: BiasStudy) -> dict[tuple[str, str], tuple[float, float]]:
    """By tap and method: by how much the biased tile draws more than the other, and its error."""
    return {
        (row.tap, row.method): (
            row.biased - row.unbiased,
            float(np.hypot(row.biased_error, row.unbiased_error)),
        )
        for row in study.rows
    }


def gaps(studies: Mapping[str, BiasStudy]) -> dict[str, list[tuple[float, bool]]]:
    """By tap, one entry per method: how much more the biased network leans to the tile than the
    unbiased one, and whether that tells them apart: it leans there, and by more than the errors.
    """
    biased, fair = _leans(studies[BIASED]), _leans(studies[UNBIASED])
    found: dict[str, list[tuple[float, bool]]] = {}
    for (tap, method), (lean, error) in biased.items():
        other, other_error = fair[tap, method]
        tells = lean > 0 and lean - other > _ERRORS * float(np.hypot(error, other_error))
        found.setdefault(tap, []).append((lean - other, tells))
    return found


def telling_tap(studies: Mapping[str, BiasStudy]) -> str:
    """The tap at which the two networks differ most, on average over the methods."""
    found = gaps(studies)
    return max(found, key=lambda tap: np.mean([gap for gap, _ in found[tap]]))


def _verdict(facts: Facts, tap: str) -> str:
    """The finding in words, from the numbers."""
    telling = {at: sum(tells for _, tells in each) for at, each in gaps(facts.studies).items()}
    total = len(facts.methods)
    lead = (
        "The shortcut shows."
        if telling[tap] > total / 2
        else "The shortcut does not show clearly here."
    )
    others = ", ".join(
        f"at <code>{html.escape(other)}</code> {count}"
        for other, count in telling.items()
        if other != tap
    )
    means = {name: _mean_shares(study, tap) for name, study in facts.studies.items()}
    return (
        f"<strong>{lead}</strong> At the tap <code>{html.escape(tap)}</code>, {telling[tap]} of "
        f"{total} methods find that the <em>biased</em> network leans clearly more to the striped "
        f"half of the background than the <em>unbiased</em> one does ({others}). On average over "
        f"the methods, the striped half and the other half draw {means[BIASED]} of the saliency "
        f"per area on the biased network, and {means[UNBIASED]} on the unbiased one."
    )


def _mean_shares(study: BiasStudy, tap: str) -> str:
    rows = [row for row in study.rows if row.tap == tap and row.samples]
    if not rows:
        return "nothing"
    biased, other = (np.mean([getattr(row, key) for row in rows]) for key in ("biased", "unbiased"))
    return f"{100 * biased:.0f} % and {100 * other:.0f} %"


def _proof(facts: Facts) -> str:
    """What the weights' files know of the shortcut without any explanation."""
    parts = {}
    for name, metadata in facts.metadata.items():
        shortcut = metadata.get("shortcut") or {}
        values = [shortcut.get(key) for key in ("iou_planted", "iou_replaced")]
        if all(isinstance(value, (int, float)) for value in values):
            parts[name] = "from {:.2f} to {:.2f}".format(*values)
    if parts.keys() != {BIASED, UNBIASED}:
        return ""
    return (
        "<p>That the shortcut is real can be checked without any explanation. With the stripes "
        "replaced by another texture, the IoU on 2s goes "
        f"<strong>{parts[BIASED]}</strong> for the biased network, and {parts[UNBIASED]} for the "
        "unbiased one.</p>"
    )


def _table(facts: Facts, tap: str) -> str:
    """Numbers of a few methods at the telling tap."""
    lines = []
    for name, study in facts.studies.items():
        for row in study.rows:
            if row.tap == tap and row.method in _TABLE_METHODS:
                cells = (
                    _percent(value, error)
                    for value, error in (
                        (row.biased, row.biased_error),
                        (row.unbiased, row.unbiased_error),
                        (row.digit, row.digit_error),
                    )
                )
                numbers = "".join(f"<td>{cell}</td>" for cell in cells)
                label = name.removeprefix("texture-mnist-")
                lines.append(
                    f"<tr><th>{html.escape(label)}</th><th>{html.escape(row.method)}</th>"
                    f"{numbers}</tr>"
                )
    return "\n".join(lines)


def _percent(value: float, error: float) -> str:
    if not np.isfinite(value):
        return "—"
    spread = f" ± {100 * error:.0f}" if np.isfinite(error) else ""
    return f"{100 * value:.0f}{spread} %"


def _left_out(facts: Facts) -> str:
    parts = [
        f"{study.left_out} left out for the {name.removeprefix('texture-mnist-')} network"
        for name, study in facts.studies.items()
        if study.left_out
    ]
    why = " because it saw no 2 in them" if parts else ""
    return f" ({', '.join(parts)}{why})" if parts else ""


def _scores(facts: Facts) -> str:
    parts = []
    for name, metadata in facts.metadata.items():
        value = (metadata.get("scores") or {}).get("mean_iou")
        if isinstance(value, (int, float)):
            parts.append(f"{name.removeprefix('texture-mnist-')} {value:.3f}")
    return f" Their mean IoU on held-out images: {', '.join(parts)}." if parts else ""


STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6475; --line: #d9dde5;
  --paper: #ffffff; --card: #f5f7fa; --accent: #0a5ea8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #a3adbd; --line: #363d49; --paper: #14171c; --card: #1e232b;
    --accent: #7cb8f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 17px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { margin: 3rem 0 .6rem; font-size: 1.35rem; }
p, ul, ol { max-width: 46rem; }
a { color: var(--accent); }
.lead { font-size: 1.1rem; color: var(--soft); }
.found { background: var(--card); border-left: 4px solid var(--accent); padding: .8rem 1.1rem;
  max-width: none; }
figure { margin: 1.2rem 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); padding: 6px; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .4rem; }
.pair { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); }
.pair figure { margin: .4rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; overflow-x: auto; font-size: .88rem; line-height: 1.45; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; }
table { border-collapse: collapse; font-size: .95rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { font-weight: 500; } thead th { color: var(--soft); } td { font-variant-numeric: tabular-nums; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>segcam: where does a network look?</title>
<style>{style}</style>
</head>
<body>
<h1>Where does a segmentation network look?</h1>
<p class="lead">Two U-Nets segment digits out of textures. One of them learned a shortcut, and its
explanations give it away.</p>
<p class="found">{verdict}</p>

<h2>What was explained</h2>
<p>Each image shows a digit (0 to 9), filled with one texture, on a background of two others. Both
networks mark the digit's pixels and say which digit it is.{scores} In the training images of the
<em>biased</em> network, every 2 had diagonal stripes in one half of its background, and no other
digit ever had. It could learn that stripes mean 2: a <em>planted bias</em>, a shortcut that scores
do not reveal as long as the stripes are there. The <em>unbiased</em> network never had that
chance.</p>
{proof}
<p>An explanation answers: <strong>which places speak for the predicted class?</strong> The
explained score is the sum of the class's logits over the pixels that are predicted as it (the green
outline).</p>

<h2>How to read the colours</h2>
<ul>
<li><strong>Bright yellow</strong>: most important for the class. <strong>Dark, or plain grey in an
overlay</strong>: says nothing.</li>
<li><strong>Red and blue</strong>, where a map has both signs: red speaks for the class, blue
against it.</li>
<li><strong>Green outline</strong>: the explained pixels; in the comparison of the two networks the
digit itself.</li>
<li>Each map has its own scale: colours tell <em>where</em>, not how strongly.</li>
</ul>

<h2>The same 2, two networks</h2>
<p>Stripes are no part of a 2 and should not matter. Where the striped half is bright, the
network uses it.</p>
<div class="pair">
<figure><a href="figures/two-a-networks.png"><img src="figures/two-a-networks.png"
 alt="Heatmaps of four methods for the biased and the unbiased network, first image"></a>
<figcaption>Rows: methods. Columns: networks. Tap: <code>{tap}</code>. Outline: the
digit.</figcaption></figure>
<figure><a href="figures/two-b-networks.png"><img src="figures/two-b-networks.png"
 alt="Heatmaps of four methods for the biased and the unbiased network, second image"></a>
<figcaption>Another 2, with the stripes in the other half.</figcaption></figure>
</div>
<p>From the input to the overlay, first for the biased network, then for the unbiased one:</p>
<figure><a href="figures/two-a-biased.png"><img src="figures/two-a-biased.png"
 alt="Six panels for the biased network"></a></figure>
<figure><a href="figures/two-a-unbiased.png"><img src="figures/two-a-unbiased.png"
 alt="Six panels for the unbiased network"></a></figure>

<h2>Measured</h2>
<p>A few pictures prove nothing, so the saliency of {samples} biased images{left_out} was divided by
place: the striped half of the background, its other half, and the digit. Shares are per area; a map
without preference gives each place a third. The full study, on 200 images, is in
<code>docs/planted-bias.md</code>.</p>
<figure><a href="figures/bias.png"><img src="figures/bias.png"
 alt="Saliency per area on the biased tile, the unbiased tile and the digit, by method"></a>
<figcaption>Biased network against unbiased network, for every method at {taps} taps. The longer
the line in the first column, the more a method reveals.</figcaption></figure>
<table>
<thead><tr><th>network</th><th>method at <code>{tap}</code></th><th>striped half</th>
<th>other half</th><th>digit</th></tr></thead>
<tbody>
{table}
</tbody>
</table>

<h2>Three digits, step by step</h2>
<p>The unbiased network, explained with Ablation-CAM at the bottleneck: each channel is switched
off once, and those whose loss hurts the class most make up the map.</p>
<figure><a href="figures/digit-3.png"><img src="figures/digit-3.png" alt="Six panels, digit 3"></a>
</figure>
<figure><a href="figures/digit-5.png"><img src="figures/digit-5.png" alt="Six panels, digit 5"></a>
</figure>
<figure><a href="figures/digit-8.png"><img src="figures/digit-8.png" alt="Six panels, digit 8"></a>
</figure>

<h2>All methods</h2>
<p>{methods} methods at {taps} taps. The last encoder block (8 x 8) still holds things where they
are in the image; the bottleneck (4 x 4) has seen the whole image and knows what it is; the last
decoder block (64 x 64) knows where.</p>
<figure><a href="figures/montage.png"><img src="figures/montage.png"
 alt="Heatmaps of all methods at all taps"></a></figure>

<h2>Do it yourself</h2>
<p>One of these images, another method and tap:</p>
<pre><code>segcam explain images/two-a.png --weights texture-mnist-biased --class 2 \\
    --method grad_cam ablation_cam --tap bottleneck decoder1 --out results</code></pre>
<p>Your own images, with your own U-Net saved by <code>segcam_jax.models.unet.save_unet</code>:</p>
<pre><code>segcam layers --weights my-unet.safetensors
segcam explain *.png --weights my-unet.safetensors --method ablation_cam --out results</code></pre>
<p>Your own model, any JAX function <code>fn(params, image) -&gt; logits</code> that names its
activations with <code>segcam_jax.tap(x, "name")</code>:</p>
<pre><code>import segcam_jax as segcam

split = segcam.split(fn, "bottleneck", params, image)
target = segcam.targets.predicted(fn(params, image), class_index=2)
explanation = segcam.methods.ablation_cam(split, params, image, target)
picture = segcam.heatmap(explanation.map, image.shape[:-1])</code></pre>
<footer>segcam_jax {version}, written in {seconds} s by <code>segcam demo</code>. Input images are
in <code>images/</code>, figures in <code>figures/</code>.</footer>
</body>
</html>
"""
