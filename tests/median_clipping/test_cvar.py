from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from golden_files import assert_replays, replays
from trajectories import trajectory

import optkit
from optkit.median_clipping._cvar_prox_linear import dual_coordinate_ascent
from optkit.testing import check_transformation


@replays("cvar")
def test_golden_cvar(recording):
    hyperparams = recording.hyperparams
    hyperparams.word("step_index", ("t starts at 0, decay sqrt means lam/sqrt(t+1) on both",))
    prox_linear, subgradient = optkit.cvar_prox_linear, optkit.cvar_subgradient
    method = hyperparams.word("kind", {"spl": prox_linear, "spl_sqrt_decay": prox_linear, "sgm": subgradient})
    decay = hyperparams.word("decay", {"none": "constant", "sqrt": "sqrt"})
    alpha_rate = hyperparams["lam_alpha"]
    tx = method(
        hyperparams["lam_theta"],
        hyperparams["beta"],
        alpha_learning_rate=alpha_rate,
        alpha0=hyperparams["alpha0"],
        decay=decay,
    )
    params, _, states = trajectory(
        tx, recording.tree("grads"), recording.tree("params0"), value=recording.arrays["values"]
    )
    assert_replays(recording, params)
    # Alpha moves by its rate times the multiplier less one.
    alpha = states.alpha
    rates = alpha_rate / np.sqrt(1 + np.arange(len(alpha))) if decay == "sqrt" else alpha_rate
    eta = 1 + np.diff(alpha, prepend=hyperparams["alpha0"]) / rates
    for name, actual in {"alpha": alpha, "eta": eta}.items():
        assert_replays(recording, actual, name)


METHODS = (optkit.cvar_prox_linear, optkit.cvar_subgradient)
SAMPLES, BETA, RATE, ALPHA_RATE = 4, 0.6, 0.3, 0.2


def sample_batch(seed, samples=SAMPLES):
    """Gradients and losses of a batch, and where alpha is."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, 3)), rng.normal(1.0, 0.8, size=samples), rng.normal(1.0, 0.5)


@partial(jax.jit, static_argnames=("method", "per_sample", "passes", "axis_name"))
def take_step(method, gradients, values, alpha, **options):
    """One step from 0; the parameters and alpha after it."""
    tx = method(RATE, BETA, alpha_learning_rate=ALPHA_RATE, alpha0=alpha, decay="constant", **options)
    params = jnp.zeros(3)
    updates, state = tx.update(gradients, tx.init(params), params, value=values)
    return updates, state.alpha


def model(gradients, values, alpha, step, new_alpha):
    """What the prox-linear step minimizes."""
    excess = np.maximum(values + gradients @ step - new_alpha, 0)
    distances = np.sum(step**2) / (2 * RATE) + (new_alpha - alpha) ** 2 / (2 * ALPHA_RATE)
    return new_alpha + np.mean(excess) / (1 - BETA) + distances


def minimize_model(gradients, values, alpha):
    """The minimizer by a general solver, with the excesses as variables of their own."""
    samples, size = gradients.shape

    def objective(z):
        step, new_alpha, excess = z[:size], z[size], z[size + 1 :]
        distances = np.sum(step**2) / (2 * RATE) + (new_alpha - alpha) ** 2 / (2 * ALPHA_RATE)
        return new_alpha + np.mean(excess) / (1 - BETA) + distances

    above = {"type": "ineq", "fun": lambda z: z[size + 1 :] - (values + gradients @ z[:size] - z[size])}
    bounds = [(None, None)] * (size + 1) + [(0, None)] * samples
    start = np.concatenate([np.zeros(size), [alpha], np.maximum(values - alpha, 0)])
    options = {"ftol": 1e-15, "maxiter": 500}
    found = scipy.optimize.minimize(objective, start, method="SLSQP", bounds=bounds, constraints=above, options=options)
    return found.x[:size], found.x[size]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(5))
def test_a_step_minimizes_the_model_of_one_loss(seed):
    gradients, values, alpha = sample_batch(seed, samples=1)
    step, new_alpha = take_step(optkit.cvar_prox_linear, gradients[0], values[0], alpha)
    expected_step, expected_alpha = minimize_model(gradients, values, alpha)
    np.testing.assert_allclose(step, expected_step, atol=1e-6)
    np.testing.assert_allclose(new_alpha, expected_alpha, atol=1e-6)
    least = model(gradients, values, alpha, np.asarray(step), float(new_alpha))
    assert least <= model(gradients, values, alpha, expected_step, expected_alpha) + 1e-14


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(5))
def test_a_step_minimizes_the_model_of_a_batch(seed):
    gradients, values, alpha = sample_batch(seed)
    step, new_alpha = take_step(optkit.cvar_prox_linear, gradients, values, alpha, per_sample=True, passes=200)
    expected_step, expected_alpha = minimize_model(gradients, values, alpha)
    np.testing.assert_allclose(step, expected_step, atol=1e-5)
    np.testing.assert_allclose(new_alpha, expected_alpha, atol=1e-5)
    least = model(gradients, values, alpha, np.asarray(step), float(new_alpha))
    assert least <= model(gradients, values, alpha, expected_step, expected_alpha) + 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_pass_comes_closer_to_the_minimizer():
    gradients, values, alpha = sample_batch(0, samples=16)

    def reached(passes):
        step, new_alpha = take_step(
            optkit.cvar_prox_linear, gradients + 1, values, alpha, per_sample=True, passes=passes
        )
        return np.append(step, new_alpha)

    end = reached(500)
    distances = [np.linalg.norm(reached(passes) - end) for passes in (1, 3, 10)]
    assert distances[0] > 10 * distances[1] > 100 * distances[2]
    assert distances[2] < 1e-9, "the default is as good as exact for a small batch"


@pytest.mark.slow
def test_three_regimes():
    gradient, ceiling = np.array([1.0, 2.0, -1.0], np.float32), 1 / (1 - BETA)
    step, alpha = take_step(optkit.cvar_prox_linear, gradient, 1.0, 5.0)  # far below alpha
    np.testing.assert_array_equal(step, 0)
    np.testing.assert_allclose(alpha, 5.0 - ALPHA_RATE, rtol=1e-6)
    step, alpha = take_step(optkit.cvar_prox_linear, gradient, 50.0, 5.0)  # far above: the subgradient step
    np.testing.assert_allclose(step, -RATE * ceiling * gradient, rtol=1e-6)
    np.testing.assert_allclose(alpha, 5.0 - ALPHA_RATE * (1 - ceiling), rtol=1e-6)
    np.testing.assert_allclose(step, take_step(optkit.cvar_subgradient, gradient, 50.0, 5.0)[0], rtol=1e-6)
    step, alpha = take_step(optkit.cvar_prox_linear, gradient, 5.5, 5.0)  # between: the linearized loss meets alpha
    np.testing.assert_allclose(5.5 + gradient @ step, alpha, rtol=1e-6)


def test_subgradient_steps_go_the_whole_way_above_alpha_and_none_below():
    gradient = np.array([1.0, 2.0, -1.0], np.float32)
    step, alpha = take_step(optkit.cvar_subgradient, gradient, 2.0, 1.9)
    np.testing.assert_allclose(step, -RATE / (1 - BETA) * gradient, rtol=1e-6)
    np.testing.assert_allclose(alpha, 1.9 - ALPHA_RATE * (1 - 1 / (1 - BETA)), rtol=1e-6)
    step, alpha = take_step(optkit.cvar_subgradient, gradient, 2.0, 2.0)
    np.testing.assert_array_equal(step, 0)
    np.testing.assert_allclose(alpha, 2.0 - ALPHA_RATE, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_the_unit_of_the_loss_does_not_matter(method):
    def run(unit):
        tx = method(0.3, BETA, loss_scale=unit, alpha0=0.5 * unit)

        @jax.jit
        def step(params, state):
            value, gradient = jax.value_and_grad(lambda x: unit * jnp.sum(x**2 + x))(params)
            updates, state = tx.update(gradient, state, params, value=value)
            return optax.apply_updates(params, updates), state

        params, state = jnp.ones(3), tx.init(jnp.ones(3))
        for _ in range(5):
            params, state = step(params, state)
        return params, np.asarray(state.alpha) / unit

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), run(1000.0), run(1.0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_the_same_stacked_and_over_workers(method):
    gradients, values, alpha = sample_batch(3)
    stacked = take_step(method, gradients, values, alpha, per_sample=True)
    one_worker = partial(take_step, method, alpha=alpha, axis_name="workers")
    for backend in ("vmap", "shard_map"):
        over_workers = optkit.on_workers(one_worker, axis_name="workers", out_axes=None, backend=backend)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), over_workers(gradients, values), stacked)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_equal_samples_is_one_sample(method):
    gradients, values, alpha = sample_batch(1, samples=1)
    one = take_step(method, gradients[0], values[0], alpha)
    equal = take_step(method, gradients.repeat(3, 0), values.repeat(3), alpha, per_sample=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), equal, one)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_works_over_workers(method):
    check_transformation(
        method,
        needs=("value", "axis_name"),
        axis_name="workers",
        static_args=("axis_name",),
        promises=["keeps_types", "agrees_between_backends"],
        learning_rate=0.1,
    )


@pytest.mark.parametrize("method", METHODS)
def test_schedules_count_from_zero_and_both_rates_decay_by_the_root_of_time(method):
    tx = method(lambda count: 0.1 * (count + 1), alpha_learning_rate=0.2)
    params = jnp.ones(3)
    state, update = tx.init(params), jax.jit(tx.update)
    steps, alphas = [], [state.alpha]
    for _ in range(3):
        updates, state = update(params, state, params, value=1e6)  # so large that the multiplier is 1 / (1 - 0.9)
        steps.append(updates[0])
        alphas.append(state.alpha)
    times = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(steps, -0.1 * times / np.sqrt(times) * 10, rtol=1e-5)
    np.testing.assert_allclose(np.diff(alphas), 0.2 / np.sqrt(times) * 9, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_up_from_zero_stands_still(method):
    tx = method(0.0)
    params = jnp.ones(3)
    for value in (0.0, 1.0):
        updates, state = tx.update(params, tx.init(params), params, value=value)
        np.testing.assert_array_equal(updates, 0)
        assert state.alpha == 0


def test_a_large_rate_gives_a_bounded_step():
    """The linearized loss never falls below the new alpha, where a subgradient step overshoots without bound."""
    gradient = jnp.array([1.0, 2.0, -1.0])
    steps = {}
    for method in METHODS:
        tx = method(1e6, alpha_learning_rate=0.1, decay="constant")
        updates, _ = jax.jit(tx.update)(gradient, tx.init(gradient), gradient, value=1.0)
        steps[method.__name__] = float(np.linalg.norm(updates))
    assert steps["cvar_prox_linear"] < 1
    assert steps["cvar_subgradient"] > 1e6


def test_multipliers_of_no_gradient_and_no_rate_are_zero():
    eta = dual_coordinate_ascent(jnp.ones(2), jnp.zeros((2, 2)), 0.1, 0.0, 1.0, passes=2)
    np.testing.assert_array_equal(eta, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
        ({"loss_scale": 0.0}, r"loss_scale must be in \(0, inf\], got 0.0"),
        ({"decay": "linear"}, "decay must be 'sqrt' or 'constant', got 'linear'"),
        ({"per_sample": True, "axis_name": "workers"}, "per_sample and axis_name exclude each other"),
    ],
)
def test_wrong_hyperparameters_are_named(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(0.1, **arguments)


def test_no_pass_is_refused():
    with pytest.raises(ValueError, match=r"passes must be in \[1, inf\], got 0"):
        optkit.cvar_prox_linear(0.1, passes=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_loss_is_named(method):
    tx = method(0.1)
    with pytest.raises(TypeError, match=f"{method.__name__} needs the extra argument value: .*value=loss"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize("method", [optkit.cvar_prox_linear, optkit.cvar_subgradient])
def test_losses_that_are_nan_are_seen_and_other_shapes_named(method):
    tx = method(0.1)
    params = jnp.ones(2)
    updates, state = tx.update(params, tx.init(params), params, value=jnp.nan)
    assert jnp.all(jnp.isnan(updates))
    assert jnp.isnan(state.alpha)
    with pytest.raises(
        ValueError, match=rf"{method.__name__} needs one loss as value, got shape \(3,\): per_sample=True"
    ):
        tx.update(params, tx.init(params), params, value=jnp.ones(3))
    per_sample = method(0.1, per_sample=True)
    with pytest.raises(ValueError, match=rf"{method.__name__} takes gradients with a leading axis"):
        per_sample.update(jnp.ones((3, 2)), per_sample.init(params), params, value=1.0)
    with pytest.raises(TypeError, match=rf"{method.__name__} works on real parameters"):
        tx.init(jnp.ones(2, jnp.complex64))


@pytest.mark.slow
@pytest.mark.parametrize("method", [optkit.cvar_prox_linear, optkit.cvar_subgradient])
def test_cvar_promotes_no_ranks_or_dtypes(method):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    rows = jax.tree.map(lambda p: jnp.stack([p, -p, 2 * p]), params)
    tx = method(0.1, per_sample=True)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        updates, _ = jax.eval_shape(
            lambda rows, value: tx.update(rows, tx.init(params), params, value=value), rows, jnp.array([1.0, 2.0, 3.0])
        )
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
