"""Many targets of one image: the maps of single calls, and work that is shared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, TargetError
from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import record
from tests.support.networks import make_input, make_params, skip_net

SHAPE = (8, 12)


@pytest.fixture(scope="module")
def case():
    params, x = make_params(), make_input()
    return segcam.split(skip_net, "bottleneck", params, x, outputs="logits"), params, x


def box(rows, columns):
    mask = np.zeros(SHAPE, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def boxes():
    corners = [(0, 0), (1, 7), (5, 3), (6, 10)]
    return [
        segcam.targets.region(1, box((r, r + 2), (c, c + 2)), reduce="mean") for r, c in corners
    ]


def assert_alike(found, singles):
    assert found.score.shape == (len(singles),)
    for field in ("map", "score", "weights", "scores", "drops", "attribution"):
        values = [getattr(single, field) for single in singles]
        if values[0] is None:
            assert getattr(found, field) is None
            continue
        largest = max(float(jnp.abs(value).max()) for value in values)
        np.testing.assert_allclose(
            getattr(found, field), np.stack(values), atol=1e-5 * largest, err_msg=field
        )


@pytest.mark.parametrize("method", [segcam.methods.ablation_cam, segcam.methods.grad_cam])
def test_instances_equal_single_calls(case, method):
    split, params, x = case
    targets = boxes()
    singles = [method(split, params, x, target) for target in targets]
    assert_alike(segcam.explain_targets(method, split, params, x, targets), singles)
    stacked = segcam.explain_targets(method, split, params, x, segcam.targets.stack(targets))
    assert_alike(stacked, singles)


def test_devices_share_the_ablations_of_all_targets(case):
    """In windows of their own, and in one that two of them share."""
    split, params, x = case
    execution = segcam.Execution(mesh=segcam.device_mesh(8), chunk_size=1)
    for targets in (boxes(), boxes()[:1] * 2):
        given = (segcam.methods.ablation_cam, split, params, x, targets)
        alone, dealt = (
            segcam.explain_targets(*given),
            segcam.explain_targets(*given, execution=execution),
        )
        assert len(dealt.map.sharding.device_set) == 8
        for field in ("map", "score", "weights", "drops"):
            found, expected = getattr(dealt, field), getattr(alone, field)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, atol=1e-5 * scale, err_msg=field)


@pytest.mark.slow
def test_targets_of_many_kinds_come_back_in_order(case):
    split, params, x = case

    def difference(mask):
        return lambda output: ((output[..., 1] - output[..., 0]) * mask).sum()

    targets = [
        segcam.targets.pixel(0, (2, 3), SHAPE),
        difference(jnp.asarray(box((0, 4), (0, 4)), jnp.float32)),
        segcam.targets.whole_image(2, of="probabilities"),
        segcam.targets.pixel(2, (7, 11), SHAPE),
        lambda output: jnp.tanh(output).mean(),
        difference(jnp.asarray(box((4, 8), (6, 9)), jnp.float32)),
    ]
    found = segcam.explain_targets(segcam.methods.fast_ablation_cam, split, params, x, targets)
    singles = [segcam.methods.fast_ablation_cam(split, params, x, target) for target in targets]
    assert_alike(found, singles)


def test_options_and_a_key_are_those_of_the_method(case):
    split, params, x = case
    key = jax.random.key(3)
    options = {"samples": 2, "key": key}
    found = segcam.explain_targets(
        segcam.methods.smooth_grad, split, params, x, boxes()[:2], **options
    )
    singles = [
        segcam.methods.smooth_grad(split, params, x, each, **options) for each in boxes()[:2]
    ]
    assert_alike(found, singles)


def test_within_a_callers_own_jit(case):
    split, params, x = case

    @jax.jit
    def run(x, targets):
        return segcam.explain_targets(segcam.methods.ablation_cam, split, params, x, targets).map

    found = run(x, segcam.targets.stack(boxes()))
    singles = [segcam.methods.ablation_cam(split, params, x, target).map for target in boxes()]
    np.testing.assert_allclose(found, singles, atol=1e-6)


def evaluated(case, targets):
    """The ablations' window of an evaluation, and how many targets it is run for."""
    split, params, x = case
    with record.recording() as studies:
        jax.make_jaxpr(
            lambda x: (
                segcam.explain_targets(segcam.methods.ablation_cam, split, params, x, targets).map
            )
        )(x)
    return studies[-1]


def test_far_apart_they_have_windows_of_their_own_and_side_by_side_they_share(case):
    far = evaluated(case, boxes()[::3])
    assert far.how.window == (2, 2)
    near = [segcam.targets.region(1, box((2, 4), (c, c + 2)), reduce="mean") for c in range(4, 9)]
    assert evaluated(case, near).how.window == (2, 6)
    split, params, x = case
    found = segcam.explain_targets(segcam.methods.ablation_cam, split, params, x, near)
    assert_alike(found, [segcam.methods.ablation_cam(split, params, x, each) for each in near])


def loops(jaxpr):
    """The bodies of the loops of a jaxpr, and all that lies outside of them."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
        else:
            for body in graph.bodies(equation):
                yield from loops(getattr(body, "jaxpr", body))


def test_what_precedes_the_tap_runs_once_for_all_gradients(case):
    split, params, x = case
    targets = segcam.targets.stack(boxes())
    execution = segcam.Execution(chunk_size=2)

    def run(x):
        return segcam.explain_targets(
            segcam.methods.grad_cam, split, params, x, targets, execution=execution
        ).map

    (body,) = loops(jax.make_jaxpr(run)(x).jaxpr)
    single = jax.make_jaxpr(lambda x: segcam.methods.grad_cam(split, params, x, boxes()[0]).map)(
        x
    ).jaxpr
    convolutions = 2 * np.prod(SHAPE) * 9 * 2 * 4 + 2 * np.prod(SHAPE) // 4 * 9 * 4 * 8
    assert cost.flops(body) <= 2 * (cost.flops(single) - convolutions)


def test_bad_input(case):
    split, params, x = case

    def run(targets):
        return segcam.explain_targets(segcam.methods.ablation_cam, split, params, x, targets)

    with pytest.raises(InputError, match=r"targets=\[\]; give one target or more"):
        run([])
    with pytest.raises(InputError, match="a sequence of targets, or a stack of them"):
        run(segcam.targets.whole_image(1))
    with pytest.raises(InputError, match="a sequence of targets.*not function"):
        run(lambda output: output.sum())
    with pytest.raises(TargetError, match="is not a class of the model"):
        run([segcam.targets.whole_image(1), segcam.targets.whole_image(3)])
    with pytest.raises(TargetError, match="is not a class of the model"):
        run(dataclasses.replace(segcam.targets.stack(boxes()), class_index=jnp.array([0, 1, 2, 3])))
    with pytest.raises(TargetError, match=r"region has shape \(4, 4\)"):
        run([segcam.targets.region(1, np.ones((4, 4), bool))])
    with pytest.raises(TargetError, match="expected one scalar"):
        run([lambda output: output])
