import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from promises import assert_decay_spares_masked_leaves, assert_same_steps
from trajectories import trajectory

import optkit

PARAMS = {"kernel": np.ones((3, 2)), "bias": np.ones(4), "scalar": np.ones(())}


def draw(seed, steps=20, scale=1.0):
    return optax.tree.scale(scale, normal_like(PARAMS, seed, rows=(steps,)))


def run(tx, gradients):
    """The updates of all steps, from parameters of ones."""
    return trajectory(tx, gradients, jax.tree.map(lambda g: jnp.ones_like(g[0]), gradients)).updates


def assert_equal_runs(ours, theirs):
    params = jax.tree.map(jnp.asarray, PARAMS)
    assert_same_steps(ours, theirs, draw(0, scale=2.0), params, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tau", [0.5, 5.0, 50.0])
def test_without_memory_l2_is_optax_clipping_by_global_norm(tau):
    assert_equal_runs(
        optkit.clipped_sgd(0.1, tau, weight_decay=0.01),
        optax.chain(optax.clip_by_global_norm(tau), optax.add_decayed_weights(0.01), optax.sgd(0.1)),
    )


@pytest.mark.usefixtures("x64")
def test_momentum_sums_clipped_gradients():
    assert_equal_runs(
        optkit.clipped_sgd(0.1, 2.0, momentum=0.9), optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(0.1, 0.9))
    )


@pytest.mark.usefixtures("x64")
def test_without_memory_l1_is_optax_clipping_by_value():
    assert_equal_runs(
        optkit.clipped_sgd(0.1, 0.7, optkit.median_step.l1()), optax.chain(optax.clip(0.7), optax.sgd(0.1))
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_memory_huber_is_the_gradient_of_optax_huber_loss():
    tau, threshold = 0.4, 0.9
    slope = jax.vmap(jax.grad(lambda r: optax.losses.huber_loss(r, delta=threshold)))

    def huber_gradient(updates, params):
        del params
        return jax.tree.map(lambda g: tau * slope(g.ravel() / (1 + tau)).reshape(g.shape), updates)

    ours = optkit.clipped_sgd(0.1, tau, optkit.median_step.huber(threshold))
    assert_equal_runs(ours, optax.chain(optax.stateless(huber_gradient), optax.sgd(0.1)))
    assert_equal_runs(ours, optax.chain(optax.scale(tau / (1 + tau)), optax.clip(tau * threshold), optax.sgd(0.1)))
    assert_equal_runs(
        optkit.clipped_sgd(0.1, tau, optkit.median_step.huber_l2(threshold)),
        optax.chain(optax.scale(tau / (1 + tau)), optax.clip_by_global_norm(tau * threshold), optax.sgd(0.1)),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_memory_subgradients_are_optax_sign_descent_and_normalization():
    assert_equal_runs(optkit.clipped_sgd(0.1, 0.5, optkit.median_step.subgradient_l1()), optax.sign_sgd(0.05))
    assert_equal_runs(
        optkit.clipped_sgd(0.1, 0.5, optkit.median_step.subgradient_l2()),
        optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_half_squared_l2_is_optax_exponential_average(decay):
    mean = optkit.scale_by_median_tracking(1 / decay - 1, optkit.median_step.half_squared_l2())
    assert_equal_runs(mean, optax.ema(decay, debias=False))
    # Sign momentum.
    assert_equal_runs(
        optax.chain(mean, optax.scale_by_sign(), optax.scale_by_learning_rate(0.1)), optax.signum(0.1, decay)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_sign_momentum_is_optax_sign_descent_of_the_estimate_towards_the_gradients():
    gradients, tau = draw(1), 0.1
    descent = optax.sign_sgd(tau)

    def step(estimate, gradient):
        updates, _ = descent.update(optax.tree.sub(estimate, gradient), descent.init(estimate))
        return (optax.apply_updates(estimate, updates),) * 2

    _, expected = jax.lax.scan(step, jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients), gradients)
    estimates = run(optkit.scale_by_median_tracking(tau, optkit.median_step.subgradient_l1()), gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), estimates, expected)


@pytest.mark.slow
def test_no_gradient_moves_the_estimate_further_than_tau():
    gradients = draw(2, scale=1e6)
    estimates = run(optkit.scale_by_median_tracking(0.5), gradients)
    moves = jax.tree.map(lambda m: jnp.diff(m, axis=0, prepend=0), estimates)
    lengths = jax.vmap(optax.tree.norm)(moves)
    np.testing.assert_allclose(lengths, 0.5, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_estimate_converges_to_the_median_of_heavy_tailed_gradients():
    median = jnp.array([1.0, -2.0, 0.0, 3.0])
    gradients = median + jax.random.cauchy(jax.random.key(3), (20_000, 4))
    schedule = lambda count: 1 / jnp.sqrt(1.0 + count)  # noqa: E731
    for step in (optkit.median_step.l1(), optkit.median_step.l2()):
        estimate = run(optkit.scale_by_median_tracking(schedule, step), gradients)[-1]
        # The mean of Cauchy variables is as far off as one of them.
        np.testing.assert_allclose(estimate, median, atol=0.15)


@pytest.mark.usefixtures("x64")
def test_quantile_tracks_the_quantile():
    gradients = jax.random.uniform(jax.random.key(4), (20_000, 3))
    tx = optkit.scale_by_median_tracking(lambda count: 1 / jnp.sqrt(1.0 + count), optkit.median_step.quantile(0.9))
    np.testing.assert_allclose(run(tx, gradients)[-1], 0.9, atol=0.05)


@pytest.mark.slow
def test_first_gradient_may_be_the_start():
    gradients = draw(5, steps=3, scale=100.0)
    estimates = run(optkit.scale_by_median_tracking(1.0, init="first"), gradients)
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m[0], g[0], rtol=1e-6), estimates, gradients)
    moves = jax.vmap(optax.tree.norm)(jax.tree.map(lambda m: jnp.diff(m, axis=0), estimates))
    np.testing.assert_allclose(moves, 1.0, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_schedule_of_tau_counts_from_zero():
    gradients = {"w": jnp.full((3, 1), 100.0)}
    estimates = run(optkit.scale_by_median_tracking(lambda count: 2.0**count), gradients)
    np.testing.assert_allclose(estimates["w"][:, 0], [1.0, 3.0, 7.0])


def test_state_is_one_number_a_parameter_and_none_without_memory():
    params = jnp.ones((3, 4), jnp.bfloat16)
    state = optkit.scale_by_median_tracking(1.0, accumulator_dtype=jnp.float32).init(params)
    assert (state.median.shape, state.median.dtype) == ((3, 4), jnp.float32)
    assert optkit.scale_by_median_tracking(1.0).init(params).median.dtype == jnp.bfloat16
    assert optkit.scale_by_median_tracking(1.0, memory=False).init(params).median is None
    assert optkit.median_tracking_sgd(0.1, 1.0).init(params)[0].median.dtype == jnp.float32
    bfloat16 = optkit.median_tracking_sgd(0.1, 1.0, accumulator_dtype=jnp.bfloat16).init(params)
    assert bfloat16[0].median.dtype == jnp.bfloat16


def test_zero_gradients_keep_the_estimate_at_zero():
    for step in (optkit.median_step.l2(), optkit.median_step.subgradient_l2(), optkit.median_step.insensitive_l2(0.1)):
        updates = run(optkit.median_tracking_sgd(0.1, 1.0, step), jnp.zeros((3, 2)))
        np.testing.assert_array_equal(updates, 0.0)


def test_infinite_coordinate_is_clipped_by_l1():
    tx = optkit.median_tracking_sgd(1.0, 0.5, optkit.median_step.l1())
    updates = run(tx, jnp.array([[jnp.inf, 0.1], [-jnp.inf, 0.1]]))
    np.testing.assert_allclose(updates, [[-0.5, -0.1], [0.0, -0.1]], atol=1e-7)


def test_decay_spares_masked_leaves():
    assert_decay_spares_masked_leaves(functools.partial(optkit.median_tracking_sgd, tau=1.0))
    assert_decay_spares_masked_leaves(optkit.clipped_sgd)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.scale_by_median_tracking(0.0), r"tau must be in \(0, inf\], got 0.0"),
        (lambda: optkit.scale_by_median_tracking(1.0, init="last"), "init must be 'zeros' or 'first', got 'last'"),
        (lambda: optkit.scale_by_median_tracking(1.0, init="first", memory=False), "init must be 'zeros' with memory"),
        (lambda: optkit.median_tracking_sgd(0.1, -1.0), r"tau must be in \(0, inf\], got -1.0"),
        (lambda: optkit.median_tracking_sgd(0.1, 1.0, weight_decay=-1.0), "weight_decay must be in"),
        (lambda: optkit.clipped_sgd(0.1, 0.0), r"tau must be in \(0, inf\], got 0.0"),
        (lambda: optkit.clipped_sgd(0.1, momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: optkit.clipped_sgd(0.1, weight_decay=-1.0), "weight_decay must be in"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
