"""Recursive momentum, and what all recursive and anchored estimators promise alike."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit

STEPS = 12
COMPONENTS = 5
PARAMS = {"w": np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]]), "b": np.array([1.0, -1.0])}


class FiniteSum(NamedTuple):
    """Losses `sum(scale_i * x**4 / 4 + x**2 / 2 - shift_i * x)`, one for each component i."""

    scale: jax.Array
    shift: jax.Array

    def gradient(self, component):
        return lambda params: jax.tree.map(
            lambda x: self.scale[component] * x**3 + x - self.shift[component].astype(x.dtype), params
        )

    def full_gradient(self, params):
        rows = jax.vmap(lambda component: self.gradient(component)(params))(jnp.arange(COMPONENTS))
        return jax.tree.map(lambda g: jnp.mean(g, axis=0), rows)


def finite_sum(noise=1.0):
    scale, shift = np.random.default_rng(0).standard_normal((2, COMPONENTS))
    return FiniteSum(jnp.asarray(0.1 + 0.01 * noise * scale), jnp.asarray(noise * shift))


def run(tx, problem, *, pass_prev_grads=False, params=PARAMS, steps=STEPS):
    """Returns the updates, the gradients over all data, and the parameters that they belong to, of all steps."""
    components = jnp.asarray(np.random.default_rng(1).integers(COMPONENTS, size=steps))
    params = jax.tree.map(jnp.asarray, params)

    def step(carry, component):
        params, previous, state = carry
        grad_fn = problem.gradient(component)
        extra_args = {"prev_grads": grad_fn(previous)} if pass_prev_grads else {"grad_fn": grad_fn}
        updates, state = tx.update(
            grad_fn(params), state, params, full_grad_fn=problem.full_gradient, unknown=None, **extra_args
        )
        return (optax.apply_updates(params, updates), params, state), (
            updates,
            problem.full_gradient(params),
            params,
        )

    carry = params, params, tx.init(params)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, components)[1])(carry)


def assert_close(actual, expected, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-13), actual, expected)


RECURSIVE = {
    "recursive_momentum": functools.partial(optkit.recursive_momentum, 0.2),
    "path_integrated_gradient": functools.partial(optkit.path_integrated_gradient, 4),
    "page_gradient": functools.partial(optkit.page_gradient, 0.3),
}
ESTIMATORS = {**RECURSIVE, "svrg_correction": functools.partial(optkit.svrg_correction, 4)}
NAMED = {
    "storm": (functools.partial(optkit.storm, 0.1), "storm"),
    "storm_coordinatewise": (functools.partial(optkit.storm_coordinatewise, 0.1), "storm_coordinatewise"),
    "storm_plus": (functools.partial(optkit.storm_plus, 0.1), "storm_plus"),
    "spider": (functools.partial(optkit.spider, 0.1, 4), "spider"),
    "spider with smoothness": (functools.partial(optkit.spider, 0.1, 4, smoothness=10.0), "spider"),
    "spider_boost": (functools.partial(optkit.spider_boost, 0.1, 4), "spider"),
    "page": (functools.partial(optkit.page, 0.1, 0.3), "page"),
}
ANCHORED = {
    "svrg": (functools.partial(optkit.svrg, 0.1, 4), "svrg"),
    "harpg": (functools.partial(optkit.harpg, 0.1), "harpg"),
    "n_harpg": (functools.partial(optkit.harpg, 0.1, normalize=True), "harpg"),
}


def each(table):
    return pytest.mark.parametrize(
        "build", [value[0] if isinstance(value, tuple) else value for value in table.values()], ids=list(table)
    )


@pytest.mark.usefixtures("x64")
@each(ESTIMATORS)
def test_is_the_gradient_where_there_is_no_noise(build):
    updates, full_gradients, _ = run(optax.chain(build(), optax.scale(-0.1)), finite_sum(noise=0.0))
    assert_close(updates, optax.tree.scale(-0.1, full_gradients))


@pytest.mark.usefixtures("x64")
@each({**RECURSIVE, **NAMED})
def test_both_routes_to_the_previous_gradient_give_the_same_numbers(build):
    kept = run(build(), finite_sum())
    given = run(build(keep_params=False), finite_sum(), pass_prev_grads=True)
    assert_close(kept, given)


@pytest.mark.usefixtures("x64")
@each({**ESTIMATORS, **NAMED, **ANCHORED})
def test_leaves_outside_the_mask_pass_through(build):
    problem = finite_sum()
    tx = build(mask={"w": True, "b": False})
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    for component in range(2):
        grads = problem.gradient(component)(params)
        updates, state = tx.update(
            grads, state, params, grad_fn=problem.gradient(component), full_grad_fn=problem.full_gradient
        )
        np.testing.assert_array_equal(updates["b"], grads["b"])
    assert np.all(updates["w"] != grads["w"])


@pytest.mark.usefixtures("x64")
@each({**ESTIMATORS, **NAMED, **ANCHORED})
def test_a_leaf_inside_the_mask_goes_its_own_way(build):
    # The loss has no terms with both leaves, so a masked run is that of one leaf alone.
    problem = finite_sum()
    fixed = optax.masked(optax.set_to_zero(), {"w": False, "b": True})
    masked, _, _ = run(optax.chain(build(mask=lambda tree: {"w": True, "b": tree is None}), fixed), problem)
    alone, _, _ = run(build(), problem, params={"w": PARAMS["w"]})
    assert_close(masked["w"], alone["w"])


@pytest.mark.parametrize(("build", "method"), [*NAMED.values(), *ANCHORED.values()], ids=[*NAMED, *ANCHORED])
def test_refuses_a_part_of_the_tree(build, method):
    params = jax.tree.map(jnp.asarray, PARAMS)
    for wrapped in (
        optax.masked(build(), {"w": True, "b": False}),
        optax.partition({"ours": build(), "other": optax.sgd(0.1)}, {"w": "ours", "b": "other"}),
    ):
        with pytest.raises(TypeError, match=f"{method} .* cannot stand inside optax.masked or optax.partition.* mask"):
            wrapped.init(params)


@pytest.mark.parametrize(("build", "method"), NAMED.values(), ids=list(NAMED))
def test_names_the_route_that_was_not_given(build, method):
    params = jax.tree.map(jnp.asarray, PARAMS)
    full = finite_sum().full_gradient
    for keep_params, name in ((True, "grad_fn"), (False, "prev_grads")):
        tx = build(keep_params=keep_params)
        with pytest.raises(TypeError, match=f"{method} needs the extra argument {name}: call update"):
            tx.update(params, tx.init(params), params, full_grad_fn=full)


@pytest.mark.parametrize(("build", "method"), [*NAMED.values(), *ANCHORED.values()], ids=[*NAMED, *ANCHORED])
def test_says_that_parameters_are_missing(build, method):
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = build()
    problem = finite_sum()
    with pytest.raises(ValueError, match=rf"{method} needs the parameters: call update\(grads, state, params"):
        tx.update(params, tx.init(params), grad_fn=problem.gradient(0), full_grad_fn=problem.full_gradient)


@each({**ESTIMATORS, **NAMED, **ANCHORED})
def test_initial_parameters_are_copied_so_that_they_can_be_donated(build):
    params = jax.tree.map(jnp.asarray, PARAMS)
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    assert not pointers & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(build().init(params))}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@each({**ESTIMATORS, "hessian_corrected_momentum": optkit.hessian_corrected_momentum})
def test_estimates_of_parts_are_kept_in_float32(build, dtype):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)
    tx = build()
    gradient = lambda point: point  # noqa: E731
    updates, state = tx.update(params, tx.init(params), params, grad_fn=gradient, full_grad_fn=gradient)
    estimate = state.anchor_gradient if hasattr(state, "anchor_gradient") else state.estimate
    assert {x.dtype for x in jax.tree.leaves(estimate)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(("numbers", "keep_params"), [(2, True), (1, False)])
@each({**RECURSIVE, **{name: NAMED[name] for name in ("storm", "storm_plus", "spider_boost", "page")}})
def test_state_is_the_estimate_and_the_previous_parameters(build, numbers, keep_params):
    params = {"w": jax.ShapeDtypeStruct((1000, 100), jnp.float32)}
    cost = optkit.cost(build(keep_params=keep_params), params, state_only=True)
    np.testing.assert_allclose(cost.state_bytes_per_parameter, 4 * numbers, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_stands_in_front_of_any_preconditioner():
    tx = optax.chain(optkit.recursive_momentum(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(0.1))
    assert_close(run(tx, finite_sum())[0], run(optax.adam(0.1), finite_sum())[0])


@pytest.mark.usefixtures("x64")
def test_is_the_momentum_of_exact_unclipped_mars_with_gamma_one():
    correction = optkit.reduce_variance(gamma=1.0, b1=0.8, max_norm=None, exact=True)
    mars = optax.chain(correction, optax.ema(0.8, debias=False), optax.scale(-0.1))
    ours = optax.chain(optkit.recursive_momentum(0.2), optax.scale(-0.1))
    assert_close(run(mars, finite_sum()), run(ours, finite_sum()))


@pytest.mark.usefixtures("x64")
def test_never_forgets_an_error_with_weight_zero():
    # d_t - g_t(x_t) stays what it was, for one component in all steps.
    problem = finite_sum()
    tx = optkit.recursive_momentum(0.0)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)._replace(count=jnp.array(1), estimate=optax.tree.ones_like(params))
    start = optax.tree.sub(state.estimate, problem.gradient(0)(params))
    for _ in range(3):
        grad_fn = problem.gradient(0)
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, optax.tree.scale(-0.1, updates))
    error = optax.tree.sub(state.estimate, problem.gradient(0)(state.previous_params))
    assert_close(error, start)


def test_weight_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"a must be in \[0, 1\], got 1.5"):
        optkit.recursive_momentum(1.5)
