"""Chunks that fit the memory: planned, compiled, looked at, halved."""

import types
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import Execution, InputError
from segcam_jax.engine import memory, programs
from segcam_jax.models.unet import UNet, UNetConfig
from tests.support.networks import make_input, make_params, skip_net

EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")


@pytest.fixture
def chunks(monkeypatch):
    """The chunk sizes that are planned, in order."""
    planned = []
    plan = memory.chunk

    def chunk(*arguments):
        planned.append(plan(*arguments))
        return planned[-1]

    monkeypatch.setattr(memory, "chunk", chunk)
    return planned


def fails_while(monkeypatch, too_large, error=EXHAUSTED):
    """Programs raise an error while `too_large(halvings)`."""
    call = programs.Programs._call

    def failing(self, program, *arguments):
        result = call(self, program, *arguments)
        if too_large(program.halvings):
            raise error
        return result

    monkeypatch.setattr(programs.Programs, "_call", failing)


def ablate(**settings) -> Any:
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    execution = Execution(**settings)
    return segcam.methods.ablation_cam(
        split, params, x, segcam.targets.whole_image(1), execution=execution
    )


@pytest.fixture
def fresh(monkeypatch):
    """Programs of other tests are forgotten, so that a study is planned again."""
    from segcam_jax import taps

    monkeypatch.setattr(taps, "_CACHE", taps.Recent(8))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("limited", [{}, {"memory_limit": 10**7}])
def test_chunks_are_halved_where_memory_runs_out(monkeypatch, chunks, limited):
    whole = ablate(chunk_size=9)
    chunks.clear()
    fails_while(monkeypatch, lambda halvings: halvings < 2)
    halved = ablate(chunk_size=8, **limited)
    assert chunks[-1] == 2
    np.testing.assert_allclose(halved.scores, whole.scores, rtol=1e-6)
    chunks.clear()
    again = ablate(chunk_size=8, **limited)
    assert not chunks, "what fits is remembered"
    np.testing.assert_array_equal(again.scores, halved.scores)


@pytest.mark.usefixtures("fresh")
def test_the_end_of_halving_is_one_line(monkeypatch):
    fails_while(monkeypatch, lambda _: True)
    for method in (
        segcam.methods.ablation_cam,
        segcam.methods.grad_cam,
        segcam.methods.integrated_gradients,
    ):
        params, x = make_params(), make_input()
        split = segcam.split(skip_net, "bottleneck", params, x)
        with pytest.raises(InputError, match="out of memory with one evaluation") as caught:
            method(split, params, x, segcam.targets.whole_image(1))
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is EXHAUSTED


@pytest.mark.usefixtures("fresh")
def test_other_errors_of_the_device_are_not_touched(monkeypatch):
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    fails_while(monkeypatch, lambda _: True, error)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        ablate()


def test_nothing_is_compiled_inside_a_callers_jit(monkeypatch):
    def fitted(*_):
        raise AssertionError

    expected = ablate()
    monkeypatch.setattr(programs.Programs, "fitted", fitted)
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    execution = Execution(memory_limit=10**7)

    @jax.jit
    def explain(x):
        return segcam.methods.ablation_cam(
            split, params, x, segcam.targets.whole_image(1), execution=execution
        )

    np.testing.assert_allclose(explain(x).map, expected.map, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fresh")
def test_a_study_whose_inputs_are_known_runs_inside_a_jit():
    """All inputs known, but inside of a jit: its result is a constant of the outer program."""
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    target = segcam.targets.whole_image(1)
    for execution in (Execution(), Execution(memory_limit=10**7)):

        def scaled(scale, execution=execution):
            return (
                scale * segcam.methods.grad_cam(split, params, x, target, execution=execution).map
            )

        np.testing.assert_allclose(jax.jit(scaled)(2.0), 2 * scaled(1.0), rtol=1e-4, atol=1e-5)


def a_unet():
    config = UNetConfig(in_channels=1, classes=2, width=8, depth=3)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        fn, params = segcam.from_nnx(UNet(config, rngs=nnx.Rngs(0)))
        x = jax.random.uniform(jax.random.key(0), (48, 48, 1))
        return segcam.split(fn, "bottleneck", params, x), params, x


@pytest.mark.slow
def test_temporaries_stay_under_the_limit(monkeypatch, chunks):
    split, params, x = a_unet()
    compiled = []
    size_of = programs.temporary_bytes

    def temporary_bytes(executable):
        compiled.append(size_of(executable))
        return compiled[-1]

    monkeypatch.setattr(programs, "temporary_bytes", temporary_bytes)
    target = segcam.targets.whole_image(1)
    expected: Any = segcam.methods.ablation_cam(split, params, x, target)
    used = {}
    for megabytes in (1, 2, 6):
        limit = megabytes * 10**6
        execution = Execution(memory_limit=limit, skip_dead=False)
        explanation: Any = segcam.methods.ablation_cam(
            split, params, x, target, execution=execution
        )
        assert compiled[-1] <= limit
        used[megabytes] = chunks[-1]
        scale = np.abs(expected.scores - expected.score).max()
        np.testing.assert_allclose(explanation.scores / scale, expected.scores / scale, atol=1e-4)
    assert used[1] < used[2] < used[6], "more memory, larger chunks"


def test_gradients_keep_to_the_limit():
    split, params, x = a_unet()
    target = segcam.targets.whole_image(1)
    for method in (segcam.methods.grad_cam, segcam.methods.integrated_gradients):
        assert method(split, params, x, target, execution=Execution(memory_limit=10**8))
    with pytest.raises(InputError, match="memory_limit=1000 bytes; one evaluation alone needs"):
        segcam.methods.grad_cam(split, params, x, target, execution=Execution(memory_limit=1000))


def test_a_limit_that_the_estimate_allows_and_the_compiler_does_not(monkeypatch):
    monkeypatch.setattr(programs, "temporary_bytes", lambda _: 5_000_000)
    with pytest.raises(InputError, match="memory_limit=4000000 bytes; .* about 5000000 for"):
        ablate(memory_limit=4_000_000)


def test_halved_chunks_are_evened_out():
    execution = Execution(chunk_size=10)
    with memory.halved(0):
        assert memory.chunk(execution, 25, 1) == 10
    with memory.halved(1):
        assert memory.chunk(execution, 26, 1) == 5
        assert memory.chunk(execution, 6, 1) == 3
    with pytest.raises(memory.NoSmallerChunk), memory.halved(5):
        assert memory.chunk(execution, 25, 1) == 1
    with pytest.raises(memory.NoSmallerChunk), memory.halved(1):
        pass


def test_accelerators_plan_with_what_is_free(monkeypatch):
    stats: dict | None = {"bytes_limit": 1000, "bytes_in_use": 400}
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.limit(Execution()) == 600
    assert memory.free_bytes() == 240
    assert memory.limit(Execution(memory_limit=10)) == 10
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert memory.limit(Execution()) == 1000
    stats = None
    assert memory.limit(Execution()) is None
    assert memory.free_bytes() > 0
