"""The table engine: every tensor used, every place filled, all that does not fit in one message."""

import numpy as np
import pytest

from segcam_jax import InputError
from segcam_jax.weights.tables import Rule, Table, converted, norm_rules

TABLE = Table(
    (
        Rule("layer{stage}.{block}.conv.weight", "stages/{stage-1}/{block+1}/kernel", "conv"),
        Rule("fc.weight", "head/kernel", "dense"),
        *norm_rules("bn{n}", "norm{n}"),
    ),
    ignored=("*.num_batches_tracked", "unused"),
)


def source():
    return {
        "layer2.10.conv.weight": np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2),
        "fc.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "bn1.weight": np.ones(3, np.float32),
        "bn1.bias": np.ones(3, np.float32),
        "bn1.running_mean": np.ones(3, np.float32),
        "bn1.running_var": np.ones(3, np.float32),
        "bn1.num_batches_tracked": np.int64(3),
    }


EXPECTED = {
    "stages/1/11/kernel": (2, 2, 3, 2),
    "head/kernel": (3, 2),
    **{f"norm1/{name}": (3,) for name in ("scale", "bias", "mean", "var")},
}


def test_names_layouts_and_dtypes():
    found = converted(source(), TABLE, EXPECTED, "net.pth")
    assert found.keys() == EXPECTED.keys()
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    weight = source()["layer2.10.conv.weight"]
    assert found["stages/1/11/kernel"][1, 0, 2, 1] == weight[1, 2, 1, 0]
    np.testing.assert_array_equal(found["head/kernel"], source()["fc.weight"].T)


def test_all_problems_in_one_message():
    tensors = source() | {
        "layer2.x.conv.weight": np.zeros(1),
        "bn2.weight": np.zeros(3),
        "fc.weight": np.zeros((4, 3)),
    }
    del tensors["bn1.running_var"]
    with pytest.raises(InputError) as caught:
        converted(tensors, TABLE, EXPECTED, "net.pth")
    assert str(caught.value) == (
        "weights of 'net.pth' do not fit the model, 4 mismatches: "
        "1 unknown to the table: layer2.x.conv.weight; "
        "1 without a place in the model: bn2.weight -> norm2/scale; "
        "1 of another shape, after the change of layout: fc.weight (3, 4) -> head/kernel (3, 2); "
        "1 not in the file: norm1/var"
    )


def test_two_tensors_for_one_place():
    table = Table((Rule("a", "x"), Rule("b", "x")))
    with pytest.raises(InputError, match="1 without a place in the model: b -> x"):
        converted({"a": np.zeros(1), "b": np.zeros(1)}, table, {"x": (1,)}, "net.pth")


def test_a_tensor_of_another_rank_is_told_and_not_turned():
    with pytest.raises(InputError, match=r"fc.weight \(3,\) -> head/kernel \(3, 2\)"):
        converted(source() | {"fc.weight": np.zeros(3)}, TABLE, EXPECTED, "net.pth")


def test_many_problems_are_counted():
    tensors = source() | {f"foreign{n}": np.zeros(1) for n in range(300)}
    with pytest.raises(InputError, match="foreign11, and 288 more$"):
        converted(tensors, TABLE, EXPECTED, "net.pth")
