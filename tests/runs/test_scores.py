"""`segcam score`: a stored run, measured; a planted truth is ranked first, a random map last."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import polars
import pytest
from PIL import Image

import segcam_jax as segcam
from segcam_jax import metrics
from segcam_jax._jaxpr.recent import Recent
from segcam_jax.cli import commands, main, score as score_command
from segcam_jax.cli.score import _study
from segcam_jax.engine import programs as engine_programs
from segcam_jax.metrics import METRICS, randomisation
from segcam_jax.metrics.controls import random_map
from segcam_jax.reports import scores as report
from segcam_jax.runs import open_store, scores
from segcam_jax.runs.measures import Measure, measures
from segcam_jax.runs.scores import CONTROL, MASK, RANDOM, SCHEMA, Scoring
from segcam_jax.types import FileError, InputError
from segcam_jax.viz import ranking as ranking_figures
from tests.support.stored_runs import programs_of_all_maps

MODEL = '''
import jax, jax.numpy as jnp
import segcam_jax as segcam

def make():
    """Class 1 lies below, and its evidence above: where the weights are."""
    places = jnp.arange(16, dtype=jnp.float32)
    rows, columns = places[:, None], places[None]
    weights = jnp.where((rows < 6) & (columns > 3), 1.0 + columns, 0.0)

    def fn(params, x):
        hidden = segcam.tap(jax.nn.relu(x), "hidden")
        evidence = (hidden[..., 0] * params).sum() / params.sum()
        inside = jnp.broadcast_to((rows > 9).astype(jnp.float32), (16, 16))
        one = inside * (4 * evidence - 1) - (1 - inside) * 4
        return jnp.stack([jnp.zeros_like(one), one], -1)

    return fn, weights

def classify():
    fn, weights = make()
    return lambda params, x: fn(params, x).mean((0, 1)), weights
'''
FORM = ("--size", "16", "--channels", "1")
WORDS = (*FORM, "--method", "input_x_gradient", "grad_cam", "--tap", "hidden", "--class", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network, three images and one that is broken, and a run of them."""
    folder = tmp_path_factory.mktemp("scores")
    (folder / "images").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(100, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    (folder / "images" / "9.png").write_bytes(b"no image")
    (folder / "own.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("segcam_jax.cli.cache.enable", lambda: None)
        given = ["sweep", "images", "--weights", "own.py:make", *WORDS, "--shard", "2"]
        assert main([*given, "--out", "run.zarr"]) == 3
        yield folder


@pytest.fixture
def run(place, tmp_path):
    shutil.copytree(place / "run.zarr", tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def score(run, *words, code=0):
    assert main(["score", str(run), *words]) == code


def ranking(run):
    return polars.read_csv(run / "scores" / "ranking.csv")


def test_scores_are_those_of_the_library_and_the_truth_wins(place, run, capsys):
    score(run, "--metric", "deletion,dice_deletion,rank_accuracy", "--option", "steps=4")
    said = capsys.readouterr()
    assert "1 row of the run failed" in said.err
    assert "resized linearly" in said.err
    found = ranking(run)
    for metric in ("deletion", "dice_deletion"):
        rows = found.filter(polars.col("metric") == metric)
        assert rows["method"][0] == "input_x_gradient"
        assert rows["wins"][0] == 1
        controls = rows.filter(polars.col("tap") == "control")
        assert set(controls["method"]) == {"random map", "mask-shaped map"}
        assert controls["place"].min() > 1
    # Plausibility is another matter: of the mask, its own shape wins.
    rows = found.filter(polars.col("metric") == "rank_accuracy")
    assert rows["method"][0] == "mask-shaped map"

    stored = open_store(run)
    network = Scoring(stored, ()).network
    x = np.asarray(Image.open(place / "images" / "1.png"), np.float32)[..., None] / 255
    split = network.split("hidden", x.shape)
    target = segcam.targets.region(1, stored.region(1))
    map = stored.map(1, "input", "input_x_gradient")
    want = metrics.deletion(split, network.params, x, target, map, steps=4)
    part = polars.read_parquet(run / "scores" / "deletion" / "00000.parquet")
    row = part.filter((polars.col("row") == 1) & (polars.col("method") == "input_x_gradient"))
    np.testing.assert_allclose(row["value"][0], want.area, rtol=1e-6)
    np.testing.assert_allclose(row["scores"][0].to_list(), want.scores, rtol=1e-6)
    for name in ("ranking.png", "cards.png", "agreement.png", "curves.png"):
        assert (run / "scores" / name).stat().st_size > 1000
    pairs = polars.read_csv(run / "scores" / "agreement.csv")
    assert len(pairs) == 3


def test_segments_are_tables_and_figures(place, run, capsys):
    """On which class the evidence lies, and what the class loses without each segment."""
    score(run, "--metric", "segment_evidence", "segment_ablation", "sparseness")
    folder, stored = run / "scores", open_store(run)
    words = dict.fromkeys(("image", "class", "segment"), polars.String)
    found = polars.read_csv(folder / "segments.csv", schema_overrides=words)
    network = Scoring(stored, ()).network
    labels = list(stored.manifest.network.labels)
    for item, name in stored.names.items():
        if stored.row(item)["error"] is not None:
            continue
        of_image = found.filter(polars.col("image") == name)
        pixels = np.asarray(Image.open(place / "images" / f"{name}.png"), np.float32)
        x, predicted = pixels[..., None] / 255, stored.prediction(item)
        assert predicted is not None
        map = stored.map(item, "input", "input_x_gradient")
        for part, values in (("positive", np.maximum(map, 0)), ("negative", np.maximum(-map, 0))):
            rows = of_image.filter(
                polars.col("method") == "input_x_gradient", polars.col("part") == part
            )
            assert rows["segment"].to_list() == labels
            whole = values.sum() if values.any() else np.nan
            want = [values[predicted == k].sum() / whole for k in range(len(labels))]
            np.testing.assert_allclose(rows["value"].cast(float).fill_null(np.nan), want, atol=1e-6)
        # By hand: the class's mean probability over its segment, without another one's pixels.
        index = stored.row(item)["class_index"]
        inside = predicted == index

        def share(image, inside=inside, index=index):
            logits = np.exp(network.logits(np.asarray(image, np.float32)))
            return (logits[..., index] / logits.sum(-1))[inside].mean()

        rows = of_image.filter(polars.col("part") == "fall")
        for k, value in enumerate(rows["value"]):
            without = np.where((predicted == k)[..., None], 0, x)
            if (predicted == k).any():
                np.testing.assert_allclose(value, 1 - share(without) / share(x), atol=1e-5)
            else:
                assert value is None
    over = polars.read_csv(folder / "segments_mean.csv", schema_overrides=words)
    assert set(over["images"]) == {3}
    key = (polars.col("method") == "no map", polars.col("segment") == over["segment"][0])
    np.testing.assert_allclose(
        over.filter(*key)["value"], found.filter(*key)["value"].mean(), rtol=1e-6
    )
    for name in ("evidence.png", "ablation.png"):
        assert (folder / name).stat().st_size > 1000
    assert "no map" not in capsys.readouterr().out  # It ranks no method.
    score(run, "--metric", "sparseness")
    assert not [*folder.glob("segments*.csv"), *folder.glob("[ea]*.png")]


def test_a_scoring_resumes_and_metrics_are_added(run, monkeypatch):
    words = ("--metric", "sparseness", "rank_accuracy")
    score(run, *words)
    parts = sorted((run / "scores").glob("*/*.parquet"))
    assert len(parts) == 4
    before = {part: part.read_bytes() for part in parts}
    parts[0].unlink()
    parts[3].write_bytes(before[parts[3]][:40])  # Cut off.
    scored, whole = [], Scoring._score
    monkeypatch.setattr(
        Scoring,
        "_score",
        lambda self, *given: scored.append(given[0].folder) or whole(self, *given),
    )
    score(run, *words)
    assert {part: part.read_bytes() for part in parts} == before
    assert set(scored) == {parts[0].parent.name, parts[3].parent.name}
    scored.clear()
    score(run, *words, "--metric", "entropy")
    assert set(scored) == {"entropy"}
    scored.clear()
    score(run, *words, "--seed", "1")
    assert set(scored) == {"sparseness", "rank_accuracy"}
    scored.clear()
    monkeypatch.setattr(scores, "_VERSION", scores._VERSION - 1)
    score(run, *words, "--seed", "1")
    assert set(scored) == {"sparseness", "rank_accuracy"}


def test_a_map_that_fails_is_a_row(place, run, capsys):
    file = place / "images" / "2.png"
    before = file.read_bytes()
    try:
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(file)
        words = ("--metric", "average_drop", "--no-controls")
        score(run, *words, code=3)
        assert "is not the file that was explained" in capsys.readouterr().err
        assert ranking(run)["failed"].to_list() == [1, 1]
        assert ranking(run)["images"].to_list() == [2, 2]
        score(run, *words, code=3)
        shutil.rmtree(run / "scores")
        score(run, *words, "--on-error", "stop", code=2)
        assert "average_drop of" in capsys.readouterr().err
    finally:
        file.write_bytes(before)


def test_a_run_is_scored_from_any_folder(run, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Scoring(open_store(run), ()).network.sha256 == open_store(run).manifest.network.sha256


def test_what_explains_again_is_scored_too(run, monkeypatch, capsys):
    drawn, permuted = [], randomisation.permuted
    monkeypatch.setattr(
        randomisation, "permuted", lambda key, values: drawn.append(1) or permuted(key, values)
    )
    score(run, "--metric", "parameter_randomisation", "max_sensitivity", "--option", "samples=2")
    found = ranking(run)
    assert "random map" not in found["method"].to_list()
    assert found["images"].to_list() == [3] * 4
    assert len(drawn) == 3  # One array of three images, once for both methods.
    said = "randomisation permuted 1 array of parameters ("
    assert said in capsys.readouterr().err
    score(run, "--metric", "parameter_randomisation")  # Of scores that are there, too.
    assert said in capsys.readouterr().err


def test_randomisation_takes_one_program_for_all_methods_and_layers(run, monkeypatch):
    kept = Recent(99)
    monkeypatch.setattr(engine_programs, "_PROGRAMS", kept)
    scoring = Scoring(open_store(run), measures(("parameter_randomisation",)))
    scoring.compute()
    assert len(programs_of_all_maps(kept)) == 1
    table = scoring.table()
    assert len(table) == 6
    about = scoring.scored.shards[0][1]

    def exhausted(*given, calls):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(scores, "_all_maps", exhausted)  # Then each map has a program of its own.
    (measure,) = scoring.measures
    again = [*scoring._scored(measure, about, True)]
    rows = table.filter(polars.col("row") == about["row"])
    np.testing.assert_allclose([each["value"] for each in again], rows["value"], rtol=1e-5)
    key = scoring._key_of(about["row"], "parameter_randomisation")
    for name, tap in (("input_x_gradient", "input"), ("grad_cam", "hidden")):
        method = getattr(segcam.methods, name)
        given = scoring.scored.explained(about, tap)
        want = metrics.parameter_randomisation(*given, method, key=key).last
        row = table.filter((polars.col("row") == about["row"]) & (polars.col("method") == name))
        np.testing.assert_allclose(row["value"][0], want, rtol=1e-5)


def test_faults_are_one_line(place, run, tmp_path, capsys):
    for words, said in (
        (("--metric", "deletions"), "unknown metric 'deletions'; choose from deletion"),
        (("--option", "size=2"), "off_target_drop have no option 'size'; there are"),
        (("--option", "steps"), "give NAME=VALUE"),
    ):
        score(run, *words, code=2)
        err = capsys.readouterr().err
        assert said in err
        assert "[" not in err
    score(run, "--metric", "deletion", "--option", "steps=257", code=3)
    assert "there are only 256 positions to remove" in capsys.readouterr().err
    given = ["sweep", "images", "--weights", "own.py:classify", "--tap", "hidden", *FORM]
    out = tmp_path / "classes.zarr"
    assert main([*given, "--out", str(out)]) == 3
    capsys.readouterr()
    score(out, "--metric", "dice_deletion", code=2)
    assert "needs a region, and own-classify classifies" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown metric"):
        measures(["nothing"])


def _scores(rows):
    names = ("row", "item", "method", "tap", "metric", "value", "normalised")
    return polars.DataFrame(
        [dict(zip(names, row, strict=False)) for row in rows], schema=dict(SCHEMA)
    )


def test_cards_by_hand(run):
    rows = [
        (0, 0, "a", "t", "insertion", 1.0),
        (1, 1, "a", "t", "insertion", 3.0),
        (0, 0, "b", "t", "insertion", 2.0),
        (1, 1, "b", "t", "insertion", float("nan")),
        (0, 0, "a", "t", "deletion", 0.5),
        (0, 0, "b", "t", "deletion", 0.5),
    ]
    made = report.cards(open_store(run), _scores(rows))
    first, second = made[:2]
    # Over the first image alone: of the second b has no value.
    assert (first.method, first.mean, first.images, first.undefined) == ("b", 2.0, 1, 1)
    assert (first.wins, first.worst, first.place, first.compared) == (1, "0", 1, 1)
    assert (first.low, first.high) == (None, None)  # One image has no interval.
    assert (second.method, second.mean, second.images, second.undefined) == ("a", 1.0, 2, 0)
    assert (second.wins, second.compared) == (0, 1)
    assert [card.wins for card in made[2:]] == [1, 1]  # A tie is won by both.


def test_areas_are_ranked_by_their_shares_and_wins_are_of_images_without_controls(run):
    shares = {"a": (0.1, 0.1, 0.4), "b": (0.2, 0.2, 0.3), "random map": (0.0, 0.0, 0.0)}
    raw = {"a": (1.0, 1.0, 900.0), "b": (2.0, 2.0, 10.0), "random map": (3.0, 3.0, 3.0)}
    rows = [
        (row, (0, 0, 1)[row], method, tap, "deletion", raw[method][row], shares[method][row])
        for method, tap in (("b", "t"), ("a", "t"), ("random map", "control"))
        for row in range(3)
    ]
    rows += [(row, row, "fails", "t", "deletion", None) for row in range(3)]
    made = report.cards(open_store(run), _scores(rows))
    assert [card.method for card in made] == ["random map", "a", "b", "fails"]
    np.testing.assert_allclose([card.mean for card in made[:3]], [0, 0.2, 0.7 / 3])
    assert [card.wins for card in made] == [None, 0.5, 0.5, None]
    assert [card.images for card in made] == [card.compared for card in made] == [2, 2, 2, 0]
    assert [card.place for card in made] == [1, 2, 3, None]


def test_an_opposite_map_is_as_alike_as_the_same_one(run):
    values = {"flips": (-0.9, 0.8), "keeps": (0.7, 0.7), "loses": (0.1, -0.3)}
    rows = [
        (image, image, method, "t", "parameter_randomisation", value)
        for method, pair in values.items()
        for image, value in enumerate(pair)
    ]
    made = report.cards(open_store(run), _scores(rows))
    assert [card.method for card in made] == ["loses", "keeps", "flips"]
    np.testing.assert_allclose([card.mean for card in made], [0.2, 0.7, 0.85])
    assert [card.wins for card in made] == [1, 0, 0]
    assert (made[2].worst, made[0].worst) == ("0", "1")


def test_curves_of_other_fractions_by_hand():
    nan = float("nan")
    lines = [
        ([nan] * 3, [nan] * 3),
        ([0.0, 0.5, 1.0], [1.0, 0.5, 0.0]),
        ([0.0, 0.25, 1.0], [1.0, 0.0, 0.0]),
    ]
    about = {"metric": "deletion", "method": "a", "tap": "t"}
    rows = [{**about, "fractions": places, "scores": scores} for places, scores in lines]
    table = polars.DataFrame(rows, schema=dict(SCHEMA))
    (found,) = report._curves(table)["Deletion"]
    assert (found.method, found.tap) == ("a", "t")
    np.testing.assert_allclose(found.line, [[0, 0.5, 1], [1, 0.25, 0], [0, 0.25, 0]])
    (alone,) = report._curves(table[:2])["Deletion"]
    np.testing.assert_allclose(alone.line, [[0, 0.5, 1], [1, 0.5, 0], [nan] * 3])
    assert (found.count, alone.count) == (2, 1)
    # Values of single layers are no curve.
    assert report._curves(table.with_columns(fractions=None)) == {}
    for lines, said in (([found, alone], "of 1 to 2 curves,"), ([alone], "Nothing is")):
        figure = ranking_figures.curves(
            {"Deletion": lines}, {"Deletion": False}, {"Deletion": ("across", "up")}
        )
        assert said in figure.get_supxlabel()


def test_figures_count_the_images_that_have_a_value(run, monkeypatch):
    titles = []
    monkeypatch.setattr(report, "_write_csv", lambda *_: None)
    monkeypatch.setattr(report.viz, "save", lambda figure, _: titles.append(figure.get_suptitle()))
    nan = float("nan")
    rows = [(n, n, "a", "t", "deletion", value) for n, value in enumerate((0.5, nan, None))]
    report.write(open_store(run), _scores(rows))
    assert len(titles) == 2
    assert all(title.endswith(", 1 image") for title in titles)


def test_the_random_map_is_no_sample_and_thresholds_reach_metrics(run):
    given = {}

    def spied(split, params, x, target, map, *, key, threshold=0.9):
        given.update(key=key, threshold=threshold, map=map)
        return jnp.float32(0)

    scoring = Scoring(open_store(run), ())
    about = scoring.scored.shards[0][1]
    metric = dataclasses.replace(METRICS["dice_deletion"], function=spied)
    scoring._score(Measure(metric), about, RANDOM, CONTROL)
    assert given["threshold"] == scoring.network.meaning.threshold == 0.5
    of_row = jax.random.fold_in(jax.random.key(0), about["row"])
    for key in (of_row, given["key"]):
        drawn = jax.vmap(lambda i, key=key: random_map(jax.random.fold_in(key, i), (16, 16)))
        assert not (np.asarray(drawn(jnp.arange(20))) == given["map"]).any((1, 2)).all()
        assert not np.array_equal(random_map(key, (16, 16)), given["map"])
    first = given["key"]
    scoring._score(Measure(dataclasses.replace(metric, name="road")), about, RANDOM, CONTROL)
    assert not np.array_equal(jax.random.key_data(first), jax.random.key_data(given["key"]))


def test_a_class_rather_than_another_is_scored_by_what_reads_both(place, tmp_path, capsys):
    out = tmp_path / "rather.zarr"
    words = ("--method", "grad_cam", "--tap", "hidden", "--class", "1 rather than 0")
    given = ["sweep", "images/0.png", "--weights", "own.py:make", *FORM, *words, "--out", str(out)]
    assert main(given) == 0
    capsys.readouterr()
    score(out, "--option", "steps=2", "--no-controls")
    said = capsys.readouterr()
    assert "off_target_drop are of one class, not of one rather than another" in said.err
    assert set(ranking(out)["metric"]) == {"deletion", "insertion", "road"}
    for asked in (("--metric", "iou_drop"), ("--metric", "deletion", "--option", "where=inside")):
        score(out, *asked, code=2)
        assert "the run explains a class rather than another" in capsys.readouterr().err


def test_completeness_has_no_controls_and_infidelity_says_what_it_takes(run, capsys):
    score(run, "--metric", "completeness", "infidelity", "--option", "samples=2")
    assert "a sum over channels, for the slope" in capsys.readouterr().err
    found = ranking(run)
    assert "control" not in found.filter(polars.col("metric") == "completeness")["tap"].to_list()
    assert "control" in found["tap"].to_list()


@pytest.mark.parametrize(
    ("metric", "word", "said"),
    [
        ("deletion", "steps=abc", "deletion.steps was given 'abc'; give a whole number"),
        ("deletion", "steps=2.5", "was given '2.5'; give a whole number up to 100,000,000$"),
        ("deletion", "where=left", "give all or inside or outside$"),
        ("road", "percentiles=10,x", "give whole numbers such as 2x3 or 10,20,30$"),
        ("mu_fidelity", "rate=nan", "mu_fidelity.rate was given 'nan'; give a number$"),
        ("pointing_game", "ties=perhaps", "give true or false$"),
        (
            "pointing_game",
            "tolerance=-1",
            "_game.tolerance: tolerance=-1; give at least 0$",
        ),
        ("mu_fidelity", "baseline=none", "'none'; choose zeros, mean, blur, or give a number$"),
        (
            "road",
            "deletion.steps=2",
            "'deletion' is not a metric of this run; .* road$",
        ),
        ("road", "road.steps=2", "road has no option 'steps'; there are .* integrated_gradients"),
    ],
)
def test_options_are_of_their_type(metric, word, said):
    with pytest.raises(InputError, match=said):
        measures([metric], [word])


def test_options_as_they_are_read():
    words = ("percentiles=20", "channel=none", "baseline=blur", "rate=1", "steps=4", "at=tap")
    names = ("road", "deletion", "mu_fidelity")
    found = {each.folder: dict(each.options) for each in measures(names, words)}
    assert found == {
        "road": {"percentiles": (20,), "at": "tap"},
        "deletion": {"channel": None, "baseline": "blur", "steps": 4, "at": "tap"},
        "mu_fidelity": {"rate": 1.0, "baseline": "blur", "at": "tap"},
    }
    of_one = measures(("deletion", "insertion"), ("steps=4", "insertion.steps=8"))
    assert [each.options for each in of_one] == [(("steps", 4),), (("steps", 8),)]
    for name, options in (
        ("infidelity", {"samples": 0}),
        ("pointing_game", {"tolerance": -1}),
        ("off_target_drop", {"share": 3.0}),
        ("deletion", {"steps": 2.5}),
    ):
        with pytest.raises(InputError, match="; give"):
            METRICS[name].function(None, None, None, None, None, **options)


def test_kendalls_tau_of_rankings_by_hand(run):
    means = {"insertion": [3, 2, 1], "deletion": [1, 2, 3], "road": [3, 1, 2]}
    rows = [
        (image, image, method, "t", metric, float(value))
        for metric, values in means.items()
        for method, value in zip("abc", values, strict=True)
        for image in (0, 1)
    ]
    made = report.cards(open_store(run), _scores(rows))
    found = {(a, b): tau for a, b, tau in report.agreement(made)}
    # Deletion is better where it is lower: it agrees with insertion.
    assert found["insertion", "deletion"] == pytest.approx(1)
    assert found["insertion", "road"] == pytest.approx(1 / 3)
    alone = report.cards(open_store(run), _scores([row for row in rows if row[0] == 0]))
    assert report.agreement(alone) == []


def test_cards_say_place_wins_worst_and_which_controls_are_ahead(run):
    means = {"a": (0.2, 0.4), "b": (0.6, 0.1), RANDOM: (0.25, 0.3), MASK: (0.1, 0.1)}
    rows = [
        (image, image, method, CONTROL if method in (RANDOM, MASK) else "t", "deletion", value)
        for method, values in means.items()
        for image, value in enumerate(values)
    ]
    made = {each.method: each for each in report.cards(open_store(run), _scores(rows))}
    assert [name for name, _ in sorted(made.items(), key=lambda card: card[1].place)] == [
        MASK,
        RANDOM,
        *"ab",
    ]
    controls = {RANDOM: made[RANDOM].place, MASK: made[MASK].place}
    cell = report._cell(made["a"], controls, 4)
    assert cell.words == "place 3 of 4, wins 50 %\nworst: 1\nbehind both controls"
    assert (cell.place, cell.fails) == (2 / 3, True)
    assert report._cell(made["a"], {RANDOM: 4, MASK: 1}, 4).words.endswith(f"behind the {MASK}")
    assert not report._cell(made["a"], {RANDOM: 4}, 4).fails


def test_images_are_explained_and_scored_in_one_command(place, run, tmp_path, monkeypatch, capsys):
    shutil.copytree(place / "images", tmp_path / "images")
    monkeypatch.chdir(tmp_path / "images")
    out = tmp_path / "images" / "run.zarr"  # The usual one, beside the images.
    metric = ("--metric", "pointing_game", "--option", "tolerance=1")
    given = ["score", ".", "--weights", f"{place / 'own.py'}:make", *WORDS, "--shard", "2", *metric]
    assert main([*given, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "grad_cam" in said
    assert METRICS["pointing_game"].cost in said
    for wrong, said in (
        (["--metric", "deletions"], "unknown metric 'deletions'"),
        (["--option", "size=2"], "pointing_game has no option 'size'; there are ties, tolerance"),
        (["--option", "samples=2"], "of the method smooth_grad and others, which --method-option"),
        (["--method-option", "tolerance=2"], "--method-option 'tolerance=2': input_x_gradient, g"),
        (["--ray", "auto"], "explain by `segcam sweep --ray`"),
    ):
        assert main([*given, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()  # What is wrong with a metric is said before anything is explained.
    assert main([*given, "--share", "1/2"]) == 0
    assert not (out / "scores").exists()  # Who finishes the run scores it.
    assert main(given) == 3  # An image is broken.
    score(run, *metric)
    assert ranking(out).equals(ranking(run))

    (out / "scores" / "pointing_game" / "00001.parquet").unlink()
    scored, whole = [], Scoring._score
    monkeypatch.setattr(
        Scoring, "_score", lambda self, *all: scored.append(all[1]["item"]) or whole(self, *all)
    )
    capsys.readouterr()
    assert main(given) == 3  # Figures in the run are no images.
    assert "(4 finished before)" in capsys.readouterr().out
    assert set(scored) == {2}
    assert ranking(out).equals(ranking(run))
    assert main(["score", "run.zarr", *given[2:]]) == 2
    assert "is a stored run, and knows its network" in capsys.readouterr().err


def test_images_that_all_fail_are_a_run_with_its_reasons(place, tmp_path, capsys):
    given = ["score", "images/0.png", "--weights", "own.py:make", *WORDS]
    out = str(tmp_path / "run.zarr")
    assert main([*given, "--min-probability", "0.999", "--out", out]) == 3
    assert main(["score", out]) == 3
    told = f"nothing was explained, or is scored; `segcam show {out}` tells why"
    assert capsys.readouterr().err.count(told) == 2


def test_the_seed_of_a_study_is_that_of_its_scores(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "study.toml").write_text("seed = 7")
    words = ("--method", "input_x_gradient", "--tap", "hidden", "--metric", "entropy")
    given = ["score", "images/0.png", "--weights", "own.py:make", *FORM, *words]
    given += ["--config", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run.zarr")]
    seeds, compute = [], Scoring.compute
    monkeypatch.setattr(
        Scoring, "compute", lambda self, *a, **k: seeds.append(self.seed) or compute(self, *a, **k)
    )
    assert main(given) == 0
    assert open_store(tmp_path / "run.zarr").manifest.options["seed"] == 7
    assert seeds == [7]
    assert "only one image has scores, so there are no intervals" in capsys.readouterr().err
    (alone,) = ranking(tmp_path / "run.zarr").filter(polars.col("tap") == "input").to_dicts()
    assert (alone["low"], alone["high"]) == (None, None)
    assert not (tmp_path / "run.zarr" / "scores" / "agreement.png").exists()


def test_a_folder_that_cannot_be_written_stays_that_fault(monkeypatch):
    def refused(_):
        raise FileError("'out' cannot be written")

    monkeypatch.setattr(score_command.sweep, "opened_of", refused)
    words = ["a.png", "--weights", "b"]
    with pytest.raises(FileError, match="cannot be written"):
        score_command.score(commands.parse(commands.COMMANDS["score"], "score", words))


def test_options_of_methods_and_of_metrics_are_told_apart():
    words = ["a.png", "--weights", "b", "--method-option", "steps=3", "--option", "steps=4"]
    command = commands.parse(commands.COMMANDS["score"], "score", words)
    assert command.option == ("steps=4",)
    assert _study(command).option == ("steps=3",)


def test_images_and_a_stored_run_are_told_apart(place, run, capsys):
    for words, said in (
        (["images"], "'images' is not a stored run; give one, or the network of images (--weights"),
        (["run.zarr", "--tap", "hidden"], "--tap says how images are explained, and 'run.zarr' is"),
        (["run.zarr", "--out", "new.zarr"], "--out says how images are explained"),
        (["run.zarr", "--class", "1"], "--class says how images are explained"),
        (["run.zarr", "--method-option", "steps=2"], "--method-option says how images are"),
        (["run.zarr", "--weights", "own.py:make"], "is a stored run, and knows its network"),
        (["run.zarr", "run.zarr"], "name one stored run, or images and their network (--weights)"),
        ([], "name one stored run, or images and their network (--weights)"),
    ):
        assert main(["score", *words]) == 2
        assert said in capsys.readouterr().err


def test_maps_of_all_taps_take_one_program(run, monkeypatch):
    kept = Recent(99)
    monkeypatch.setattr(engine_programs, "_PROGRAMS", kept)
    stored = open_store(run)
    assert {stored.map(0, tap, stored.methods(tap)[0]).shape for tap in stored.taps} == {(16, 16)}
    Scoring(stored, measures(("deletion",), ("steps=4",))).compute()
    assert len(kept._values) == 1


PADDED = """
import jax.numpy as jnp
import segcam_jax as segcam

def make():
    def fn(params, x):
        blocks = x.reshape(x.shape[0] // 4, 4, x.shape[1] // 4, 4, 1).mean((1, 3))
        hidden = segcam.tap(jnp.repeat(jnp.repeat(blocks, 4, 0), 4, 1), "hidden")
        one = params * hidden[..., 0] - 1
        return jnp.stack([jnp.zeros_like(one), one], -1)

    return fn, jnp.float32(2)
"""


def test_the_padding_is_not_outside_of_a_region(tmp_path):
    """13 x 14 are mirrored to 16 x 16 for the network; a quarter of that is padding."""
    values = np.random.default_rng(0).integers(60, 180, (13, 14)).astype(np.uint8)
    values[4:8] = 230
    Image.fromarray(values).save(tmp_path / "image.png")
    (tmp_path / "own.py").write_text(PADDED)
    out = tmp_path / "run.zarr"
    network = ("--weights", f"{tmp_path / 'own.py'}:make", "--channels", "1", "--class", "1")
    given = ("sweep", str(tmp_path / "image.png"), *network, "--method", "input_x_gradient")
    assert main([*given, "--out", str(out)]) == 0
    score(out, "--metric", "mass_accuracy", "rank_accuracy", "--no-controls")
    stored = open_store(out)
    map, region = stored.map(0, "input", "input_x_gradient"), stored.region(0)
    assert (map.shape, region.shape) == ((16, 16), (13, 14))
    assert 0 < region.mean() < 1
    seen = map[:13, :14].clip(0)
    found = ranking(out)
    place = found.filter(polars.col("metric") == "mass_accuracy")
    np.testing.assert_allclose(place["mean"][0], seen[region].sum() / seen.sum(), rtol=1e-5)
    largest = np.sort(seen.ravel())[-region.sum()]
    place = found.filter(polars.col("metric") == "rank_accuracy")
    np.testing.assert_allclose(place["mean"][0], (seen[region] >= largest).mean(), rtol=1e-5)
