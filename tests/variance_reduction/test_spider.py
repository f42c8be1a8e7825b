import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from trajectories import descend, first_update

import optkit
from optkit.testing import check_transformation
from optkit.testing.golden import replay_oracle


@pytest.mark.slow
@replays("spider")
def test_golden_spider(recording):
    hyperparams = recording.hyperparams
    build = optkit.spider if hyperparams["normalize"] else optkit.spider_boost
    tx = build(**hyperparams.take("learning_rate", "anchor_every"))
    assert_replays(recording, replay_oracle(tx, recording))


@pytest.mark.slow
def test_keeps_the_contract_with_smoothness():
    check_transformation(
        optkit.spider,
        promises=["keeps_types", "works_injected", "works_injected_in_16_bits", "takes_schedules", "solves_problems"],
        static_args=("anchor_every",),
        needs=("grad_fn", "full_grad_fn"),
        learning_rate=3e-2,
        anchor_every=3,
        smoothness=400.0,
    )


SCALES = jnp.arange(1.0, 5.0)[:, None]


def run(tx):
    """On 4 quadratics with one minimum each; returns the updates, the state's estimates, and the full gradients."""
    targets, start = normal(4, 3), jnp.ones(3)

    def gradient(params, component):
        return SCALES[component] * (params - targets[component])

    def full_gradient(params):
        return jnp.mean(SCALES * (params - targets), axis=0)

    components = np.random.default_rng(1).integers(4, size=10)
    params, updates, states = descend(tx, gradient, start, components, full_grad_fn=full_gradient)
    before = jnp.concatenate([start[None], params[:-1]])
    return updates, states[0].estimate, jax.vmap(full_gradient)(before)


@pytest.mark.usefixtures("x64")
def test_estimate_is_the_full_gradient_at_every_refresh_and_there_only():
    _, estimates, full_gradients = run(optkit.spider_boost(0.1, anchor_every=3))
    right = np.all(np.isclose(estimates, full_gradients, rtol=1e-12), axis=1)
    np.testing.assert_array_equal(right, np.arange(10) % 3 == 0)


@pytest.mark.usefixtures("x64")
def test_every_step_is_as_long_as_the_learning_rate():
    updates, _, _ = run(optkit.spider(0.25, anchor_every=3))
    np.testing.assert_allclose(jnp.linalg.norm(updates, axis=1), 0.25, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_smoothness_bounds_steps_near_the_minimum():
    updates, estimates, _ = run(optkit.spider(0.25, anchor_every=3, smoothness=4.0))
    norms = np.linalg.norm(estimates, axis=1)
    np.testing.assert_allclose(updates, -np.minimum(0.25 / norms, 1 / 8)[:, None] * estimates, rtol=1e-12)
    assert np.any(norms > 2)
    assert np.any(norms < 2), "both bounds are active"


@pytest.mark.parametrize("smoothness", [None, 1.0])
@pytest.mark.parametrize("rate", [0.5, lambda _: 0.0])
def test_there_is_no_step_without_gradient(smoothness, rate):
    tx = optkit.spider(rate, anchor_every=3, smoothness=smoothness)
    params = {"w": jnp.ones(3), "empty": jnp.ones((0, 2))}
    zeros = optax.tree.zeros_like(params)
    updates = first_update(tx, zeros, params, grad_fn=lambda _: zeros, full_grad_fn=lambda _: zeros)
    np.testing.assert_array_equal(updates["w"], np.zeros(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.spider(0.1, 0), r"anchor_every must be a positive integer, got 0"),
        (lambda: optkit.spider_boost(0.1, 1.5), "anchor_every must be a positive integer, got 1.5"),
        (lambda: optkit.spider(0.1, 2, smoothness=0.0), r"smoothness must be in \(0, inf\], got 0.0"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
