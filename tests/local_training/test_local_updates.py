"""What local updates promise: rounds, means, outer steps, fragments, delays, bytes, and errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import descend, last, trajectory

import optkit

WORKERS = 4
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)


def gradients(steps, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, WORKERS, *shape)).astype(np.float32)


def run(tx, steps=12, size=3, **extra_args):
    return trajectory(tx, gradients(steps, size), axis_name="workers", **extra_args)


def spread(x):
    """How far the workers are apart in each step."""
    return np.max(np.abs(x - x[:, :1]), axis=(1, 2))


def test_between_synchronizations_a_worker_runs_its_own_optimizer():
    alone = trajectory(optax.adam(0.1), gradients(12, 3), axis_name="workers")
    for outer in (None, NESTEROV):
        together = run(optkit.local_updates(optax.adam(0.1), outer, every=5, axis_name="workers"))
        chex.assert_trees_all_close(together.params[:4], alone.params[:4], atol=1e-6)


@pytest.mark.parametrize("outer", [None, NESTEROV], ids=["mean", "outer"])
def test_workers_agree_after_each_synchronization_and_only_then(outer):
    apart = spread(run(optkit.local_updates(optax.sgd(0.1), outer, every=4, axis_name="workers")).params)
    due = np.arange(1, 13) % 4 == 0
    assert np.all(apart[due] < 4 * np.finfo(np.float32).eps)
    assert np.all(apart[~due] > 1e-2)


def test_a_synchronization_keeps_the_mean_of_the_parameters():
    local = run(optkit.local_updates(optax.sgd(0.1), every=4, axis_name="workers")).params
    alone = trajectory(optax.sgd(0.1), gradients(12, 3), axis_name="workers").params
    # SGD's steps do not depend on the parameters here, so the means stay those of workers that never meet.
    chex.assert_trees_all_close(local.mean(axis=1), alone.mean(axis=1), atol=1e-6)


def test_one_step_a_round_is_the_mean_of_gradients():
    local = run(optkit.local_sgd(0.1, every=1, axis_name="workers", momentum=0.9)).params
    mean = gradients(12, 3).mean(axis=1, keepdims=True).repeat(WORKERS, axis=1)
    together = trajectory(optax.sgd(0.1, 0.9), mean, axis_name="workers").params
    chex.assert_trees_all_close(local, together, atol=1e-5)


def test_post_local_sgd_averages_in_each_step_until_the_switch():
    apart = spread(run(optkit.post_local_sgd(0.1, switch_step=5, every=3, axis_name="workers")).params)
    assert np.all(apart[:5] < 1e-6)
    assert list(np.flatnonzero(apart < 1e-6)) == [0, 1, 2, 3, 4, 7, 10]


def test_an_outer_step_along_the_mean_is_local_sgd():
    means = run(optkit.local_updates(optax.sgd(0.1), every=4, axis_name="workers")).params
    outer = run(optkit.local_updates(optax.sgd(0.1), optax.sgd(1.0), every=4, axis_name="workers")).params
    chex.assert_trees_all_close(means, outer, atol=1e-6)


def test_slowmo_without_momentum_is_local_sgd_whatever_the_schedule():
    rate = optax.linear_schedule(0.1, 0.0, 13)
    slow = run(optkit.slowmo(rate, every=4, slow_momentum=0.0, axis_name="workers")).params
    local = run(optkit.local_sgd(rate, every=4, axis_name="workers")).params
    chex.assert_trees_all_close(slow, local, atol=1e-6)


def test_slowmo_weighs_rounds_by_their_learning_rates():
    """With a rate that halves, what the momentum carries over moves parameters by the new rate."""
    rate = optax.piecewise_constant_schedule(0.2, {2: 0.5})
    tx = optkit.slowmo(rate, every=2, slow_momentum=0.5, axis_name="workers")
    ones = jnp.ones((4, WORKERS, 1))
    params = trajectory(tx, ones, axis_name="workers").params[:, 0, 0]
    # u = 2 after the first round, so x = -0.4; then u = 0.5 * 2 + 2 = 3, and x = -0.4 - 0.1 * 3.
    np.testing.assert_allclose(params[1::2], [-0.4, -0.7], rtol=1e-6)


def test_accelerated_preference_optimization_is_diloco_with_one_worker():
    alpha, steps = 0.6, gradients(12, 3)[:, 0]
    tx = optkit.local_updates(optax.sgd(0.1), optax.sgd(1.0, alpha, nesterov=True), every=3, axis_name=None)
    ours = trajectory(tx, steps).params[2::3]
    # y is the end of a round from x, and the next x goes on from y along the last change of y.
    x = y = np.zeros(3)
    for i in range(4):
        before, y = y, x - 0.1 * steps[3 * i : 3 * i + 3].sum(axis=0)
        x = y + alpha * (y - before)
        np.testing.assert_allclose(ours[i], x, atol=1e-6)


def test_average_state_averages_the_named_fields_and_no_other():
    adam = optax.adam(0.1)
    tx = optkit.local_updates(adam, every=4, axis_name="workers", average_state=("nu",))
    states = run(tx, steps=4).states.inner[0]
    assert np.ptp(states.nu[3], axis=0).max() < 1e-7
    assert np.ptp(states.nu[2], axis=0).max() > 1e-4
    assert np.ptp(states.mu[3], axis=0).max() > 1e-2


@pytest.mark.parametrize("outer", [None, optax.sgd(1.0)], ids=["mean", "outer"])
def test_weights_share_out_the_mean_and_zero_leaves_a_worker_out(outer):
    steps = gradients(2, 3)
    steps[:, 3] = np.nan
    tx = optkit.local_updates(optax.sgd(1.0), outer, every=2, axis_name="workers")

    def worker(gradients, weight):
        params = jnp.zeros(3)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params, weight=weight)
            params = params + updates
        return params

    over_workers = jax.jit(jax.vmap(worker, (1, 0), axis_name="workers"))
    params = over_workers(steps, jnp.array([1.0, 2.0, 1.0, 0.0]))
    expected = -np.average(steps.sum(axis=0)[:3], axis=0, weights=[1.0, 2.0, 1.0])
    # The worker that was left out gets what the others agree on; here its own step was NaN, and so is its sum.
    np.testing.assert_allclose(params[:3], np.tile(expected, (3, 1)), atol=1e-5)
    assert np.all(np.isnan(over_workers(steps, jnp.zeros(4))))


def test_quadratic_synchronization_follows_the_learning_rate():
    rate = optax.warmup_cosine_decay_schedule(1e-6, 0.008, 10_000, 93_600, 1e-6)

    def share(base):
        every = optkit.quadratic_synchronization(rate, 0.0175, base, warmup_steps=10_000, total_steps=93_600)
        rounds = jax.lax.while_loop(
            lambda at: at[0] < 93_600, lambda at: (at[0] + every(at[0]), at[1] + 1), (jnp.int32(0), jnp.int32(0))
        )[1]
        return int(rounds) / 93_600

    # What the paper reports is 10.4% and 6.9%.
    assert share(4) == pytest.approx(0.1037, abs=2e-4)
    assert share(8) == pytest.approx(0.0690, abs=2e-4)


def test_rounds_get_longer_as_the_rate_decays_and_end_with_training():
    every = optkit.quadratic_synchronization(optax.linear_schedule(0.1, 0.0, 40), 0.1, 1, total_steps=40)
    states = run(optkit.local_sgd(0.1, every, axis_name="workers"), steps=40).states
    ends = np.flatnonzero(np.asarray(states.since)[:, 0] == 0) + 1
    assert np.all(np.diff(ends, n=2)[:-1] >= 0)
    assert ends[-1] == 40


def test_fragments_come_in_turn_and_go_alone():
    sizes = {"a": 4, "b": 3, "c": 2}
    steps = {name: gradients(6, size, seed=size) for name, size in sizes.items()}
    labels = {"a": 0, "b": 1, "c": 2}
    tx = optkit.local_updates(optax.sgd(0.1), NESTEROV, every=6, fragments=labels, axis_name="workers")
    params = trajectory(tx, steps, axis_name="workers").params
    met = {name: list(np.flatnonzero(spread(x) < 1e-6) + 1) for name, x in params.items()}
    assert met == {"a": [6], "b": [2], "c": [4]}


def test_one_fragment_is_no_fragment():
    whole = run(optkit.local_updates(optax.sgd(0.1), NESTEROV, every=3, axis_name="workers"))
    one = run(optkit.local_updates(optax.sgd(0.1), NESTEROV, every=3, fragments=1, axis_name="workers"))
    chex.assert_trees_all_close(whole, one)


def test_labels_may_cut_stacked_layers():
    steps = {"stack": gradients(8, 2, 3), "head": gradients(8, 2, seed=1)}
    cut = {"stack": np.array([0, 1]), "head": 1}
    options = {"every": 4, "delay": 1, "alpha": 0.3, "axis_name": "workers"}
    tx = optkit.local_updates(optax.adam(0.1), NESTEROV, fragments=cut, **options)
    stacked = trajectory(tx, steps, axis_name="workers").params
    steps = {"first": steps["stack"][:, :, 0], "second": steps["stack"][:, :, 1], "head": steps["head"]}
    labels = {"first": 0, "second": 1, "head": 1}
    tx = optkit.local_updates(optax.adam(0.1), NESTEROV, fragments=labels, **options)
    apart = trajectory(tx, steps, axis_name="workers").params
    chex.assert_trees_all_close(stacked["stack"][:, :, 0], apart["first"], atol=1e-6)
    chex.assert_trees_all_close(stacked["stack"][:, :, 1], apart["second"], atol=1e-6)
    chex.assert_trees_all_close(stacked["head"], apart["head"], atol=1e-6)


def test_what_was_sent_arrives_after_the_delay():
    tx = optkit.local_updates(optax.sgd(0.1), optax.sgd(1.0), every=4, delay=2, axis_name="workers")
    params = run(tx, steps=8).params
    alone = trajectory(optax.sgd(0.1), gradients(8, 3), axis_name="workers").params
    chex.assert_trees_all_close(params[:5], alone[:5], atol=1e-6)
    assert list(np.flatnonzero(spread(params) < 1e-6) + 1) == [6]
    chex.assert_trees_all_close(params[5, 0], alone[3].mean(axis=0), atol=1e-6)


def test_with_alpha_one_nothing_is_heard():
    deaf = run(optkit.local_updates(optax.sgd(0.1), NESTEROV, every=4, alpha=1.0, axis_name="workers")).params
    alone = trajectory(optax.sgd(0.1), gradients(12, 3), axis_name="workers").params
    chex.assert_trees_all_close(deaf, alone, atol=1e-6)


def test_the_anchor_is_reported_and_equal_on_all_workers():
    tx = optkit.diloco(0.1, every=3, axis_name="workers")
    ran = run(tx, steps=7)
    state, params = last(ran.states), last(ran.params)
    anchor = jax.vmap(optkit.local_updates_eval_params)(state, params)
    np.testing.assert_array_equal(anchor, np.tile(anchor[:1], (WORKERS, 1)))
    chex.assert_trees_all_close(anchor, ran.params[5], atol=1e-6)
    with pytest.raises(ValueError, match="found no LocalUpdatesState"):
        optkit.local_updates_eval_params(optax.sgd(0.1).init(params), params)


def test_outer_gradients_can_be_compressed():
    mean = optkit.compressed_mean(optkit.compressors.top_k(1.0), axis_name="workers")
    plain = run(optkit.local_updates(optax.sgd(0.1), NESTEROV, every=3, axis_name="workers")).params
    sent = run(optkit.local_updates(optax.sgd(0.1), NESTEROV, mean, every=3, axis_name="workers")).params
    chex.assert_trees_all_close(plain, sent, atol=1e-6)


def test_small_outer_steps_are_kept_for_parameters_in_16_bits():
    tx = optkit.local_updates(optax.sgd(1.0), optax.sgd(0.1), every=1, axis_name="workers")

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jnp.full_like(params, 1e-2), state, params)
        return (optax.apply_updates(params, updates), state), None

    def worker(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=40)[0]

    params, state = jax.jit(jax.vmap(worker, axis_name="workers"))(jnp.ones((2, 1), jnp.bfloat16))
    assert params.dtype == jnp.bfloat16
    # Forty steps of 0.1 * 2**-7 or so, each of which is less than half a unit in the last place of 1.
    assert np.all(np.asarray(state.anchor) < 0.98)


@pytest.mark.parametrize("fragments", [None, 2], ids=["whole", "fragments"])
def test_one_conditional_holds_all_bytes(fragments):
    params = {"a": jnp.zeros(64), "b": {"c": jnp.zeros(64)}}
    tx = optkit.local_updates(optax.adam(0.1), NESTEROV, every=8, fragments=fragments, axis_name="workers")
    cost = optkit.cost(tx, params, axis_name="workers", axis_size=8, every=8 // (fragments or 1))
    assert not cost.sent
    # All-reduce sends 2 * 7 / 8 of what there is.
    assert cost.sent_when_taken == {"all-reduce": round(2 * 7 / 8 * 4 * 128 / (fragments or 1))}
    assert cost.sent_per_step["all-reduce"] == pytest.approx(2 * 7 / 8 * 4 * 128 / 8)


def test_a_synchronization_is_one_collective():
    params = {"a": jnp.zeros((8, 5)), "b": {"c": jnp.zeros((8, 3, 2))}}
    for outer, average_state in ((None, ("mu", "nu")), (NESTEROV, None)):
        tx = optkit.local_updates(optax.adam(0.1), outer, every=8, axis_name="workers", average_state=average_state)
        axes = optkit.worker_axes(tx, params, axis_name="workers")
        options = {"axis_name": "workers", "backend": "shard_map"}
        state = optkit.on_workers(tx.init, out_axes=axes, **options)(params)
        step = optkit.on_workers(tx.update, in_axes=(0, axes, 0), out_axes=(0, axes), **options)
        text = jax.jit(step).lower(params, state, params).compile().as_text()
        assert text.count(" all-reduce(") == 1


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_backends_agree(backend):
    tx = optkit.streaming_diloco(0.1, every=4, fragments=2, delay=1, alpha=0.5, axis_name="workers")
    params = {"a": jnp.arange(8.0)[:, None] * jnp.ones((8, 3)), "b": jnp.ones((8, 2))}
    axes = optkit.worker_axes(tx, params, axis_name="workers")

    def result(backend):
        options = {"axis_name": "workers", "backend": backend}
        state = optkit.on_workers(tx.init, out_axes=axes, **options)(params)

        def step(params, state):
            updates, state = tx.update(params, state, params)
            return optax.apply_updates(params, updates), state

        step = jax.jit(optkit.on_workers(step, in_axes=(0, axes), out_axes=(0, axes), **options))
        now = params
        for _ in range(6):
            now, state = step(now, state)
        return jax.device_get((now, state))

    chex.assert_trees_all_close(result("vmap"), result(backend), atol=1e-6)


def test_counters_stay_one_number_so_that_the_conditional_stays():
    tx = optkit.diloco(0.1, every=4, axis_name="workers")
    axes = optkit.worker_axes(tx, {"w": jnp.ones((4, 3))}, axis_name="workers")
    assert (axes.count, axes.since, axes.period) == (None, None, None)


def test_a_function_injected_by_optax_means_the_same():
    every = lambda count: jnp.where(count < 4, 2, 3)  # noqa: E731
    given = run(optkit.local_updates(optax.sgd(0.1), every=every, axis_name="workers")).params
    injected = optax.inject_hyperparams(optkit.local_updates, static_args=("inner", "axis_name"))
    chex.assert_trees_all_close(
        run(injected(optax.sgd(0.1), every=every, axis_name="workers")).params, given, atol=1e-6
    )


def test_it_finds_the_minimum_of_uneven_losses():
    """DiLoCo on the mean of quadratics with different minima."""
    targets = jnp.asarray(gradients(1, 3)[0])
    tx = optkit.local_updates(optax.sgd(0.1), NESTEROV, every=4, axis_name="workers")

    def gradient(params, target):
        return params - target

    inputs = jnp.broadcast_to(targets, (200, *targets.shape))
    found = last(descend(tx, gradient, jnp.zeros_like(targets), inputs, axis_name="workers").params)
    np.testing.assert_allclose(found, np.tile(targets.mean(axis=0), (WORKERS, 1)), atol=1e-4)


SGD = optax.sgd(0.1)
BAD = {
    "every must be a positive integer, got 0": lambda: optkit.local_updates(SGD, every=0, axis_name="w"),
    r"alpha must be in \[0, 1\], got 2": lambda: optkit.local_updates(SGD, alpha=2.0, axis_name="w"),
    "delay must be an integer of at least 0": lambda: optkit.local_updates(SGD, delay=-1, axis_name="w"),
    "delay must be less than every=4": lambda: optkit.local_updates(SGD, every=4, delay=4, axis_name="w"),
    "every must be a number with a delay": lambda: optkit.local_updates(SGD, every=lambda _: 4, delay=2, axis_name="w"),
    "which is 3, got 8": lambda: optkit.local_updates(SGD, every=np.int64(8), fragments=np.int64(3), axis_name="w"),
    "multiple of the number of fragments, which is 3": lambda: optkit.local_updates(
        SGD, every=4, fragments=3, axis_name="w"
    ),
    "which is 2, got 5": lambda: optkit.local_updates(SGD, every=5, fragments={"a": 0, "b": 1}, axis_name="w"),
    "every must be a number with fragments": lambda: optkit.local_updates(
        SGD, every=lambda _: 2, fragments=2, axis_name="w"
    ),
    "average_state needs fragments=None": lambda: optkit.local_updates(
        SGD, every=4, fragments=2, average_state=("mu",), axis_name="w"
    ),
    "axis_name must be the name of one axis": lambda: optkit.local_updates(SGD, axis_name=("a", "b")),
    "no such field": lambda: optkit.local_updates(SGD, average_state=("mu",), axis_name="w").init(jnp.ones(2)),
    "number the fragments from 0 on": lambda: optkit.local_updates(
        SGD, fragments=lambda _: {"a": "first"}, axis_name="w"
    ).init({"a": jnp.ones(2)}),
    "one for each entry of its leading axis": lambda: optkit.local_updates(
        SGD, fragments={"a": np.array([0, 1, 1])}, axis_name="w"
    ).init({"a": jnp.ones(2)}),
    "switch_step must be an integer of at least 0": lambda: optkit.post_local_sgd(0.1, -1, axis_name="w"),
    r"slow_momentum must be in \[0, 1\)": lambda: optkit.slowmo(0.1, slow_momentum=1.0, axis_name="w"),
    "base must be a positive integer": lambda: optkit.quadratic_synchronization(optax.constant_schedule(0.1), 0.1, 0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_argument_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_missing_schedule_or_missing_parameters_are_named():
    with pytest.raises(TypeError, match="learning_rate must be a schedule"):
        optkit.quadratic_synchronization(0.1, 0.1)
    tx = optkit.local_updates(SGD, axis_name=None)
    with pytest.raises(ValueError, match="local_updates needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
