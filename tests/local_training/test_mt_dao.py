"""What MT-DAO promises: the recorded runs, ADOPT's rule, who is averaged when, and what travels then."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters, assert_refuses_complex_parameters, assert_same_steps
from trajectories import trajectory

import optkit
from optkit.core.cost import hlo
from optkit.local_training._due import average_due
from optkit.testing import golden

WORKERS = 4
STATE_SYNCS = ("after_step", "before_use")


def run(tx, gradients, params=None):
    """Steps along gradients, time first and then workers: what there is after each."""
    return trajectory(tx, gradients, params, axis_name="workers")


def recorded_mt_dao(recording):
    found = recording.hyperparams
    assert found["n_workers"] == len(jax.tree.leaves(recording.tree("params0"))[0])
    method = optkit.mt_dao(
        found["learning_rate"],
        found["betas"],
        found["omegas"],
        found["b2"],
        found["eps"],
        axis_name="workers",
        every=found["sync_x"],
        momenta_every=found["sync_u"],
        second_moment_every=found["sync_v"],
        state_sync=found.word("state_sync", STATE_SYNCS),
        bias_correction=found["bias_correction"],
    )
    return optax.chain(optax.clip_by_global_norm(found["clip_norm"]), method)


@pytest.mark.slow
@replays("mt_dao")
def test_golden_mt_dao(recording):
    assert_replays(recording, golden.replay_workers(recorded_mt_dao(recording), recording))


def adopt_in_numpy(
    gradients, rates, b1, omega, b2, eps, weight_decay, every, momenta_every, second_moment_every, order
):
    """The ADOPT base as the notes on the authors' code have it, all workers at once."""
    steps, workers, size = gradients.shape
    x, v = np.zeros((workers, size)) + 0.5, np.zeros((workers, size))
    u = [np.zeros((workers, size)) for _ in b1]
    seen = []

    def mean(rows):
        return np.tile(rows.mean(axis=0), (workers, 1))

    for t in range(steps):
        g = gradients[t]
        if t == 0:
            v = g**2
        else:
            x = x * (1 - weight_decay * rates[t] / rates[0])
            n = np.clip(g / np.maximum(np.sqrt(v), eps), -(t**0.25), t**0.25)
            u = [b * m + (1 - b) * n for b, m in zip(b1, u, strict=True)]
            v = b2 * v + (1 - b2) * g**2
        due = [(t + 1) % period == 0 for period in momenta_every]
        averaged = [mean(m) if now else m for m, now in zip(u, due, strict=True)]
        used = averaged if order == "before_use" else u
        if t > 0:
            x = x - rates[t] * ((1 - sum(omega)) * n + sum(w * m for w, m in zip(omega, used, strict=True)))
        u, v = averaged, mean(v) if (t + 1) % second_moment_every == 0 else v
        x = mean(x) if (t + 1) % every == 0 else x
        seen.append(x)
    return np.stack(seen)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", STATE_SYNCS)
def test_the_adopt_base_is_its_transcription(order):
    gradients = np.random.default_rng(0).normal(size=(13, 3, 5)) * 3
    rates = 0.1 / (1 + np.arange(13))
    arguments = {"b1": (0.9, 0.99), "omega": (0.3, 0.6), "b2": 0.95, "eps": 1e-6, "weight_decay": 0.05, "every": 4}
    periods = {"momenta_every": (2, 6), "second_moment_every": 3}
    schedule = lambda count: jnp.asarray(rates)[count]  # noqa: E731
    tx = optkit.mt_dao(schedule, **arguments, **periods, axis_name="workers", base="adopt", state_sync=order)
    found = run(tx, jnp.asarray(gradients), jnp.full((3, 5), 0.5)).params
    expected = adopt_in_numpy(gradients, rates, **arguments, **periods, order=order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_decay_follows_the_rate_in_units_of_its_first_value():
    rates = jnp.array([0.2, 0.1, 0.4])
    tx = optkit.mt_dao(lambda count: rates[count], weight_decay=0.1, mask={"a": True, "b": False}, axis_name=None)
    zeros = {"a": jnp.zeros((3, 1)), "b": jnp.zeros((3, 1))}
    found = trajectory(tx, zeros, {"a": jnp.ones(1), "b": jnp.ones(1)}).params
    np.testing.assert_allclose(found["a"][:, 0], np.cumprod(1 - 0.1 * np.array([1, 0.5, 2])), rtol=1e-12)
    np.testing.assert_array_equal(found["b"], 1.0)


@pytest.mark.usefixtures("x64")
def test_a_rate_that_starts_at_zero_leaves_the_decay_as_it_is():
    tx = optkit.mt_dao(optax.linear_schedule(0.0, 1.0, 4), weight_decay=0.1, axis_name=None)
    found = trajectory(tx, jnp.zeros((3, 1)), jnp.ones(1)).params
    np.testing.assert_allclose(found[:, 0], 0.9 ** np.arange(1, 4), rtol=1e-7)  # the schedule is in single precision


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_momentum_of_the_whole_weight_on_one_worker_is_adam():
    tx = optkit.mt_dao(0.1, 0.9, 1.0, axis_name=None)
    assert_same_steps(tx, optax.adam(0.1), normal(6, 5), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", STATE_SYNCS)
def test_averages_in_every_step_are_momentum_of_the_mean_gradient_without_a_denominator(order):
    rule = {"b1": (0.9, 0.99), "omega": (0.5, 0.3), "base": "sgd"}
    gradients = normal(6, WORKERS, 5)
    found = run(optkit.mt_dao(0.1, **rule, axis_name="workers", every=1, state_sync=order), gradients).params
    expected = trajectory(optkit.mt_dao(0.1, **rule, axis_name=None), gradients.mean(axis=1)).params
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_transformation_is_the_direction_of_one_worker():
    rule = {"b1": (0.9, 0.99), "omega": (0.5, 0.3), "base": "adopt"}
    tx = optax.chain(optkit.scale_by_slow_momenta(**rule), optax.scale_by_learning_rate(0.1))
    assert_same_steps(optkit.mt_dao(0.1, **rule, axis_name=None), tx, normal(6, 5), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_with_one_period_it_is_local_updates_of_the_transformation_with_an_averaged_state():
    rule, gradients = {"b1": (0.9, 0.99), "omega": (0.5, 0.3)}, normal(6, WORKERS, 5)
    inner = optax.chain(optkit.scale_by_slow_momenta(**rule), optax.scale_by_learning_rate(0.1))
    tx = optkit.local_updates(inner, every=3, axis_name="workers", average_state=("momenta", "nu"))
    found = run(optkit.mt_dao(0.1, **rule, axis_name="workers", every=3), gradients).params
    np.testing.assert_allclose(found, run(tx, gradients).params, rtol=0, atol=1e-13)


def spread(tree):
    """Whether workers differ, at each step; time first and then workers."""
    return np.asarray(jax.vmap(lambda x: jnp.ptp(x, axis=0).max() > 1e-6)(tree)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("periods_are_arrays", [False, True])
def test_everything_is_averaged_at_its_own_period(periods_are_arrays):
    arguments = {"every": 2, "momenta_every": 3, "second_moment_every": 4}

    def states(**periods):
        tx = optkit.mt_dao(0.1, 0.9, 0.7, axis_name="workers", **periods)
        run = trajectory(tx, normal(6, WORKERS, 5), axis_name="workers")
        return run.params, run.states.momenta[0], run.states.nu

    # Arrays, as `optax.inject_hyperparams` makes them.
    found = jax.jit(states)(**jax.tree.map(jnp.float32, arguments)) if periods_are_arrays else states(**arguments)
    for tree, period in zip(found, arguments.values(), strict=True):
        assert spread(tree) == [step % period != 0 for step in range(1, 7)]


@pytest.mark.slow
def test_states_have_the_period_of_the_parameters_by_default():
    found = run(optkit.mt_dao(0.1, [0.9, 0.99], [0.5, 0.3], axis_name="workers", every=2), normal(4, WORKERS, 5)).states
    for tree in (*found.momenta, found.nu):
        assert spread(tree) == [True, False, True, False]


def programs(tx):
    """What the compiled step on eight devices sends, and how many collectives and conditionals stand in it."""
    params = {"a": jnp.zeros((8, 30)), "b": jnp.zeros((8, 2, 17))}
    axes = optkit.worker_axes(tx, params, axis_name="workers")
    states = jax.vmap(tx.init, out_axes=axes)(params)
    step = optkit.on_workers(
        tx.update, axis_name="workers", in_axes=(0, axes, 0), out_axes=(0, axes), backend="shard_map"
    )
    lowered = jax.jit(step).lower(params, states, params)
    compiled = lowered.compile()
    work = hlo.read(compiled, lowered)
    lines = compiled.as_text().splitlines()
    found = collections.Counter(kind for line in lines for kind in (" all-reduce(", " conditional(") if kind in line)
    return work, found


COPY = 2 * 7 / 8 * 4 * 64  # bytes that a device sends for the mean of one copy of the parameters


@pytest.mark.slow
def test_a_step_sends_what_is_due_in_one_collective_under_one_conditional():
    work, found = programs(optkit.mt_dao(0.1, axis_name="workers", every=4))
    assert (work.sent, work.sent_when_taken) == ({}, {"all-reduce": 3 * COPY})
    assert found == {" all-reduce(": 1, " conditional(": 1}


@pytest.mark.slow
def test_each_set_that_can_be_due_together_has_its_branch_and_no_other_has():
    # 2, 4 and 8: parameters; parameters and momentum; all three.
    periods = {"every": 2, "momenta_every": 4, "second_moment_every": 8}
    work, found = programs(optkit.mt_dao(0.1, axis_name="workers", **periods))
    assert (work.sent, work.sent_when_taken) == ({}, {"all-reduce": 3 * COPY})
    assert found == {" all-reduce(": 3, " conditional(": 1}


@pytest.mark.slow
def test_des_loc_sends_three_sets_of_states_and_parameters():
    work, found = programs(optkit.des_loc(0.1, axis_name="workers", every=4))
    assert (work.sent, work.sent_when_taken) == ({}, {"all-reduce": 3 * COPY})
    # Nothing, the momentum, or both moments; and the parameters.
    assert found == {" all-reduce(": 3, " conditional(": 2}


@pytest.mark.slow
def test_parameters_are_sent_after_the_states_that_the_step_uses():
    work, found = programs(optkit.mt_dao(0.1, axis_name="workers", every=4, state_sync="before_use"))
    assert (work.sent, work.sent_when_taken) == ({}, {"all-reduce": 3 * COPY})
    assert found == {" all-reduce(": 2, " conditional(": 2}


def test_averages_in_every_step_have_no_conditional():
    work, found = programs(optkit.mt_dao(0.1, axis_name="workers", every=1))
    assert (work.sent, work.sent_when_taken) == ({"all-reduce": 3 * COPY}, {})
    assert found == {" all-reduce(": 1}


@pytest.mark.slow
def test_what_is_due_together():
    def in_step(step):
        average = jax.vmap(
            lambda x: average_due([x, x, {"c": x}], [2, 3, 2], jnp.asarray(step), "workers"), axis_name="workers"
        )
        return [np.ptp(x) == 0 for x in jax.tree.leaves(average(jnp.array([1.0, 3.0])))]

    assert [in_step(step) for step in range(1, 7)] == [
        [False] * 3,
        [True, False, True],
        [False, True, False],
        [True, False, True],
        [False] * 3,
        [True] * 3,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    tx = optkit.mt_dao(
        0.1, axis_name="workers", every=2, momenta_every=3, base="adopt", b2=0.9, state_sync="before_use"
    )

    def one_worker(gradients):
        params = jnp.zeros(5)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    gradients = jnp.swapaxes(normal(4, 8, 5), 0, 1)
    results = [
        optkit.on_workers(one_worker, axis_name="workers", backend=each)(gradients) for each in (backend, "vmap")
    ]
    chex.assert_trees_all_close(*results, atol=1e-6)


def test_the_counter_alone_is_equal_on_all_workers():
    axes = optkit.worker_axes(optkit.mt_dao(0.1, axis_name="workers"), jnp.zeros((2, 3)), axis_name="workers")
    assert (axes.count, axes.momenta, axes.nu) == (None, (0,), 0)


@pytest.mark.slow
def test_half_precision_parameters_are_averaged_in_single():
    gradients = normal(1, WORKERS, 50, dtype=jnp.bfloat16)
    tx = optkit.mt_dao(0.5, 0.9, axis_name="workers", every=1, base="sgd")
    half, single = (run(tx, x) for x in (gradients, gradients.astype(jnp.float32)))
    assert half.states.momenta[0].dtype == jnp.float32
    np.testing.assert_array_equal(half.updates, single.updates.astype(jnp.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["adam", "adopt", "sgd"])
def test_a_gradient_that_is_not_finite_shows_on_all_workers_after_the_next_average(base):
    gradients = normal(6, WORKERS, 4).at[1, 2, :2].set(jnp.array([jnp.nan, jnp.inf]))
    found = run(optkit.mt_dao(0.1, axis_name="workers", every=3, base=base), gradients)
    assert np.all(np.isfinite(found.params[1, [0, 1, 3]]))
    assert np.all(np.isnan(found.params[2:, :, :2]))
    assert np.all(np.isfinite(found.params[..., 2:]))


@pytest.mark.slow
def test_a_slow_momentum_keeps_workers_nearer_together_than_adam_does():
    """From the third round on: in the first one the bias correction makes slow momenta as quick as others."""
    gradients = 0.1 + normal(4 * 32, 8, 50)

    def drift(b1, omega):
        params = run(optkit.mt_dao(1e-3, b1, omega, axis_name="workers", every=32), gradients).params
        return np.mean(np.std(params[62::32], axis=1)[1:])  # a step before they are averaged

    assert drift(0.999, 0.98) < 0.5 * drift(0.9, 1.0)


def test_parameters_are_needed():
    assert_needs_parameters(optkit.mt_dao(0.1, axis_name=None), "mt_dao")


@pytest.mark.parametrize("method", ["mt_dao", "des_loc"])
def test_adopt_clips_real_parameters(method):
    tx = getattr(optkit, method)(0.1, axis_name=None, base="adopt")
    assert_refuses_complex_parameters(tx, method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got"),
        ({"b1": (0.9, -0.1)}, r"b1 must be in \[0, 1\), got"),
        ({"b1": [[0.9]], "omega": [0.5]}, "b1 must be one number, or one for each momentum"),
        ({"omega": 1.5}, r"omega must be in \[0, 1\], got 1.5"),
        ({"b1": (0.9, 0.99), "omega": (0.6, 0.6)}, "the sum of omega must be"),
        ({"b1": (0.9, 0.99)}, "b1 and omega must have one number for each momentum, got 2 and 1"),
        ({"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
        ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"momenta_every": 2.5}, "momenta_every must be a positive integer, got 2.5"),
        ({"momenta_every": (2, 3)}, r"momenta_every must be one number, or one for each of 1, got \(2, 3\)"),
        ({"second_moment_every": 0}, "second_moment_every must be a positive integer, got 0"),
        ({"second_moment_every": 2, "base": "sgd"}, "second_moment_every must be None with base='sgd'"),
        ({"state_sync": "never"}, "state_sync must be 'after_step' or 'before_use', got 'never'"),
        ({"base": "lion"}, "base must be 'adam', 'adopt' or 'sgd', got 'lion'"),
        ({"base": "adopt", "bias_correction": True}, "bias_correction must be False or None with base='adopt'"),
        ({"axis_name": ("a", "b")}, "axis_name"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.mt_dao(0.1, **{"axis_name": "workers", **arguments})


def test_a_mask_is_no_array():
    with pytest.raises(TypeError, match="mask cannot be an array"):
        optkit.mt_dao(0.1, mask=jnp.array(True), axis_name="workers")
