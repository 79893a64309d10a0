"""The examples in the docstrings of all modules run."""

import doctest
import importlib
from pathlib import Path

import jax
import pytest

import segcam_jax

ROOT = Path(segcam_jax.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_of)
def test_examples_run(path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed, run = doctest.testmod(importlib.import_module(module_of(path)))
    assert not failed
    assert run
