import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_extra_arguments_reach_the_inner_optimizer, assert_needs_parameters, assert_same_steps
from trajectories import trajectory

import optkit
from optkit.random_scaling._random_scaling import scaled_by_draws

DRAWS = 5_000
DISTRIBUTIONS = ("exponential", "uniform")
PARAMS = {"w": np.array([[1.0, -2.0], [3.0, 0.5]], np.float32), "b": np.float32(4.0)}


def scales(distribution, keys):
    """One draw for each key, as the update of a learner that proposes 1."""

    def draw(key):
        tx = optkit.randomly_scaled(optax.identity(), distribution, key=key)
        return tx.update(jnp.ones(()), tx.init(jnp.ones(())))[0]

    return jax.jit(jax.vmap(draw))(keys)


def standard_error(samples):
    return np.std(samples) / np.sqrt(len(samples))


def assert_equal_steps(tx, other):
    assert_same_steps(tx, other, normal(10, 4, seed=1), jnp.ones(4), rtol=0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_scale_is_one(distribution):
    drawn = np.asarray(scales(distribution, jax.random.split(jax.random.key(0), DRAWS)))
    assert abs(drawn.mean() - 1) < 3 * standard_error(drawn)
    assert drawn.min() >= 0
    assert np.isclose(drawn.var(), {"exponential": 1, "uniform": 1 / 3}[distribution], rtol=0.1)


def along(point):
    """Values and gradients of two losses, one of them with kinks."""
    hessian = jnp.array([[2.0, 0.3], [0.3, 0.7]])
    losses = (
        lambda x: 0.5 * x @ hessian @ x,
        lambda x: jnp.abs(x[0]) + jnp.maximum(x[1] - 0.2, -2.0 * x[1]),
    )
    return jnp.stack([loss(point) for loss in losses]), jnp.stack([jax.grad(loss)(point) for loss in losses])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_linearization_is_exact_in_the_mean(distribution):
    start, delta = jnp.array([1.0, -0.5]), jnp.array([-0.8, 0.6])
    drawn = scales(distribution, jax.random.split(jax.random.key(0), DRAWS))
    weights = 2 - drawn if distribution == "uniform" else jnp.ones_like(drawn)
    values, gradients = jax.vmap(along)(start + drawn[:, None] * delta)
    errors = values - along(start)[0] - weights[:, None] * (gradients @ delta)
    for error in errors.T:
        assert abs(error.mean()) < 3 * standard_error(error)
    values, gradients = along(start + delta)
    unscaled = values - along(start)[0] - gradients @ delta
    assert np.all(np.abs(unscaled) > 10 * standard_error(errors.T[0])), "without scaling it is not"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_one_fresh_scale_for_the_whole_tree(distribution):
    tx = optkit.randomly_scaled(optax.identity(), distribution, key=3)
    state = tx.init(PARAMS)
    seen = []
    for _ in range(3):
        weight = 1.0 if state.scaled.weight is None else state.scaled.weight
        updates, state = tx.update(PARAMS, state)
        ratios = jax.tree.leaves(jax.tree.map(lambda u, p, w=weight: np.ravel(u / p) / w, updates, PARAMS))
        ratios = np.concatenate(ratios)
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
        seen.append(float(ratios[0]))
    assert len(set(seen)) == 3


@pytest.mark.parametrize("backend", ["vmap", "shard_map"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_all_workers_draw_the_same(distribution, backend):
    tx = optkit.randomly_scaled(optax.identity(), distribution, key=0)

    def two_updates(gradient):
        _, state = tx.update(gradient, tx.init(gradient))
        return tx.update(gradient, state)[0]

    gradients = jnp.arange(1.0, 9.0)
    updates = optkit.on_workers(two_updates, axis_name="workers", backend=backend)(gradients)
    np.testing.assert_allclose(updates / gradients, updates[0], rtol=1e-6)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_kinds_of_keys_are_equal(make_key):
    scaled = functools.partial(optkit.randomly_scaled, optax.sgd(0.1))
    assert_equal_steps(scaled(key=make_key(7)), scaled(key=7))


def test_another_key_gives_another_run():
    scaled = (optkit.randomly_scaled(optax.sgd(0.1), key=key) for key in (0, 1))
    runs = [trajectory(tx, normal(10, 4, seed=1), jnp.ones(4)).updates for tx in scaled]
    assert np.all(runs[0] != runs[1])


def test_the_part_at_the_end_of_a_chain_is_the_wrapper():
    inner = optax.adamw(0.1, weight_decay=0.5)
    assert_equal_steps(optax.chain(inner, optkit.scale_by_exponential(key=5)), optkit.randomly_scaled(inner, key=5))


def test_the_uniform_weight_is_that_of_the_next_gradient():
    tx = scaled_by_draws(optax.sgd(1.0), "uniform")
    gradient = jnp.array([1.0])
    first, state = tx.update(gradient, tx.init(gradient), scale=jnp.float32(0.5))
    second, _ = tx.update(gradient, state, scale=jnp.float32(3.0))
    np.testing.assert_allclose([first, second], [[-0.5], [-3.0 * (2 - 0.5)]])


def test_exponential_scaling_keeps_no_weight():
    state = optkit.randomly_scaled(optax.identity(), key=0).init(PARAMS)
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [jnp.uint32]


def test_the_key_is_kept_as_raw_data():
    state = optkit.scale_by_exponential(jax.random.key(0)).init(PARAMS)
    assert state.key.dtype == jnp.uint32


def test_weight_decay_is_scaled_too():
    tx = optkit.exponentiated_adamw(0.1, weight_decay=0.5, key=0)
    params = jnp.array([2.0])
    drawn = scales("exponential", jax.random.key(0)[None])[0]
    np.testing.assert_allclose(tx.update(jnp.zeros(1), tx.init(params), params)[0], -drawn * 0.05 * params, rtol=1e-6)


def test_exponentiated_adamw_is_scaled_adamw():
    assert_equal_steps(
        optkit.exponentiated_adamw(0.1, 0.8, 0.9, 1e-6, 0.2, key=2),
        optkit.randomly_scaled(optax.adamw(0.1, 0.8, 0.9, 1e-6, weight_decay=0.2), key=2),
    )


def test_extra_arguments_reach_the_inner_optimizer():
    assert_extra_arguments_reach_the_inner_optimizer(functools.partial(optkit.randomly_scaled, key=0))


def test_sixteen_bit_updates_stay_so():
    tx = optkit.scale_by_exponential(key=0)
    updates = jnp.ones(2, jnp.bfloat16)
    assert tx.update(updates, tx.init(updates))[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optkit.randomly_scaled(optax.sgd(0.1), "normal", key=0),
            "distribution must be 'exponential' or 'uniform', got 'normal'",
        ),
        (lambda: optkit.exponentiated_adamw(0.1, b1=1.0, key=0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.exponentiated_adamw(0.1, b2=-0.1, key=0), "b2 must be in"),
        (lambda: optkit.exponentiated_adamw(0.1, eps=-1.0, key=0), "eps must be in"),
        (lambda: optkit.exponentiated_adamw(0.1, weight_decay=-1.0, key=0), "weight_decay must be in"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_missing_draw_is_named():
    tx = scaled_by_draws(optax.sgd(1.0), "uniform")
    with pytest.raises(TypeError, match="needs the extra argument scale"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


def test_updates_need_no_parameters_without_decay():
    gradients = jnp.array([1.0, -1.0])
    tx = optkit.exponentiated_adamw(0.1, key=0)
    tx.update(gradients, tx.init(gradients))
    assert_needs_parameters(optkit.exponentiated_adamw(0.1, weight_decay=0.1, key=0), "exponentiated_adamw", gradients)


def test_an_injected_key_draws_the_same():
    gradients = jnp.array([1.0, -1.0])
    plain = optkit.exponentiated_sgdm(0.1, key=3)
    injected = optax.inject_hyperparams(optkit.exponentiated_sgdm)(0.1, key=3)
    np.testing.assert_allclose(
        injected.update(gradients, injected.init(gradients), gradients)[0],
        plain.update(gradients, plain.init(gradients), gradients)[0],
        rtol=1e-6,
    )
