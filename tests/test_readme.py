"""The pages' Python runs their tables are made from the results, their links lead on."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import segcam_jax as segcam
from benchmarks import report

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted({*report.PAGES, *ROOT.glob("docs/**/*.md")})
LARGEST = 8_000  # bytes: one page


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_tables_are_made_from_the_results(page):
    text = page.read_text()
    assert report.filled(text) == text


def test_the_first_page_is_one_page():
    assert len(README.read_bytes()) <= LARGEST


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_to_a_file(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    within = [target.split("#")[0] for target in targets if "://" not in target]
    missing = [target for target in within if target and not (page.parent / target).exists()]
    assert not missing


def blocks_with(page: Path, *words: str) -> list[str]:
    """The blocks of Python of a page that hold any of the words."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [code for code in blocks if any(word in code for word in words)]


def run_first_block(page: Path) -> dict:
    code = blocks_with(page, "")[0]
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, names)
    return names


def test_the_lines_on_your_own_network_run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs" / "pictures")
    import my_project

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        project = SimpleNamespace(unet=my_project.train(steps=12), image=my_project.image)
    monkeypatch.setitem(sys.modules, "my_project", project)
    monkeypatch.chdir(tmp_path)
    names = run_first_block(README)
    assert bool(np.asarray(names["target"].mask)[43, 78])
    assert names["explanation"].title.startswith("FastAblationCAM at bottom for class 1 (")
    with Image.open(tmp_path / "own_unet.png") as figure:
        assert min(figure.size) > 100


def test_the_lines_on_a_bundled_network_run():
    page = ROOT / "docs" / "methods.md"
    names = run_first_block(page)
    assert names["heatmap"].shape == names["x"].shape[:2]
    assert float(names["heatmap"].max()) == 1.0


@pytest.mark.slow
def test_the_lines_on_many_targets_run():
    page = ROOT / "docs" / "methods.md"
    names = run_first_block(page)
    for code in blocks_with(page, "explain_targets(", "ablation_atlas("):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            exec(code, names)
    assert names["found"].map.shape == (12, *names["split"].activation.shape[:-1])
    single = segcam.methods.ablation_cam(
        names["split"], names["params"], names["x"], names["clicks"][1]
    )
    assert single.drops is not None
    np.testing.assert_allclose(names["found"].drops[1], single.drops, atol=1e-4)
