import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_extra_arguments_reach_the_inner_optimizer
from trajectories import trajectory

import optkit
from optkit.random_scaling._online_to_nonconvex import converted_by_draws


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_point_lies_on_the_way_of_the_learner():
    learner, gradients = optkit.online_gradient_descent(0.1, 0.9, 1.0), normal(15, 3, seed=1)
    points, _, states = trajectory(optkit.online_to_nonconvex(learner, key=0), gradients, jnp.ones(3))
    ends = points + states.converted.offset
    deltas = trajectory(learner, gradients).updates
    np.testing.assert_allclose(ends, 1 + jnp.cumsum(deltas, axis=0), rtol=1e-12)
    starts = jnp.concatenate([jnp.ones((1, 3)), ends[:-1]])
    fractions = np.asarray((points - starts) / deltas)
    np.testing.assert_allclose(fractions, fractions[:, :1].repeat(3, axis=1), rtol=1e-9)
    assert np.all((fractions >= 0) & (fractions <= 1))
    assert np.ptp(fractions[:, 0]) > 0.5, "fresh in every step"


@pytest.mark.slow
def test_the_linearization_is_exact_in_the_mean():
    def loss(x):
        return jnp.abs(x[0]) + jnp.maximum(x[1] - 0.2, -2.0 * x[1]) + 0.5 * jnp.sum(x**2)

    start, delta = jnp.array([1.0, -0.5]), jnp.array([-1.6, 1.2])

    def linearization(key):
        tx = optkit.online_to_nonconvex(optax.identity(), key=key)  # a learner that proposes what it is given
        updates, _ = tx.update(delta, tx.init(start), start)
        return jax.grad(loss)(start + updates) @ delta

    found = jax.jit(jax.vmap(linearization))(jax.random.split(jax.random.key(0), 20_000))
    assert abs(found.mean() - (loss(start + delta) - loss(start))) < 3 * found.std() / np.sqrt(len(found))


def test_all_workers_draw_the_same():
    tx = optkit.online_to_nonconvex(optax.sgd(1.0), key=0)
    rows = jnp.arange(1.0, 9.0)
    updates = optkit.on_workers(lambda g: tx.update(g, tx.init(g))[0], axis_name="workers")(rows)
    np.testing.assert_allclose(updates / rows, updates[0], rtol=1e-6)


def test_the_parts_of_two_steps():
    tx = converted_by_draws(optax.sgd(1.0))
    gradient = jnp.array([1.0])
    first, state = tx.update(gradient, tx.init(gradient), fraction=0.25)
    second, state = tx.update(gradient, state, fraction=0.5)
    np.testing.assert_allclose([first, second, state.offset], [[-0.25], [-0.75 - 0.5], [-0.5]])


def test_extra_arguments_reach_the_learner():
    assert_extra_arguments_reach_the_inner_optimizer(functools.partial(optkit.online_to_nonconvex, key=0))


def test_a_missing_draw_is_named():
    tx = converted_by_draws(optax.sgd(1.0))
    with pytest.raises(TypeError, match="needs the extra argument fraction"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
