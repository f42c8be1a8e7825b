import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from promises import assert_same_steps
from trajectories import trajectory

import optkit


def run(tx, steps):
    """The updates of all steps."""
    return trajectory(tx, normal(steps, 4, seed=1), jnp.ones(4)).updates


@pytest.mark.slow
def test_exponentiated_sgdm_is_the_scaled_learner():
    scaled = optkit.randomly_scaled(optkit.online_gradient_descent(0.1, 0.9, 2.0), key=4)
    assert_same_steps(optkit.exponentiated_sgdm(0.1, 0.9, 2.0, key=4), scaled, normal(20, 4, seed=1), jnp.ones(4))


@pytest.mark.slow
def test_the_mean_over_draws_is_the_learner():
    keys = jax.random.split(jax.random.key(0), 2000)
    updates = jax.jit(jax.vmap(lambda key: run(optkit.exponentiated_sgdm(0.1, 0.9, 0.0, key=key), steps=3)))(keys)
    error = updates.mean(axis=0) - run(optkit.online_gradient_descent(0.1, 0.9, 0.0), steps=3)
    assert np.all(np.abs(error) < 3.5 * updates.std(axis=0) / np.sqrt(len(keys)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.exponentiated_sgdm(0.1, beta=1.5, key=0), r"beta must be in \[0, 1\], got 1.5"),
        (lambda: optkit.exponentiated_sgdm(0.1, mu=-1.0, key=0), r"mu must be in \[0, inf\], got -1.0"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
