"""What local scaling promises: the recorded runs, one diagonal for all workers, and products only where it changes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters, assert_refuses_complex_parameters
from trajectories import descend, trajectory

import optkit
from optkit.core.cost import hlo
from optkit.local_training._local_scaling import local_scaling_by_draws
from optkit.testing import check_transformation

WORKERS = 4
KINDS = ("adam", "rmsprop", "oasis")


def recorded_local_scaling(recording):
    found = recording.hyperparams
    return local_scaling_by_draws(
        found["lr"],
        found["beta"],
        found["alpha"],
        "workers",
        found["local_steps"],
        found.word("kind", KINDS),
        found.word("clip", ("add", "max")),
    )


@pytest.mark.slow
@replays("local_scaling")
def test_golden_local_scaling(recording):
    tx, workers = recorded_local_scaling(recording), recording.hyperparams["n_workers"]
    start = jax.tree.map(jnp.asarray, recording.tree("params0"))
    recorded_signs = any(name.startswith("draws.z.") for name in recording.arrays)

    def of_workers(group):
        return {leaf: jnp.stack([recording.arrays[f"{group}.{leaf}.{i}"] for i in range(workers)]) for leaf in start}

    def worker(params, hessian, linear, noise):
        def product(vector):
            return jax.tree.map(lambda a, z: (a @ z.ravel()).reshape(z.shape), hessian, vector)

        def step(carry, now):
            params, state = carry
            noise, signs = now
            gradient = jax.tree.map(lambda h, b, n: h - b - n, product(params), linear, noise)
            draw = lambda: (jax.tree.map(lambda z, p: z.astype(p.dtype), signs, params), None)  # noqa: E731
            updates, state = tx.update(gradient, state, params, draw=draw, product=product)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        signs = jax.tree.map(jnp.asarray, recording.tree("draws.z")) if recorded_signs else noise
        return jax.lax.scan(step, (params, tx.init(params)), (noise, signs))[1]

    over_workers = jax.jit(jax.vmap(worker, out_axes=1, axis_name="workers"))
    assert_replays(recording, over_workers(start, of_workers("A"), of_workers("b"), of_workers("noise")))


@pytest.mark.slow
def test_workers_have_one_diagonal_which_changes_when_they_are_together():
    tx = optkit.local_scaling(0.1, axis_name="workers", every=3)
    found = trajectory(tx, normal(6, WORKERS, 5), axis_name="workers")
    diagonals = np.asarray(found.states.diagonal)
    assert np.all(np.ptp(diagonals, axis=1) == 0)
    changed = np.abs(np.diff(diagonals[:, 0], axis=0)).max(axis=1) > 0
    assert changed.tolist() == [False, False, True, False, False]
    apart = np.ptp(np.asarray(found.params), axis=1).max(axis=1) > 1e-6
    assert apart.tolist() == [True, True, False] * 2
    axes = optkit.worker_axes(tx, jnp.zeros((2, 3)), axis_name="workers")
    assert (axes.count, axes.diagonal, axes.key) == (None, None, None)


@pytest.mark.slow
def test_a_period_may_be_an_array():
    def last(every):
        tx = optkit.local_scaling(0.1, axis_name="workers", every=every)
        return trajectory(tx, normal(6, WORKERS, 5), axis_name="workers").params[-1]

    np.testing.assert_allclose(jax.jit(last)(jnp.float32(3)), last(3), rtol=1e-6)


SCALES = jnp.array([1.0, 100.0, 0.01])


def towards(params, target):
    """A worker's gradient, whose Hessian has the diagonal `SCALES`."""
    return SCALES * (params - target)


@pytest.mark.slow
def test_oasis_divides_by_the_diagonal_of_the_hessian():
    tx = optkit.local_scaling(0.5, eps=1e-6, axis_name="workers", every=4, kind="oasis")
    targets = jnp.broadcast_to(normal(WORKERS, 3), (40, WORKERS, 3))
    found = descend(tx, towards, jnp.zeros((WORKERS, 3)), targets, axis_name="workers")
    np.testing.assert_allclose(found.states.diagonal[-1], jnp.broadcast_to(SCALES, (WORKERS, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.params[-1].mean(axis=0), targets[0].mean(axis=0), atol=1e-5)


def calls_of(tx, steps):
    """How often `hvp_fn` runs, really, in so many steps."""
    calls = []

    def hvp_fn(vector):
        jax.debug.callback(lambda: calls.append(1))
        return vector

    params, update = jnp.ones(2), jax.jit(lambda state: tx.update(jnp.ones(2), state, jnp.ones(2), hvp_fn=hvp_fn)[1])
    state = tx.init(params)
    for _ in range(steps):
        state = update(state)
    jax.effects_barrier()
    return len(calls)


@pytest.mark.slow
def test_products_are_taken_in_the_first_step_of_a_round_only():
    assert calls_of(optkit.local_scaling(0.1, axis_name=None, every=4, kind="oasis"), 9) == 3


@pytest.mark.slow
def test_hvp_fn_or_the_derivative_of_grad_fn():
    tx, params = optkit.local_scaling(0.1, axis_name=None, kind="oasis"), normal(3)
    cube = lambda x: x**3  # noqa: E731
    derived = tx.update(cube(params), tx.init(params), params, grad_fn=cube)
    given = tx.update(cube(params), tx.init(params), params, hvp_fn=lambda vector: 3 * params**2 * vector)
    chex.assert_trees_all_close(derived, given, rtol=1e-6)
    with pytest.raises(TypeError, match="local_scaling needs the extra argument grad_fn"):
        tx.update(params, tx.init(params), params)


@pytest.mark.slow
def test_each_half_of_what_is_sent_has_its_conditional():
    tx, params = optkit.local_scaling(0.1, axis_name="workers", every=4), jnp.zeros((8, 64))
    axes = optkit.worker_axes(tx, params, axis_name="workers")
    states = jax.vmap(tx.init, out_axes=axes)(params)
    step = optkit.on_workers(
        tx.update, axis_name="workers", in_axes=(0, axes, 0), out_axes=(0, axes), backend="shard_map"
    )
    lowered = jax.jit(step).lower(params, states, params)
    compiled = lowered.compile()
    work, text = hlo.read(compiled, lowered), compiled.as_text()
    assert (work.sent, work.sent_when_taken) == ({}, {"all-reduce": 2 * 2 * 7 / 8 * 4 * 64})
    assert (text.count(" all-reduce("), text.count(" conditional(")) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    tx = optkit.local_scaling(0.1, axis_name="workers", every=2, kind="oasis", eps=1e-6)

    def run(target):
        params, grad_fn = jnp.zeros(3), lambda point: towards(point, target)
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            params = optax.apply_updates(params, updates)
        return params, state

    results = [optkit.on_workers(run, axis_name="workers", backend=each)(normal(8, 3)) for each in (backend, "vmap")]
    chex.assert_trees_all_close(*results, atol=1e-6)


@pytest.mark.slow
def test_oasis_keeps_the_contract():
    check_transformation(
        optkit.local_scaling,
        needs=("axis_name", "grad_fn"),
        static_args=("axis_name", "kind", "clip", "trainable"),
        learning_rate=0.15,
        axis_name="workers",
        kind="oasis",
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_shows_on_all_workers_after_the_next_average(kind):
    # In the step that refreshes the diagonal, and in the next one.
    bad = jnp.array([[jnp.nan, jnp.inf, 1, 1], [1, 1, jnp.nan, jnp.inf]])
    gradients = normal(4, WORKERS, 6).at[:2, 2, :4].set(bad)
    tx = optkit.local_scaling(0.1, axis_name="workers", every=2, kind=kind)
    found = trajectory(tx, gradients, axis_name="workers", hvp_fn=lambda vector: 2.0 * vector)
    assert np.all(np.isnan(found.params[1:, :, :4]))
    assert np.all(np.isfinite(found.params[..., 4:]))


@pytest.mark.slow
def test_leaves_that_are_not_trained_stay():
    tx = optkit.local_scaling(0.1, axis_name=None, kind="oasis", trainable={"a": True, "b": False})
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    grad_fn = jax.grad(lambda tree: jnp.sum(tree["a"] ** 2) * jnp.sum(tree["b"]))
    updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-6)  # of a gradient of 4 and a diagonal of 4
    np.testing.assert_array_equal(updates["b"], 0.0)
    assert state.diagonal["b"] == optax.MaskedNode()


def test_parameters_are_needed():
    assert_needs_parameters(optkit.local_scaling(0.1, axis_name=None), "local_scaling")


def test_oasis_refuses_complex_parameters():
    tx = optkit.local_scaling(0.1, axis_name=None, kind="oasis")
    assert_refuses_complex_parameters(tx, "local_scaling", "two leaves")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
        ({"eps": 0.0}, r"eps must be in \(0, inf\], got 0.0"),
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"kind": "sgd"}, "kind must be 'adam', 'rmsprop' or 'oasis', got 'sgd'"),
        ({"clip": "min"}, "clip must be 'max' or 'add', got 'min'"),
        ({"axis_name": ("a", "b")}, "axis_name"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.local_scaling(0.1, **{"axis_name": "workers", **arguments})


def test_trainable_is_no_array():
    with pytest.raises(TypeError, match="trainable cannot be an array"):
        optkit.local_scaling(0.1, trainable=jnp.array(True), axis_name="workers")
