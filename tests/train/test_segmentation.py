import csv
import dataclasses
import json
import os
import runpy
import signal
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("grain")

from segcam_jax import models
from segcam_jax.data.images import pad_to_multiple
from segcam_jax.types import InputError
from tests.train.test_segmented import write_cityscapes
from train import loop, segmentation, steps
from train.segmentation import RECIPES, SegmentationTraining, data as seen, task

SIZE = 16
TINY: dict[str, Any] = {
    "channels": 1,
    "depth": 1,
    "width": 2,
    "epochs": 2,
    "batch": 4,
    "held_out_share": 0.25,
}


def write_folder(root, *, count=8, palette=False, size=(SIZE, SIZE)):
    """Bright squares on noise; of a palette mask the left half of a square has class 2."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        image, mask = generator.integers(0, 80, size, np.uint8), np.zeros(size, np.uint8)
        top, left = generator.integers(0, SIZE - 8, 2)
        image[top : top + 8, left : left + 8] += 150
        mask[top : top + 8, left : left + 8] = 1 if palette else 255
        mask[top : top + 8, left : left + 4] *= 2 if palette else 1
        Image.fromarray(image).save(root / "images" / f"part{number}.png")
        drawn = Image.fromarray(mask)
        if palette:
            drawn = drawn.convert("P")
            drawn.putdata(mask.ravel().tolist())
            drawn.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        drawn.save(root / "masks" / f"truth{number}.png")
    return root


@pytest.fixture(autouse=True, scope="module")
def _standard_promotion():
    """Adam of optax raises a float to the power of its integer step."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Of palette masks, and images whose extents are no multiples of two."""
    out = tmp_path_factory.mktemp("run")
    root = write_folder(out / "data", palette=True, size=(17, 20))
    settings = {"out": out / "run", "export": out / "w.safetensors", "schedule": "plateau"}
    config = SegmentationTraining(data=root, **settings, **TINY)
    return config, segmentation.train(config)


def same_weights(one, two):
    found, expected = (c.out / "weights.safetensors" for c in (one, two))
    assert found.read_bytes() == expected.read_bytes()


def test_a_run_writes_all_that_it_promises(whole_run):
    config, metrics = whole_run
    assert metrics == json.loads((config.out / "metrics.json").read_text())
    assert metrics["images"] == {"trained_on": 6, "scored": 2}
    assert len(set(metrics["held_out"])) == 2
    lines = (config.out / "history.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == metrics["history"]
    assert [(row["epoch"], row["step"]) for row in metrics["history"]] == [(1, 2), (2, 3)]
    assert (config.out / "curves.png").read_bytes()[1:4] == b"PNG"
    rows = list(csv.DictReader((config.out / "classes.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["class 0", "class 1", "class 2"]
    # Padding up to 18 x 20 is not scored.
    assert sum(int(row["pixels"]) for row in rows) == 2 * 17 * 20


def test_the_scores_are_those_of_the_weights_on_held_out_images(whole_run):
    """By the network that `models.load` opens of the run's folder, image by image, in NumPy."""
    config, metrics = whole_run
    model = models.load(config.out)
    assert (model.name, model.class_names) == ("unet", ["class 0", "class 1", "class 2"])
    assert model.metadata["input_range"] == [0, 1]
    assert model.metadata["training"]["size"] is None
    images = seen.read_images(config)
    apart = [images.names.index(name) for name in metrics["held_out"]]
    forward = jax.jit(model.fn)
    losses, overlaps, hits, unions = [], [], np.zeros(3), np.zeros(3)
    for image, labels in map(images.__getitem__, apart):
        logits = np.asarray(forward(model.params, pad_to_multiple(image, 2)), np.float64)[:17]
        truth, found = labels[..., None] == np.arange(3), logits.argmax(-1)[..., None]
        same, either = (found == np.arange(3)) & truth, (found == np.arange(3)) | truth
        hits, unions = hits + same.sum((0, 1)), unions + either.sum((0, 1))
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        common, sizes = (p * truth).sum(), p.sum() + truth.sum()
        overlaps.append([(common + 1) / (sizes - common + 1), (2 * common + 1) / (sizes + 1)])
        by_class = 2 * (p * truth).sum((0, 1)) / (p + truth).sum((0, 1))
        losses.append(1 - by_class.mean() - np.log(p[truth]).mean())
    scores = metrics["scores"]
    assert scores["mean_iou"] == pytest.approx((hits / unions).mean(), abs=1e-6)
    assert scores["held_out_loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    soft = scores["soft_iou"], scores["soft_dice"]
    assert soft == pytest.approx(tuple(np.mean(overlaps, axis=0)), abs=1e-4)


def test_a_stopped_run_resumes_to_the_same_weights(whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    batches = loop.batches

    def interrupted(source, *, start, **options):
        for step, batch in enumerate(batches(source, start=start, **options), start=start + 1):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(loop, "batches", interrupted)
    assert segmentation.train(config) is None
    assert not (config.out / "metrics.json").exists()
    monkeypatch.setattr(loop, "batches", batches)
    assert segmentation.train(config) == whole_run[1]
    same_weights(config, whole_run[0])


def test_a_run_continues_from_the_weights_of_other_classes(whole_run, tmp_path):
    from train.segmentation.model import make_model

    config = dataclasses.replace(whole_run[0], start=whole_run[0].export, seed=7)
    given = models.load(config.export).params
    # The names decide: as many classes of other names have another head.
    for names, equal in (
        (("class 0", "class 1", "class 2"), True),
        (("class 0", "class 2", "class 1"), False),
        (("class 0", "class 1"), False),
    ):
        _, model = make_model(config, names)
        one = model.encoder[0].conv1.conv.kernel[...]
        np.testing.assert_array_equal(one, given["encoder"][0]["conv1"]["conv"]["kernel"][...])
        head = model.head.kernel[...]
        assert head.shape[-1] == len(names)
        assert np.array_equal(head, given["head"]["kernel"][...]) == equal
    with pytest.raises(InputError, match="holds UNetConfig.*the run is of UNetConfig"):
        make_model(dataclasses.replace(config, width=3), ("a", "b"))


@pytest.mark.slow
def test_a_step_of_the_network_with_a_backbone(data, tmp_path):
    """Fewer channels, the settings of the recipe; BatchNorm's statistics move."""
    settings = {**RECIPES["seg-grad-cam-vgg16"], "size": (32, 32), "epochs": 1, "batch": 6}
    config = SegmentationTraining(
        data=data, out=tmp_path / "run", channels=1, width=4, held_out_share=0.25, **settings
    )
    metrics = segmentation.train(config)
    assert metrics is not None
    model = models.load(config.out)
    assert (model.name, model.config.classes, model.config.width) == ("vgg_unet", 2, 4)
    means = model.params["center"][0]["norm"]["mean"][...]
    assert np.abs(means).max() > 0


def test_each_epoch_shows_each_image_once_in_another_order(data):
    config = SegmentationTraining(data=data, **TINY | {"zoom": 0.0, "colour": 0.0})
    images = seen.read_images(config)
    members = np.arange(2, 8)
    source = seen.TrainingImages(config, images, members, 2)
    assert len(source) == 3 * 4  # two epochs of 6 in batches of 4
    sums = [float(np.sum(source[n][0], dtype=np.float64)) for n in range(12)]
    expected = sorted(float(np.sum(images[n][0], dtype=np.float64)) for n in members)
    assert sorted(sums[:6]) == pytest.approx(expected)
    assert sorted(sums[6:]) == pytest.approx(expected)
    assert sums[:6] != pytest.approx(sums[6:])
    np.testing.assert_array_equal(source[9][0], source[9][0])
    # Another process makes the same batches; it reads images of its own.
    one, other = (list(loop.batches(source, batch=4, start=1, workers=n)) for n in (0, 1))
    assert len(one) == len(other) == 2
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_size_of_cityscapes_is_told_where_none_is_given(tmp_path, monkeypatch):
    root = tmp_path / "cityscapes"
    write_cityscapes(root)
    monkeypatch.setattr(seen, "SIZE", (4, 8))
    config = SegmentationTraining(data=root, out=tmp_path / "run", **TINY | {"channels": 3})
    run = segmentation.prepare(config)
    state = run.training.network.start(run.training.optimizer)
    task.report(run, loop.Fitted(state, {"epoch": 0}, []))
    assert models.load(config.out).metadata["training"]["size"] == [4, 8]
    assert seen.size_of(dataclasses.replace(config, size=(8, 4))) == (8, 4)


@pytest.mark.parametrize("flips", ["none", "horizontal", "both"])
def test_labels_go_where_their_image_goes(flips):
    """Of an image that is its own label map, crops, zooms, flips and mirrors are too."""
    labels = np.kron(np.random.default_rng(0).integers(0, 2, (5, 4)), np.ones((8, 8), int))
    image = labels.astype(np.float32)[..., None]
    for crop in ((16, 24), (48, 48)):
        config = SegmentationTraining(data=None, crop=crop, zoom=0.5, flips=flips, colour=0.0)
        for seed in range(20):
            random = np.random.default_rng(seed)
            found, mask = seen.augmented((image, labels), config, crop, random)
            assert found.shape == (*crop, 1)
            assert mask.shape == crop
            off = np.abs(found[..., 0] - mask)
            # At the borders of squares of 8 pixels, where the image lies between 0 and 1.
            assert (off > 0.5).mean() < 0.02, (flips, crop, seed)


def test_augmentation_makes_all_its_images():
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1) / 12
    for flips, count in (("none", 1), ("horizontal", 2), ("both", 4)):
        config = SegmentationTraining(data=None, zoom=0.0, flips=flips, colour=0.0)
        labels = np.rint(12 * image[..., 0]).astype(int)
        found = set()
        for seed in range(40):
            random = np.random.default_rng(seed)
            pair = seen.augmented((image, labels), config, (3, 4), random)
            np.testing.assert_array_equal(np.rint(12 * pair[0][..., 0]), pair[1])
            found.add(pair[0].tobytes())
        assert len(found) == count
    # Colours: (x - m) a + m + b, of which a and b can be solved for where nothing is clipped.
    config = dataclasses.replace(config, flips="none", colour=0.2)
    image = 0.4 + 0.2 * image
    for seed in range(10):
        pair = seen.augmented((image, labels), config, (3, 4), np.random.default_rng(seed))
        slope, offset = np.polyfit(image.ravel() - image.mean(), pair[0].ravel(), 1)
        assert 0.8 <= slope <= 1.2
        assert abs(offset - image.mean()) <= 0.1
        np.testing.assert_array_equal(pair[1], labels)


def test_the_rate_falls_on_a_plateau():
    """Keras: after `patience` losses that are not lower by 1e-4 than the lowest, times `factor`."""
    given = {"rate": 1.0, "factor": 0.5, "patience": 2}
    for losses, expected in (
        ([], 1.0),
        ([3, 2, 1], 1.0),
        ([3, 3], 1.0),
        ([3, 3, 3], 0.5),
        ([3, 2.99995, 3], 0.5),
        ([3, 3, 2, 3, 3], 0.5),
        ([3, 3, 3, 3], 0.5),
        ([3, 3, 3, 3, 3], 0.25),
        ([float("nan")] * 3, 0.5),
    ):
        assert steps.rate_on_plateau(losses, **given) == expected, losses


def test_the_rate_of_a_state_is_that_of_its_next_step():
    optimizer = steps.steady_adam(0.5)
    params, gradient = jnp.ones(()), jnp.ones(())
    zero = jnp.zeros(())
    state = steps.TrainState(zero, params, {}, optimizer.init(params), zero)
    for rate in (0.5, 0.25):
        state = steps.with_rate(state, rate)
        update, moved = optimizer.update(gradient, state.optimizer_state)
        # Adam's first steps along a constant gradient are of the rate.
        assert float(update) == pytest.approx(-rate, rel=1e-5)
        state = dataclasses.replace(state, optimizer_state=moved)


def test_the_table_of_classes_against_hand_counted_ones():
    table = task.class_table(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert table["pixels"].to_list() == [4, 6, 0]
    assert table["iou"].to_list() == [0.5, 0.5714, None]
    assert table["dice"].to_list() == [0.6667, 0.7273, None]
    assert table["precision"].to_list() == [0.6, 0.8, None]
    assert table["recall"].to_list() == [0.75, 0.6667, None]
    assert table["mostly_taken_for"].to_list() == ["b", "a", None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "`epochs` is 0; give at least 1"),
        ({"channels": 2}, "`channels` is 2; choose 1 or 3"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0"),
        ({"held_out_share": 1.0}, "`held_out_share` is 1.0; give a share between"),
        ({"held_out_share": 0.99}, "8 images, of which 8 would be held out: none is left"),
        ({"colour": 2.0}, "`colour` is 2.0; give at most 1"),
        ({"zoom": -1.0}, "`zoom` is -1.0; give at least 0"),
        ({"crop": (0, 8)}, "`crop` is 0; give at least 1"),
        ({"crop": (9, 8)}, r"extents \(9, 8\); pad them to multiples of 2"),
        ({"seed": -1}, "`seed` is -1"),
    ],
)
def test_bad_settings_write_nothing(settings, message, data, tmp_path):
    config = SegmentationTraining(data=data, out=tmp_path / "run", **TINY | settings)
    with pytest.raises(InputError, match=message):
        segmentation.train(config)
    assert not config.out.exists()


def test_images_of_several_sizes(tmp_path):
    root = write_folder(tmp_path / "data")
    for folder in ("images", "masks"):
        path = next(iter(sorted((root / folder).iterdir())))
        Image.open(path).resize((24, 16), Image.Resampling.NEAREST).save(path)
    config = SegmentationTraining(data=root, **TINY)
    images = seen.read_images(config)
    with pytest.raises(InputError, match="is 16 x 16, others are about 16 x 24; give `size`"):
        seen.TrainingImages(config, images, np.arange(8), 2)
    cropped = dataclasses.replace(config, crop=(8, 8))
    assert seen.TrainingImages(cropped, images, np.arange(8), 2)[0][0].shape == (8, 8, 1)
    sized = dataclasses.replace(config, size=(12, 14))
    assert {seen.read_images(sized)[n][1].shape for n in range(8)} == {(12, 14)}


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["segmentation", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("train.segmentation", run_name="__main__")
    return stop.value.code


def test_the_command_line_says_what_is_wrong_in_one_line(data, tmp_path, monkeypatch, capsys):
    for message, *arguments in (
        ("does not exist; give a folder", "--data", tmp_path / "none"),
        ("choose from seg-grad-cam", "--data", data, "--recipe", "seg"),
        ("--recipe was given no name", "--data", data, "--recipe"),
        ("`epochs` is 0", "--data", data, "--recipe", "seg-grad-cam", "--epochs", 0),
        ("holds no images", "--data", write_folder(tmp_path / "one", count=0)),
    ):
        assert run_main(monkeypatch, *arguments, "--out", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "run").exists()


def test_a_recipe_stands_in_place_of_defaults_that_are_not_given(monkeypatch, data):
    found = []
    monkeypatch.setattr(segmentation, "train", found.append)
    assert run_main(monkeypatch, "--recipe=seg-grad-cam", "--data", data, "--width", 2) == 130
    expected = SegmentationTraining(data=data, **{**RECIPES["seg-grad-cam"], "width": 2})
    assert found == [expected]
    assert (expected.epochs, expected.learning_rate, expected.batch) == (70, 3e-4, 4)


def test_the_example_images(tmp_path):
    pytest.importorskip("skimage")
    from train.segmentation import samples

    assert samples.write(tmp_path / "defects", training=6, held_out=3, size=32) == 9
    config = SegmentationTraining(
        data=tmp_path / "defects" / "train", held_out=tmp_path / "defects" / "test", channels=1
    )
    images = seen.read_images(config)
    assert images.held_out == (6, 7, 8)
    shares = [float((images[n][1] == 1).mean()) for n in range(9)]
    # The sixth of each six has nothing.
    assert [share > 0 for share in shares] == [True] * 5 + [False] + [True] * 3
    with pytest.raises(InputError, match="is there already"):
        samples.write(tmp_path / "defects")
