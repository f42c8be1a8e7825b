"""What the server of asynchronous local SGD promises: the recorded runs, and training that stays stable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_same_parameters

import optkit
from optkit import asynchronous_local_sgd, delayed_nesterov, dynamic_local_steps, scale_by_staleness
from optkit.testing import golden

MODES = ("dn", "delayed_sgd", "vanilla")


def nesterov(rate):
    return optax.sgd(rate, 0.9, nesterov=True)


def vanilla(rate, momentum, workers, power=0.5):
    return optax.chain(scale_by_staleness(power), optax.scale(workers**-0.5), optax.sgd(rate, momentum, nesterov=True))


@replays("async_local_sgd")
def test_golden_asynchronous_servers(recording):
    found = recording.hyperparams
    mode, workers, power = found.word("mode", MODES), found["n_workers"], found["staleness_power"]
    rate, momentum, c = found["outer_lr"], found["beta"], found["c"]
    assert mode == "dn" or c == 0
    if mode == "dn":
        tx = delayed_nesterov(rate, momentum, workers, c, staleness_power=power)
    elif mode == "vanilla":
        tx = vanilla(rate, momentum, workers, power)
    else:
        step = optax.sgd(rate, momentum, nesterov=True)
        delayed = optax.MultiSteps(step, workers, accumulator_dtype=jnp.float64)
        tx = optax.chain(scale_by_staleness(power), delayed.gradient_transformation())
    staleness = recording.arrays["staleness"]
    issued_at = np.arange(len(staleness)) - staleness
    assert_replays(recording, golden.replay_gradients(tx, recording, {"issued_at": issued_at}))


@pytest.mark.usefixtures("x64")
def test_with_one_gradient_at_a_time_it_is_nesterovs_momentum():
    assert_same_parameters(delayed_nesterov(0.1, 0.8, every=1), optax.sgd(0.1, 0.8, nesterov=True), normal(4, 3))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [0.1, 0.25])
def test_c_spreads_the_momentum_that_is_added_but_not_its_sum(c):
    gradients = jnp.zeros((12, 3)).at[:4].set(normal(4, 3))

    def moved(c):
        tx = delayed_nesterov(1.0, 0.8, 4, c)
        state = tx.init(gradients[0])
        return jnp.cumsum(jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], state, gradients)[1], axis=0)

    late, spread = moved(0.0), moved(c)
    assert np.abs(late[4:7] - spread[4:7]).max() > 0.01
    # After one momentum's period: what was not yet spread of the present one is all that differs.
    momentum = 0.8 ** np.arange(3)[:, None] * gradients.mean(axis=0) * 3
    np.testing.assert_allclose(late[3::4] - spread[3::4], -(4 * c - c) * 0.8 * momentum, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0"),
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"c": 0.3}, r"c must be in \[0, 0\.25\], got 0\.3"),
        ({"staleness_power": -1.0}, r"staleness_power must be in \[0, inf\], got -1\.0"),
    ],
)
def test_ranges(arguments, message):
    with pytest.raises(ValueError, match=message):
        delayed_nesterov(0.1, **arguments)


def test_slow_workers_get_fewer_steps():
    assert dynamic_local_steps([1.0, 3.0, 0.01], 30).tolist() == [10, 30, 1]
    assert dynamic_local_steps([0.1 * i for i in range(1, 101)], 100).tolist() == [*range(1, 101)]
    assert dynamic_local_steps(jnp.array([1.0, 3.0, 0.01]), 30, least=5).tolist() == [10, 30, 5]
    with pytest.raises(ValueError, match=r"speeds must be in \(0, inf\], got"):
        dynamic_local_steps([1.0, 0.0], 30)
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        dynamic_local_steps([1.0], 0)
    with pytest.raises(ValueError, match="least must be a positive integer, got 0"):
        dynamic_local_steps([1.0], 2, least=0)


def quadratic(dimension=20, seed=0):
    """The gradient of a convex quadratic with its minimum at zero."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    hessian = jnp.asarray(basis * np.geomspace(0.05, 1.0, dimension) @ basis.T)

    def grad_fn(params, worker, key):
        del worker, key
        return hessian @ params

    return grad_fn


simulate = functools.partial(asynchronous_local_sgd, inner=optax.sgd(0.1))


def test_at_equal_speeds_workers_arrive_in_turn():
    def remember(updates, state, params=None, *, issued_at):
        del params
        return updates, jnp.roll(state, -1).at[-1].set(issued_at)

    seen = optax.GradientTransformationExtraArgs(lambda _: jnp.zeros(8, jnp.int32), remember)
    simulator = simulate(quadratic(), outer=optax.chain(seen, optax.sgd(1.0)), step_times=[2.0] * 3, local_steps=4)
    arrivals = simulator.arrivals(0, 8)
    assert arrivals.worker.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert arrivals.time.tolist() == [8.0] * 3 + [16.0] * 3 + [24.0] * 2
    state = simulator.run(simulator.init(jnp.ones(20)), arrivals)
    assert state.outer[0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    assert (state.issued_at.tolist(), int(state.count), float(state.time)) == ([7, 8, 6], 8, 24.0)


@pytest.mark.usefixtures("x64")
def test_one_worker_and_a_server_that_follows_are_the_inner_optimizer():
    inner, grad_fn = optax.adam(0.1), quadratic()
    simulator = asynchronous_local_sgd(grad_fn, inner, optax.sgd(1.0), [1.0], 3)
    arrivals = simulator.arrivals(0, 4)
    start = simulator.init(jnp.ones(20))
    # In pieces or at once.
    half = simulator.run(start, jax.tree.map(lambda x: x[:2], arrivals))
    found = simulator.run(half, jax.tree.map(lambda x: x[2:], arrivals))

    def step(carry, _):
        params, state = carry
        updates, state = inner.update(grad_fn(params, 0, None), state, params)
        return (params + updates, state), None

    (params, _), _ = jax.lax.scan(step, (jnp.ones(20), inner.init(jnp.ones(20))), length=12)
    np.testing.assert_allclose(found.params, params, rtol=1e-12)
    np.testing.assert_array_equal(found.starts[0], found.params)


def test_slow_workers_with_fewer_steps_arrive_with_the_others():
    times = np.array([1.0, 2.0, 4.0])
    steps = dynamic_local_steps(1 / times, 40)
    arrivals = simulate(quadratic(), outer=optax.sgd(1.0), step_times=times, local_steps=steps).arrivals(0, 9)
    assert arrivals.worker.tolist() == [0, 1, 2] * 3
    arrivals = simulate(quadratic(), outer=optax.sgd(1.0), step_times=times, local_steps=40).arrivals(0, 7)
    assert arrivals.worker.tolist() == [0, 0, 1, 0, 0, 1, 2]


def test_gradients_know_their_worker_and_have_new_keys():
    def grad_fn(params, worker, key):
        return jnp.stack([jax.random.uniform(key), worker.astype(params.dtype)])

    simulator = asynchronous_local_sgd(grad_fn, optax.sgd(1.0), optax.sgd(1.0), [1.0, 1.0], 2)
    arrivals = simulator.arrivals(0, 2)
    first, second = (
        simulator.run(simulator.init(jnp.zeros(2)), arrivals._replace(key=k)).params
        for k in (arrivals.key, jax.random.split(jax.random.key(1), 2))
    )
    assert first[1] == second[1] == -2
    assert first[0] != second[0]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_a_delayed_momentum_stays_where_others_diverge(rate):
    def last(outer):
        simulator = simulate(quadratic(), outer=outer, step_times=[1.0] * 4, local_steps=5)
        state = jax.jit(simulator.run)(simulator.init(jnp.ones(20)), simulator.arrivals(0, 400))
        return float(jnp.linalg.norm(state.params))

    assert last(delayed_nesterov(rate)) < 0.1
    assert not last(nesterov(rate)) < 10.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_times": [1.0, 0.0]}, r"step_times must be in \(0, inf\], got"),
        ({"step_times": 1.0}, r"step_times must be one number for each worker, got 1\.0"),
        ({"local_steps": 0}, "local_steps must be a positive integer, or one for each of 2 workers, got 0"),
        ({"local_steps": [1, 2, 3]}, r"local_steps must be .* each of 2 workers, got \[1, 2, 3\]"),
        ({"local_steps": 2.5}, r"local_steps must be .*, got 2\.5"),
    ],
)
def test_workers_of_the_simulator(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(quadratic(), outer=optax.sgd(1.0), **{"step_times": [1.0, 2.0], "local_steps": 3, **arguments})


def test_an_arrival_needs_a_count():
    simulator = optkit.asynchronous_local_sgd(quadratic(), optax.sgd(0.1), optax.sgd(1.0), [1.0], 1)
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        simulator.arrivals(0, 0)
