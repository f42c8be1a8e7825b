import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from trajectories import descend, trajectory

import optkit

CURVATURE = jnp.array([0.1, 0.5, 1.0])
START = jnp.array([3.0, -4.0, 5.0])


def reported(run):
    """The parameters that are reported after each step."""
    return jax.vmap(optkit.igt_eval_params)(run.states, run.params)


def test_every_step_is_as_long_as_the_learning_rate():
    points = reported(trajectory(optkit.nigt(0.25), normal(20, 3), START))
    steps = jnp.diff(points, axis=0, prepend=START[None])
    np.testing.assert_allclose(jnp.linalg.norm(steps, axis=1), 0.25, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_on_a_quadratic_without_noise_it_is_normalized_descent():
    start = START.astype(jnp.float64)
    expected = [start]
    for _ in range(20):
        gradient = CURVATURE * expected[-1]
        expected.append(expected[-1] - 0.1 * gradient / jnp.linalg.norm(gradient))
    points = reported(descend(optkit.nigt(0.1), lambda params, _: CURVATURE * params, start, steps=20))
    np.testing.assert_allclose(points, jnp.stack(expected[1:]), rtol=1e-9)


def test_gradients_are_taken_ahead():
    tx = optkit.nigt(0.5, b1=0.75)
    updates, state = tx.update(START, tx.init(START), START)
    moved = optkit.igt_eval_params(state, START) - START
    np.testing.assert_allclose(updates, 4 * moved, rtol=1e-5)


def test_a_zero_gradient_moves_nothing():
    points = reported(trajectory(optkit.nigt(0.5), jnp.zeros((3, 3)), START))
    np.testing.assert_array_equal(points, jnp.stack([START] * 3))


@pytest.mark.parametrize(("init_first", "share"), [(True, 1.0), (False, 0.1)])
def test_momentum_begins_as_the_first_gradient_or_at_zero(init_first, share):
    tx = optkit.nigt(1.0, b1=0.9, normalize=False, init_first=init_first)
    points = reported(trajectory(tx, START[None], START))
    np.testing.assert_allclose(points[0], (1 - share) * START, rtol=1e-5, atol=1e-6)


def test_decay_may_be_a_schedule():
    rl_schedule = lambda count: 1 - (2 / (count + 2)) ** 0.8  # noqa: E731  (0 at first: the first gradient whole)
    gradients = jnp.stack([START, 2 * START])
    tx = optkit.nigt(1.0, rl_schedule, normalize=False, init_first=False)
    points = reported(trajectory(tx, gradients, START))
    newest = (2 / 3) ** 0.8
    np.testing.assert_allclose(points[1] - points[0], -(1 + newest) * START, rtol=1e-5)


def test_all_leaves_share_one_norm():
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]]), "none": None}
    tx = optkit.nigt(1.0)
    _, state = tx.update(params, tx.init(params), params)
    moved = optkit.igt_eval_params(state, params)
    np.testing.assert_allclose([moved["a"][0], moved["b"][0, 0]], [2.4, 3.2], rtol=1e-6)


def test_bad_decay():
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        optkit.nigt(0.1, b1=1.0)
