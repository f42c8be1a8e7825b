"""STORM: the paper's form, the authors' code's, with a constant weight, and STORM+."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays

import optkit
from optkit.testing import check_transformation
from optkit.testing.golden import replay_oracle


def storm_form(hyperparams):
    """The form of STORM whose constants a recording names."""
    if "a" in hyperparams:
        rate = optax.scale_by_learning_rate(hyperparams["learning_rate"])
        return optax.chain(optkit.recursive_momentum(hyperparams["a"]), rate)
    if "k" in hyperparams:
        return optkit.storm(**hyperparams.take("w", "c", learning_rate="k"))
    return optkit.storm_coordinatewise(**hyperparams.take("g_max", "momentum", "w", learning_rate="lr"))


@replays("storm")
def test_golden_storm(recording):
    assert_replays(recording, replay_oracle(storm_form(recording.hyperparams), recording))


@replays("storm_plus")
def test_golden_storm_plus(recording):
    tx = optkit.storm_plus(recording.hyperparams["learning_rate"])
    assert_replays(recording, replay_oracle(tx, recording))


@pytest.mark.parametrize("build", [optkit.storm, optkit.storm_coordinatewise, optkit.storm_plus])
def test_keeps_the_contract_with_given_previous_gradients(build):
    check_transformation(
        build,
        promises=["keeps_types", "compiles_once", "works_injected", "works_masked", "works_with_map_params"],
        static_args=("keep_params",),
        needs=("prev_grads",),
        keep_params=False,
        learning_rate=0.1,
    )


def first_step(tx, gradient):
    params = jnp.zeros_like(gradient)
    return tx.update(gradient, tx.init(params), params, grad_fn=lambda _: gradient)


def test_first_step_of_the_paper_goes_along_the_gradient():
    updates, state = first_step(optkit.storm(0.5, w=3.0, c=1e-3), jnp.array([3.0, -4.0]))
    np.testing.assert_allclose(updates, -0.5 / 28 ** (1 / 3) * np.array([3.0, -4.0]), rtol=1e-6)
    np.testing.assert_array_equal(state[0].estimate, [3.0, -4.0])


def test_first_step_of_the_authors_is_shorter():
    updates, state = first_step(optkit.storm_coordinatewise(0.5, g_max=1.0, momentum=1.0, w=3.0), jnp.array([2.0]))
    weight = 0.25 / 8 ** (2 / 3)
    np.testing.assert_allclose(state[0].estimate, 2.0 * weight, rtol=1e-6)
    np.testing.assert_allclose(updates, -0.5 / 2 * 2.0 * weight, rtol=1e-6)


def run(tx, gradients, prev_grads=None):
    params = jnp.zeros(gradients.shape[1:])
    state = tx.init(params)
    states = []
    for i, gradient in enumerate(gradients):
        previous = gradient if prev_grads is None else prev_grads[i]
        _, state = tx.update(gradient, state, params, grad_fn=lambda _, previous=previous: previous)
        states.append(state)
    return states


def test_weights_shrink_with_the_squares_of_the_rates_and_never_exceed_one():
    gradients = 3.0 * jax.random.normal(jax.random.key(0), (6, 4))
    weights = np.array([state[0].weight for state in run(optkit.storm(0.5, w=0.1, c=100.0), gradients)])
    rates = 0.5 / np.cbrt(0.1 + np.cumsum(np.sum(np.asarray(gradients) ** 2, axis=1)))
    np.testing.assert_allclose(weights, np.minimum(1.0, 100.0 * rates**2), rtol=1e-5)
    assert weights[0] == 1.0 > weights[-1]


def test_rate_follows_a_schedule():
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.5})
    gradient = jnp.array([1.0])
    for build in (
        lambda rate: optkit.storm(rate, w=1.0, c=0.0),
        lambda rate: optkit.storm_coordinatewise(rate, momentum=1e3),
        optkit.storm_plus,
    ):
        tx, constant = build(schedule), build(1.0)
        params = jnp.zeros(1)
        states = [tx.init(params), constant.init(params)]
        ratios = []
        for _ in range(3):
            pairs = [
                t.update(gradient, s, params, grad_fn=lambda _: gradient)
                for t, s in zip((tx, constant), states, strict=True)
            ]
            states = [state for _, state in pairs]
            ratios.append(float(pairs[0][0][0] / pairs[1][0][0]))
        np.testing.assert_allclose(ratios, [1.0, 0.5, 0.5], rtol=1e-6)


def test_estimate_of_the_authors_never_exceeds_the_largest_gradient_norm():
    gradients = jax.random.normal(jax.random.key(1), (10, 4))
    prev_grads = 5.0 * jax.random.normal(jax.random.key(2), (10, 4))
    states = run(optkit.storm_coordinatewise(momentum=0.1), gradients, prev_grads)
    bounds = np.maximum.accumulate(np.linalg.norm(gradients, axis=1))
    largest = np.array([np.max(np.abs(state[0].estimate)) for state in states])
    np.testing.assert_array_less(largest, bounds + 1e-6)
    assert np.any(largest > 0.999 * bounds), "the bound is active"


def test_authors_previous_gradient_does_not_count_in_the_first_step():
    tx = optkit.storm_coordinatewise(keep_params=False)
    params = jnp.zeros(2)
    gradient = jnp.array([1.0, -2.0])
    first, second = (
        tx.update(gradient, tx.init(params), params, prev_grads=previous)[0] for previous in (gradient, 7 * gradient)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e16])
def test_storm_plus_root_is_the_cube_root_of_its_sum_at_every_scale(scale):
    gradients = scale * jax.random.normal(jax.random.key(3), (8, 5))
    state = run(optkit.storm_plus(), gradients)[-1][0]
    norms = np.linalg.norm(np.asarray(gradients, np.float64), axis=1) ** 2
    sums = np.cumsum(norms)
    # Equal gradients at both points: with weight a the estimate is g + (1 - a) (d - g).
    estimate, weight = np.zeros(5), 1.0
    total = 0.0
    for gradient, s in zip(np.asarray(gradients, np.float64), sums, strict=True):
        estimate = gradient + (1 - weight) * (estimate - gradient)
        weight = (1 + s) ** (-2 / 3)
        total += np.sum(estimate**2) / weight
    np.testing.assert_allclose(state.root, np.cbrt(total), rtol=1e-5)


def test_storm_plus_stays_where_the_gradient_is_zero():
    updates, state = first_step(optkit.storm_plus(), jnp.zeros(3))
    np.testing.assert_array_equal(updates, np.zeros(3))
    np.testing.assert_array_equal(state[0].root, 0.0)


def test_storm_plus_is_held_back_by_its_initial_value():
    gradient = jnp.array([1e-4])
    free, held = (first_step(optkit.storm_plus(1.0, initial), gradient)[0] for initial in (0.0, 1.0))
    np.testing.assert_allclose(held, -1e-4, rtol=1e-5)
    np.testing.assert_allclose(free, -(1e-4 ** (1 / 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.storm(w=0.0), r"w must be in \(0, inf\], got 0.0"),
        (lambda: optkit.storm(c=-1.0), r"c must be in \[0, inf\], got -1.0"),
        (lambda: optkit.storm_coordinatewise(g_max=0.0), r"g_max must be in \(0, inf\], got 0.0"),
        (lambda: optkit.storm_coordinatewise(momentum=-1.0), "momentum must be in"),
        (lambda: optkit.storm_coordinatewise(w=-1.0), "w must be in"),
        (lambda: optkit.storm_plus(1.0, -1.0), "initial_accumulator_value must be in"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
