from collections.abc import Callable
from typing import Any, Literal

import pytest

from segcam_jax.options import check_choices, options_of, parse_options
from segcam_jax.types import InputError


def function(
    *,
    rule: Literal["guided", "plain"] | Callable[[Any], Any] = "guided",
    by: Literal["rows", "columns"] | None = None,
    sizes: tuple[int, ...] = (2, 3),
    baseline: Any = "zeros",
    threshold: float | tuple[float, ...] = 0.5,
    key: Any = None,
) -> None:
    """Does nothing.

    Args:
        by: what goes first. Not said here.
    """


KNOWN = options_of(function, ("key",))


def test_options_are_those_of_the_signature():
    assert list(KNOWN) == ["rule", "by", "sizes", "baseline", "threshold"]
    assert [each.choices for each in KNOWN.values()] == [
        "guided or plain",
        "rows or columns or none",
        "whole numbers such as 2x3 or 10,20,30",
        "zeros, mean, blur, or a number",
        "a number",
    ]
    assert [each.given for each in KNOWN.values()] == [
        "rule=guided",
        "by=none",
        "sizes=2,3",
        "baseline=zeros",
        "threshold=0.5",
    ]
    assert KNOWN["by"].about == "what goes first"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("rule=plain", "plain"),
        ("by=none", None),
        ("sizes=4x5", (4, 5)),
        ("sizes=4,5,6", (4, 5, 6)),
        ("baseline=0.25", 0.25),
        ("baseline=mean", "mean"),
        ("f.threshold=1e-3", 1e-3),
    ],
)
def test_words_are_read_by_type(word, value):
    found = parse_options([word], {"f": KNOWN}, "method")
    assert found == {"f": {word.partition("=")[0].removeprefix("f."): value}}


def test_a_function_stands_for_words_where_an_option_takes_one():
    check_choices(KNOWN, {"rule": len, "by": None, "sizes": "any", "other": "unknown"})
    for name, value, said in (
        ("rule", "gided", "rule='gided'; choose guided or plain"),
        ("rule", 3, "rule=3; choose guided or plain"),
        ("by", "planes", "by='planes'; choose rows or columns"),
    ):
        with pytest.raises(InputError, match=said):
            check_choices(KNOWN, {name: value})
