"""What every adapter is held to: values of taps, maps of a twin tapped by hand, no traces."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

import segcam_jax as segcam

CLASSES = 3


def assert_taps_are(fn, params, x, expected):
    """The activation at each tap is what the submodule returns, and what follows is the rest."""
    whole = fn(params, x)
    for name, value in expected.items():
        split = segcam.split(fn, name, params, x)
        activation, carry = split.encode(params, x)
        np.testing.assert_allclose(activation, value, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            split.decode(activation, carry), whole, rtol=1e-5, atol=1e-6, err_msg=name
        )


def assert_same_explanations(ours, twin, x, names, methods=("grad_cam", "ablation_cam")):
    """Maps of an adapted model are those of its twin, whose author tapped it."""
    for name, other in names.items():
        for method in methods:
            maps = []
            for (fn, params), tap in ((ours, name), (twin, other)):
                split = segcam.split(fn, tap, params, x)
                target = segcam.targets.whole_image(1)
                explanation = getattr(segcam.methods, method)(split, params, x, target)
                assert explanation.map.shape == split.activation.shape[:-1]
                maps.append(explanation.map)
            assert jnp.abs(maps[0]).max() > 0
            np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-6, err_msg=f"{method} at {name}")


@contextlib.contextmanager
def untouched(model, modules):
    """Modules keep their class and attributes, their classes what they have; values stay."""
    before = [(type(module), dict(vars(module)), dict(vars(type(module)))) for module in modules]
    leaves = jax.tree.leaves(model)
    yield
    for module, (cls, attributes, members) in zip(modules, before, strict=True):
        assert type(module) is cls
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())
        assert dict(vars(cls)) == members
    for old, new in zip(leaves, jax.tree.leaves(model), strict=True):
        assert old is new
