"""What elastic averaging promises: the recorded runs, a force that adds nothing, and few messages."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters
from trajectories import trajectory

import optkit
from optkit import elastic_averaging
from optkit.testing import golden

WORKERS = 4
over_workers = functools.partial(elastic_averaging, axis_name="workers")


@replays("easgd")
def test_golden_elastic_averaging(recording):
    found = recording.hyperparams
    tx = over_workers(optax.sgd(found["learning_rate"], found["momentum"]), found["alpha"], found["every"])
    assert found["n_workers"] == len(recording.arrays["params0.w"])
    assert_replays(recording, golden.replay_workers(tx, recording))
    run_ = trajectory(tx, recording.tree("grads"), recording.tree("params0"), axis_name="workers")
    for worker in range(found["n_workers"]):
        assert_replays(recording, jax.tree.map(lambda x, i=worker: x[:, i], run_.states.center), "center")


def run(tx, gradients, params=None):
    """The workers' parameters after each step, and the states."""
    params = normal(*gradients.shape[1:], seed=1) if params is None else params
    return trajectory(tx, gradients, params, axis_name="workers")


@pytest.mark.usefixtures("x64")
def test_the_force_keeps_the_sum_of_center_and_workers():
    params = normal(WORKERS, 5, seed=1)
    found = run(over_workers(optax.sgd(0.0), 0.3, 2), jnp.zeros((6, WORKERS, 5)), params)
    total = params.sum(axis=0) + params.mean(axis=0)
    np.testing.assert_allclose(
        found.params.sum(axis=1) + found.states.center[:, 0], jnp.tile(total, (6, 1)), rtol=1e-12
    )
    # Each exchange draws a worker by 30 per cent of its distance, and the center by as much of all of them.
    np.testing.assert_allclose(found.params[0], params - 0.3 * (params - params.mean(axis=0)), rtol=1e-12)
    np.testing.assert_array_equal(found.params[0], found.params[1])
    assert np.all(found.params[1] != found.params[2])


@pytest.mark.usefixtures("x64")
def test_the_default_force_is_nine_tenths_over_all_workers_and_steps():
    gradients = normal(4, WORKERS, 5)
    default, given = over_workers(optax.sgd(0.1), every=2), over_workers(optax.sgd(0.1), 0.9 / (WORKERS * 2), 2)
    chex.assert_trees_all_close(run(default, gradients), run(given, gradients), rtol=1e-12)


def test_the_center_is_reported():
    tx = optax.chain(optax.identity(), over_workers(optax.adam(0.1), 0.1, 2))
    found = run(tx, normal(3, WORKERS, 5))
    last = jax.tree.map(lambda x: x[-1], found.states)
    reported = optkit.elastic_averaging_eval_params(last, found.params[-1])
    np.testing.assert_array_equal(reported, jnp.broadcast_to(last[1].center[0], (WORKERS, 5)))
    with pytest.raises(ValueError, match="elastic_averaging_eval_params found no ElasticAveragingState in the state"):
        optkit.elastic_averaging_eval_params(optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize(("alpha", "fits"), [(0.4 - 1e-6, True), (0.4, False)])
def test_a_force_that_overshoots_is_refused_when_the_number_of_workers_is_known(alpha, fits):
    params = normal(WORKERS, 2)
    tx = over_workers(optax.sgd(0.1), alpha)
    update = jax.vmap(lambda p: tx.update(p, tx.init(p), p), axis_name="workers")
    if fits:
        jax.eval_shape(update, params)
    else:
        with pytest.raises(ValueError, match=r"alpha must be below 2 / \(n \+ 1\) = 0\.4 for n = 4 workers, got 0\.4"):
            jax.eval_shape(update, params)


def test_the_center_goes_to_the_minimum_of_the_mean_loss():
    targets = normal(WORKERS, 5)
    tx = over_workers(optax.sgd(0.1), 0.1, 2)

    def worker(target):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params - target, state, params)
            return (params + updates, state), None

        return jax.lax.scan(step, (jnp.zeros(5), tx.init(jnp.zeros(5))), length=400)[0]

    params, state = jax.vmap(worker, axis_name="workers")(targets)
    np.testing.assert_allclose(state.center[0], targets.mean(axis=0), atol=1e-5)
    assert np.linalg.norm(params - targets.mean(axis=0)) > 0.1 * np.linalg.norm(targets - targets.mean(axis=0))


def test_one_sum_over_workers_in_the_branch_of_an_exchange():
    params = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32), "b": jax.ShapeDtypeStruct((16,), jnp.float32)}
    spent = optkit.cost(over_workers(optax.sgd(0.1), every=4), params, axis_name="workers", axis_size=8, every=4)
    assert (spent.sent, spent.sent_when_taken) == ({}, {"all-reduce": 2 * 7 / 8 * 4 * (8 * 16 + 16)})


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    tx = over_workers(optax.adam(0.1), 0.1, 2)

    def worker(params, gradients):
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state.center, state.count

    run = functools.partial(optkit.on_workers, worker, axis_name="workers", out_axes=(0, 0, None))
    arguments = normal(8, 5, seed=1), normal(8, 4, 5)
    chex.assert_trees_all_close(run(backend=backend)(*arguments), run(backend="vmap")(*arguments), atol=1e-6)


def test_force_and_period_may_be_arrays():
    gradients = normal(4, WORKERS, 3)
    last = lambda alpha, every: run(over_workers(optax.sgd(0.1), alpha, every), gradients).params  # noqa: E731
    np.testing.assert_allclose(jax.jit(last)(jnp.float32(0.2), jnp.float32(2)), last(0.2, 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"alpha": 0.0}, r"alpha must be in \(0, inf\], got 0\.0"), ({"every": 1.5}, r"every must be .*, got 1\.5")],
)
def test_ranges(arguments, message):
    with pytest.raises(ValueError, match=message):
        over_workers(optax.sgd(0.1), **arguments)


def test_parameters_are_needed():
    assert_needs_parameters(elastic_averaging(optax.sgd(0.1), axis_name=None), "elastic_averaging")
