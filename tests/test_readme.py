"""The README's Python runs as it stands, and its tables are those of the results."""

import re
from pathlib import Path

import jax

from benchmarks import report

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_tables_are_made_from_the_results():
    assert report.filled(README) == README


def test_the_quick_start_runs():
    (code, *_) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, names)
    assert names["heatmap"].shape == names["x"].shape[:2]
    assert float(names["heatmap"].max()) == 1.0
