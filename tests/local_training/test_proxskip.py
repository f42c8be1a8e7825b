"""What ProxSkip promises: the recorded runs, the solution where workers differ, and exchanges at random times."""

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

import optkit
from optkit import proxskip

over_workers = functools.partial(proxskip, axis_name="workers")


def affine(matrices, offsets, tx, inputs, start, of_input=lambda state, _: state):
    """Runs workers with the operators `M x - b`; returns the parameters and states after each step."""
    tx = optax.with_extra_args_support(tx)

    def worker(matrix, offset, start):
        def step(carry, given):
            params, state = carry
            state = of_input(state, given)
            updates, state = tx.update(matrix @ params - offset, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, state)

        return jax.lax.scan(step, (start, tx.init(start)), inputs)[1]

    return jax.jit(jax.vmap(worker, out_axes=1, axis_name="workers"))(matrices, offsets, start)


@replays("proxskip_vip")
def test_golden_proxskip(recording):
    found, arrays = recording.hyperparams, recording.arrays
    assert found["n_workers"] == len(arrays["M.x"])
    params, states = affine(
        jnp.asarray(arrays["M.x"]),
        jnp.asarray(arrays["b.x"]),
        over_workers(found["gamma"], found["p"]),
        jnp.asarray(arrays["draws.coin"]),
        jnp.asarray(arrays["params0.x"]),
        lambda state, coin: state._replace(communicates=coin),
    )
    assert_replays(recording, {"x": params})
    np.testing.assert_allclose(states.correction[-1], arrays["h.x"], rtol=0, atol=1e-12)


def game(workers=4, dimension=6, seed=0):
    """Affine operators whose mean is strongly monotone, with a large skew part, and its solution."""
    rng = np.random.default_rng(seed)
    skew = rng.standard_normal((workers, dimension, dimension))
    matrices = jnp.asarray(0.3 * (skew - skew.mT) + np.eye(dimension))
    offsets = jnp.asarray(rng.standard_normal((workers, dimension)))
    return matrices, offsets, jnp.linalg.solve(matrices.mean(axis=0), offsets.mean(axis=0))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_it_finds_the_solution_of_a_game_where_local_steps_alone_do_not():
    matrices, offsets, solution = game()
    start, steps = jnp.zeros_like(offsets), 3000
    distance = lambda params: np.abs(params[-10:] - solution).max()  # noqa: E731
    params, states = affine(matrices, offsets, over_workers(0.03, 0.1), jnp.zeros(steps), start)
    assert distance(params) < 1e-12
    # The correction is each worker's operator at the solution, and all corrections add up to nothing.
    operators = jnp.einsum("ijk,k->ij", matrices, solution) - offsets
    np.testing.assert_allclose(states.correction[-1], operators, atol=1e-10)
    np.testing.assert_allclose(states.correction.sum(axis=1), np.zeros((steps, 6)), atol=1e-10)
    # Exchanges happen for all workers at once, with the stated probability.
    coins = np.asarray(states.communicates)
    assert np.all(coins == coins[:, :1])
    assert abs(coins[:, 0].mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / steps)
    # Without corrections, as many local steps between means stop elsewhere.
    local = optkit.gossip(optax.sgd(0.03), optkit.topology.complete(4), axis_name="workers", every=10)
    assert distance(affine(matrices, offsets, local, jnp.zeros(steps), start)[0]) > 0.01


@pytest.mark.usefixtures("x64")
def test_with_probability_one_it_is_gradient_descent_on_the_mean():
    matrices, offsets, _ = game()
    params, _ = affine(matrices, offsets, over_workers(0.1, 1.0), jnp.zeros(10), jnp.zeros_like(offsets))
    point = jnp.zeros(6)
    for found in params:
        point = point - 0.1 * (matrices.mean(axis=0) @ point - offsets.mean(axis=0))
        np.testing.assert_allclose(found, jnp.broadcast_to(point, found.shape), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradients_may_lose_their_noise_before_it():
    targets, noise = normal(4, 5), normal(4, 400, 5, seed=1)

    def worker(target, noise, corrected):
        tx = over_workers(0.2, 0.3)
        tx = optax.chain(optkit.svrg_correction(20), tx) if corrected else optax.with_extra_args_support(tx)

        def step(carry, noise):
            params, state = carry
            full_grad_fn = lambda x: x - target  # noqa: E731
            grad_fn = lambda x: x - target + noise  # noqa: E731
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, full_grad_fn=full_grad_fn)
            return (params + updates, state), None

        return jax.lax.scan(step, (jnp.zeros(5), tx.init(jnp.zeros(5))), noise)[0][0]

    def distance(corrected):
        run = jax.vmap(functools.partial(worker, corrected=corrected), axis_name="workers")
        return np.abs(jax.jit(run)(targets, noise) - targets.mean(axis=0)).max()

    assert distance(True) < 1e-8
    assert distance(False) > 0.01


def test_a_learning_rate_of_zero_learns_nothing():
    tx = over_workers(lambda count: jnp.where(count < 3, 0.1, 0.0), 0.5)
    matrices, offsets, _ = game()
    params, states = affine(matrices, offsets, tx, jnp.zeros(12), jnp.zeros_like(offsets))
    assert np.all(np.isfinite(params))
    np.testing.assert_array_equal(states.correction[3:], jnp.broadcast_to(states.correction[2], (9, 4, 6)))


def test_one_mean_over_workers_in_the_branch_of_an_exchange():
    params = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32), "b": jax.ShapeDtypeStruct((16,), jnp.float32)}
    spent = optkit.cost(over_workers(0.1, 0.2), params, axis_name="workers", axis_size=8)
    assert (spent.sent, spent.sent_when_taken) == ({}, {"all-reduce": 2 * 7 / 8 * 4 * (8 * 16 + 16)})


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    tx, targets = over_workers(0.1, 0.5), normal(8, 5)

    def worker(target):
        params = jnp.zeros(5)
        state = tx.init(params)
        for _ in range(5):
            updates, state = tx.update(params - target, state, params)
            params = optax.apply_updates(params, updates)
        return params, state.correction, state.communicates

    run = functools.partial(optkit.on_workers, worker, axis_name="workers", out_axes=(0, 0, None))
    chex.assert_trees_all_close(run(backend=backend)(targets), run(backend="vmap")(targets), atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 1.5])
def test_the_probability_is_one(probability):
    with pytest.raises(ValueError, match=rf"probability must be in \(0, 1\], got {probability}"):
        over_workers(0.1, probability)


def test_parameters_are_needed():
    assert_needs_parameters(proxskip(0.1, 0.5, axis_name=None), "proxskip")
