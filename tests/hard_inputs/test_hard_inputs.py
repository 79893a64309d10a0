"""Whatever comes: an exit code, one line of at most 300 letters, nothing new on disk."""

import functools
import os
import re
import sys

import pytest

from segcam_jax import cli
from segcam_jax.networks.open import open_network
from segcam_jax.runs import cost
from tests.hard_inputs import world
from tests.hard_inputs.rows import check
from tests.hard_inputs.tables import TABLES

_OPENED = functools.cache(open_network)
SEEN = {}  # By folder.
ROWS = [(command, row) for command, rows in TABLES.items() for row in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of all files, in which every row runs."""
    folder = tmp_path_factory.mktemp("hard")
    world.build(folder)
    yield folder
    world.with_rights(folder)


@pytest.fixture(autouse=True)
def _apart(files, monkeypatch):
    """Leaves the folder, the path of imports and the compilation cache as they were."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)
    for module in ("runs.job", "cli.instances"):
        monkeypatch.setattr(f"segcam_jax.{module}.open_network", _OPENED)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if os.path.realpath(getattr(sys.modules[name], "__file__", "") or "").startswith(
            str(files)
        ):
            del sys.modules[name]


def test_there_are_enough():
    assert len(ROWS) >= 400


def test_weights_of_16_bits_are_taken_and_said(capfd):
    assert cli.main(["layers", "bfloat16.safetensors"]) == 0
    said = (
        "bfloat16.safetensors: its weights are bfloat16, and segcam computes with them in float32"
    )
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "of", "instead"),
    [
        (
            "instances --option samples=1000000",
            "of each instance 1,000,000 evaluations by instance_smooth_grad at 'input'",
            "smaller numbers by --option or a smaller --roi",
        ),
        (
            "context --overlap 0.9 --steps 99",
            r"of a scan \d+ windows of 8 x 8 x 8 voxels and of each instance [\d,]+00 more",
            "a smaller --overlap than 0.9, fewer --steps",
        ),
    ],
)
def test_instances_that_would_never_end_are_refused(line, of, instead, capfd, monkeypatch):
    monkeypatch.setattr(cost, "_YEAR", 1e-6)
    words = f"{line} --weights vol.safetensors --roi 8 --out new".split()
    assert cli.main([words[0], "scan.nii", *words[1:]]) == 2
    said = capfd.readouterr().err
    assert re.search(rf"needs about \de\+\d\d operations, [\d,]+ years or more .*: {of}; ", said)
    assert said.endswith(f"give {instead}\n")
    assert not os.path.exists("new")


@pytest.mark.parametrize(("command", "row"), ROWS, ids=lambda each: getattr(each, "name", each))
def test_row(command, row, capfd, files):
    check(row, capfd, SEEN.setdefault(files, {}))
