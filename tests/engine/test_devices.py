"""Studies dealt over 8 virtual devices: the same maps for any number of devices and chunk size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import segcam_jax as segcam
from segcam_jax import Execution, InputError, TargetError, engine
from segcam_jax.engine import devices
from tests.support.networks import make_input, make_params, skip_net


@functools.cache
def study():
    """A split, its parameters with half of the channels dead, an image, a target."""
    params, x = make_params(width=6), make_input()
    params = {**params, "deep": params["deep"].at[..., 1::2].set(0)}
    return segcam.split(skip_net, "bottleneck", params, x), params, x, a_target(2, 3)


def a_target(row, column, class_index=1):
    mask = np.zeros((8, 12), bool)
    mask[row : row + 3, column : column + 4] = True
    return segcam.targets.region(class_index, mask)


def on(count, images=1, **options):
    return Execution(mesh=segcam.device_mesh(count, images=images), **options)


def close(found, expected, tolerance=1e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max() + 1e-12
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "options", "runs"),
    [
        ("ablation_cam", {}, [(1, 1), (2, 3), (3, 1), (3, None), (8, 1)]),
        ("fast_ablation_cam", {"window": 2, "stride": 1}, [(3, 1), (8, None)]),
    ],
)
def test_ablations_on_any_number_of_devices(name, options, runs):
    """12 channels and 15 windows, and the unchanged activation: most counts do not divide them."""
    method = segcam.methods.METHODS[name].function
    alone = method(*study(), **options, execution=Execution(chunk_size=1))
    for count, chunk in runs:
        dealt = method(*study(), **options, execution=on(count, chunk_size=chunk))
        close(dealt, alone)
        if chunk == 1:
            # Every row runs in the same program then.
            np.testing.assert_array_equal(dealt.scores, alone.scores)
        assert len(dealt.map.sharding.device_set) == count
        assert dealt.map.is_fully_replicated


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("smooth_grad", {"samples": 13, "statistic": "variance"}),
        ("integrated_gradients", {"steps": 5}),
    ],
)
def test_samples_on_any_number_of_devices(name, options):
    """Noise belongs to the index of a sample; 5 steps leave 3 of 8 devices without any."""
    method = segcam.methods.METHODS[name].function
    if name == "smooth_grad":
        options = {**options, "key": jax.random.key(3)}
    alone = method(*study(), **options, execution=Execution(chunk_size=4))
    for count, chunk in ((3, 2), (8, 1)):
        close(method(*study(), **options, execution=on(count, chunk_size=chunk)), alone)


def test_other_methods_on_a_mesh():
    for method in (segcam.methods.grad_cam, segcam.methods.eigen_cam):
        close(method(*study(), execution=on(3)), method(*study()))


def test_rows_are_dealt_evenly():
    for count, number, chunk in ((13, 8, 1), (13, 3, 2), (2, 8, 1), (64, 8, 5)):
        shares = [devices.Share(count, number, jnp.int32(first)) for first in range(number)]
        own = [rows[kept] for rows, kept in (share.rows(chunk) for share in shares)]
        assert sorted(np.concatenate(own).tolist()) == list(range(count))
        # Live rows come first: each device has as many of them as the others, but for one.
        for live in range(count + 1):
            many = [int((rows < live).sum()) for rows in own]
            assert max(many) - min(many) <= 1


@pytest.mark.parametrize("count", [3, 8])
def test_dead_channels_are_not_run_on_any_device(count):
    split, params, x, _ = study()
    seen = []

    def target(output):
        score = output[..., 1].sum()
        jax.debug.callback(lambda s: seen.append(float(s)), score)
        return score

    alive = int((split.encode(params, x)[0] > 0).any((0, 1)).sum())
    assert 2 < alive <= 6
    explanation = segcam.methods.ablation_cam(
        split, params, x, target, execution=on(count, chunk_size=1)
    )
    jax.effects_barrier()
    # Every device runs the unchanged image for itself; no ablation is run twice.
    assert len(seen) == count + alive
    assert not explanation.weights[1::2].any()
    nothing = {**params, "deep": jnp.zeros_like(params["deep"])}
    explanation = segcam.methods.ablation_cam(
        split, nothing, x, target, execution=on(count, chunk_size=1)
    )
    assert not explanation.map.any()
    assert (explanation.scores == explanation.score).all()


@pytest.mark.slow
def test_under_vmap_jit_and_grad():
    split, params, x, _ = study()
    targets = segcam.targets.stack([a_target(0, 0), a_target(5, 8, 2), a_target(3, 2, 0)])

    def explain(execution, x, target):
        return segcam.methods.ablation_cam(split, params, x, target, execution=execution)

    def of_images(execution):
        return jax.vmap(functools.partial(explain, execution), (0, None))(
            jnp.stack([x, -x, 2 * x]), study()[3]
        )

    def of_targets_in_a_jit(execution):
        batched = jax.vmap(functools.partial(explain, execution), (None, 0))
        return jax.jit(lambda x: 2 * batched(x, targets).map)(x)

    def slope(execution):
        return jax.grad(lambda x: explain(execution, x, study()[3]).scores.sum())(x)

    for transformed in (of_images, of_targets_in_a_jit, slope):
        close(transformed(on(3, chunk_size=2)), transformed(Execution(chunk_size=2)), 1e-5)


def test_arguments_may_lie_on_any_device():
    split, params, x, target = study()
    expected = segcam.methods.ablation_cam(split, params, x, target)
    elsewhere = jax.device_put(x, jax.devices()[5])
    close(segcam.methods.ablation_cam(split, params, elsewhere, target, execution=on(3)), expected)
    execution = on(8)
    placed = segcam.engine.replicate(params, execution.mesh)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(placed))
    again = segcam.engine.replicate(placed, execution.mesh)
    assert again["up"] is placed["up"]
    close(segcam.methods.ablation_cam(split, placed, x, target, execution=execution), expected)
    explicit = Execution(mesh=jax.make_mesh((4,), ("ablations",)))
    close(segcam.methods.ablation_cam(split, placed, x, target, execution=explicit), expected)


@pytest.mark.parametrize(
    ("name", "at_once", "meshes"),
    [
        ("ablation_cam", 1, [None, (3, 3), (8, 4)]),
        ("grad_cam", 2, [None, (3, 3), (8, 1)]),
        ("smooth_grad", 1, [(4, 2)]),
    ],
)
def test_a_batch_is_its_single_explanations(name, at_once, meshes):
    split, params, x, _ = study()
    method = segcam.methods.METHODS[name].function
    options = {"key": jax.random.key(0), "samples": 3} if name == "smooth_grad" else {}
    images = np.stack([np.asarray(x) * scale for scale in (1, -1, 0.5, 2, 3)])
    targets = segcam.targets.stack([a_target(k, 2 * k, k % 3) for k in range(5)])
    singles = [
        method(split, params, image, jax.tree.map(lambda leaf, k=k: leaf[k], targets), **options)
        for k, image in enumerate(images)
    ]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *singles)
    for mesh in meshes:
        execution = Execution() if mesh is None else on(*mesh)
        found = segcam.explain_batch(
            method, split, params, images, targets, at_once=at_once, execution=execution, **options
        )
        close(found, expected)


def test_one_target_for_a_batch():
    split, params, x, target = study()
    images = jnp.stack([x, -x, 2 * x])
    expected = segcam.methods.grad_cam(split, params, -x, target).map
    for shared in (target, lambda output: target(output)):
        for execution in (Execution(), on(4, 4)):
            found = segcam.explain_batch(
                segcam.methods.grad_cam, split, params, images, shared, execution=execution
            )
            close(found.map[1], expected)
    listed = segcam.explain_batch(segcam.methods.grad_cam, split, params, images, [target] * 3)
    close(listed.map[1], expected)


def test_a_batch_that_is_dealt_already_and_inside_a_jit():
    split, params, x, target = study()
    execution = on(4, 4)
    images = jnp.stack([x, -x, 2 * x, 3 * x])
    expected = segcam.explain_batch(segcam.methods.ablation_cam, split, params, images, target)
    dealt = jax.device_put(images, NamedSharding(execution.mesh, PartitionSpec("images")))

    def explain(images):
        return segcam.explain_batch(
            segcam.methods.ablation_cam, split, params, images, target, execution=execution
        )

    close(explain(dealt), expected)
    close(jax.jit(explain)(images), expected)


def test_images_explained_together_are_dealt():
    """Gradients of all images at once, ablations in turn; each with its own class and region."""
    split, params, x, _ = study()
    images = np.stack([np.asarray(x) * scale for scale in (1, -1, 0.5)])
    masks = np.stack([np.asarray(a_target(k, 2 * k).mask) for k in range(3)])
    targets = segcam.targets.Target(np.array([[0], [1], [2]], np.int32), masks[:, None])
    calls = [
        engine.Call(segcam.methods.grad_cam, split),
        engine.Call(segcam.methods.ablation_cam, split, in_turn=True),
    ]

    def maps(mesh):
        execution = Execution(mesh=mesh)
        return engine.explain_together(calls, params, images, targets, execution=execution)

    close(maps(segcam.device_mesh(6, images=3)), maps(None))


def test_what_a_split_keeps_fits_every_mesh():
    """Equations are traced once, here under a mesh, and then run under others and none."""
    _, params, x, target = study()
    split = segcam.split(lambda *given: skip_net(*given), "bottleneck", params, x)
    found = [
        segcam.methods.ablation_cam(
            split, params, x, target, execution=Execution(chunk_size=1, mesh=mesh)
        )
        for mesh in (segcam.device_mesh(2), segcam.device_mesh(4, images=2), None)
    ]
    close(found[0], found[2])
    close(found[1], found[2])


def test_no_recompilation_for_another_image_or_instance():
    split, params, x, _ = study()
    execution = on(8, 4)
    images = np.stack([np.asarray(x)] * 6)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )

    def fn(output):
        return output[..., 1].sum()

    def one(scale):
        segcam.methods.ablation_cam(split, params, scale * x, fn, execution=execution)

    def many(scale):
        segcam.explain_batch(
            segcam.methods.ablation_cam, split, params, scale * images, fn, execution=execution
        )

    for run in (one, many):
        run(1)
        first = len(compiled)
        assert first
        run(2)
        assert len(compiled) == first


def test_operations_of_a_device_are_its_share():
    """A U-Net's channel ablation on 8 devices: within 5 % of one eighth of the whole, compiled."""
    from flax import nnx

    from segcam_jax.models.unet import UNet, UNetConfig

    config = UNetConfig(classes=2, width=64, upsample="transposed", halve="upsample")
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((32, 32, 1), jnp.float32)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        split = segcam.split(fn, "bottleneck", params, x)
        assert split.activation.shape[-1] == 1024

        def operations(mesh):
            # One chunk: in a loop, the compiler counts a single round.
            execution = Execution(chunk_size=2000, mesh=mesh)

            def explain(params, x):
                target = segcam.targets.whole_image(1)
                return segcam.methods.ablation_cam(split, params, x, target, execution=execution)

            cost = jax.jit(explain).lower(params, x).compile().cost_analysis()
            assert cost is not None
            return cost["flops"]

        share = operations(segcam.device_mesh(8)) / operations(None)
    assert abs(8 * share - 1) < 0.05


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: segcam.device_mesh(9), "9 devices.*there are 8"),
        (lambda: segcam.device_mesh(0), "0 device"),
        (lambda: segcam.device_mesh(8, images=3), "images=3 does not divide the 8 devices"),
        (lambda: segcam.device_mesh(8, images=0), "images=0"),
        (lambda: Execution(mesh=8), "mesh is int.*device_mesh"),
        (
            lambda: Execution(mesh=Mesh(np.array(jax.devices()), ("data",))),
            r"axes \('data',\).*'images', 'ablations'",
        ),
        (lambda: batch(images=np.zeros((0, 8, 12, 2))), "leading axes"),
        (lambda: batch(at_once=0), "at_once=0"),
        (lambda: batch(targets=[a_target(0, 0)] * 3), "2 image.*leading axes"),
        (lambda: batch(images=np.zeros((2, 8, 8, 2), np.float32)), "shape"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(wrong, words):
    with pytest.raises(InputError, match=words) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def batch(images=None, targets=None, at_once=1):
    split, params, x, target = study()
    images = np.stack([np.asarray(x)] * 2) if images is None else images
    targets = target if targets is None else targets
    return segcam.explain_batch(
        segcam.methods.grad_cam, split, params, images, targets, at_once=at_once, execution=on(2)
    )


def test_a_batch_checks_every_target():
    stacked = segcam.targets.stack([a_target(0, 0), a_target(0, 0, class_index=7)])
    with pytest.raises(TargetError, match="class 7"):
        batch(targets=stacked)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_model_with_annotations_keeps_its_mesh(kind):
    """0.1.0: "with_sharding_constraint requires a non-empty mesh"."""

    def plain(params, x):
        return jax.nn.relu(segcam.tap(jnp.tanh(x @ params), "hidden")) @ params.T

    def annotated(params, x):
        halved = jax.jit(lambda v: jax.lax.with_sharding_constraint(v, PartitionSpec("data")))
        again, _ = jax.lax.scan(lambda value, _: (halved(value), None), x, None, length=2)
        output = plain(params, halved(again))
        return jax.lax.cond(output.sum() > -1, halved, jnp.negative, output)

    params, x = jnp.ones((3, 4)) / 5, jnp.arange(24.0).reshape(4, 2, 3) / 24
    target = segcam.targets.whole_image(1)
    split = segcam.split(plain, "hidden", params, x)
    expected = segcam.methods.ablation_cam(split, params, x, target).map
    expected_gradient = segcam.methods.grad_cam(split, params, x, target).map
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        assert list(segcam.list_taps(annotated, params, x)) == ["input", "hidden"]
        split = segcam.split(annotated, "hidden", params, x)
        found = segcam.methods.ablation_cam(split, params, x, target).map
        gradient = segcam.methods.grad_cam(split, params, x, target).map
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    again = segcam.methods.ablation_cam(split, params, x, target).map
    np.testing.assert_allclose(again, expected, rtol=1e-5)


def test_values_moved_over_explicit_axes_are_refused():
    def moved(params, x):
        return jax.sharding.reshard(segcam.tap(x, "hidden"), PartitionSpec("data")) @ params

    def wrong(params, x):
        return jax.sharding.reshard(x, PartitionSpec("data")) @ params[:2]

    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    )
    with jax.set_mesh(mesh):
        with pytest.raises(InputError, match="moves values over explicit axes .*AxisType.Auto"):
            segcam.list_taps(moved, jnp.ones((3, 2)), jnp.ones((4, 3)))
        with pytest.raises(InputError, match="TypeError: dot_general"):
            segcam.list_taps(wrong, jnp.ones((3, 2)), jnp.ones((4, 3)))


def test_inside_of_a_callers_shard_map_and_on_explicit_axes():
    split, params, x, target = study()
    wanted = segcam.methods.ablation_cam(split, params, x, target).map
    two = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=two)
    pair = jnp.stack([x, x])

    def mapped(**options):
        def run(params, images):
            return segcam.methods.ablation_cam(split, params, images[0], target).map[None]

        specs = {"in_specs": (PartitionSpec(), PartitionSpec("d")), "out_specs": PartitionSpec("d")}
        return jax.jit(jax.shard_map(run, mesh=mesh, **specs, **options))(params, pair)

    with pytest.raises(InputError, match="give check_vma=False"):
        mapped()
    np.testing.assert_allclose(mapped(check_vma=False)[1], wanted, atol=1e-5)
    explicit = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,), devices=two)
    gradients = segcam.methods.grad_cam(split, params, x, target).map
    with jax.set_mesh(explicit):
        shares = jax.device_put(x, NamedSharding(explicit, PartitionSpec("d")))
        whole = jax.device_put(params, NamedSharding(explicit, PartitionSpec()))
        found = segcam.methods.ablation_cam(split, params, shares, target).map
        sloped = segcam.methods.grad_cam(split, whole, shares, target).map
        both = segcam.explain_targets(
            segcam.methods.grad_cam, split, whole, shares, [target, target]
        ).map
        pair = jax.device_put(pair, NamedSharding(explicit, PartitionSpec("d")))
        batch = segcam.explain_batch(segcam.methods.grad_cam, split, whole, pair, target).map
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(sloped, gradients, atol=1e-5)
    np.testing.assert_allclose(both, np.stack([gradients] * 2), atol=1e-5)
    np.testing.assert_allclose(batch, np.stack([gradients] * 2), atol=1e-5)
