"""A run on a Ray cluster of this machine, one of whose workers is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcam_jax.cli import main

pytestmark = pytest.mark.slow


def _actors() -> list[int]:
    """Processes of actors that compute shards."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::ShardActor"):
            found.append(int(place.name))
    return found


def _files(store: Path) -> dict[str, bytes]:
    files = (path for path in sorted(store.rglob("*")) if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def test_a_killed_worker_is_replaced_and_the_store_is_the_same(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(40):
        pixels = generator.integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    given = ["sweep", "images", "--weights", "texture-mnist-unbiased", "--shard", "2"]
    given += ["--region", "all", "--class", "3", "--method", "grad_cam", "layer_cam"]
    assert main([*given, "--out", str(tmp_path / "alone.zarr")]) == 0
    out = tmp_path / "ray.zarr"
    words = [*given, "--out", "ray.zarr", "--ray", "auto", "--workers", "2"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    child = subprocess.Popen([sys.executable, "-m", "segcam_jax", *words], env=environment)
    deadline = time.monotonic() + 240
    while not list((out / "items").glob("*.parquet")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.1)
    actors = _actors()
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    assert child.wait(timeout=240) == 0
    assert _files(out) == _files(tmp_path / "alone.zarr")


def test_a_cluster_that_cannot_be_reached_is_one_line(tmp_path, capsys):
    pytest.importorskip("ray")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    given = ["sweep", str(tmp_path / "a.png"), "--weights", "texture-mnist-unbiased"]
    out = ["--out", str(tmp_path / "run.zarr"), "--ray", "127.0.0.1:1"]
    assert main([*given, *out]) == 2
    assert "127.0.0.1:1' cannot be reached" in capsys.readouterr().err
