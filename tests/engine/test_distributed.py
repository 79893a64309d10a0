"""Two local processes: one study over the devices of both, and one run of images shared by both."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import segcam_jax as segcam
from segcam_jax import cli
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.runs import open_store
from tests.support import distributed_worker as worker

ROOT = Path(__file__).parents[2]
SECONDS = 400


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = UNet(UNetConfig(classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(path, model, {"classes": ["a", "b", "c"]})
    return str(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = [folder / f"{name}.png" for name in ("one", "two", "three")]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (16, 12), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def alone(weights, images, tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert worker.explain(weights, images, out, "--no-figures") == 0
    return out


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def written(folder):
    """The maps of a run, by file."""
    return {str(path.relative_to(folder)): np.load(path) for path in folder.rglob("*.npy")}


def bytes_of(folder):
    """All files of a run, the store's too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6 * np.abs(array).max())


@pytest.mark.slow
def test_two_processes(weights, images, alone, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    line = [sys.executable, "-m", "tests.support.distributed_worker"]
    port = free_port()
    processes = [
        subprocess.Popen(
            [*line, str(rank), "2", str(port), str(tmp_path), weights, *images],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    expected = worker.maps(None, None)
    split, params, x, target = worker.study()
    fed = [segcam.methods.ablation_cam(split, params, scale * x, target).map for scale in (1, 2)]
    for rank in range(2):
        same(dict(np.load(tmp_path / f"maps{rank}.npz")), {**expected, "fed": np.stack(fed)})
    same(written(tmp_path / "run"), written(alone))
    assert bytes_of(tmp_path / "run").keys() == bytes_of(alone).keys()
    table = open_store(tmp_path / "run" / "run.zarr").table
    assert [Path(path).stem for path in table["path"]] == ["one", "two", "three"]


def test_shares_fill_one_folder_in_any_order(weights, images, alone, tmp_path, capsys):
    out, line = tmp_path / "run", ("--no-figures",)
    assert worker.explain(weights, images, out, *line, "--share", "2/2", "--devices", "2") == 0
    assert "2 images left" in capsys.readouterr().out
    assert not (out / "manifest.json").exists()
    assert {path.name for path in out.iterdir()} == {"run.zarr", "two"}
    assert worker.explain(weights, images, out, *line, "--share", "1/2") == 0
    assert (out / "manifest.json").exists()
    same(written(out), written(alone))
    again = tmp_path / "again"
    assert (
        cli.main(["explain", "--config", str(out), "--out", str(again), *line, "--devices=3"]) == 0
    )
    same(written(again), written(alone))


def test_shares_and_names_that_are_there_twice(weights, images, tmp_path):
    """A share names its images as one process would, though it knows no other's results."""
    (tmp_path / "b").mkdir()
    again = tmp_path / "b" / "one.png"
    again.write_bytes(Path(images[1]).read_bytes())
    given = [images[0], str(again)]
    assert worker.explain(weights, given, tmp_path / "alone") == 0
    for share in ("2/2", "1/2"):
        assert worker.explain(weights, given, tmp_path / "run", "--share", share) == 0
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {
        *("run.zarr", "one", "one-2")
    }
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "alone")


def test_a_share_finds_the_folder_of_another_run(weights, images, alone, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    assert worker.explain(weights, images, out, "--seed", "3", "--share", "1/2") == 2
    assert "holds another run" in capsys.readouterr().err
    assert bytes_of(out) == bytes_of(alone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--share", "3/2"), "--share was given '3/2'"),
        (("--share", "0/2"), "from 1/N to N/N"),
        (("--share", "half"), "--share was given 'half'"),
        (("--share", "1/2", "--overwrite"), "cannot overwrite"),
        (("--devices", "9"), "9 devices were asked for, and there are 8"),
        (("--devices", "0"), "0 devices were asked for; give at least 1"),
    ],
)
def test_faults(options, words, weights, images, tmp_path, capsys):
    line = ["explain", images[0], "--weights", weights, "--out", str(tmp_path / "run"), *options]
    assert cli.main(line) == 2
    (error,) = [text for text in capsys.readouterr().err.splitlines() if "error" in text]
    assert words in error
