import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit
from optkit.random_scaling._online_to_nonconvex import converted_by_draws

STEPS = 15


def gradients():
    return jax.random.normal(jax.random.key(1), (STEPS, 3))


def run(tx):
    """The points where gradients are taken, and the ends of the learner's steps."""
    params = jnp.ones(3)

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, params + state.converted.offset)

    return jax.lax.scan(step, (params, tx.init(params)), gradients())[1]


@pytest.mark.usefixtures("x64")
def test_every_point_lies_on_the_way_of_the_learner():
    learner = optkit.online_gradient_descent(0.1, 0.9, 1.0)
    points, ends = run(optkit.online_to_nonconvex(learner, key=0))
    deltas = jax.lax.scan(lambda s, g: learner.update(g, s)[::-1], learner.init(jnp.ones(3)), gradients())[1]
    np.testing.assert_allclose(ends, 1 + jnp.cumsum(deltas, axis=0), rtol=1e-12)
    starts = jnp.concatenate([jnp.ones((1, 3)), ends[:-1]])
    fractions = np.asarray((points - starts) / deltas)
    np.testing.assert_allclose(fractions, fractions[:, :1].repeat(3, axis=1), rtol=1e-9)
    assert np.all((fractions >= 0) & (fractions <= 1))
    assert np.ptp(fractions[:, 0]) > 0.5, "fresh in every step"


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
    tx = optkit.online_to_nonconvex(optax.polyak_sgd(), key=0)
    params = jnp.ones(2)
    updates, _ = tx.update(params, tx.init(params), params, value=1.0, unknown=None)
    assert jnp.all(updates < 0)


def test_a_missing_draw_is_named():
    tx = converted_by_draws(optax.sgd(1.0))
    with pytest.raises(TypeError, match="needs the extra argument fraction"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
