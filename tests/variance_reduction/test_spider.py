import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays

import optkit
from optkit.testing import check_transformation
from optkit.testing.golden import replay_oracle


@replays("spider")
def test_golden_spider(recording):
    hyperparams = recording.hyperparams
    build = optkit.spider if hyperparams["normalize"] else optkit.spider_boost
    tx = build(**hyperparams.take("learning_rate", "anchor_every"))
    assert_replays(recording, replay_oracle(tx, recording))


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


def run(tx, steps):
    """On 4 quadratics with one minimum each; returns the updates, the state's estimates, and the full gradients."""
    targets = jax.random.normal(jax.random.key(0), (4, 3))
    scales = jnp.arange(1.0, 5.0)[:, None]

    def full_grad_fn(params):
        return jnp.mean(scales * (params - targets), axis=0)

    def step(carry, component):
        params, state = carry

        def grad_fn(point):
            return scales[component] * (point - targets[component])

        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, full_grad_fn=full_grad_fn)
        return (optax.apply_updates(params, updates), state), (updates, state[0].estimate, full_grad_fn(params))

    params = jnp.ones(3)
    components = jax.random.randint(jax.random.key(1), steps, 0, 4)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, components)[1])((params, tx.init(params)))


@pytest.mark.usefixtures("x64")
def test_estimate_is_the_full_gradient_at_every_refresh_and_there_only():
    _, estimates, full_gradients = run(optkit.spider_boost(0.1, anchor_every=3), (10,))
    right = np.all(np.isclose(estimates, full_gradients, rtol=1e-12), axis=1)
    np.testing.assert_array_equal(right, np.arange(10) % 3 == 0)


@pytest.mark.usefixtures("x64")
def test_every_step_is_as_long_as_the_learning_rate():
    updates, _, _ = run(optkit.spider(0.25, anchor_every=3), (10,))
    np.testing.assert_allclose(jnp.linalg.norm(updates, axis=1), 0.25, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_smoothness_bounds_steps_near_the_minimum():
    updates, estimates, _ = run(optkit.spider(0.25, anchor_every=3, smoothness=4.0), (10,))
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
    updates, _ = tx.update(zeros, tx.init(params), params, grad_fn=lambda _: zeros, full_grad_fn=lambda _: zeros)
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
