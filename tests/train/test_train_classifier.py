import csv
import dataclasses
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import segcam_jax as segcam
from tests.support import tfrecords

pytest.importorskip("grain")
pytest.importorskip("google_crc32c")

from segcam_jax import models
from segcam_jax.models import stored
from segcam_jax.models.resnet import model as resnet_model
from segcam_jax.types import InputError
from train import classifier, loop, steps
from train.classifier import (
    ClassifierConfig,
    data as classifier_data,
    model as classifier_model,
    task,
)
from train.data import tfrecord
from train.reports import class_scores, class_table, confusion_figure

SIZE = 32
COUNTS = {"dark": 7, "bright": 8, "striped $1": 9}
TINY: dict[str, Any] = {
    "model": "resnet18",
    "width": 2,
    "size": SIZE,
    "channels": 1,
    "folds": 2,
    "epochs": 2,
    "batch": 5,
    "momentum": 0.9,
}


def drawn(name, number):
    noise = np.random.default_rng((len(name), number)).integers(0, 60, (SIZE, SIZE), np.uint8)
    level = {"dark": 0, "bright": 190}.get(name)
    return noise + (np.indices((SIZE, SIZE))[0] % 4 // 2 * 190 if level is None else level)


def write_folders(root, counts=COUNTS):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(drawn(name, number).astype(np.uint8))
            image.save(root / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True, scope="module")
def _standard_promotion():
    """Optax divides the integer step by a float, and Flax's mean pooling a float by an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _few_blocks():
    """Of a ResNet-18's eight blocks one a stage stays: the others repeat what it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet_model.BLOCKS, 18, (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = ClassifierConfig(data=(data,), out=out / "run", export=out / "w.safetensors", **TINY)
    return config, classifier.train(config)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def same_weights(one, two):
    found, expected = (c.out / "weights.safetensors" for c in (one, two))
    assert found.read_bytes() == expected.read_bytes()


def test_a_run_writes_all_that_it_promises(whole_run):
    config, metrics = whole_run
    assert metrics == json.loads((config.out / "metrics.json").read_text())
    assert metrics["folds"] == [1, 2]
    assert metrics["images"] == sum(COUNTS.values())
    assert np.sum(metrics["confusion"], axis=1).tolist() == [8, 7, 9]
    for name in ("confusion.png", "fold1/curves.png"):
        assert (config.out / name).read_bytes()[1:4] == b"PNG"
    confusion = list(csv.reader((config.out / "confusion.csv").read_text().splitlines()))
    assert confusion[0][1:] == ["bright", "dark", "striped $1"]
    assert [list(map(int, row[1:])) for row in confusion[1:]] == metrics["confusion"]
    classes = table(config.out / "classes.csv")
    assert [int(row["images"]) for row in classes] == [8, 7, 9]
    assert not [path for path in config.out.rglob(".*") if "checkpoints" not in path.parts]


def test_each_image_is_predicted_once_by_a_network_that_has_not_seen_it(whole_run):
    config, metrics = whole_run
    rows = table(config.out / "predictions.csv")
    assert len({row["image"] for row in rows}) == len(rows) == metrics["images"]
    for row in rows:
        assert row["image"].split("/")[0] == row["class"]
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert metrics["scores"]["accuracy"] == pytest.approx(right / len(rows))
    entropy = np.mean([float(row["cross_entropy"]) for row in rows])
    assert metrics["scores"]["loss"] == pytest.approx(entropy, abs=1e-3)
    images = classifier_data.read_images(config)
    folds = classifier_data.folds_of(images, folds=2, seed=config.seed)
    fold_of = dict(zip(images.names, folds.tolist(), strict=True))
    assert all(int(row["fold"]) == fold_of[row["image"]] for row in rows)


def test_the_weights_open_and_are_those_of_the_best_fold(whole_run):
    config, metrics = whole_run
    model = models.load(config.export)
    assert model.name == "resnet"
    assert model.class_names == ["bright", "dark", "striped $1"]
    assert model.metadata["input_range"] == [0, 1]
    assert model.metadata["fold"] == metrics["best_fold"]
    best = config.out / f"fold{metrics['best_fold']}"
    assert config.export.read_bytes() == (best / "weights.safetensors").read_bytes()
    images = classifier_data.read_images(config)
    rows = {row["image"]: row for row in table(best / "predictions.csv")}
    forward = jax.jit(model.fn)
    for index, name in enumerate(images.names):
        if name in rows:
            found = jax.nn.softmax(forward(model.params, jnp.asarray(images[index])))
            assert model.class_names[int(found.argmax())] == rows[name]["predicted"]
            assert float(found.max()) == pytest.approx(float(rows[name]["probability"]), abs=1e-3)


def test_the_weights_are_explained(whole_run):
    model = models.load(whole_run[0].export)
    x = jnp.asarray(classifier_data.read_images(whole_run[0])[0])
    split = segcam.split(model.fn, "features/relu", model.params, x)
    found = segcam.methods.grad_cam(split, model.params, x, segcam.targets.whole_image(1))
    assert found.map.shape == (1, 1)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    batches = loop.batches

    def interrupted(source, *, batch, start):
        for step, item in enumerate(batches(source, batch=batch, start=start), start=start + 1):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr(loop, "batches", interrupted)
    # Every start is stopped after a step or two, in one fold and then in the other.
    assert classifier.train(config) is None
    assert not (config.out / "metrics.json").exists()
    assert classifier.train(config) is None
    assert (config.out / "fold1" / "metrics.json").exists()
    monkeypatch.setattr(loop, "batches", batches)
    assert classifier.train(config) == whole_run[1]
    same_weights(config, whole_run[0])


def test_a_killed_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    save = loop.Checkpoints.save

    # The best is saved just before the last: what a kill between the two leaves behind.
    def killed(self, name, state, history):
        if name == "last" and len(history) == 2:
            raise KeyboardInterrupt
        save(self, name, state, history)

    monkeypatch.setattr(loop.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        classifier.train(config)
    monkeypatch.setattr(loop.Checkpoints, "save", save)
    export = tmp_path / "mine.safetensors"
    kept = [tmp_path / ".0badcafe.other.safetensors", config.out / ".hidden"]
    half = [config.out / ".0badcafe.config.json", config.out / "fold1" / ".0badcafe.curves.png"]
    half.append(tmp_path / f".0badcafe.{export.name}")
    for path in (*kept, *half):
        path.write_bytes(b"half")
    assert classifier.train(dataclasses.replace(config, export=export)) == whole_run[1]
    same_weights(config, whole_run[0])
    assert [path.exists() for path in (*kept, *half)] == [True] * 2 + [False] * 3


def test_folds_can_be_trained_one_by_one(whole_run, tmp_path):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None, only=(2,))
    metrics = classifier.train(config)
    assert metrics is not None
    assert metrics["folds"] == [2]
    assert metrics["images"] == 12
    assert classifier.train(dataclasses.replace(config, only=(1,))) == whole_run[1]


def test_the_run_of_another_configuration_or_data_set_is_refused(whole_run, tmp_path):
    config = whole_run[0]
    before = (config.out / "metrics.json").read_bytes()
    with pytest.raises(InputError, match="another learning_rate"):
        classifier.train(dataclasses.replace(config, learning_rate=0.5))
    other = write_folders(tmp_path / "data", COUNTS | {"dark": 8})
    with pytest.raises(InputError, match="another data;"):
        classifier.train(dataclasses.replace(config, data=(other,)))
    same = write_folders(tmp_path / "moved")
    assert classifier.train(dataclasses.replace(config, data=(same,))) == whole_run[1]
    assert (config.out / "metrics.json").read_bytes() == before


def test_tfrecords_are_trained_on_too(tmp_path):
    pixels = [np.full((SIZE, SIZE, 3), 200.0 * (n % 2), np.float32) for n in range(4)]
    with (tmp_path / "a.tfrecords").open("wb") as file:
        for number, each in enumerate(pixels):
            data = tfrecords.record(each, number % 2, f"class {number % 2}/{number}.png")
            length = len(data).to_bytes(8, "little")
            sums = [tfrecord.masked_checksum(part).to_bytes(4, "little") for part in (length, data)]
            file.write(length + sums[0] + data + sums[1])
    for given in ((tmp_path,), (tmp_path / "a.tfrecords",)):
        config = ClassifierConfig(data=given, **TINY | {"channels": 3})
        images = classifier_data.read_images(config)
        assert images.class_names == ("class 0", "class 1")
        np.testing.assert_array_equal(images[1], pixels[1] / np.float32(255))
    with pytest.raises(InputError, match="is a folder; give one folder, or TFRecord files"):
        classifier_data.read_images(dataclasses.replace(config, data=(tmp_path, tmp_path)))


def test_folds_are_stratified_and_balanced(data):
    images = classifier_data.read_images(ClassifierConfig(data=(data,), **TINY))
    fold_of = classifier_data.folds_of(images, folds=5, seed=3)
    assert np.ptp(np.bincount(fold_of)[1:]) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(fold_of[images.labels == label], minlength=6)[1:]) <= 1
    np.testing.assert_array_equal(fold_of, classifier_data.folds_of(images, folds=5, seed=3))
    assert (fold_of != classifier_data.folds_of(images, folds=5, seed=4)).any()


def test_each_epoch_shows_each_image_once_in_another_order(data):
    config = ClassifierConfig(data=(data,), **TINY | {"augment": "dihedral"})
    images = classifier_data.read_images(config)
    members = np.arange(3, 16)
    source = classifier_data.TrainingImages(config, images, members, 1)
    assert len(source) == 6 * 5  # two epochs of 13 in batches of 5
    sums = [float(np.sum(source[position][0], dtype=np.float64)) for position in range(26)]
    expected = sorted(float(np.sum(images[n], dtype=np.float64)) for n in members)
    assert sorted(sums[:13]) == pytest.approx(expected)
    assert sorted(sums[13:]) == pytest.approx(expected)
    assert sums[:13] != pytest.approx(sums[13:])
    np.testing.assert_array_equal(source[20][0], source[20][0])
    stream = list(loop.batches(source, batch=5, start=2))
    assert len(stream) == 4
    np.testing.assert_array_equal(stream[0][0][1], source[11][0])


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_augmentation_makes_all_its_images(kind, count):
    image = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
    found = {
        classifier_data.augmented(image, kind, np.random.default_rng(seed)).tobytes()
        for seed in range(100)
    }
    assert len(found) == count


def test_a_step_is_sgd_with_momentum(whole_run):
    config = whole_run[0]
    run = classifier.prepare(config)
    network = run.network
    image = jnp.asarray(np.stack([run.images[n] for n in range(0, 20, 4)]))
    label = jnp.asarray(run.images.labels[:20:4])

    def loss(params):
        model = nnx.merge(network.graph, params, network.rest, copy=True)
        return -jax.nn.log_softmax(model(image))[jnp.arange(5), label].mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(network.params)
    optimizer = steps.sgd(config.learning_rate, 0.9, None)
    start = network.start(optimizer)
    ones = jax.tree.map(jnp.ones_like, start.optimizer_state)
    static = {"graph": network.graph, "trained": network.trained, "optimizer": optimizer}
    after = steps.compiled_step(
        dataclasses.replace(start, optimizer_state=ones),
        image, label, **static, loss=task.cross_entropy,
    )  # fmt: skip
    trees = (network.params, gradient, after.optimizer_state, after.params)
    for before, slope, velocity, moved in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(velocity, 0.9 + slope, atol=1e-3 * (1 + np.abs(slope).max()))
        np.testing.assert_allclose(
            moved, before - np.float32(config.learning_rate) * velocity, atol=1e-6
        )
    assert float(after.loss_sum) == pytest.approx(float(value), rel=1e-5)
    moved = zip(*map(jax.tree.leaves, (after.rest, network.rest)), strict=True)
    assert all(not np.array_equal(one, two) for one, two in moved)


def test_the_rate_stays_or_falls_along_a_cosine():
    gradient = jnp.ones(())
    for count, expected in ((None, [0.4, 0.4, 0.4]), (10, [0.4, 0.2, 0.0])):
        optimizer = steps.sgd(0.4, 0.0, count)
        rates, state = [], optimizer.init(gradient)
        for _ in range(11):
            update, state = optimizer.update(gradient, state)
            rates.append(-float(update))
        assert rates[::5] == pytest.approx(expected)


def test_a_run_continues_from_weights_of_other_classes(whole_run, data, tmp_path):
    config = whole_run[0]
    names = ("one", "two")
    fresh = dataclasses.replace(config, start=str(config.export), seed=5)
    _, model = classifier_model.make_model(fresh, names)
    assert model.config.classes == 2
    given = models.NETWORKS["resnet"].load(config.export)[0]
    mine, theirs = stored.tensors(model), stored.tensors(given)
    for name in mine:
        if not name.startswith("head/"):
            np.testing.assert_array_equal(mine[name][...], theirs[name][...])
    _, again = classifier_model.make_model(fresh, tuple(whole_run[1]["classes"]))
    np.testing.assert_array_equal(again.head.kernel[...], given.head.kernel[...])

    frozen = dataclasses.replace(
        fresh, freeze=True, out=tmp_path / "run", export=None, only=(1,), epochs=1
    )
    assert classifier.train(frozen) is not None
    trained = models.NETWORKS["resnet"].load(frozen.out / "weights.safetensors")[0]
    for name, tensor in stored.tensors(trained).items():
        unchanged = np.array_equal(tensor[...], theirs[name][...])
        assert unchanged != name.startswith("head/"), name


def test_the_head_of_fast_ablation_cam_is_the_default_of_densenets():
    config = ClassifierConfig(data=(), growth=2, channels=1)
    shape = classifier_model.model_config(config, 3, None)
    assert (shape.depth, shape.classes, shape.normalisation) == (169, 3, "symmetric")
    assert shape.hidden == 104  # of 1664 / 16
    plain = dataclasses.replace(config, hidden=0, channels=3)
    shape = classifier_model.model_config(plain, 3, None)
    assert (shape.hidden, shape.normalisation) == (0, "imagenet")


@pytest.mark.slow
def test_two_steps_of_densenet_169(tmp_path):
    data = write_folders(tmp_path / "data", {"dark": 2, "bright": 2})
    config = ClassifierConfig(
        data=(data,), out=tmp_path / "run", size=32, folds=2, only=(1,), epochs=2, batch=2
    )
    assert classifier.train(config) is not None
    model = models.load(config.out / "weights.safetensors")
    assert model.config.depth == 169
    assert model.config.hidden == 1664
    assert model.config.normalisation == "imagenet"


BAD = {
    "unknown model": ({"model": "resnet19"}, "unknown model 'resnet19'; choose from resnet1"),
    "unknown option": ({"growth": 4}, "resnet18 has no `growth`"),
    "small images": ({"size": 16}, "needs at least 32 x 32"),
    "many folds": ({"folds": 8}, "`folds` is 8, but class 'dark' has 7 image"),
    "grey": ({"normalisation": "imagenet"}, "normalisation 'imagenet' is for 3 channels"),
    "no weights": ({"start": "none.safetensors"}, "neither a file nor bundled"),
    "other weights": (
        {"start": "efficientnet-lite0-imagenet"},
        "holds model 'efficientnet_lite', the run is of 'resnet'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_writes_nothing(kind, data, tmp_path):
    settings, message = BAD[kind]
    config = ClassifierConfig(data=(data,), out=tmp_path / "run", **TINY | settings)
    with pytest.raises(InputError, match=message):
        classifier.train(config)
    assert not config.out.exists()


def test_weights_of_another_shape_are_refused(whole_run, data):
    config = dataclasses.replace(whole_run[0], start=str(whole_run[0].export))
    for field, value in (("width", 3), ("model", "resnet34"), ("channels", 3)):
        other = dataclasses.replace(config, **{field: value})
        with pytest.raises(InputError, match="they must be the same"):
            classifier_model.make_model(other, ("a", "b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ()}, "`data` is empty"),
        ({"folds": 1}, "`folds` is 1; give at least 2"),
        ({"epochs": 0}, "`epochs` is 0"),
        ({"batch": 0}, "`batch` is 0"),
        ({"seed": -1}, "`seed` is -1; give a number from 0"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"scale": float("inf")}, "`scale` is inf"),
        ({"width": 0}, "`width` is 0"),
        ({"growth": 0}, "`growth` is 0"),
        ({"momentum": 1.0}, "`momentum` is 1"),
        ({"only": (6,)}, "fold 6; folds are 1 to 5"),
        ({"freeze": True}, "give `start`"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        classifier.prepare(ClassifierConfig(**{"data": (Path("none"),)} | settings))


def test_images_of_several_sizes(tmp_path):
    root = write_folders(tmp_path / "data")
    Image.new("L", (40, 33)).save(root / "dark" / "wide.png")
    config = ClassifierConfig(data=(root,), **TINY)
    assert classifier_data.read_images(config).extents[0] == (SIZE, SIZE)
    own = dataclasses.replace(config, size=None)
    with pytest.raises(InputError, match="several sizes, 32 x 32 and 33 x 40.*give `size`"):
        classifier_data.read_images(own)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["classifier", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("train.classifier", run_name="__main__")
    return stop.value.code


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        ("--data", empty),
        ("--data", tmp_path / "none"),
        ("--data", empty, "--folds", 1),
        ("--data", write_folders(tmp_path / "one", {"dark": 3})),
    ):
        assert run_main(monkeypatch, *arguments, "--out", tmp_path / "run") == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_scores_against_hand_counted_ones():
    matrix = np.array([[3, 1, 0], [1, 1, 0], [2, 0, 0]])
    found = class_scores(matrix)
    assert found["accuracy"] == pytest.approx(4 / 8)
    assert found["by_class"]["precision"] == pytest.approx([3 / 6, 1 / 2, 0])
    assert found["by_class"]["recall"] == pytest.approx([3 / 4, 1 / 2, 0])
    assert found["by_class"]["f1"] == pytest.approx([6 / 10, 1 / 2, 0])
    assert found["f1"] == pytest.approx((0.6 + 0.5) / 3)
    rows = class_table(matrix, ["a", "b", "c"])
    assert rows["mostly_taken_for"].to_list() == ["b", "a", "a"]
    assert rows["correct"].to_list() == [3, 1, 0]
    assert class_table(np.diag([1, 2]), ["a", "b"])["mostly_taken_for"].to_list() == [None, None]


def test_the_figure_takes_any_number_of_classes():
    for count in (2, 40):
        figure = confusion_figure(np.eye(count, dtype=int), [f"class ${n}" for n in range(count)])
        assert segcam_pixels(figure).std() > 0


def segcam_pixels(figure):
    from segcam_jax import viz

    return viz.to_array(figure, dpi=40)


def test_the_example_images(tmp_path):
    pytest.importorskip("skimage")
    from train.classifier import samples as classifier_samples

    assert classifier_samples.write("textures", tmp_path / "textures") == 192
    assert len(list(Path(tmp_path / "textures" / "grass").iterdir())) == 64
    with pytest.raises(InputError, match="is there already"):
        classifier_samples.write("digits", tmp_path / "textures")
