"""`segcam score`: a stored run, measured; a planted truth is ranked first, a random map last."""

import shutil

import numpy as np
import polars
import pytest
from PIL import Image

import segcam_jax as segcam
from segcam_jax import metrics
from segcam_jax.cli import main
from segcam_jax.reports import scores as report
from segcam_jax.runs import open_store
from segcam_jax.runs.scores import SCHEMA, Scoring, measures
from segcam_jax.types import InputError

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
    for name in ("ranking.png", "curves.png"):
        assert (run / "scores" / name).stat().st_size > 1000
    pairs = polars.read_csv(run / "scores" / "agreement.csv")
    assert len(pairs) == 3


def test_a_scoring_goes_on_and_metrics_are_added(run, monkeypatch):
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


def test_what_explains_again_is_scored_too(run):
    score(run, "--metric", "parameter_randomisation", "max_sensitivity", "--option", "samples=2")
    found = ranking(run)
    assert "random map" not in found["method"].to_list()
    assert found["images"].to_list() == [3] * 4


def test_faults_are_one_line(place, run, tmp_path, capsys):
    for words, said in (
        (("--metric", "deletions"), "unknown metric 'deletions'; choose from deletion"),
        (("--option", "size=2"), "no metric here has it; they have"),
        (("--option", "steps"), "give NAME=VALUE"),
    ):
        score(run, *words, code=2)
        assert said in capsys.readouterr().err
    score(run, "--metric", "deletion", "--option", "steps=257", code=3)
    assert "there are 256 positions to remove" in capsys.readouterr().err
    given = ["sweep", "images", "--weights", "own.py:classify", "--tap", "hidden", *FORM]
    out = tmp_path / "classes.zarr"
    assert main([*given, "--out", str(out)]) == 3
    capsys.readouterr()
    score(out, "--metric", "dice_deletion", code=2)
    assert "needs a region, and own-classify classifies" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown metric"):
        measures(["nothing"])


def _scores(rows):
    names = ("row", "item", "method", "tap", "metric", "value")
    return polars.DataFrame(
        [dict(zip(names, row, strict=True)) for row in rows], schema=dict(SCHEMA)
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
    assert (first.method, first.mean, first.images, first.undefined) == ("a", 2.0, 2, 0)
    assert (first.wins, first.worst, first.place) == (0.5, "0", 1)
    assert (first.low, first.high) == (1.0, 3.0)
    assert (second.method, second.mean, second.images, second.undefined) == ("b", 2.0, 1, 1)
    assert second.wins == 1
    assert [card.wins for card in made[2:]] == [1, 1]  # A tie is won by both.


def test_kendalls_tau_of_rankings_by_hand(run):
    means = {"insertion": [3, 2, 1], "deletion": [1, 2, 3], "road": [3, 1, 2]}
    rows = [
        (0, 0, method, "t", metric, float(value))
        for metric, values in means.items()
        for method, value in zip("abc", values, strict=True)
    ]
    made = report.cards(open_store(run), _scores(rows))
    found = {(a, b): tau for a, b, tau in report.agreement(made)}
    # Deletion is better where it is lower: it agrees with insertion.
    assert found["insertion", "deletion"] == pytest.approx(1)
    assert found["insertion", "road"] == pytest.approx(1 / 3)
