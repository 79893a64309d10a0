"""Two local processes: one study over the devices of both, and one run of images shared by both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import segcam_jax as segcam
from segcam_jax import InputError, _files, cli
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.sweep import store
from tests import distributed_worker as worker

ROOT = Path(__file__).parent.parent
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
    worker.sweep(weights, images, out)
    return out


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def written(folder):
    """The maps of a run, by file."""
    return {str(path.relative_to(folder)): np.load(path) for path in folder.rglob("*.npy")}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6 * np.abs(array).max())


def test_two_processes(weights, images, alone, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    line = [sys.executable, "-m", "tests.distributed_worker"]
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
    fed = [segcam.ablation_cam(split, params, scale * x, target).map for scale in (1, 2)]
    for rank in range(2):
        same(dict(np.load(tmp_path / f"maps{rank}.npz")), {**expected, "fed": np.stack(fed)})
    same(written(tmp_path / "run"), written(alone))
    manifest = _files.read_json(tmp_path / "run" / store.MANIFEST)
    assert [entry["name"] for entry in manifest["images"]] == ["one", "two", "three"]


def test_shares_fill_one_folder_in_any_order(weights, images, alone, tmp_path, capsys):
    out = tmp_path / "run"
    line = ["explain", *images, "--weights", weights, "--method", "grad_cam", "--region", "all"]
    line += ["--out", str(out)]
    assert cli.main([*line, "--share", "2/2", "--devices", "2"]) == 0
    assert "2 image(s) are left" in capsys.readouterr().out
    assert not (out / store.MANIFEST).exists()
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"two"}
    assert cli.main([*line, "--share", "1/2"]) == 0
    assert (out / store.MANIFEST).exists()
    same(written(out), written(alone))
    again = tmp_path / "again"
    repeat = ["explain", "--repeat", str(out), "--out", str(again), "--devices", "3"]
    assert cli.main(repeat) == 0
    same(written(again), written(alone))


def test_a_share_finds_the_folder_claimed_by_another(weights, images, alone, tmp_path):
    out = tmp_path / "run"
    claim = _files.read_json(alone / store.CLAIM)
    first = store.RunFolder(out, claim["key"], claim["files"], shared=True)
    _files.write_bytes(out / claim["files"][0], b"of the first process")
    second = store.RunFolder(out, claim["key"], claim["files"], shared=True)
    assert second.finished("one") is first.finished("one") is None
    with pytest.raises(InputError, match="holds another run"):
        store.RunFolder(out, "another", claim["files"], shared=True)


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
