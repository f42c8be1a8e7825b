"""A model of Equinox, which is a tree that can be called, trains as a dict of its leaves does."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.catalog import METHODS

STEPS = 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(
            "mars_adamw",
            "mars_m",
            "igt_adam",
            "sgd_sai",
            "nigt",
            "clipped_sgd",
            "exponentiated_adamw",
            "cautious_adamw",
        ),
        *("adam_sn", "adam_snsm", "frugal_adamw", "galore_adamw", "micro_adam", "muon", "dion", "dion2", "normuon"),
    ],
)
def test_equinox_model_trains_as_its_leaves(name):
    model = eqx.nn.MLP(3, 2, width_size=4, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = METHODS[name].factory(**METHODS[name].example)
    inputs = jax.random.normal(jax.random.key(1), (5, 3))

    def loss(params):
        return jnp.mean(jax.vmap(eqx.combine(params, static))(inputs) ** 2)

    leaves, structure = jax.tree.flatten(params)

    def run(params, gradient):
        update, state = jax.jit(tx.update), tx.init(params)
        for _ in range(STEPS):
            updates, state = update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.leaves(params)

    def gradient_of_leaves(named):
        return dict(zip(named, jax.tree.leaves(jax.grad(loss)(structure.unflatten(named.values()))), strict=True))

    expected = run({str(number): leaf for number, leaf in enumerate(leaves)}, gradient_of_leaves)
    for ours, theirs, start in zip(run(params, jax.grad(loss)), expected, leaves, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert not np.allclose(ours, start, rtol=1e-6, atol=0.0)
