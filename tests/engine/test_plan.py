"""The plan of a study says what the engine does: held to counts of its own, and to the engine."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import Execution, InputError, TargetError, engine
from segcam_jax.engine import measure
from segcam_jax.masks import ChannelMasks
from tests.support.networks import make_input, make_params, skip_net

PARAMS, X = make_params(), make_input()


def planned(target=None, params=PARAMS, **options):
    split = segcam.split(skip_net, "bottleneck", params, X)
    target = segcam.targets.whole_image(1) if target is None else target
    return segcam.explain_plan(split, params, X, target, **options)


def a_region():
    mask = np.zeros((8, 12), bool)
    mask[2:4, 3:6] = True
    return segcam.targets.region(1, mask)


def test_operations_by_hand():
    """Convolutions of `skip_net` at 8 x 12: two before the tap, two after it."""
    plan = planned(compile=False)
    before = 2 * 9 * (96 * 2 * 4 + 24 * 4 * 8)
    decode = 2 * 96 * (9 * 12 * 4 + 4 * 3)
    changed = 2 * 96 * (9 * 1 * 4 + 4 * 3)
    assert plan.network_flops == before + decode
    assert plan.decode_flops == decode
    steps = {step.switch: step for step in plan.steps}
    assert [step.flops for step in plan.steps[:2]] == [before + decode, decode]
    assert steps["difference"].flops == changed
    assert plan.once_flops == before + decode
    assert steps["difference"].evaluations == 8
    assert all(a.flops >= b.flops for a, b in zip(plan.steps, plan.steps[1:], strict=False))
    assert plan.evaluations == 8
    assert plan.activation == (4, 6, 8)


def test_the_unchanged_network_runs_on_the_window_of_the_target():
    """The convolutions after the tap on 2 x 3 of 8 x 12 positions, by hand."""
    before = 2 * 9 * (96 * 2 * 4 + 24 * 4 * 8)
    there = 2 * 6 * (9 * 12 * 4 + 4 * 3)
    assert planned(a_region(), compile=False).once_flops == before + there


def test_windows_and_dead_channels():
    params = {**PARAMS, "deep": PARAMS["deep"].at[..., ::2].set(0)}
    plan = planned(a_region(), params, execution=Execution(chunk_size=2))
    assert plan.window == (2, 3)
    assert plan.seen is not None
    assert all(small <= large for small, large in zip(plan.seen, (4, 6), strict=True))
    assert plan.live is not None
    assert plan.live <= 4
    assert plan.chunk == 2
    last = plan.steps[-1]
    assert last.switch == "skip_dead"
    assert last.evaluations == -(-plan.live // 2) * 2
    assert last.total == last.flops * (last.evaluations or 0)
    assert "closed_form" in plan.idle
    assert plan.temporaries
    assert plan.temporaries > 0


def test_only_switches_that_are_on_are_steps():
    plan = planned(a_region(), compile=False, execution=Execution(windows=False))
    switches = {step.switch for step in plan.steps} | set(plan.idle)
    assert switches == {None, "difference", "skip_dead", "closed_form"}
    plan = planned(compile=False, execution=segcam.NAIVE)
    assert len(plan.steps) == 2


def linear_after(params, x):
    return segcam.tap(jax.nn.relu(x @ params), "hidden").mean((0, 1))


def test_closed_form():
    params, x = jnp.ones((2, 3)), X
    split = segcam.split(linear_after, "hidden", params, x)
    plan = segcam.explain_plan(split, params, x, segcam.targets.whole_image(1), measure=True)
    assert plan.steps[-1].switch == "closed_form" or "closed_form" in plan.idle
    assert plan.evaluations == 1
    assert plan.masks == 3
    assert "1 gradient for all 3 ablations" in str(plan)


@pytest.mark.parametrize(
    ("name", "kind", "evaluations"),
    [
        ("grad_cam", "gradients", 1),
        ("integrated_gradients", "gradients", 7),
        ("fast_ablation_cam", "ablations", 24),
        ("eigen_cam", None, 0),
    ],
)
def test_any_method_can_be_planned(name, kind, evaluations):
    options = {"steps": 7} if name == "integrated_gradients" else {}
    plan = planned(a_region(), method=name, measure=True, **options)
    assert plan.kind == kind
    assert plan.evaluations == evaluations
    assert plan.seconds
    assert plan.seconds > 0
    assert name in str(plan)


def test_a_function_of_ones_own():
    def scores(split, params, x, target, *, execution):
        activation, carry = split.encode(params, x)
        masks = ChannelMasks(activation.shape[-1], 0.5)
        score, _ = engine.ablation_scores(split, activation, carry, target, masks, execution)
        return segcam.Explanation(activation.sum(-1), score)

    plan = planned(method=scores)
    assert plan.masks == 8
    assert plan.method == "scores"


def test_shapes_are_enough():
    split = segcam.split(skip_net, "bottleneck", PARAMS, X)
    params, x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (PARAMS, X))
    plan = segcam.explain_plan(split, params, x, segcam.targets.whole_image(1))
    assert plan.live is None
    assert plan.temporaries is None
    assert plan.seconds is None
    assert plan.steps[1].evaluations == 9
    dead = [step for step in plan.steps if step.switch == "skip_dead"]
    assert all(step.evaluations is None and step.total is None for step in dead)
    assert str(plan)


@pytest.mark.slow
def test_the_error_of_a_precision():
    execution = Execution(precision="bfloat16")
    for method in ("ablation_cam", "grad_cam"):
        plan = planned(a_region(), method=method, measure=True, execution=execution)
        assert plan.error is not None
        assert 1e-6 < plan.error.largest < 0.1
        assert plan.error.rank > 0.9
        assert "bfloat16: largest error" in str(plan)
    assert planned(measure=True).error is None


def test_errors_are_compared_by_value_and_by_rank():
    exact = np.array([1.0, 2.0, 4.0])
    found = measure.compared(exact, np.array([2.0, 1.0, 4.0]))
    assert found == measure.PrecisionError(0.25, 0.5, 3)
    assert measure.compared(exact, exact).rank == 1
    assert math.isnan(measure.compared(np.ones(3), np.ones(3)).rank)
    assert measure.compared(np.zeros(0), np.zeros(0)).sample == 0


@pytest.mark.parametrize("local", [True, False])
def test_some_of_the_masks(local):
    masks = ChannelMasks(8, -0.5)
    few = (measure.SomeLocal if local else measure.Some)(masks, np.array([5, 2]))
    split = segcam.split(skip_net, "bottleneck", PARAMS, X)
    activation, carry = split.encode(PARAMS, X)
    of = lambda each: engine.ablation_scores(  # noqa: E731
        split, activation, carry, segcam.targets.whole_image(1), each, Execution()
    )[1]
    np.testing.assert_allclose(of(few), of(masks)[np.array([5, 2])], rtol=1e-5)


def test_faults_are_told():
    with pytest.raises(InputError, match="unknown method"):
        planned(method="no_cam")
    with pytest.raises(TargetError, match="class 9"):
        planned(segcam.targets.whole_image(9))
    with pytest.raises(InputError, match="memory_limit=10 bytes"):
        planned(execution=Execution(memory_limit=10))


def test_the_table_reads_well():
    plan = planned(a_region())
    lines = str(plan).splitlines()
    assert lines[0].split() == ["method", "ablation_cam", "at", "tap", "'bottleneck'"]
    start = lines.index("")
    assert lines[start + 1].split()[:1] == ["with"]
    assert len(lines) == start + 3 + len(plan.steps)
    assert max(map(len, lines[start:])) < 120
    frozen = dataclasses.replace(plan, seconds=0.0123, fallbacks=("sort",), devices=2)
    assert "12.3 ms" in str(frozen)
    assert "sort: without a window rule" in str(frozen)
    assert "on each of 2 devices" in str(frozen)
