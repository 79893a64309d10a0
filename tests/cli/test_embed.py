"""`segcam embed`: pooled activations, their projections, the files, and what is refused."""

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import segcam_jax
from segcam_jax import cli
from segcam_jax.reports import embedding
from segcam_jax.runs import open_store
from segcam_jax.types import InputError
from tests.support import own_networks

OWN = f"{own_networks.__file__}:classifier"


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark and bright images in two sub-folders, one image in none."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, low in (
        ("dark/a", 0),
        ("dark/b", 0),
        ("bright/a", 180),
        ("bright/b", 180),
        ("x", 90),
    ):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = draw.integers(low, low + 60, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def fault(capsys, tmp_path):
    def check(*arguments):
        capsys.readouterr()
        assert run("embed", *arguments, "--out", tmp_path / "out") == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
        out = tmp_path / "out"
        assert [path.name for path in out.glob("*")] in ([], ["run.zarr"])
        shutil.rmtree(out, ignore_errors=True)
        return line

    return check


def test_tables_activations_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "out"
    line = ("embed", folder, "--weights", OWN, "--size", 16, "--tap", "body", "--out", out)
    assert run(*line, "--projection", "pca", "t-SNE") == 0
    assert "2 figures, 1 table" in capsys.readouterr().out
    names = ["body.csv", "body.npy", "body.pca.png", "body.tsne.png", "run.zarr"]
    assert sorted(path.name for path in out.iterdir()) == names
    with (out / "body.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [
        "bright/a.png", "bright/b.png", "dark/a.png", "dark/b.png", "x.png"
    ]  # fmt: skip
    assert [row["group"] for row in rows] == ["bright", "bright", "dark", "dark", ""]
    values = np.load(out / "body.npy")
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    x = np.asarray(Image.open(folder / "dark/a.png"), np.float32) / 255
    activation, _ = segcam_jax.split(fn, "body", params, x).encode(params, x)
    np.testing.assert_allclose(values[2], np.mean(activation, (0, 1)), rtol=1e-5, atol=1e-7)
    points = np.array([[float(row["pca_1"]), float(row["pca_2"])] for row in rows])
    np.testing.assert_allclose(points, embedding.pca(values).points, rtol=1e-4, atol=1e-5)

    # The run is not computed again for other projections, and is another one of other pooling.
    part = (out / "run.zarr/items/00000.parquet").stat().st_mtime_ns
    assert run(*line, "--projection", "pca") == 0
    assert (out / "run.zarr/items/00000.parquet").stat().st_mtime_ns == part
    assert run(*line, "--projection", "pca", "--pool", "max") == 2
    assert "the option 'pool' is" in capsys.readouterr().err
    assert run(*line, "--projection", "pca", "--pool", "max", "--overwrite") == 0
    np.testing.assert_allclose(np.load(out / "body.npy")[2], np.max(activation, (0, 1)), rtol=1e-5)
    assert run("show", out) == 0
    shutil.rmtree(out / "run.zarr")
    assert run(*line, "--projection", "pca") == 2
    assert "already holds 'body.csv'" in capsys.readouterr().err


def test_images_are_pooled_in_batches_of_their_extents(folder, tmp_path, capsys):
    """Of two extents, in shards of four and on eight devices; one that is broken is left out."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    draw = np.random.default_rng(3)
    for number in range(6):
        size = (16, 16) if number % 2 else (8, 12)
        pixels = draw.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "3.png").write_bytes(b"no image")
    line = ("embed", images, "--weights", f"{own_networks.__file__}:segmenter", "--tap", "coarse")
    line = (*line, "head", "--projection", "pca", "--shard", 4)
    assert run(*line, "--out", out) == 3
    assert "3.png" in capsys.readouterr().err
    fn, params = segcam_jax.from_linen(*own_networks.segmenter(), batch_axis=0)
    for tap in ("coarse", "head"):
        values = np.load(out / f"{tap}.npy")
        for row, number in enumerate((0, 1, 2, 4, 5)):
            x = np.asarray(Image.open(images / f"{number}.png"), np.float32)[..., None] / 255
            activation, _ = segcam_jax.split(fn, tap, params, x).encode(params, x)
            np.testing.assert_allclose(values[row], np.mean(activation, (0, 1)), atol=1e-6)
    stored = open_store(out)
    assert stored.table["error"].null_count() == 5
    assert [each.shape[:2] for each in stored.of_items("thumbnail").values()] == [
        (8, 12), (16, 16), (8, 12), (8, 12), (16, 16)
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("image,class\n" + f"{images / '0.png'},1\n")
    assert run("embed", tmp_path / "list.csv", *line[2:], "--out", tmp_path / "other") == 2


def test_components_keep_what_varies_most():
    draw = np.random.default_rng(1)
    values = draw.normal(size=(12, 1)) * [[3.0, -4.0, 0.0]] + 0.01 * draw.normal(size=(12, 3))
    projection, shares = embedding.principal(values.astype(np.float32), 2)
    centred = values - values.mean(0, keepdims=True)
    expected = centred @ [-0.6, 0.8, 0.0]
    np.testing.assert_allclose(projection[:, 0], expected, atol=0.05)
    assert shares[0] > 0.99
    np.testing.assert_allclose(
        np.linalg.norm(projection, axis=1) ** 2, (centred**2).sum(1), atol=0.01
    )
    with pytest.raises(InputError, match="gives all images the same activation"):
        embedding.principal(np.ones((4, 3), np.float32), 2)


def test_neighbours_stay_neighbours():
    draw = np.random.default_rng(2)
    values = np.concatenate([draw.normal(size=(6, 4)), 30 + draw.normal(size=(6, 4))])
    found = embedding.tsne(values.astype(np.float32), seed=3)
    again = embedding.tsne(values.astype(np.float32), seed=3)
    assert np.array_equal(found.points, again.points)
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    nearest = (distances + 1e9 * np.eye(12)).argmin(1)
    assert ((nearest < 6) == (np.arange(12) < 6)).all()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--projection", "umap"), r"unknown projection 'umap'; choose from"),
        (("--projection", ","), r"no projection was given"),
        (("--tap", "bodi"), r"unknown layer 'bodi' .* are body"),
        (("--perplexity", "5"), r"perplexity 5 does not fit 5 images"),
        (("--seed", "-1"), r"--seed was given -1"),
        (("--size", "4"), r"--size was given 4; give"),
    ],
)
def test_faults_are_one_line(folder, fault, arguments, complaint):
    size = () if "--size" in arguments else ("--size", 16)
    line = fault(folder, "--weights", OWN, *arguments, *size)
    assert re.search(complaint, line), line


def test_faults_of_folders(folder, tmp_path, fault, capsys):
    line = ("--weights", OWN, "--size", 16)
    assert "does not exist" in fault(tmp_path / "none", *line)
    assert "1 image cannot make a map" in fault(folder / "x.png", *line)
    few = tmp_path / "few"
    few.mkdir()
    assert "holds no images" in fault(few, *line)
    for number in range(4):
        content = (folder / "x.png").read_bytes()
        (few / f"{number}.png").write_bytes(content)
        if number == 1:
            assert "2 images cannot make a map; give at least 3" in fault(few, *line)
    assert "t-SNE of 4 images has no meaning" in fault(few, *line)
    assert "gives all images the same activation" in fault(few, *line, "--projection", "pca")
    (few / "3.png").write_bytes(content[:200])
    (few / "2.png").write_bytes(content[:200])
    assert "2 images cannot make a map; give at least 3" in fault(few, *line, "--projection", "pca")
    assert (
        fault(few, *line, "--projection", "pca", "--on-error", "stop").count("corrupt image") == 1
    )
    (tmp_path / "study.toml").write_text('method = "grad_cam"')
    assert "has the key 'method', which has no meaning here" in fault(
        folder, *line, "--config", tmp_path / "study.toml"
    )
