import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from trajectories import first_update

import optkit
from optkit.core.extra_args import Moment, extra_args
from optkit.testing.golden import replay_oracle
from optkit.variance_reduction._hessian_corrected_momentum import (
    HessianCorrectedMomentumState,
    hessian_corrected_estimate,
)


def weights(hyperparams):
    """The weights that a recording names: a constant, or the schedule with a power."""
    eta, power = hyperparams["eta"], hyperparams["eta_power"]
    return optkit.harpg_schedule(power) if eta is None else eta


@pytest.mark.slow
@replays("harpg")
def test_golden_harpg(recording):
    # The recorded losses are quadratic: their Hessian does not depend on where it is taken.
    tx = optkit.harpg(eta=weights(recording.hyperparams), **recording.hyperparams.take("learning_rate", "normalize"))

    def update(updates, state, params, *, grad_fn, **extra_args):
        del extra_args  # HARPG's own product with the Hessian takes a point too.
        return tx.update(updates, state, params, grad_fn=grad_fn)

    from_gradients = optax.GradientTransformationExtraArgs(tx.init, update)
    assert_replays(recording, replay_oracle(from_gradients, recording))


@replays("harpg")
def test_golden_harpg_with_the_recorded_draws(recording):
    hyperparams = recording.hyperparams
    eta = weights(hyperparams)
    tx = optkit.hessian_corrected_momentum(eta)

    def update(updates, state, params, *, q, grad_fn, **extra_args):
        del extra_args
        weight = eta(state.count) if callable(eta) else eta
        hvp_fn = lambda point, vector: jax.jvp(grad_fn, (point,), (vector,))[1]  # noqa: E731
        estimate = hessian_corrected_estimate(q, state, weight, params, updates, hvp_fn)
        return estimate, HessianCorrectedMomentumState(state.count + 1, estimate, params, state.key)

    direction = optax.normalize_by_update_norm(eps=1e-12) if hyperparams["normalize"] else optax.identity()
    estimator = optax.GradientTransformationExtraArgs(tx.init, update)
    replayed = optax.chain(estimator, direction, optax.scale_by_learning_rate(hyperparams["learning_rate"]))
    trajectory = replay_oracle(replayed, recording, extra_args={"q": recording.arrays["draws.q"]})
    assert_replays(recording, trajectory)


def gradient(params):
    """Of a quartic: its Hessian is quadratic along any line."""
    return jax.tree.map(lambda x: x**3 + 0.5 * x, params)


def hessian_product(point, vector):
    return jax.tree.map(lambda x, v: (3 * x**2 + 0.5) * v, point, vector)


PARAMS = {"w": np.array([[1.0, -2.0], [0.5, 3.0]]), "s": np.array(0.7)}
PREVIOUS = {"w": np.array([[0.8, -1.5], [0.1, 2.0]]), "s": np.array(1.1)}


def estimate_at(q):
    previous, params = (jax.tree.map(jnp.asarray, tree) for tree in (PREVIOUS, PARAMS))
    state = HessianCorrectedMomentumState(jnp.array(3), gradient(previous), previous, jnp.zeros(2, jnp.uint32))
    return hessian_corrected_estimate(q, state, 0.0, params, optax.tree.zeros_like(params), hessian_product)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_correction_is_unbiased_over_the_draws():
    # Simpson's rule integrates a quadratic over [0, 1] exactly.
    mean = jax.tree.map(lambda a, b, c: (a + 4 * b + c) / 6, *map(estimate_at, (0.0, 0.5, 1.0)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), mean, gradient(PARAMS))


@pytest.mark.usefixtures("x64")
def test_correction_at_the_present_parameters_alone_is_biased():
    assert np.all(np.abs(estimate_at(1.0)["w"] - gradient(PARAMS)["w"]) > 1e-2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("key", [0, 1])
def test_correction_is_exact_on_quadratics(key):
    root = np.random.default_rng(0).standard_normal((4, 4))
    grad_fn = lambda point: jnp.asarray(root @ root.T) @ point  # noqa: E731
    tx = optkit.hessian_corrected_momentum(0.1, key)
    params = jnp.ones(4)
    state = tx.init(params)
    for _ in range(5):
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        np.testing.assert_allclose(updates, grad_fn(params), rtol=1e-12)
        params = params - 0.01 * updates


def second_update(tx, **extra_args):
    params, previous = (jax.tree.map(jnp.asarray, tree) for tree in (PARAMS, PREVIOUS))
    _, state = tx.update(gradient(previous), tx.init(previous), previous, **extra_args)
    return tx.update(gradient(params), state, params, **extra_args)[0]


@pytest.mark.usefixtures("x64")
def test_product_is_the_derivative_of_the_gradient_or_the_callers():
    tx = optkit.harpg(0.1, 0.2)
    derived = second_update(tx, grad_fn=gradient)
    given = second_update(tx, hvp_fn=lambda vector, point: hessian_product(point, vector))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), derived, given)


@pytest.mark.usefixtures("x64")
def test_the_key_draws_the_points():
    first, again, other = (second_update(optkit.harpg(0.1, 0.2, key), grad_fn=gradient) for key in (3, 3, 4))
    np.testing.assert_array_equal(first["w"], again["w"])
    assert np.all(first["w"] != other["w"])


@pytest.mark.slow
def test_points_are_spread_over_the_whole_line():
    def hvp_fn(vector, point):
        points.append(float(point))
        return 0 * vector

    points = []
    tx = optkit.hessian_corrected_momentum(0.1)
    state = tx.init(jnp.array(0.0))
    for step in range(200):
        params = jnp.array(float((step + 1) % 2))
        _, state = tx.update(params, state, params, hvp_fn=hvp_fn)
    assert abs(np.mean(points) - 0.5) < 4 / np.sqrt(12 * 200)
    assert abs(np.std(points) - 1 / np.sqrt(12)) < 0.05


@pytest.mark.parametrize("eta", [0.1, None])
def test_first_step_takes_the_gradient(eta):
    tx = optkit.harpg(0.5, eta)
    gradient = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(first_update(tx, gradient, grad_fn=lambda _: gradient), -0.5 * gradient, rtol=1e-6)


@pytest.mark.slow
def test_normalized_steps_are_as_long_as_the_learning_rate():
    tx = optkit.harpg(0.5, normalize=True)
    updates = second_update(tx, grad_fn=gradient)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-6)


def test_there_is_no_step_without_gradient():
    tx = optkit.harpg(0.5, normalize=True)
    updates = first_update(tx, jnp.zeros(3), jnp.ones(3), grad_fn=jnp.zeros_like)
    np.testing.assert_array_equal(updates, np.zeros(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.harpg(0.1, 1.5), r"eta must be in \[0, 1\], got 1.5"),
        (lambda: optkit.harpg_schedule(-1.0), r"power must be in \[0, inf\], got -1.0"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@jax.custom_vjp
def opaque(x):
    return x


opaque.defvjp(lambda x: (x, None), lambda _, g: (g,))


def test_a_gradient_that_jax_cannot_differentiate_asks_for_the_product():
    with pytest.raises(TypeError, match=r"harpg differentiates grad_fn .* extra argument hvp_fn: call update"):
        first_update(optkit.harpg(0.1), jnp.ones(2), grad_fn=opaque)


def test_an_error_of_the_gradients_own_is_shown_as_it_is():
    def broken(_):
        raise ValueError("no data left")

    with pytest.raises(ValueError, match=r"^no data left"):
        first_update(optkit.harpg(0.1), jnp.ones(2), grad_fn=broken)


def test_a_product_at_the_parameters_only_is_refused():
    with pytest.raises(TypeError, match=r"harpg takes the Hessian at a point of its own.* argument point"):
        first_update(optkit.harpg(0.1), jnp.ones(2), hvp_fn=lambda vector: vector)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_callers_product_sees_the_parameters_dtype(dtype):
    def hvp_fn(vector, point):
        assert point["w"].dtype == vector["w"].dtype == dtype
        return jax.jvp(gradient, (point,), (vector,))[1]

    tx = optkit.harpg(0.1, 0.2)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)
    updates, _ = tx.update(gradient(params), tx.init(params), params, hvp_fn=hvp_fn)
    assert updates["w"].dtype == dtype


def test_takes_the_product_of_the_vocabulary():
    loss = lambda x: jnp.sum(x**4)  # noqa: E731
    params = jnp.array([1.0, -2.0])
    at = Moment(params=params, value_fn=loss, grad_fn=jax.grad(loss))
    tx = optkit.harpg(0.1)
    given, derived = (
        tx.update(params, tx.init(0.5 * params), params, **extra_args([name], at))[0] for name in ("hvp_fn", "grad_fn")
    )
    np.testing.assert_allclose(given, derived, rtol=1e-6)


@pytest.mark.slow
def test_a_missing_function_is_named():
    with pytest.raises(TypeError, match="harpg needs the extra argument grad_fn: call update"):
        first_update(optkit.harpg(0.1), jnp.ones(2))
