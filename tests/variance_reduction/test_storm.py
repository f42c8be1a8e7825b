"""STORM: the paper's form, the authors' code's, with a constant weight, and STORM+."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_never_exceeds
from trajectories import descend, first_update, trajectory

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


def along(tx, gradients):
    """A run along gradients that are the same at all points."""
    gradients = jnp.asarray(gradients)
    return descend(tx, lambda _, gradient: gradient, jnp.zeros_like(gradients[0]), gradients)


def test_first_step_of_the_paper_goes_along_the_gradient():
    _, (update,), states = along(optkit.storm(0.5, w=3.0, c=1e-3), [[3.0, -4.0]])
    np.testing.assert_allclose(update, -0.5 / 28 ** (1 / 3) * np.array([3.0, -4.0]), rtol=1e-6)
    np.testing.assert_array_equal(states[0].estimate, [[3.0, -4.0]])


def test_first_step_of_the_authors_is_shorter():
    _, updates, states = along(optkit.storm_coordinatewise(0.5, g_max=1.0, momentum=1.0, w=3.0), [[2.0]])
    weight = 0.25 / 8 ** (2 / 3)
    np.testing.assert_allclose(states[0].estimate, 2.0 * weight, rtol=1e-6)
    np.testing.assert_allclose(updates, -0.5 / 2 * 2.0 * weight, rtol=1e-6)


def test_weights_shrink_with_the_squares_of_the_rates_and_never_exceed_one():
    gradients = 3.0 * normal(6, 4)
    weights = along(optkit.storm(0.5, w=0.1, c=100.0), gradients).states[0].weight
    rates = 0.5 / np.cbrt(0.1 + np.cumsum(np.sum(np.asarray(gradients) ** 2, axis=1)))
    np.testing.assert_allclose(weights, np.minimum(1.0, 100.0 * rates**2), rtol=1e-5)
    assert weights[0] == 1.0 > weights[-1]


@pytest.mark.slow
def test_rate_follows_a_schedule():
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.5})
    for build in (
        lambda rate: optkit.storm(rate, w=1.0, c=0.0),
        lambda rate: optkit.storm_coordinatewise(rate, momentum=1e3),
        optkit.storm_plus,
    ):
        scheduled, constant = (along(build(rate), jnp.ones((3, 1))).updates for rate in (schedule, 1.0))
        np.testing.assert_allclose(scheduled / constant, [[1.0], [0.5], [0.5]], rtol=1e-6)


def test_estimate_of_the_authors_never_exceeds_the_largest_gradient_norm():
    gradients, prev_grads = normal(10, 4, seed=1), 5.0 * normal(10, 4, seed=2)
    tx = optkit.storm_coordinatewise(momentum=0.1, keep_params=False)
    states = trajectory(tx, gradients, prev_grads=prev_grads).states
    bounds = np.maximum.accumulate(np.linalg.norm(gradients, axis=1))
    assert_never_exceeds(states[0].estimate, lambda x: jnp.max(jnp.abs(x)), bounds)


def test_authors_previous_gradient_does_not_count_in_the_first_step():
    tx = optkit.storm_coordinatewise(keep_params=False)
    gradient = jnp.array([1.0, -2.0])
    first, second = (first_update(tx, gradient, prev_grads=previous) for previous in (gradient, 7 * gradient))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e16])
def test_storm_plus_root_is_the_cube_root_of_its_sum_at_every_scale(scale):
    gradients = scale * normal(8, 5, seed=3)
    root = along(optkit.storm_plus(), gradients).states[0].root[-1]
    norms = np.linalg.norm(np.asarray(gradients, np.float64), axis=1) ** 2
    sums = np.cumsum(norms)
    # Equal gradients at both points: with weight a the estimate is g + (1 - a) (d - g).
    estimate, weight = np.zeros(5), 1.0
    total = 0.0
    for gradient, s in zip(np.asarray(gradients, np.float64), sums, strict=True):
        estimate = gradient + (1 - weight) * (estimate - gradient)
        weight = (1 + s) ** (-2 / 3)
        total += np.sum(estimate**2) / weight
    np.testing.assert_allclose(root, np.cbrt(total), rtol=1e-5)


def test_storm_plus_stays_where_the_gradient_is_zero():
    _, updates, states = along(optkit.storm_plus(), jnp.zeros((1, 3)))
    np.testing.assert_array_equal(updates, np.zeros((1, 3)))
    np.testing.assert_array_equal(states[0].root, 0.0)


def test_storm_plus_is_held_back_by_its_initial_value():
    gradient = jnp.array([1e-4])
    free, held = (
        first_update(optkit.storm_plus(1.0, initial), gradient, grad_fn=lambda _: gradient) for initial in (0.0, 1.0)
    )
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
