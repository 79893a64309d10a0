import dataclasses
import json
import os
import signal
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
from segcam_jax.types import InputError
from train import quality, running, steps, texture_mnist
from train.data.texture_mnist import CLASSES, TextureMnist, TextureMnistConfig
from train.texture_mnist import TrainConfig

TINY: dict[str, Any] = {
    "steps": 4,
    "batch": 10,
    "depth": 1,
    "width": 2,
    "evaluate_every": 2,
    "evaluate_samples": 10,
    "score_samples": 20,
}


@pytest.fixture(autouse=True)
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
        split="test", samples=6, bias=(texture_mnist.PLANTED,), exclude_bias_textures=True,
        digit_rounding=config.digit_rounding,
    )  # fmt: skip
    held_out = TextureMnist(data).batch(range(6))
    one_by_one = [np.asarray(model.fn(model.params, x)).argmax(-1) for x in held_out.image]
    assert found["accuracy"] == pytest.approx(float(np.mean(one_by_one == held_out.label)))
    assert f"pixel accuracy {found['accuracy']:.4f}" in capsys.readouterr().out
    with pytest.raises(InputError, match="samples is 0"):
        quality.QualityConfig("x", samples=0)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    batches = texture_mnist.batches

    def interrupted(config, *, start):
        for step, batch in enumerate(batches(config, start=start), start=start + 1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(texture_mnist, "batches", interrupted)
    assert texture_mnist.train(config) is None
    monkeypatch.setattr(texture_mnist, "batches", batches)
    assert texture_mnist.train(config) == whole_run[1]
    assert_same_weights(config, whole_run[0])


def test_a_killed_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    save = running.Checkpoints.save

    # The best is saved just before the last: what a kill between the two leaves behind.
    def killed(self, name, step, state, history):
        if (name, step) == ("last", 4):
            raise KeyboardInterrupt
        save(self, name, step, state, history)

    monkeypatch.setattr(running.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        texture_mnist.train(config)
    monkeypatch.setattr(running.Checkpoints, "save", save)
    assert texture_mnist.train(config) == whole_run[1]
    assert_same_weights(config, whole_run[0])


def assert_same_weights(config, other):
    found, expected = (weights(c.out / "weights.safetensors")[0] for c in (config, other))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_folder_of_another_configuration_is_refused(whole_run):
    config = dataclasses.replace(whole_run[0], learning_rate=0.5)
    with pytest.raises(InputError, match="another learning_rate"):
        texture_mnist.train(config)


def test_train_step_is_pure_and_updates_batch_statistics():
    config = TrainConfig(**TINY)
    model, optimizer = texture_mnist.make_model(config), optax.sgd(0.1)
    model.train()
    graph, state = nnx.split(model)[0], steps.initial_state(model, optimizer)
    before = jax.tree.map(np.asarray, state)
    batch = next(texture_mnist.batches(config, start=0))
    arguments = (state, jnp.asarray(batch.image), jnp.asarray(batch.label))
    compiled = jax.jit(steps.train_step, static_argnames=("graph", "optimizer", "loss"))
    after = compiled(*arguments, graph=graph, optimizer=optimizer, loss=texture_mnist.cross_entropy)
    for one, two in zip(*map(jax.tree.leaves, (before, state)), strict=True):
        np.testing.assert_array_equal(one, two)
    for part in ("params", "statistics"):
        leaves = (jax.tree.leaves(getattr(s, part)) for s in (state, after))
        assert any(not np.array_equal(one, two) for one, two in zip(*leaves, strict=True))
    assert int(after.step) == 1


def test_batches_are_a_function_of_the_step():
    config = TrainConfig(**TINY)
    everything = list(texture_mnist.batches(config, start=0))
    assert len(everything) == 4
    rest = list(texture_mnist.batches(config, start=3))
    np.testing.assert_array_equal(rest[0].image, everything[3].image)
    assert not np.array_equal(everything[2].image, everything[3].image)


def test_the_variants_differ_in_the_bias_alone():
    biased = texture_mnist.dataset_config(TrainConfig(variant="biased"), "test")
    plain = texture_mnist.dataset_config(TrainConfig(variant="unbiased"), "test")
    assert dataclasses.replace(biased, bias=()) == plain
    assert biased.bias == (texture_mnist.PLANTED,)


def test_a_run_can_start_from_weights(whole_run):
    config = dataclasses.replace(whole_run[0], start=whole_run[0].export, seed=5)
    found = jax.tree.leaves(nnx.state(texture_mnist.make_model(config)))
    for one, two in zip(found, weights(config.start)[0], strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError, match="width=2"):
        texture_mnist.make_model(dataclasses.replace(config, width=3))


@pytest.mark.parametrize("field", ["steps", "batch", "evaluate_every", "learning_rate"])
def test_bad_settings(field):
    settings: dict[str, Any] = {field: 0}
    with pytest.raises(InputError, match=f"`{field}` is 0"):
        TrainConfig(**settings)
