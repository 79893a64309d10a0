"""`segcam score`: the maps of a stored run, measured by metrics."""

from collections import Counter

from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.reports import scores as report
from segcam_jax.runs import open_store
from segcam_jax.runs.scores import CONTROL, FOLDER, Scoring, measures
from segcam_jax.types import InputError, counted

_USUAL = ("deletion", "insertion", "road", "average_drop")
_OF_REGIONS = ("dice_deletion", "dice_insertion", "off_target_drop")
_MOST_NOTES = 8


def score(command: commands.Score) -> int:
    """Scores the maps of a run, prints and draws a ranking; returns the exit code."""
    run = open_store(command.run)
    if not run.taps:
        raise InputError(f"{str(run.path)!r} has no maps to score yet")
    usual = _USUAL if run.manifest.network.classifies else (*_USUAL[:3], *_OF_REGIONS)
    asked = measures(names_in(command.metric) or usual, command.option)
    scoring = Scoring(run, asked, seed=command.seed, controls=not command.no_controls)
    _tell(scoring)
    items = len(run.table.filter(run.table["error"].is_null())["item"].unique())
    with console.rates("scoring", items) as show:
        done = scoring.compute(show, stop_on_error=command.on_error == "stop")
    found = scoring.table()
    cards = report.write(run, found, seed=command.seed)
    for metric in dict.fromkeys(card.metric for card in cards):
        rows = [_words(card) for card in cards if card.metric == metric]
        known = next(each.metric for each in asked if each.metric.name == metric)
        way = {True: ", higher is better", False: ", lower is better", None: ""}
        title = f"{known.title}{way[known.higher_is_better]}"
        console.table(title, ("", "method", "tap", "mean", "95 %", "wins", "worst image"), rows)
    pairs = [(a, b, f"{tau:.2f}") for a, b, tau in report.agreement(cards) if tau == tau]
    if pairs:
        console.table("Agreement of rankings", ("metric", "metric", "Kendall's tau"), pairs)
    undefined = sum(card.undefined for card in cards if card.tap != CONTROL)
    if undefined:
        maps = counted(undefined, "score")
        console.note(f"{maps} undefined: the map is constant or NaN, or the metric has no value")
    errors = Counter(found["error"].drop_nulls().to_list())
    for line, _ in errors.most_common(_MOST_NOTES):
        console.note(line)
    print(f"scores, figures and tables are in {run.path / FOLDER}")
    return console.WITH_FAILURES if done.failures else 0


def _tell(scoring: Scoring) -> None:
    """Says what is resized, and what is not scored."""
    run = scoring.run
    if any("network" in each.metric.needs for each in scoring.measures):
        small = [tap for tap in run.taps if tap != "input"]
        if small:
            console.note(f"maps at {', '.join(small)} are resized linearly to where they are used")
    missing = run.table["error"].count()
    if missing:
        console.note(f"{counted(missing, 'row')} of the run failed, and have no maps to score")
    if run.manifest.finished is None:
        console.note("the run is not finished; what it has so far is scored")


def _words(card: report.Card) -> tuple[str, ...]:
    if card.mean is None:
        return ("", card.method, card.tap, "—", "", "", "")
    return (
        str(card.place or ""),
        card.method,
        card.tap,
        f"{card.mean:.4g}",
        f"{card.low:.4g} to {card.high:.4g}",
        "" if card.wins is None else f"{100 * card.wins:.0f} %",
        card.worst or "",
    )
