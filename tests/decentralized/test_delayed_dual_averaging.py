import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from promises import assert_needs_parameters
from trajectories import trajectory

from optkit.decentralized import delayed_dual_averaging

STEPS = 12


def draw_gradients():
    return jax.tree.map(np.asarray, normal_like({"w": np.zeros((3, 2)), "b": np.zeros(())}, rows=(STEPS,)))


def run(tx, gradients, **extra_args):
    """Gives parameters and states after each gradient in NumPy, from parameters of ones."""
    ones = jax.tree.map(lambda g: np.ones_like(g[0]), gradients)
    params, _, states = jax.tree.map(np.asarray, trajectory(tx, gradients, ones, **extra_args))
    return params, states


def norms_of(gradients):
    return np.sqrt(np.sum(gradients["w"] ** 2, axis=(1, 2)) + gradients["b"] ** 2)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), actual, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_delay_it_is_adaptive_dual_averaging():
    gradients = draw_gradients()
    rate = 0.7 / np.sqrt(1e-8 + np.cumsum(norms_of(gradients) ** 2))
    sums = jax.tree.map(lambda g: np.cumsum(g, axis=0), gradients)
    expected = jax.tree.map(lambda s: 1 - rate.reshape(-1, *(1,) * (s.ndim - 1)) * s, sums)
    assert_close(run(delayed_dual_averaging(0.7), gradients)[0], expected)
    now = np.arange(STEPS)
    assert_close(run(delayed_dual_averaging(0.7, max_delay=3), gradients, issued_at=now)[0], expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("max_delay", [5, 20])
def test_lag_counts_twice_each_pair_that_did_not_know_of_each_other(max_delay):
    gradients, norms = draw_gradients(), norms_of(draw_gradients())
    issued_at = np.maximum(np.arange(STEPS) - np.array([0, 1, 2, 0, 4, 5, 3, 0, 1, 1, 5, 2]), 0)
    _, states = run(delayed_dual_averaging(1.0, max_delay), gradients, issued_at=issued_at)
    expected = []
    for count in range(1, STEPS + 1):
        squares = sum(norms[:count] ** 2)
        pairs = [(s, other) for s in range(count) for other in range(s) if other >= issued_at[s]]
        expected.append(squares + 2 * sum(norms[s] * norms[other] for s, other in pairs))
    np.testing.assert_allclose(states.lag, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("max_delay", [0, 2])
def test_older_gradients_count_as_if_they_knew_of_none(max_delay):
    gradients, norms = draw_gradients(), norms_of(draw_gradients())
    issued_at = np.arange(STEPS)
    issued_at[6] = 3
    _, states = run(delayed_dual_averaging(1.0, max_delay), gradients, issued_at=issued_at)
    expected = np.cumsum(norms**2)[6] + 2 * norms[6] * norms[:6].sum()
    np.testing.assert_allclose(states.lag[6], expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rate_never_rises_and_delay_makes_it_smaller():
    gradients = draw_gradients()
    tx = delayed_dual_averaging(1.0, 4)
    lags = [run(tx, gradients, issued_at=np.maximum(np.arange(STEPS) - delay, 0))[1].lag for delay in (0, 1, 4)]
    for lag in lags:
        assert np.all(np.diff(lag) >= 0)
    assert np.all(lags[0][1:] < lags[1][1:])
    assert np.all(lags[1][2:] < lags[2][2:])


@pytest.mark.usefixtures("x64")
def test_slack_is_added_to_the_lag():
    gradients = draw_gradients()
    plain, slack = (run(delayed_dual_averaging(1.0, slack=slack), gradients)[0]["b"] for slack in (1e-8, 9.0))
    squares = np.cumsum(norms_of(gradients) ** 2)
    np.testing.assert_allclose(slack - 1, (plain - 1) * np.sqrt((1e-8 + squares) / (9 + squares)))


@pytest.mark.usefixtures("x64")
def test_optimistic_counts_the_last_gradient_twice():
    gradients = draw_gradients()
    plain, optimistic = (run(delayed_dual_averaging(1.0, optimistic=o), gradients) for o in (False, True))
    rate = 1 / np.sqrt(1e-8 + np.cumsum(norms_of(gradients) ** 2))
    np.testing.assert_allclose(optimistic[0]["b"], plain[0]["b"] - rate * gradients["b"], rtol=1e-10)
    assert_close(optimistic[1].total, plain[1].total)


def test_projection_keeps_parameters_where_they_may_be():
    tx = delayed_dual_averaging(10.0, projection=optax.projections.projection_non_negative)
    for leaf in jax.tree.leaves(run(tx, draw_gradients())[0]):
        assert np.all(leaf >= 0)


@pytest.mark.usefixtures("x64")
def test_asynchronous_workers_find_the_minimum():
    # Five workers in turn: each gradient is taken where four of the others had not arrived.
    target = jnp.array([1.0, -2.0, 3.0])
    tx = delayed_dual_averaging(4.0, max_delay=4)

    def step(carry, _):
        params, state, read = carry
        gradient = read[-1] - target
        updates, state = tx.update(gradient, state, params, issued_at=jnp.maximum(state.count - 4, 0))
        params = optax.apply_updates(params, updates)
        return (params, state, jnp.concatenate([params[None], read[:-1]])), None

    start = jnp.zeros(3)
    carry = start, tx.init(start), jnp.zeros((5, 3))
    (params, _, _), _ = jax.jit(lambda: jax.lax.scan(step, carry, length=2000))()
    np.testing.assert_allclose(params, target, atol=1e-3)


def test_state_copies_the_start_and_has_no_empty_arrays():
    params = jnp.ones(3)
    state = delayed_dual_averaging(1.0).init(params)
    assert state.start.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()
    assert state.norms is None
    assert delayed_dual_averaging(1.0, max_delay=3).init(params).norms.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, r"radius must be in \(0, inf\], got 0.0"),
        ({"slack": 0.0}, r"slack must be in \(0, inf\], got 0.0"),
        ({"max_delay": -1}, "max_delay must be an integer of at least 0, got -1"),
        ({"max_delay": 1.5}, "max_delay must be an integer of at least 0, got 1.5"),
    ],
)
def test_wrong_hyperparameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        delayed_dual_averaging(**{"radius": 1.0, **arguments})


def test_missing_parameters_are_named():
    assert_needs_parameters(delayed_dual_averaging(1.0), "delayed_dual_averaging")


def test_after_an_infinite_gradient_parameters_are_nan_and_not_at_the_start_for_ever():
    tx = delayed_dual_averaging(1.0)
    params = jnp.ones(2)
    update = jax.jit(tx.update)
    updates, state = update(np.float32([np.inf, 1.0]), tx.init(params), params)
    updates, _ = update(np.ones(2, np.float32), state, params)
    assert np.all(np.isnan(updates))
