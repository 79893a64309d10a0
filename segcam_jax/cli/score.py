"""`segcam score`: maps, of a stored run or of images that are explained into one, by metrics."""

import dataclasses
from collections import Counter

from segcam_jax.cli import commands, console, study_run, sweep
from segcam_jax.cli.arguments import names_in, option_of
from segcam_jax.cli.study import Study, Sweep
from segcam_jax.networks.network import Network
from segcam_jax.networks.spec import check_seed
from segcam_jax.reports import scores as report
from segcam_jax.runs import StoredRun, StoredScans, open_scans, open_store
from segcam_jax.runs.folder import is_store
from segcam_jax.runs.manifest import NetworkRecord
from segcam_jax.runs.measures import Measure, check, measures
from segcam_jax.runs.scored_images import compares
from segcam_jax.runs.scores import CONTROL, FOLDER, Scoring
from segcam_jax.runs.stored_run import manifest_at
from segcam_jax.runs.stored_scans import kind_of
from segcam_jax.types import InputError, counted

_USUAL = ("deletion", "insertion", "road", "average_drop")
_OF_REGIONS = ("dice_deletion", "dice_insertion", "off_target_drop")
_OF_BOTH = frozenset({"images", "option", "seed", "on_error"})  # Of images, and of a run.
_OF_IMAGES = {each.name: each.default for each in dataclasses.fields(Study)}
_OF_IMAGES = {"method_option": (), **{k: v for k, v in _OF_IMAGES.items() if k not in _OF_BOTH}}
_MOST_NOTES = 8
_COLUMNS = ("", "method", "tap", "mean", "95 %", "images", "undefined", "wins", "worst image")


def score(command: commands.Score) -> int:
    """Scores maps, prints and draws a ranking; returns the exit code."""
    check_seed(command.seed or 0)
    if command.weights is None and command.config is None:
        run = _stored(command)
        compared = isinstance(run, StoredRun) and compares(run)
        asked = _asked(command, run.manifest.network, compared)
        return _score(command, run, asked, command.seed or 0)
    _check_images(command)
    try:
        opened = sweep.opened_of(_study(command))
    except InputError as error:
        if "--option " not in str(error):
            raise
        # Of methods, whose option has another name here.
        raise InputError(str(error).replace("--option ", "--method-option ")) from error
    asked = _asked(command, opened.network, opened.compares)
    check(asked, opened.network, compares=opened.compares)
    if command.dry_run:
        study_run.tell_cost(opened)
        costs = [(each.metric.name, each.metric.cost) for each in asked]
        console.table(None, ("metric", "cost of a map"), costs)
        return 0
    done, finished = sweep.compute(command, opened)
    if finished is None:  # Whoever finishes it scores it.
        return study_run.exit_code(done, finished)
    scored = _score(command, open_store(command.out), asked, opened.options.seed)
    return max(study_run.exit_code(done, finished), scored)


def _study(command: commands.Score) -> Sweep:
    """What is asked for of images."""
    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(Study)}
    return Sweep(**{**given, "option": command.method_option})


def _check_images(command: commands.Score) -> None:
    """Raises `InputError` if a stored run is named in place of images, or a cluster is."""
    if command.ray is not None:
        raise InputError(
            "--ray was given, and the process that scores has no accelerator then; explain by "
            "`segcam sweep --ray`, and score the run by `segcam score RUN`"
        )
    for path in command.images:
        if is_store(path):
            raise InputError(
                f"{str(path)!r} is a stored run, and knows its network; leave out --weights and "
                "--config"
            )


def _stored(command: commands.Score) -> StoredRun | StoredScans:
    """The stored run that is named."""
    if len(command.images) != 1:
        raise InputError("name one stored run, or images and their network (--weights)")
    (path,) = command.images
    if manifest_at(path) is None and path.exists():
        raise InputError(
            f"{str(path)!r} is not a stored run; give one, or the network of images (--weights)"
        )
    for name, usual in _OF_IMAGES.items():
        if getattr(command, name) != usual:
            raise InputError(
                f"{option_of(name)} says how images are explained, and {str(path)!r} is a stored "
                "run; leave it out"
            )
    return open_store(path) if kind_of(path) == "images" else open_scans(path)


def _asked(
    command: commands.Score, network: Network | NetworkRecord, compared: bool
) -> tuple[Measure, ...]:
    """The metrics, or the usual ones."""
    usual = _USUAL if network.classifies else (*_USUAL[:3], *_OF_REGIONS)
    if not command.metric and compared:
        usual = tuple(name for name in usual if name not in _OF_REGIONS)
        console.note(f"{', '.join(_OF_REGIONS)} are of one class, not of one rather than another")
    return measures(names_in(command.metric) or usual, command.option)


def _score(
    command: commands.Score, run: StoredRun | StoredScans, asked: tuple[Measure, ...], seed: int
) -> int:
    """Scores a stored run."""
    scoring = Scoring(run, asked, seed=seed, controls=not command.no_controls)
    scored = [row for rows in scoring.scored.shards.values() for row in rows]
    if not scored:
        if not run.table["error"].count():
            raise InputError(f"{str(run.path)!r} has no maps to score yet")
        console.note(f"nothing was explained, or is scored; `segcam show {run.path}` tells why")
        return console.WITH_FAILURES
    _tell(scoring)
    items = len({row["item"] for row in scored})
    with console.rates("scoring", len(scored) * len(asked), "scores") as show:
        done = scoring.compute(show, stop_on_error=command.on_error == "stop")
    found = scoring.table()
    cards = report.write(run, found, seed=seed)
    for metric in dict.fromkeys(card.metric for card in cards):
        rows = [_words(card) for card in cards if card.metric == metric]
        known = next(each.metric for each in asked if each.metric.name == metric)
        way = {True: ", higher is better", False: ", lower is better", None: ""}
        title = f"{known.title}{way[known.higher_is_better]}"
        console.table(title, _COLUMNS, rows)
    pairs = [(a, b, f"{tau:.2f}") for a, b, tau in report.agreement(cards) if tau == tau]
    if pairs:
        console.table("Agreement of rankings", ("metric", "metric", "Kendall's tau"), pairs)
    if max((card.compared for card in cards), default=0) == 1:
        console.note(
            "only one image has scores, so there are no intervals and no agreement of metrics; "
            "score more images for them"
        )
    undefined = sum(card.undefined for card in cards if card.tap != CONTROL)
    if undefined:
        maps = counted(undefined, "score")
        console.note(f"{maps} undefined: the map is constant or NaN, or the metric has no value")
    for metric in dict.fromkeys(card.metric for card in cards):
        of_metric = [card for card in cards if card.metric == metric and card.images]
        if len({(card.images, card.compared) for card in of_metric} - {(items, items)}):
            images = counted(max(card.compared for card in of_metric), "image")
            console.note(f"{metric} is compared over {images}, of which all methods have a value")
    if kept := scoring.permuted:
        named = ", ".join(kept[:2]) + (", ..." if len(kept) > 2 else "")
        console.note(
            f"randomisation permuted {counted(len(kept), 'array')} of parameters ({named}), as the "
            "network does not tell how it initialises them"
        )
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
    resized = any(
        {"network", "labels"} & {*each.metric.needs} and not each.asks_no_map
        for each in scoring.measures
    )
    if not scans and resized:
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
        console.note(f"{counted(missing, 'row')} of the run failed, without a map to score")
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
        "" if card.low is None else f"{card.low:.4g} to {card.high:.4g}",
        str(card.images),
        str(card.undefined),
        "" if card.wins is None else f"{100 * card.wins:.0f} %",
        card.worst or "",
    )
