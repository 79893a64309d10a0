import contextlib
import dataclasses
import json
import os
import re
import runpy
import signal
import sys
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

pytest.importorskip("grain")

from segcam_jax import models
from segcam_jax.models.unet import load_unet
from segcam_jax.reports.planted_bias import PLACES
from segcam_jax.types import InputError
from train import loop, reports, steps, texture_mnist
from train.data.texture_mnist import CLASSES, Bias, TextureMnist, TextureMnistConfig
from train.texture_mnist import TrainConfig, bias, quality, task
from train.texture_mnist.config import RECIPES
from train.texture_mnist.data import dataset_config

BIAS = (Bias(2, background_texture="stripes_diagonal"),)
TINY: dict[str, Any] = {
    "steps": 4,
    "batch": 10,
    "depth": 1,
    "width": 2,
    "evaluate_every": 2,
    "evaluate_samples": 10,
    "score_samples": 20,
}


@pytest.fixture(autouse=True, scope="module")
def _standard_promotion():
    """Adam of optax raises a float to the power of its integer step."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def weights(path):
    model, metadata = load_unet(path)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))], metadata


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    config = TrainConfig(variant="biased", out=folder / "run", export=folder / "w.safetensors")
    config = dataclasses.replace(config, **TINY)
    return config, texture_mnist.train(config)


def test_a_run_writes_all_that_it_promises(whole_run):
    config, metrics = whole_run
    assert metrics == json.loads((config.out / "metrics.json").read_text())
    assert [row["step"] for row in metrics["history"]] == [2, 4]
    lines = (config.out / "history.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == metrics["history"]
    assert set(metrics["scores"]["iou"]) == set(CLASSES)
    assert set(metrics["shortcut"]) == {
        "iou_planted",
        "iou_replaced",
        "taken_unplanted",
        "taken_planted",
    }
    assert (config.out / "curves.png").read_bytes()[1:4] == b"PNG"
    _, metadata = weights(config.export)
    assert metadata["classes"] == list(CLASSES)
    assert metadata["variant"] == "biased"
    assert metadata["input_range"] == [0, 1]
    assert metadata["scores"] == metrics["scores"]
    assert metadata["training"]["steps"] == 4


def test_the_quality_of_weights_is_measured(whole_run, tmp_path, capsys):
    """By the scores of a training, on the same samples."""
    config, _ = whole_run
    file = tmp_path / "quality.json"
    asked = quality.QualityConfig(str(config.export), samples=6, json=file)
    found = quality.measure(asked)
    assert json.loads(file.read_text()) == found
    model = models.load(str(config.export))
    data = TextureMnistConfig(
        split="test", samples=6, bias=BIAS, exclude_bias_textures=True,
        digit_rounding=config.digit_rounding,
    )  # fmt: skip
    held_out = TextureMnist(data).batch(range(6))
    one_by_one = [np.asarray(model.fn(model.params, x)).argmax(-1) for x in held_out.image]
    assert found["accuracy"] == pytest.approx(float(np.mean(one_by_one == held_out.label)))
    assert f"pixel accuracy {found['accuracy']:.4f}" in capsys.readouterr().out
    with pytest.raises(InputError, match="`samples` is 0"):
        quality.measure(quality.QualityConfig("x", samples=0))


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    batches = loop.batches

    def interrupted(source, *, start, **options):
        for step, batch in enumerate(batches(source, start=start, **options), start=start + 1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(loop, "batches", interrupted)
    assert texture_mnist.train(config) is None
    monkeypatch.setattr(loop, "batches", batches)
    assert texture_mnist.train(config) == whole_run[1]
    assert_same_weights(config, whole_run[0])


def test_a_killed_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    save = loop.Checkpoints.save

    # The best is saved just before the last: what a kill between the two leaves behind.
    def killed(self, name, state, history):
        if (name, int(state.step)) == ("last", 4):
            raise KeyboardInterrupt
        save(self, name, state, history)

    monkeypatch.setattr(loop.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        texture_mnist.train(config)
    monkeypatch.setattr(loop.Checkpoints, "save", save)
    assert texture_mnist.train(config) == whole_run[1]
    assert_same_weights(config, whole_run[0])


@pytest.mark.parametrize("error", [RuntimeError, zlib.error, KeyError, MemoryError])
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, monkeypatch, error):
    def broken(*given, **options):
        raise error("garbled")

    with contextlib.closing(loop.Checkpoints(tmp_path)) as checkpoints:
        manager = checkpoints._managers["last"]
        monkeypatch.setattr(manager, "latest_step", lambda: 4)
        monkeypatch.setattr(manager, "restore", broken)
        if error is MemoryError:  # It says nothing of the file.
            with pytest.raises(MemoryError, match="garbled"):
                checkpoints.load("last", {})
            return
        with pytest.raises(InputError, match=r"last/4' cannot be read; .* \('?garbled") as found:
            checkpoints.load("last", {})
        assert isinstance(found.value.__cause__, error)


def assert_same_weights(config, other):
    found, expected = (c.out / "weights.safetensors" for c in (config, other))
    assert found.read_bytes() == expected.read_bytes()


def test_the_folder_of_another_configuration_is_refused(whole_run):
    config = dataclasses.replace(whole_run[0], learning_rate=0.5)
    with pytest.raises(InputError, match="another learning_rate"):
        texture_mnist.train(config)


def test_train_step_is_pure_and_updates_batch_statistics():
    training = task.prepare(TrainConfig(**TINY))
    network, optimizer = training.network, optax.sgd(0.1)
    state = network.start(optimizer)
    before = jax.tree.map(np.asarray, state)
    image, label = next(training.batches(0))
    static = {"graph": network.graph, "trained": network.trained, "optimizer": optimizer}
    compiled = jax.jit(steps.train_step, static_argnames=(*static, "loss"))
    after = compiled(
        state, jnp.asarray(image), jnp.asarray(label), **static, loss=task.cross_entropy
    )
    for one, two in zip(*map(jax.tree.leaves, (before, state)), strict=True):
        np.testing.assert_array_equal(one, two)
    for part in ("params", "rest"):
        leaves = (jax.tree.leaves(getattr(s, part)) for s in (state, after))
        assert any(not np.array_equal(one, two) for one, two in zip(*leaves, strict=True))
    assert int(after.step) == 1


def test_batches_are_a_function_of_the_step():
    training = task.prepare(TrainConfig(**TINY))
    everything = list(training.batches(0))
    assert len(everything) == 4
    rest = list(training.batches(3))
    np.testing.assert_array_equal(rest[0][0], everything[3][0])
    assert not np.array_equal(everything[2][0], everything[3][0])


def test_the_variants_differ_in_the_bias_alone():
    biased = dataset_config(TrainConfig(variant="biased"), "test")
    plain = dataset_config(TrainConfig(variant="unbiased"), "test")
    assert dataclasses.replace(biased, bias=()) == plain
    assert biased.bias == BIAS


def test_every_biased_digit_has_a_texture_of_its_own():
    several = dataset_config(TrainConfig(variant="biased", biased_digits=(2, 3, 5)), "test")
    textures = {bias.digit: bias.background_texture for bias in several.bias}
    assert list(textures) == [2, 3, 5]
    samples = TextureMnist(several)
    for index in range(30):
        tiles = {crop.texture for crop in samples.layout(index).tiles}
        if index % 10 in textures:  # Its other half is of any texture, as in the source.
            assert textures[index % 10] in tiles
        else:
            assert not tiles & {*textures.values()}
    with pytest.raises(InputError, match="needs --variant biased"):
        TrainConfig(biased_digits=(3,)).check()
    for digits in ((), (2, 2), (10,), (-1,), (0, 1, 2, 3, 4, 5)):
        with pytest.raises(InputError, match="one to 5 digits, each once"):
            TrainConfig(variant="biased", biased_digits=digits).check()


def test_published_recipes():
    first, second = (TrainConfig(**RECIPES[name]) for name in ("published-500", "published-300"))
    assert (first.biased_digits, second.biased_digits) == ((1, 2, 3), (2,))
    # An epoch is 50,000 images.
    assert (first.steps * first.batch / 50_000, second.steps * second.batch / 50_000) == (200, 300)
    for config in (first, second):
        config.check()
        assert (config.depth, config.width, config.schedule) == (4, 32, "constant")


def test_a_run_can_start_from_weights(whole_run):
    config = dataclasses.replace(whole_run[0], start=whole_run[0].export, seed=5)
    found = jax.tree.leaves(nnx.state(task.make_model(config)))
    for one, two in zip(found, weights(config.start)[0], strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError, match="width=2"):
        task.make_model(dataclasses.replace(config, width=3))


BAD = [
    *((field, 0) for field in ("steps", "batch", "evaluate_every", "learning_rate", "width")),
    *(("learning_rate", value) for value in (float("nan"), float("inf"), -1.0)),
    *(("jitter", value) for value in (float("nan"), float("inf"), -1.0)),
    *(("depth", value) for value in (0, 7, 9)),
    *((field, -1) for field in ("seed", "workers")),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_settings_are_refused_before_a_folder_is_made(field, value, tmp_path):
    settings: dict[str, Any] = {"out": tmp_path / "run", field: value}
    with pytest.raises(InputError, match=f"`{field}` is {value}; "):
        texture_mnist.train(TrainConfig(**settings))
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for module, arguments in {
        "train.texture_mnist": ("--learning-rate", "nan"),
        "train.quality": ("--weights", "texture-mnist-biased", "--samples", "0"),
        "train.lesions": ("--spacing", "inf"),
        "train.lesions_study": ("--sigma", "nan"),
        "train.lesions_samples": ("--index", "-1"),
        "train.classifier": ("--data", "x", "--width", "0"),
        "train.classifier_samples": ("digits", str(tmp_path)),
    }.items():
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__")
        assert stop.value.code == 2
        assert re.fullmatch(r"segcam: error: .* is .*\n", capsys.readouterr().err), module
    assert not list(tmp_path.iterdir())


def test_saliency_in_the_planted_texture_is_a_row_per_sample(tmp_path):
    out = tmp_path / "bias.csv"
    told = bias.Proportions(
        "texture-mnist-biased", out, 2, tap=("encoder4",), integrated_gradients=False
    )
    rows = bias.measure(told)
    assert [(row["image"], row["class"]) for row in rows] == [(0, "2"), (1, "2")]
    for row in rows:
        assert sum(row[f"{name}_per_area"] for name in PLACES) == pytest.approx(1)
        assert sum(row[name] for name in PLACES) == pytest.approx(1)
        assert row["biased_per_area"] > 2 * row["unbiased_per_area"]  # What it was trained to do.
    written = reports.read_table(out)
    assert written.columns == list(rows[0])
    assert [float(x) for x in written["biased"]] == [row["biased"] for row in rows]
    with pytest.raises(InputError, match="tell of no bias"):
        bias.measure(dataclasses.replace(told, weights="texture-mnist-unbiased"))
