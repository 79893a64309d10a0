"""Functions as targets: what they compute now is explained, and what is compiled is bounded."""

import gc
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax._jaxpr import content
from segcam_jax.engine import programs as engine_programs
from segcam_jax.taps import Recent
from segcam_jax.types import TargetError

X: Any = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
PARAMS = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def net(params, x):
    return segcam.tap(jax.nn.relu(x), "hidden") @ params


SPLIT = segcam.split(net, "hidden", PARAMS, X)
OUTPUT = np.maximum(X, 0) @ PARAMS


def score(target) -> float:
    return float(segcam.methods.grad_cam(SPLIT, PARAMS, X, target).score)


@pytest.fixture
def programs(monkeypatch):
    """The programs that are kept, of which there are four."""
    kept = Recent(4)
    monkeypatch.setattr(engine_programs, "_PROGRAMS", kept)
    return kept._values


class Region:
    """As the targets of other libraries are: category and mask are attributes."""

    def __init__(self, category, mask):
        self.category, self.mask = category, mask

    def __call__(self, output):
        return (output[..., self.category] * self.mask).sum()


def test_an_object_that_changed_is_explained_as_it_is_now():
    target = Region(0, np.zeros((6, 5), np.float32))
    assert score(target) == 0
    target.category, target.mask = 3, np.eye(6, 5, dtype=np.float32)
    np.testing.assert_allclose(score(target), np.trace(OUTPUT[..., 3]), rtol=1e-5)
    target.mask *= 2
    np.testing.assert_allclose(score(target), 2 * np.trace(OUTPUT[..., 3]), rtol=1e-5)


def test_a_closure_that_changed_is_explained_as_it_is_now():
    chosen = {"class": 0, "rows": 2}

    def target(output):
        return output[: chosen["rows"], :, chosen["class"]].mean()

    for chosen["class"], chosen["rows"] in ((0, 2), (2, 2), (2, 5)):
        expected = OUTPUT[: chosen["rows"], :, chosen["class"]].mean()
        np.testing.assert_allclose(score(target), expected, rtol=1e-5)


def test_functions_that_compute_the_same_share_a_program(programs):
    for index in range(12):
        mask = np.full((6, 5), index, np.float32)

        def target(output, k=index % 2, mask=mask):
            return (jax.nn.relu(output[..., k]) * mask).sum()

        expected = index * np.maximum(OUTPUT[..., index % 2], 0).sum()
        np.testing.assert_allclose(score(target), expected, rtol=1e-5)
    assert len(programs) == 2


def test_where_an_array_comes_from_is_no_other_program(programs):
    """0.34 s each, for arrays of numpy and of JAX, which all go to the default device."""
    arrays = [(jnp.asarray(PARAMS), jnp.asarray(X)), (jnp.asarray(PARAMS), X), (PARAMS, X)]
    classes: tuple[Any, ...] = (jnp.int32(1), jnp.int32(1), np.int32(1))
    for (params, x), index in zip(arrays, classes, strict=True):
        target = segcam.targets.whole_image(index)
        found = segcam.methods.hires_cam(SPLIT, params, x, target)
        np.testing.assert_allclose(found.score, OUTPUT[..., 1].sum(), rtol=1e-5)
    assert len(programs) == 1
    there = jax.device_put(X, jax.devices()[1])
    assert segcam.methods.hires_cam(SPLIT, PARAMS, there, target).map.devices() == {
        jax.devices()[1]
    }
    assert len(programs) == 2


def test_a_derivative_rule_is_part_of_what_is_computed():
    def with_rule(factor):
        @jax.custom_jvp
        def scaled(x):
            return x * 1.0

        scaled.defjvp(lambda primals, tangents: (scaled(*primals), tangents[0] * factor))
        return lambda output: scaled(output[..., 1]).sum()

    maps = [
        segcam.methods.grad_cam(SPLIT, PARAMS, X, with_rule(factor)).map for factor in (1.0, 3.0)
    ]
    np.testing.assert_allclose(maps[1], 3 * np.asarray(maps[0]), rtol=1e-5)


def ruled(factor):
    """A target whose derivative rule closes over the factor."""

    @jax.custom_vjp
    def scaled(x):
        return x * factor

    scaled.defvjp(lambda x: (scaled(x), None), lambda _, slope: (slope * factor,))
    return lambda output: scaled(output[..., 1]).sum()


STUDIES = {
    "one": lambda targets: segcam.methods.grad_cam(SPLIT, PARAMS, X, targets[0]),
    "targets": lambda targets: segcam.explain_targets(
        segcam.methods.grad_cam, SPLIT, PARAMS, X, targets
    ),
    "images": lambda targets: segcam.explain_batch(
        segcam.methods.grad_cam, SPLIT, PARAMS, np.stack([X, X]), targets[0]
    ),
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_rule_that_holds_a_tracer_is_of_its_trace_alone(study, programs, no_tracer_left):
    plain = np.asarray(
        segcam.methods.grad_cam(SPLIT, PARAMS, X, lambda output: output[..., 1].sum()).map
    )
    expected = plain if study == "one" else np.stack([plain, plain])
    count = len(programs)

    def explain(factor):
        return STUDIES[study]([ruled(factor), ruled(factor)]).map

    for factor in (3.0, 5.0):
        found = jax.jit(lambda factor: explain(factor))(factor)
        np.testing.assert_allclose(found, factor * expected, rtol=1e-5)
    mapped = jax.vmap(explain)(jnp.arange(2.0))
    np.testing.assert_allclose(mapped, np.stack([0 * expected, expected]), rtol=1e-5)
    assert len(programs) == count


def test_a_model_that_holds_a_tracer_is_split_for_its_trace_alone(programs, no_tracer_left):
    def scaled(factor):
        split = segcam.split(lambda params, x: net(params * factor, x), "hidden", PARAMS, X)
        return segcam.methods.ablation_cam(split, PARAMS, X, segcam.targets.whole_image(1)).score

    whole = OUTPUT[..., 1].sum()
    np.testing.assert_allclose(jax.jit(scaled)(3.0), 3 * whole, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(scaled)(3.0), whole, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(scaled)(jnp.arange(3.0)), np.arange(3) * whole, rtol=1e-5)
    assert not programs


def test_a_function_of_traced_values_is_differentiated_and_mapped(no_tracer_left):
    def scaled(factor):
        return segcam.methods.grad_cam(
            SPLIT, PARAMS, X, lambda output: (output[..., 1] * factor).sum()
        ).score

    whole = OUTPUT[..., 1].sum()
    np.testing.assert_allclose(jax.jit(scaled)(3.0), 3 * whole, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(scaled)(3.0), whole, rtol=1e-5)
    mapped = jax.vmap(scaled)(jnp.arange(3.0))
    np.testing.assert_allclose(mapped, np.arange(3) * whole, rtol=1e-5)


def test_a_batch_takes_functions_that_differ_in_their_arrays():
    masks = np.random.default_rng(2).random((2, 6, 5)).astype(np.float32)
    images, expected = np.stack([X, X]), (OUTPUT[..., 1] * masks).sum((1, 2))
    lambdas = [Region(1, mask) for mask in masks]
    partial = jax.tree_util.Partial(lambda mask, out: (out[..., 1] * mask).sum(), masks)
    for targets in (lambdas, partial):
        found = segcam.explain_batch(segcam.methods.grad_cam, SPLIT, PARAMS, images, targets)
        np.testing.assert_allclose(found.score, expected, rtol=1e-5)
    targets = [Region(0, masks[0]), Region(1, masks[1])]
    with pytest.raises(TargetError, match="compute different things"):
        segcam.explain_batch(segcam.methods.grad_cam, SPLIT, PARAMS, images, targets)
    changing = Region(0, masks[0])
    for changing.category in (0, 2):
        found = segcam.explain_batch(segcam.methods.grad_cam, SPLIT, PARAMS, images, changing)
        expected = (OUTPUT[..., changing.category] * masks[0]).sum()
        np.testing.assert_allclose(found.score, [expected] * 2, rtol=1e-5)


def test_a_plan_is_of_the_function_as_it_is_now():
    target = Region(0, np.ones((6, 5), np.float32))
    plan = segcam.explain_plan(SPLIT, PARAMS, X, target, method="ablation_cam", compile=False)
    assert plan.evaluations == 1  # The score is linear.


def no_return(output):
    output.sum()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (lambda output: np.exp(output).sum(), "gives the output to numpy .*call jax.numpy in it"),
        (lambda output: float(output.sum()), "needs the output's value while it is traced"),
        (lambda output: output.sum() if output.max() > 0 else 0.0, "needs the output's value"),
        (no_return, "returns None; expected one scalar. Does it lack a `return`"),
        (lambda output: output.sum((0, 1)), r"an array of shape \(4,\); expected one scalar"),
        (lambda output: output[0, 0].argmax(), "returns int32, as argmax"),
        (lambda output: output.sum() > 0, "returns bool"),
        (lambda output: (output.sum(), output), "returns a tuple; expected one scalar"),
        (lambda output: output["logits"], r"fails on an output of shape \(6, 5, 4\): .*line"),
    ],
)
def test_targets_that_are_none_say_why(target, told):
    with pytest.raises(TargetError, match=told) as raised:
        score(target)
    assert len(str(raised.value).splitlines()) == 1


def memory_maps() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def explain_many(functions: range, programs: int) -> None:
    """Explains new functions, so many programs of them in all.

    On a network that compiles in half the time: a new program takes 0.05 s of XLA, and 0.01 s else.
    """
    x, params = np.abs(X[:2, :2, :1]), np.float32(1)
    split = segcam.split(lambda p, x: segcam.tap(x, "hidden") * p, "hidden", params, x)
    for index in functions:
        factor = index * programs // 2000 + 0.5
        found = segcam.methods.hires_cam(
            split, params, x, lambda output, f=factor: output.sum() * f
        )
        np.testing.assert_allclose(found.score, factor * x.sum(), rtol=1e-5)
    gc.collect()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are told by /proc")
def test_memory_maps_are_given_back(programs):
    explain_many(range(40), 250)
    before = memory_maps()
    explain_many(range(40, 240), 250)
    assert len(programs) == 4
    assert memory_maps() - before < 100


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are told by /proc")
def test_two_thousand_functions_end_no_process(programs):
    explain_many(range(100), 2000)
    maps, resident = memory_maps(), resident_bytes()
    explain_many(range(100, 2000), 2000)
    assert memory_maps() - maps < 500
    assert resident_bytes() - resident < 100 * 2**20


def test_the_key_of_what_has_a_shape_but_no_values():
    """`np.asarray` of a struct is an array of objects, whose bytes are an address."""
    structs = [jax.ShapeDtypeStruct((2,), jnp.float32) for _ in range(2)]
    keys = [content._value(struct, True) for struct in structs]
    assert keys[0] == keys[1] != content._value(jax.ShapeDtypeStruct((3,), jnp.float32), True)
