"""`segcam score`: the maps of a stored run, measured by metrics."""

from collections import Counter

from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.networks.spec import check_seed
from segcam_jax.reports import scores as report
from segcam_jax.runs import StoredRun, StoredScans, open_scans, open_store
from segcam_jax.runs.measures import measures
from segcam_jax.runs.scored_images import compares
from segcam_jax.runs.scores import CONTROL, FOLDER, Scoring
from segcam_jax.runs.stored_scans import kind_of
from segcam_jax.types import InputError, counted

_USUAL = ("deletion", "insertion", "road", "average_drop")
_OF_REGIONS = ("dice_deletion", "dice_insertion", "off_target_drop")
_MOST_NOTES = 8
_COLUMNS = ("", "method", "tap", "mean", "95 %", "images", "undefined", "wins", "worst image")


def score(command: commands.Score) -> int:
    """Scores the maps of a run, prints and draws a ranking; returns the exit code."""
    check_seed(command.seed)
    images = kind_of(command.run) == "images"
    run = open_store(command.run) if images else open_scans(command.run)
    usual = _USUAL if run.manifest.network.classifies else (*_USUAL[:3], *_OF_REGIONS)
    if not command.metric and isinstance(run, StoredRun) and compares(run):
        usual = tuple(name for name in usual if name not in _OF_REGIONS)
        console.note(f"{', '.join(_OF_REGIONS)} are of one class, not of one rather than another")
    asked = measures(names_in(command.metric) or usual, command.option)
    scoring = Scoring(run, asked, seed=command.seed, controls=not command.no_controls)
    if not scoring.scored.taps:
        raise InputError(f"{str(run.path)!r} has no maps to score yet")
    _tell(scoring)
    scored = [row for rows in scoring.scored.shards.values() for row in rows]
    items = len({row["item"] for row in scored})
    with console.rates("scoring", len(scored) * len(asked), "scores") as show:
        done = scoring.compute(show, stop_on_error=command.on_error == "stop")
    found = scoring.table()
    cards = report.write(run, found, seed=command.seed)
    for metric in dict.fromkeys(card.metric for card in cards):
        rows = [_words(card) for card in cards if card.metric == metric]
        known = next(each.metric for each in asked if each.metric.name == metric)
        way = {True: ", higher is better", False: ", lower is better", None: ""}
        title = f"{known.title}{way[known.higher_is_better]}"
        console.table(title, _COLUMNS, rows)
    pairs = [(a, b, f"{tau:.2f}") for a, b, tau in report.agreement(cards) if tau == tau]
    if pairs:
        console.table("Agreement of rankings", ("metric", "metric", "Kendall's tau"), pairs)
    undefined = sum(card.undefined for card in cards if card.tap != CONTROL)
    if undefined:
        maps = counted(undefined, "score")
        console.note(f"{maps} undefined: the map is constant or NaN, or the metric has no value")
    for metric in dict.fromkeys(card.metric for card in cards):
        of_metric = [card for card in cards if card.metric == metric and card.images]
        if len({(card.images, card.compared) for card in of_metric} - {(items, items)}):
            images = counted(max(card.compared for card in of_metric), "image")
            console.note(f"{metric} is compared over {images}, of which all methods have a value")
    errors = Counter(found["error"].drop_nulls().to_list())
    for line, _ in errors.most_common(_MOST_NOTES):
        console.note(line)
    print(f"scores, figures and tables are in {run.path / FOLDER}")
    return console.WITH_FAILURES if done.failures else 0


def _tell(scoring: Scoring) -> None:
    """Says what is resized, and what is not scored."""
    run = scoring.run
    scans = isinstance(run, StoredScans)
    if scans:
        console.note("each instance counts as an image; a map is the sum over modalities")
    if not scans and any("network" in each.metric.needs for each in scoring.measures):
        small = [tap for tap in run.taps if tap != "input"]
        if small:
            console.note(f"maps at {', '.join(small)} are resized linearly to where they are used")
    if any(each.metric.name == "infidelity" for each in scoring.measures):
        console.note(
            "infidelity takes a map, a sum over channels, for the slope of each of them: read it "
            "of gradients of an image with one channel only"
        )
    missing = run.table["error"].count()
    if missing:
        console.note(f"{counted(missing, 'row')} of the run failed, and have no maps to score")
    if run.manifest.finished is None:
        console.note("the run is not finished; what it has so far is scored")


def _words(card: report.Card) -> tuple[str, ...]:
    if card.mean is None:
        counts = (str(card.images), str(card.undefined))
        return ("", card.method, card.tap, "—", "", *counts, "", "")
    return (
        str(card.place or ""),
        card.method,
        card.tap,
        f"{card.mean:.4g}",
        f"{card.low:.4g} to {card.high:.4g}",
        str(card.images),
        str(card.undefined),
        "" if card.wins is None else f"{100 * card.wins:.0f} %",
        card.worst or "",
    )
