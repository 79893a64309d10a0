"""`segcam gallery`: what it computes, draws, resumes, grows by, and refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import segcam_jax
from segcam_jax import cli, viz
from segcam_jax.methods import ablation_cam, grad_cam
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.networks.image_inputs import ImageForm, read_sample
from segcam_jax.networks.network import Background
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.outputs import Meaning
from segcam_jax.reports import comparison, words as words_module
from segcam_jax.reports.comparison import Line
from segcam_jax.runs import open_store
from segcam_jax.targets import Difference, whole_image
from tests.support import own_networks, stored_runs
from tests.support.drawn import prose_of
from tests.support.stored_runs import contents

OWN = f"{own_networks.__file__}:classifier"
STEM = "own_networks-classifier"
NAMES = ["cat", "dog", "background"]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(20, 16), (16, 16), (16, 16)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A random segmentation network that shows two classes at least."""
    from flax import nnx

    path = tmp_path_factory.mktemp("unet") / "tiny.safetensors"
    model = UNet(UNetConfig(in_channels=3, classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(path, model, {"classes": NAMES})
    return str(path)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def files(folder):
    """All files of people's, by name: not those of the runs."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not path.parts[0].endswith(".zarr"))


@pytest.fixture
def fault(capsys, tmp_path):
    """The one line of a gallery that cannot be made, and that leaves nothing."""

    def check(*arguments):
        capsys.readouterr()
        out = tmp_path / "none"
        assert run("gallery", *arguments, "--out", out) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
        assert not out.exists()
        return line

    return check


@pytest.fixture
def drawn(monkeypatch):
    """Figures of one pixel, each with what it is marked with; the words of each, by its name."""
    said = {}

    def keep(figure, path, mark=None):
        said["/".join(path.parts[-3:])] = prose_of(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        info.add_text("segcam_jax", mark or "")
        Image.new("L", (1, 1)).save(path, pnginfo=info)

    monkeypatch.setattr(viz, "save", keep)
    return said


def test_a_gallery_is_made_resumed_and_grown(photos, tmp_path, capsys, drawn, monkeypatch):
    out = tmp_path / "out"
    ending = ("--weights", OWN, "--size", 16, "--tap", "body", "--class", "top:1", "top:2")
    ending = (*ending, "--method", "grad_cam", "gradient", "--shard", 1, "--out", out)
    assert run("gallery", photos / "photo1.png", *ending) == 0
    assert "3 figures of 1 image" in capsys.readouterr().out
    base = f"photo1/{STEM}"
    one = [f"{base}/{goal}.body.{end}" for goal in ("predicted", "top2") for end in ("npz", "png")]
    assert files(out) == sorted([*one, f"{base}/targets.png", "gallery.json"])
    assert set(drawn) == {
        f"{base}/{name}.png" for name in ("predicted.body", "top2.body", "targets")
    }
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    network = open_network(NetworkSpec.parse(OWN), OpenOptions(size=(16, 16)))
    x = read_sample(photos / "photo1.png", ImageForm.of(network, "crop")).padded
    order = np.argsort(-np.asarray(fn(params, x)))
    split = segcam_jax.split(fn, "body", params, x)
    for goal, index in (("predicted", order[0]), ("top2", order[1])):
        with np.load(out / base / f"{goal}.body.npz") as arrays:
            expected = grad_cam(split, params, x, whole_image(int(index)))
            np.testing.assert_allclose(arrays["grad_cam"], expected.map, rtol=1e-5, atol=1e-7)
            assert arrays["gradient"].shape == (16, 16)

    drawn.clear()
    part = (out / f"{STEM}.zarr/items/00000.parquet").stat().st_mtime_ns
    # The folder lists photo0 first; what the gallery has stays where it is, and as it is.
    assert run("gallery", photos, *ending) == 0
    assert (out / f"{STEM}.zarr/items/00000.parquet").stat().st_mtime_ns == part
    assert {name.split("/")[0] for name in drawn} == {"photo0", "photo2"}
    assert len(files(out)) == 16
    grown = open_store(out / f"{STEM}.zarr")
    stems = [os.path.basename(path) for path in grown.table["path"].unique(maintain_order=True)]
    assert stems == ["photo1.png", "photo0.png", "photo2.png"]
    index = json.loads((out / "gallery.json").read_text())
    assert (len(index["maps"]), len(index["figures"]), index["failures"]) == (6, 9, [])
    assert index["maps"][0]["score"] == pytest.approx(float(fn(params, x)[order[0]]), rel=1e-5)

    drawn.clear()
    capsys.readouterr()
    assert run("gallery", photos / "photo2.png", *ending) == 0  # Others stay in it.
    assert "3 images finished before" in capsys.readouterr().err
    assert not drawn
    assert run("gallery", photos, *ending, "--profile", "pytorch_grad_cam") == 0
    assert len(drawn) == 9
    assert run("gallery", photos, *ending, "--of", "probabilities") == 2
    assert "the option 'of' is" in capsys.readouterr().err


def test_a_grown_run_is_that_of_all_images(photos, tmp_path):
    """In arrays, table and figures; of the images as they came."""
    ending = ("--weights", OWN, "--size", 16, "--tap", "body", "--method", "grad_cam")
    ending = (*ending, "--shard", 2, "--no-figures", "--out")
    first, others = photos / "photo1.png", [photos / "photo0.png", photos / "photo2.png"]
    assert run("gallery", first, *ending, tmp_path / "grown") == 0
    assert run("gallery", *others, *ending, tmp_path / "grown") == 0
    assert run("gallery", first, *others, *ending, tmp_path / "whole") == 0
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_networks_of_both_kinds_are_compared(photos, unet, tmp_path, drawn, capsys):
    out = tmp_path / "out"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["a", "b", "c", "d"]))
    line = ("gallery", photos / "photo1.png", "--weights", unet, OWN, "--tap", "last")
    line = (*line, "--method", "grad_cam", "--out", out)
    assert run(*line, "--size", 16) == 0
    words = drawn["out/photo1/predicted.models.png"]
    assert "photo1: 2 networks the last layer of each; outlined: the explained pixels" in words
    assert "of the pixels) decoder1, 16 x 16" in words
    assert f"{STEM} predicted class 1 (26 %) body, 4 x 4" in words
    assert "Explained: logits, summed over the outlined pixels." in words
    with np.load(out / "photo1/tiny/predicted.decoder1.npz") as arrays:
        region = open_store(out / "tiny.zarr").region(0)
        assert region is not None
        assert np.array_equal(arrays["region"], region)
        assert arrays["region"].any()
    assert run(*line, "--labels", names, "--overwrite") == 2
    assert "has 4 labels for 3 classes" in capsys.readouterr().err


def test_a_broken_image_is_told_and_the_gallery_goes_on(photos, tmp_path, drawn, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b"):
        (images / f"{name}.png").write_bytes((photos / "photo1.png").read_bytes())
    line = ("gallery", images, "--weights", OWN, "--size", 16, "--tap", "body")
    line = (*line, "--method", "grad_cam", "--out", tmp_path / "out")
    (images / "a.png").write_bytes((photos / "photo1.png").read_bytes()[:300])
    assert run(*line) == 3
    said = capsys.readouterr()
    assert said.err.count("a.png' is a corrupt image") == 1
    assert "1 figure of 1 image" in said.out
    index = json.loads((tmp_path / "out/gallery.json").read_text())
    assert [each["image"].endswith("a.png") for each in index["failures"]] == [True]
    # What fails now has no figures any more.
    (images / "a.png").write_bytes((photos / "photo1.png").read_bytes())
    (images / "b.png").write_bytes(b"no image")
    assert run(*line) == 3
    assert files(tmp_path / "out") == sorted(
        [f"a/{STEM}/predicted.body.npz", f"a/{STEM}/predicted.body.png", "gallery.json"]
    )
    assert run(*line, "--on-error", "stop", "--overwrite") == 2


def test_a_difference_of_two_classes(photos, tmp_path, drawn):
    """By gradients and by ablations, beside a class by itself."""
    out = tmp_path / "out"
    line = ("gallery", photos / "photo1.png", "--weights", OWN, "--size", 16, "--tap", "body")
    line = (*line, "--method", "grad_cam", "ablation_cam", "--out", out)
    assert run(*line, "--class", "top:1", "top:1 rather than top:2") == 0
    run_ = open_store(out / f"{STEM}.zarr")
    one, both = run_.table.to_dicts()
    assert (one["target"], both["target"]) == ("predicted", "predicted-not-top2")
    assert (one["rather_than"], both["class"]) == (None, one["class"])
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    x = np.asarray(Image.open(photos / "photo1.png"), np.float32) / 255
    split = segcam_jax.split(fn, "body", params, x)
    logits = np.asarray(fn(params, x))
    order = np.argsort(-logits)
    assert both["score"] == pytest.approx(logits[order[0]] - logits[order[1]], rel=1e-4)
    first, second = (
        np.asarray(grad_cam(split, params, x, whole_image(int(k))).map) for k in order[:2]
    )
    np.testing.assert_allclose(
        run_.map(1, "body", "grad_cam"), first - second, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(run_.map(0, "body", "grad_cam"), first, rtol=1e-4, atol=1e-7)
    target = Difference(*(whole_image(int(k)) for k in order[:2]))
    expected = ablation_cam(split, params, x, target).map
    np.testing.assert_allclose(run_.map(1, "body", "ablation_cam"), expected, rtol=1e-4, atol=1e-6)
    words = drawn[f"photo1/{STEM}/predicted-not-top2.body.png"]
    assert f"why class {order[0]} (" in words
    assert f"rather than class {order[1]}" in words
    assert "Explained: difference of logits." in words
    assert "Explained: logits and difference of logits." in drawn[f"photo1/{STEM}/targets.png"]


@pytest.mark.parametrize(
    ("background", "told"),
    [
        (Background(0, assumed=True), "net, background assumed to be the background; "),
        (Background(0, assumed=False), "net; "),
        (None, "net; "),
    ],
)
def test_a_background_that_nobody_named_is_told(tmp_path, background, told):
    """Figures said "predicted class 2" where class 0 was predicted at most pixels."""
    images = stored_runs.photos(tmp_path / "images")
    made = stored_runs.manifest(
        {"method": ["grad_cam", "ablation_cam", stored_runs.WINDOWS, "gradient"]},
        net=stored_runs.network(background=background),
    )
    stored_runs.write(tmp_path / "run.zarr", images=images, made=made)
    run_ = open_store(tmp_path / "run.zarr")
    assert comparison.layers(run_, 1) == ["body"]
    line = Line(run_, 1, "body")
    assert [method for method, _ in line.pairs] == made.options["method"]
    figure = comparison.comparison([line, Line(run_, 0, "body")], "targets")
    texts = [text.get_text() for text in figure.texts]
    subtitle = texts[texts.index("image0: 2 targets, predicted cat") + 1]
    assert subtitle.replace("\n", " ").startswith(f"{told}body, 4 x 4; outlined")


def test_only_one_of_exclusive_classes_is_predicted():
    """ "explained b (56 %), predicted a (70 %)" of two heads that both find their class."""
    about = {"class": "b", "share": 0.56, "predicted": "a", "predicted_share": 0.7}
    about["rather_than"] = None
    for classifies, best, of in (
        (True, "most probable", ""),
        (False, "largest", " of the pixels"),
    ):
        for exclusive, word in ((True, "predicted"), (False, best)):
            network = stored_runs.network(
                classifies=classifies, meaning=Meaning("logits", exclusive=exclusive)
            )
            said = words_module.in_words(about, network)
            assert said == f"explained b (56 %{of}), {word} a (70 %{of})"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), r"no network was given"),
        (("--weights", "resnet50"), r"'resnet50' has no trained weights here; .* random:resnet50"),
        (("--weights", "random:resnet5"), r"unknown model 'resnet5' after .* choose from resnet50"),
        (("--weights", OWN, "--tap", "frist"), r"unknown layer 'frist' .* are first; "),
        (("--weights", OWN, "--tap", "conv:1"), r"does not number its convolutions"),
        (("--weights", OWN, "--tap", "head"), r"shape \(4,\) and no positions"),
        (("--weights", OWN, "--method", "gradcm"), r"unknown method 'gradcm'; choose from grad_ca"),
        (("--weights", OWN, "--class", "4"), r"class '4' is not a class of the model; it has 4"),
        (("--weights", OWN, "--class", "top:9"), r"give top:1 to top:4"),
        (("--weights", OWN, "--class", "1 rather than 1"), r"cannot be compared with itself"),
        (("--weights", OWN, "--labels", "LABELS"), r"has 1 label for 4 classes"),
        (("--weights", OWN, "--size", "4"), r"--size was given 4; give"),
        (("--weights", OWN, "--seed", "-1"), r"--seed was given -1"),
        (("--weights", OWN, "--profile", "capt"), r"unknown profile 'capt'; choose from captum"),
        (
            ("--weights", OWN, "--method", "finer_cam", "--class", "0 rather than 1"),
            r"finer_cam compares classes by itself; explain one class, not '0 rather than 1'",
        ),
    ],
)
def test_faults_are_one_line(photos, tmp_path, fault, arguments, complaint):
    labels = tmp_path / "labels.txt"
    labels.write_text("one")
    given = [str(labels) if each == "LABELS" else each for each in arguments]
    size = () if "--size" in given else ("--size", 16)
    line = fault(photos, *given, *size)
    assert re.search(complaint, line), line


def test_faults_of_images_and_folders(photos, tmp_path, fault, capsys):
    line = ("--weights", OWN, "--size", 16, "--tap", "body", "--method", "grad_cam")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images were given" in fault(*line)
    assert "holds no images" in fault(empty, *line)
    assert "does not exist" in fault(tmp_path / "nowhere.png", *line)
    # Of an older version, or somebody else's.
    (empty / "gallery.json").write_text("{}")
    assert run("gallery", photos, *line, "--out", empty) == 2
    assert "already holds 'gallery.json'" in capsys.readouterr().err
    assert sorted(empty.iterdir()) == [empty / "gallery.json"]


@pytest.mark.parametrize(
    ("share", "words"), [(1, "100 %"), (0.999, "> 99 %"), (0.5, "50 %"), (0.0004, "< 0.1 %")]
)
def test_shares_in_words(share, words):
    assert words_module.percent(share) == words


def killed(line, out, ready, delay=0.0):
    """Kills the command a moment after something is there; returns whether it was still at work."""
    child = subprocess.Popen(
        [sys.executable, "-m", "segcam_jax", *map(str, line), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180
    while not (out / ready).exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


@pytest.fixture
def place(photos, tmp_path, monkeypatch):
    """A folder with networks of one's own, and a gallery of two of them, in two shards."""
    # A network is known by the user's modules, of the current folder too: not by these tests.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_bytes(Path(own_networks.__file__).read_bytes())

    def line(*images, taps=("hidden",)):
        given = ["gallery", *images, "--weights", "own.py:falling", "own.py:bright", "--tap", *taps]
        return [*given, "--method", "grad_cam", "--shard", 1, "--out"]

    return line


def test_a_killed_gallery_goes_on_to_the_same_bytes(photos, place, tmp_path):
    """Killed while it draws the first network; the same command ends with the same folder."""
    line = place(photos / "photo1.png", photos / "photo2.png")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(*line, whole) == 0
    first = "photo1/own-falling/predicted.hidden.png"
    assert killed(line, out, first)
    assert not (out / "gallery.json").exists()
    drawn = (out / first).stat().st_mtime_ns
    (out / "photo2/own-falling").mkdir(parents=True, exist_ok=True)
    (out / "photo2/own-falling/.0badcafe.targets.png").write_bytes(b"half")
    assert run(*line, out) == 0
    assert contents(out) == contents(whole)
    assert (out / first).stat().st_mtime_ns == drawn


@pytest.mark.slow
def test_ten_kills_at_random_moments(photos, place, tmp_path):
    """Each of a gallery of its own: one that resumes is done sooner, and would end before it."""
    line = place(photos, taps=("hidden", "input"))
    whole = tmp_path / "whole"
    assert run(*line, whole) == 0
    start = time.monotonic()
    command = [sys.executable, "-m", "segcam_jax", *map(str, line), str(tmp_path / "warm")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    lasts = time.monotonic() - start
    draw, at_work = np.random.default_rng(0), 0
    for number in range(10):
        out = tmp_path / f"out{number}"
        at_work += killed(line, out, "", draw.uniform(0, 0.5) * lasts)  # Once it is there.
        assert run(*line, out) == 0
        assert contents(out) == contents(whole), number
        assert not [name for name in contents(out) if os.path.basename(name).startswith(".")]
    assert at_work > 3
