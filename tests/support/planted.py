"""Networks whose evidence is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax import tap

SHAPE = (8, 8)
# Where the evidence lies, and how much of it.
WEIGHTS = np.zeros((*SHAPE, 1), np.float32)
WEIGHTS[1:4, 2:6, 0] = np.linspace(1, 3, 12).reshape(3, 4)
# What the segmentation network calls class 1: beside the evidence, not on it.
REGION = np.zeros(SHAPE, bool)
REGION[5:7, 1:5] = True


def image(seed=0):
    """Values from 1 to 2, and 2 more on the evidence: it differs from what lies around it."""
    values = 1 + jax.random.uniform(jax.random.key(seed), (*SHAPE, 1))
    return values + 2 * jnp.asarray(WEIGHTS > 0, jnp.float32)


def classifier(params, x):
    """Two logits: weighted evidence, and nothing."""
    hidden = tap(jax.nn.relu(x), "hidden")
    total = (hidden * params["weights"]).sum()
    return jnp.stack([total / params["weights"].sum(), jnp.zeros(())])


def segmentation(params, x):
    """Class 1 over `REGION` where the evidence is there; class 0 elsewhere."""
    hidden = tap(jax.nn.relu(x), "hidden")
    evidence = (hidden * params["weights"]).sum() / params["weights"].sum()
    inside = jnp.asarray(REGION, jnp.float32)
    one = inside * (4 * evidence - 8) - (1 - inside) * 4
    return jnp.stack([jnp.zeros_like(one), one], -1)


def params():
    return {"weights": jnp.asarray(WEIGHTS)}


def truth(x):
    """The effect of each position on the evidence."""
    return (jnp.asarray(WEIGHTS) * x).sum(-1) / WEIGHTS.sum()
