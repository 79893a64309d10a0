"""Importance vectors: written, read back, refused."""

import numpy as np
import pytest

from segcam_jax.data.importance import importance_csv, read_importance
from segcam_jax.types import InputError


def test_every_digit_comes_back(tmp_path):
    weights = np.random.default_rng(0).normal(size=7).astype(np.float32)
    (tmp_path / "a.csv").write_bytes(importance_csv(weights))
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "channel,weight"
    np.testing.assert_array_equal(np.float32(read_importance(tmp_path / "a.csv")), weights)
    np.save(tmp_path / "a.npy", weights)
    np.testing.assert_array_equal(np.float32(read_importance(tmp_path / "a.npy")), weights)
    (tmp_path / "b.csv").write_text("weight,name,channel\n0.5,first,1\n-2,second,0\n")
    assert read_importance(tmp_path / "b.csv") == (-2.0, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("channel,weight\n0,1\n2,1\n", "one for each channel, 0 to 1"),
        ("channel,weight\n0,1\n0,1\n", "one for each channel"),
        ("channel,weight\n0,nan\n", "channel 0 has no finite weight"),
        ("channel,weight\n0,much\n", "a number in each"),
        ("0.1\n0.2\n", "columns channel and weight"),
        ("channel,weight\n", "it is empty"),
    ],
)
def test_what_is_no_vector_is_refused(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_importance(tmp_path / "a.csv")


def test_arrays_of_other_shapes_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        read_importance(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_text("text")
    with pytest.raises(InputError, match="not a readable"):
        read_importance(tmp_path / "b.npy")
