"""What CO2 promises: the recorded runs, means that are one round late, and one sum over workers in a round."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters, assert_refuses_complex_parameters
from trajectories import trajectory

import optkit
from optkit import co2
from optkit.testing import golden

WORKERS = 4
over_workers = functools.partial(co2, axis_name="workers")


@replays("co2")
def test_golden_co2(recording):
    found = recording.hyperparams
    assert found["n_workers"] == len(recording.arrays["params0.w"])
    tx = over_workers(
        optax.sgd(found["inner_lr"]),
        found["outer_lr"],
        found["outer_momentum"],
        found["inner_steps"],
        gap_penalty=found["gap_penalty"],
        clip_threshold=found["clip_threshold"],
    )
    assert_replays(recording, golden.replay_workers(tx, recording))


def run(tx, gradients, params=None):
    """The workers' parameters after each step, and the states."""
    params = jnp.ones(gradients.shape[1:]) if params is None else params
    return trajectory(tx, gradients, params, axis_name="workers")


@pytest.mark.usefixtures("x64")
def test_the_outer_step_uses_the_mean_of_the_round_before():
    every, gradients = 2, normal(6, WORKERS, 3)
    found = run(over_workers(optax.sgd(0.1), 0.7, 0.5, every), gradients).params
    mean_way = lambda index: 0.1 * gradients[index : index + every].sum(axis=0).mean(axis=0)  # noqa: E731
    anchor, momentum = jnp.ones(3), jnp.zeros(3)
    np.testing.assert_allclose(found[1], jnp.ones((WORKERS, 3)), atol=1e-14)  # the first round fills the pipeline
    for end in (3, 5):
        momentum = 0.5 * momentum - mean_way(end - 1 - every)
        anchor = anchor + 0.7 * momentum
        np.testing.assert_allclose(found[end], jnp.broadcast_to(anchor, (WORKERS, 3)), atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_a_gap_function_sees_both_anchors_and_divides():
    gradients = normal(3, WORKERS, 3)
    seen = []

    def gap(anchor, previous):
        seen.append((anchor, previous))
        return jax.tree.map(lambda a, b: 1 + jnp.abs(a - b), anchor, previous)

    found = run(over_workers(optax.sgd(0.1), 1.0, 0.0, 1, gap_fn=gap), gradients)
    mean = 0.1 * gradients.mean(axis=1)
    second = 1 - mean[0]
    third = second - mean[1] / (1 + jnp.abs(second - 1))
    np.testing.assert_allclose(found.params[1:, 0], [second, third], atol=1e-14)
    np.testing.assert_allclose(found.states.previous[2, 0], second, atol=1e-14)
    by_two = run(over_workers(optax.sgd(0.1), every=1, gap_fn=lambda *_: 2.0), gradients).params
    chex.assert_trees_all_close(run(over_workers(optax.sgd(0.1), every=1, gap_penalty=2.0), gradients).params, by_two)


@pytest.mark.parametrize(("share", "grows"), [(0.75, False), (0.85, True)])
def test_rounds_that_go_further_than_the_momentum_leaves_diverge(share, grows):
    tx = co2(optax.sgd(share), 1.0, 0.2, every=1, axis_name=None)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (params + updates, state), params

    _, found = jax.lax.scan(step, (jnp.ones([]), tx.init(jnp.ones([]))), length=200)
    assert (np.abs(found[-9:]).max() > 1) == grows


def test_an_infinite_gradient_is_not_clipped_to_a_step_that_looks_normal():
    gradients = normal(6, WORKERS, 3).at[2, 1, 0].set(jnp.inf)
    found = run(over_workers(optax.sgd(0.1), every=2, clip_threshold=0.1), gradients).params
    assert np.all(np.isnan(found[5, :, 0]))
    assert np.all(np.isfinite(found[5, :, 1:]))


def test_the_anchor_is_equal_on_all_workers_and_is_reported():
    tx = optax.chain(optax.identity(), over_workers(optax.adam(0.1), every=2))
    found = run(tx, normal(6, WORKERS, 3))
    last = jax.tree.map(lambda x: x[-1], found.states)
    np.testing.assert_array_equal(last[1].anchor, jnp.broadcast_to(last[1].anchor[0], (WORKERS, 3)))
    reported = optkit.co2_eval_params(last, found.params[-2])
    np.testing.assert_array_equal(reported, last[1].anchor)
    np.testing.assert_allclose(reported, found.params[-1], rtol=4 * np.finfo(np.float32).eps)
    with pytest.raises(ValueError, match="co2_eval_params found no Co2State in the state that it got"):
        optkit.co2_eval_params(optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))


def test_half_precision_parameters_follow_an_anchor_in_single():
    gradients = normal(8, WORKERS, 20)
    tx = over_workers(optax.sgd(0.01), every=2)
    half = run(tx, gradients.astype(jnp.bfloat16), jnp.ones((WORKERS, 20), jnp.bfloat16))
    single = run(tx, gradients.astype(jnp.bfloat16).astype(jnp.float32))
    assert (half.params.dtype, half.states.anchor.dtype) == (jnp.bfloat16, jnp.float32)
    # A round moves parameters by about 0.01, and a bfloat16 near one is rounded by at most 0.004.
    np.testing.assert_allclose(half.states.anchor[-1], single.states.anchor[-1], atol=0.03)


def test_one_sum_over_workers_in_the_branch_that_ends_a_round():
    params = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32), "b": jax.ShapeDtypeStruct((16,), jnp.float32)}
    spent = optkit.cost(over_workers(optax.sgd(0.1), every=4), params, axis_name="workers", axis_size=8, every=4)
    copies = 2 * 7 / 8 * 4 * (8 * 16 + 16)
    assert (spent.sent, spent.sent_when_taken) == ({}, {"all-reduce": copies})
    assert spent.sent_per_step == {"all-reduce": copies / 4}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    tx = over_workers(optax.adam(0.1), every=2, clip_threshold=0.05)

    def worker(gradients):
        params = jnp.zeros(5)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state.count

    run = functools.partial(optkit.on_workers, worker, axis_name="workers", out_axes=(0, None))
    gradients = normal(8, 4, 5)
    chex.assert_trees_all_close(run(backend=backend)(gradients), run(backend="vmap")(gradients), atol=1e-6)


def test_the_period_may_be_an_array():
    gradients = normal(4, WORKERS, 3)
    last = lambda every: run(over_workers(optax.sgd(0.1), every=every), gradients).params  # noqa: E731
    np.testing.assert_allclose(jax.jit(last)(jnp.float32(2)), last(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("outer_learning_rate", -1.0, r"in \[0, inf\]"),
        ("outer_momentum", 1.0, r"in \[0, 1\)"),
        ("every", 0, "a positive integer"),
        ("gap_penalty", 0.0, r"in \(0, inf\]"),
        ("clip_threshold", 0.0, r"in \(0, inf\]"),
    ],
)
def test_ranges(argument, value, allowed):
    with pytest.raises(ValueError, match=f"{argument} must be {allowed}, got {value}"):
        over_workers(optax.sgd(0.1), **{argument: value})


def test_a_gap_function_is_a_function():
    with pytest.raises(TypeError, match=r"gap_fn must be a function of two trees, or None, got 2\.0"):
        over_workers(optax.sgd(0.1), gap_fn=2.0)


def test_what_cannot_work_is_refused():
    tx = co2(optax.sgd(0.1), axis_name=None, clip_threshold=1.0)
    assert_needs_parameters(tx, "co2")
    assert_refuses_complex_parameters(tx, "co2 with clip_threshold", advice="two leaves")
