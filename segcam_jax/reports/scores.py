"""What the scores of a run say of its methods: a ranking, cards, curves, and whether metrics agree.

RUN/scores/ranking.csv      a card for each metric, method and tap: mean, interval, wins, worst
RUN/scores/agreement.csv    Kendall's tau of the rankings by each pair of metrics
RUN/scores/ranking.png, curves.png, agreement.png; those of `reports.segments`
RUN/scores/cards.png        a row for each method at a tap: where it wins, where it fails
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from segcam_jax import _files, viz
from segcam_jax.metrics import METRICS, Metric
from segcam_jax.reports import segments
from segcam_jax.runs import StoredRun, StoredScans
from segcam_jax.runs.scores import CONTROL, FOLDER, NO_MAP
from segcam_jax.types import counted, shortened
from segcam_jax.viz import ranking as figures

Run = StoredRun | StoredScans
_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)


@dataclasses.dataclass(frozen=True)
class Card:
    """A method at a tap by a metric.

    Attributes:
        method: its name, or that of a control.
        mean: over the images of which all methods have a value, those left out that have none at
            all; of deletion and insertion that of the normalised area, of metrics by magnitude
            that of the magnitudes. None if there is none.
        low: 2.5th percentile of the mean over resampled images; None of a single one.
        high: 97.5th.
        images: that have a value.
        undefined: maps that order nothing, or of which the metric has no value.
        compared: images that the mean is over.
        wins: share of them where no other method is better; None for controls.
        worst: name of the image with the worst value; None if there is none.
        place: among methods at taps and controls, 1 for the best; None without a direction.
    """

    metric: str
    method: str
    tap: str
    mean: float | None
    low: float | None
    high: float | None
    images: int
    undefined: int
    failed: int
    compared: int
    wins: float | None
    worst: str | None
    place: int | None


def cards(run: Run, scores: polars.DataFrame, *, seed: int = 0) -> list[Card]:
    """A card for each metric, method and tap, the best first; metrics as they were asked for.

    Args:
        scores: as `Scoring.table` has them.
    """
    found: list[Card] = []
    for (metric,), rows in scores.group_by("metric", maintain_order=True):
        higher = METRICS[str(metric)].higher_is_better
        values = _compared(rows, METRICS[str(metric)].by_magnitude)
        won = {} if higher is None else _wins(values, higher)
        made = [
            _card(run, str(metric), str(method), str(tap), each, higher, seed, won)
            for (method, tap), each in values.group_by("method", "tap", maintain_order=True)
        ]
        made.sort(key=lambda card: _rank_key(card, higher))
        found += [
            dataclasses.replace(card, place=place if higher is not None and card.compared else None)
            for place, card in enumerate(made, 1)
        ]
    return found


def agreement(found: Sequence[Card]) -> list[tuple[str, str, float]]:
    """Kendall's tau of each pair of metrics over methods at taps, controls left out.

    Of a single image an order says nothing, and metrics of which only one has values are left out.
    1 where both put all methods in one order, -1 where the orders are opposite; NaN for fewer than
    two methods, or none that differ.
    """
    directed = {name: m.higher_is_better for name, m in METRICS.items()}
    values: dict[str, dict[tuple[str, str], float]] = {}
    for card in found:
        orders = card.tap != CONTROL and directed[card.metric] is not None
        if orders and card.mean is not None and card.compared > 1:
            sign = 1 if directed[card.metric] else -1
            values.setdefault(card.metric, {})[card.method, card.tap] = sign * card.mean
    names = list(values)
    pairs = []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            both = [key for key in values[first] if key in values[second]]
            columns = [[values[name][key] for key in both] for name in (first, second)]
            tau, _ = stats.kendalltau(*columns) if len(both) > 1 else (np.nan, np.nan)
            pairs.append((first, second, float(tau)))  # pyright: ignore[reportArgumentType]
    return pairs


def write(run: Run, scores: polars.DataFrame, *, seed: int = 0) -> list[Card]:
    """Writes all files of the report; returns the cards."""
    ranks = scores.filter(polars.col("method") != NO_MAP)
    folder, found = run.path / FOLDER, cards(run, ranks, seed=seed)
    _write_csv(folder / "ranking.csv", polars.DataFrame(list(map(dataclasses.asdict, found))))
    columns = {"metric": polars.String, "other": polars.String, "kendall": polars.Float64}
    taus = agreement(found)
    _write_csv(folder / "agreement.csv", polars.DataFrame(taus, columns, orient="row"))
    images = scores.filter(polars.col("value").is_finite())["item"].n_unique()
    of = counted(images, "instance" if isinstance(run, StoredScans) else "image")
    title = f"{shortened(run.path.name)}: {run.manifest.network.title}, {of}"
    by_title: dict[str, list[Card]] = {}
    for card in found:
        by_title.setdefault(METRICS[card.metric].title, []).append(card)
    better = {METRICS[c.metric].title: METRICS[c.metric].higher_is_better for c in found}
    drawn: dict[str, Figure] = {}
    if any(card.mean is not None for card in found):
        drawn["ranking"] = ranked(by_title, better, title=title)
        drawn["cards"] = _cards(found, title)
    if known := [pair for pair in taus if pair[2] == pair[2]]:
        named = [(METRICS[a].title, METRICS[b].title, tau) for a, b, tau in known]
        drawn["agreement"] = figures.agreement(named, title=title)
    if lines := _curves(scores):
        ends = {METRICS[c.metric].title: _ends(METRICS[c.metric]) for c in found}
        drawn["curves"] = figures.curves(lines, better, ends, title=title)
    for name in ("ranking", "cards", "agreement", "curves"):
        if name in drawn:
            viz.save(drawn[name], folder / f"{name}.png")
        else:  # Of fewer metrics, or images, an earlier one shows others.
            (folder / f"{name}.png").unlink(missing_ok=True)
    if isinstance(run, StoredRun):
        segments.write(run, scores, folder, title=title)
    return found


def ranked(
    found: Mapping[str, Sequence[Card]], better: Mapping[str, bool | None], *, title: str
) -> Figure:
    """A figure of cards by what their metric is called, as `viz.ranking.ranking` draws them."""
    intervals = [
        figures.Interval(metric, c.method, _tap(c.tap), c.mean, c.low, c.high, c.compared)
        for metric, cards in found.items()
        for c in cards
        if c.mean is not None
    ]
    return figures.ranking(intervals, better, title=title)


def _ends(metric: Metric) -> tuple[str, str]:
    """What the axes of a metric's curves show."""
    if "method" in metric.needs:
        return "share of layers at random, from the output on", "Spearman's correlation of maps"
    done = "shown" if metric.higher_is_better else "removed"
    of_region = "region" in metric.needs
    shown = "Dice with the untouched prediction" if of_region else "score of the target"
    return f"share of positions {done}, the highest first", shown


def _tap(tap: str) -> str:
    """A tap as figures name it: a control has none."""
    return "" if tap == CONTROL else tap


def _cards(found: Sequence[Card], title: str) -> Figure:
    """The figure of cards: a row for each method at a tap, a column for each metric."""
    columns: dict[str, list[Card]] = {}
    for card in found:
        columns.setdefault(card.metric, []).append(card)
    rows: dict[str, dict[str, figures.Cell]] = {}
    for metric, of_metric in columns.items():
        controls = {card.method: card.place for card in of_metric if card.tap == CONTROL}
        for card in of_metric:
            if card.tap != CONTROL:
                cell = _cell(card, controls, len(of_metric))
                rows.setdefault(f"{card.method},\n{card.tap}", {})[METRICS[metric].title] = cell
    titles = [METRICS[metric].title for metric in columns]
    return figures.cards(rows, titles, title=title)


def _cell(card: Card, controls: Mapping[str, int | None], count: int) -> figures.Cell:
    if card.mean is None:
        return figures.Cell("no value", np.nan)
    if card.place is None:
        return figures.Cell(f"{card.mean:.3g}", np.nan)
    ahead = [name for name, place in controls.items() if place is not None and place < card.place]
    lines = [f"place {card.place} of {count}, wins {100 * (card.wins or 0):.0f} %"]
    lines += [f"worst: {shortened(card.worst or '', 18)}"]
    lines += [f"behind {'both controls' if len(ahead) > 1 else f'the {ahead[0]}'}"] if ahead else []
    return figures.Cell("\n".join(lines), (card.place - 1) / max(1, count - 1), bool(ahead))


def _card(
    run: Run,
    metric: str,
    method: str,
    tap: str,
    rows: polars.DataFrame,
    higher: bool | None,
    seed: int,
    won: Mapping[tuple[str, str], float],
) -> Card:
    failed = rows["error"].count()
    known = rows.filter(polars.col("value").is_not_null())
    there = known.filter(polars.col("compared"))
    values = there["value"].to_numpy()
    about = (known["item"].n_unique(), len(rows) - failed - len(known), failed)
    about = (*about, there["item"].n_unique())
    if not len(values):
        return Card(metric, method, tap, None, None, None, *about, None, None, None)
    items = there["item"].to_numpy()
    low, high = interval(values, items, seed) if len(set(items)) > 1 else (None, None)
    wins = won.get((method, tap))
    worst = int(np.argmin(values) if higher else np.argmax(values))
    name = run.names[there["item"][worst]] if higher is not None else None
    return Card(metric, method, tap, float(values.mean()), low, high, *about, wins, name, None)


def _compared(rows: polars.DataFrame, by_magnitude: bool) -> polars.DataFrame:
    """Rows of a metric with the `value` they are ranked by, null where there is none.

    The column `compared` says of which maps all methods and controls have one; those that never
    have any do not count.
    """
    value = polars.coalesce("normalised", "value")
    value = value.abs() if by_magnitude else value
    rows = rows.with_columns(polars.when(value.is_finite()).then(value).alias("value"))
    known = rows.filter(polars.col("value").is_not_null())
    all_methods = known.select("method", "tap").n_unique() if len(known) else 0
    complete = polars.col("value").count().over("row") == all_methods
    return rows.with_columns(complete.alias("compared"))


def _wins(values: polars.DataFrame, higher: bool) -> dict[tuple[str, str], float]:
    """By method and tap: the share of images where no other one is better; controls left out."""
    value = polars.col("value")
    there = values.filter(polars.col("compared") & value.is_not_null())
    there = there.filter(polars.col("tap") != CONTROL)
    images = there.group_by("item", "method", "tap", maintain_order=True).agg(value.mean())
    best = value.max() if higher else value.min()
    images = images.with_columns((value == best.over("item")).alias("won"))
    shares = images.group_by("method", "tap").agg(polars.col("won").mean())
    return {(method, tap): won for method, tap, won in shares.iter_rows()}


def interval(
    values: Float[np.ndarray, "n"], items: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean by resampling images, with all values of an image together."""
    _, groups = np.unique(items, return_inverse=True)
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, _INTERVAL)
    return float(low), float(high)


def _rank_key(card: Card, higher: bool | None) -> tuple[bool, float]:
    value = 0.0 if card.mean is None or higher is None else card.mean
    return card.mean is None, -value if higher else value


def _curves(scores: polars.DataFrame) -> dict[str, list[figures.Curve]]:
    """The curves of each metric: fractions, the mean score, and the standard error of it.

    Lines of other fractions are interpolated to those that all reach; the error of one is NaN.
    """
    found: dict[str, list[figures.Curve]] = {}
    there = scores.filter(polars.col("fractions").is_not_null())
    for (metric, method, tap), rows in there.group_by(
        "metric", "method", "tap", maintain_order=True
    ):
        pairs = zip(rows["fractions"].to_list(), rows["scores"].to_list(), strict=True)
        lines = [np.array(pair, float) for pair in pairs]
        lines = [line for line in lines if np.isfinite(line).all()]
        if lines:
            curve = figures.Curve(str(method), _tap(str(tap)), _mean_line(lines), len(lines))
            found.setdefault(METRICS[str(metric)].title, []).append(curve)
    return found


def _mean_line(lines: Sequence[Float[np.ndarray, "2 _"]]) -> Float[np.ndarray, "3 s"]:
    """Fractions, the mean of lines `(fractions, scores)`, and its standard error."""
    fractions = lines[0][0]
    if not all(np.array_equal(line[0], fractions) for line in lines):
        low, high = max(line[0, 0] for line in lines), min(line[0, -1] for line in lines)
        fractions = np.linspace(low, high, max(line.shape[1] for line in lines))
    values = np.array([np.interp(fractions, *line) for line in lines])
    error = np.full(len(fractions), np.nan)
    if len(lines) > 1:
        error = values.std(0, ddof=1) / np.sqrt(len(lines))
    return np.stack([fractions, values.mean(0), error])


def _write_csv(path: Path, table: polars.DataFrame) -> None:
    _files.write_bytes(path, table.write_csv().encode())
