"""The page of `segcam demo --volume`: HTML with relative links and nothing from elsewhere."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import segcam_jax
from segcam_jax.cli.page import STYLE

GROUPS = {"TP": "found", "FP": "false alarm", "FN": "missed"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the page reports.

    Attributes:
        records: of the explained instances, as the run wrote them.
        planted: lesions in the case.
        figures: of each instance, relative to the page.
        peaks: the figure of all peaks.
        metadata: what the weights' file says of itself.
        samples: noisy copies.
        fewest: voxels of the smallest instance that is shown.
        seconds: how long the demo took.
    """

    records: Sequence[Mapping[str, Any]]
    planted: int
    figures: Sequence[str]
    peaks: str
    metadata: Mapping[str, Any]
    samples: int
    fewest: int
    seconds: float


def render(facts: Facts) -> str:
    """The page as HTML."""
    return _PAGE.format(
        style=STYLE,
        verdict=_verdict(facts),
        planted=facts.planted,
        scores=_scores(facts.metadata),
        table=_table(facts),
        figures="\n".join(map(_figure, facts.records, facts.figures)),
        peaks=html.escape(facts.peaks),
        samples=facts.samples,
        fewest=facts.fewest,
        version=html.escape(segcam_jax.__version__),
        seconds=f"{facts.seconds:.0f}",
    )


def _of(record: Mapping[str, Any], modality: str) -> Mapping[str, Any]:
    """What the record's first map of a modality says."""
    (found,) = [each for each in record["maps"][0]["modalities"] if each["modality"] == modality]
    return found


def _group(record: Mapping[str, Any]) -> str:
    return record["instance"]["group"]


def _magnitude(values: Mapping[str, Any]) -> float:
    return max(values["peak_positive"], -values["peak_negative"])


def _verdict(facts: Facts) -> str:
    """The finding in words, from the numbers."""
    count = {name: sum(_group(record) == name for record in facts.records) for name in GROUPS}
    seen = [record for record in facts.records if _group(record) == "TP"]
    if not seen:
        return "<strong>The network found no lesion in this case.</strong>"
    inside = sum(_of(record, "flair")["peak_positive_distance_mm"] == 0 for record in seen)
    larger = sum(
        _magnitude(_of(record, "flair")) > _magnitude(_of(record, "t1")) for record in seen
    )
    ratio = np.median(
        [
            _magnitude(_of(record, "flair")) / max(_magnitude(_of(record, "t1")), 1e-12)
            for record in seen
        ]
    )
    lead = (
        "FLAIR carries the decision."
        if larger > len(seen) / 2
        else "FLAIR does not carry the decision here."
    )
    return (
        f"<strong>{lead}</strong> {facts.planted} lesions were planted; the network marks "
        f"{count['TP'] + count['FP']} instances: {count['TP']} on a lesion, {count['FP']} "
        f"elsewhere; it misses {count['FN'] or 'none'}. In {larger} of the {len(seen)} instances "
        f"on a lesion, the largest value of the FLAIR map exceeds that of the T1 map (by a factor "
        f"of {ratio:.1f} in the middle); in {inside} of them, the peak of the FLAIR map lies "
        "inside the instance itself."
    )


def _scores(metadata: Mapping[str, Any]) -> str:
    value = (metadata.get("scores") or {}).get("mean_dice")
    if not isinstance(value, (int, float)):
        return ""
    return f" Its mean Dice on held-out cases is {value:.2f}."


def _table(facts: Facts) -> str:
    lines = []
    for record in facts.records:
        about = record["instance"]
        cells = [
            f"{about['instance']}",
            GROUPS.get(about["group"], about["group"]),
            f"{about['voxels']}",
            f"{about['mean_probability']:.2f}",
        ]
        for modality in ("flair", "t1"):
            values = _of(record, modality)
            cells.append(f"{values['peak_positive']:.3f}")
            cells.append(f"{values['peak_negative']:.3f}")
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return "\n".join(lines)


def _figure(record: Mapping[str, Any], file: str) -> str:
    about, source = record["instance"], html.escape(file)
    words = (
        f"Instance {about['instance']}, {about['voxels']} voxels: "
        f"{GROUPS.get(about['group'], about['group'])}."
    )
    return (
        f'<figure><a href="{source}"><img src="{source}" alt="{html.escape(words)}"></a>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>segcam: what does every lesion rest on?</title>
<style>{style}</style>
</head>
<body>
<h1>What does every single lesion rest on?</h1>
<p class="lead">A 3D U-Net marks lesions in a brain seen in two modalities, FLAIR and T1. For each
lesion that it marks, a map per modality shows which voxels of the input speak for it.</p>
<p class="found">{verdict}</p>

<h2>The case</h2>
<p>The brain is an average of 152 people's (ICBM), deformed; its FLAIR is made of its T1, and all
lesions are planted. So the truth is known. A <strong>lesion</strong> lies in white matter, bright
in FLAIR and a little darker in T1. Two kinds of distractors are no lesions: spots in white matter
that are <strong>dark in T1 alone</strong>, and spots outside of white matter that are
<strong>bright in FLAIR alone</strong>. FLAIR, together with the place, tells every lesion; T1 does
not. The network learned from other cases, made alike.{scores}</p>
<figure><a href="case.png"><img src="case.png"
 alt="Axial slices of both modalities, with what is planted outlined"></a>
<figcaption>Slices through the case, plain and with what was planted.</figcaption></figure>

<h2>Every instance</h2>
<p>An instance is a connected set of voxels that the network calls a lesion ({fewest} at least), or
a planted lesion that it misses. Its map is Instance SmoothGrad: the gradient of the mean logit over
the instance, averaged over {samples} noisy copies of the input. Nothing is normalised, so that
values compare between instances and modalities: logits per unit of the z-scored input.</p>
<table>
<thead><tr><th>instance</th><th></th><th>voxels</th><th>probability</th><th>FLAIR, highest</th>
<th>lowest</th><th>T1, highest</th><th>lowest</th></tr></thead>
<tbody>
{table}
</tbody>
</table>
<figure><a href="{peaks}"><img src="{peaks}" alt="Peaks of all instances by modality and group">
</a><figcaption>The highest and lowest values of every instance's maps. With labelled data, such
peaks can warn of false alarms.</figcaption></figure>

<h2>How to read the maps</h2>
<ul>
<li><strong>Red</strong>: brighter there, and the network is surer of this lesion.
<strong>Blue</strong>: brighter there, and it is less sure.</li>
<li>In T1 lesions are darker than white matter, and yet their maps are mostly red. Probably, T1
tells the network that it looks at white matter, where lesions are: grey matter and fluid are darker
still.</li>
<li><strong>Green outline</strong>: the instance.</li>
<li>All maps share one scale of colours.</li>
</ul>
{figures}

<h2>The files</h2>
<p><code>case/</code> holds the input as NIfTI, <code>results/</code> what came out: probabilities,
the label map, a signed map per instance and modality on the grid of the input (they overlay in any
viewer), <code>instances.csv</code> with the numbers. The same for your own volumes and a checkpoint
of MONAI's U-Net:</p>
<pre><code>segcam convert checkpoint.pth --model monai-unet --out lesions.safetensors
segcam instances flair.nii.gz t1.nii.gz --weights lesions.safetensors --out results
segcam context flair.nii.gz t1.nii.gz --weights lesions.safetensors --out context</code></pre>
<p>The brain: ICBM 152 nonlinear symmetric 2009a, Copyright (C) 1993-2009 Louis Collins, McConnell
Brain Imaging Centre, Montreal Neurological Institute, McGill University. It is no patient's, and
the network is no medical device.</p>
<footer>segcam_jax {version}, written in {seconds} s by <code>segcam demo --volume</code>.</footer>
</body>
</html>
"""
