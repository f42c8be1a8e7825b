"""Recursive momentum, and what all recursive and anchored estimators promise alike."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from promises import assert_needs_parameters, assert_refuses_complex_parameters
from trajectories import descend, passing_prev_grads

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


def run(tx, problem, *, params=PARAMS, steps=STEPS):
    """A run along the gradients of components that are drawn."""
    components = np.random.default_rng(1).integers(COMPONENTS, size=steps)
    return descend(
        tx,
        lambda params, component: problem.gradient(component)(params),
        params,
        components,
        full_grad_fn=problem.full_gradient,
        unknown=None,
    )


def assert_close(actual, expected, rtol=1e-12):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=1e-13)


RECURSIVE = {
    "recursive_momentum": functools.partial(optkit.recursive_momentum, 0.2),
    "path_integrated_gradient": functools.partial(optkit.path_integrated_gradient, 4),
    "page_gradient": functools.partial(optkit.page_gradient, 0.3),
}
ESTIMATORS = {**RECURSIVE, "svrg_correction": functools.partial(optkit.svrg_correction, 4)}
STEPS_OF_STORM = {
    "scale_by_storm": functools.partial(optkit.scale_by_storm, 0.1),
    "scale_by_storm_coordinatewise": functools.partial(optkit.scale_by_storm_coordinatewise, 0.1),
    "scale_by_storm_plus": optkit.scale_by_storm_plus,
}
TRANSFORMATIONS = {
    **ESTIMATORS,
    **STEPS_OF_STORM,
    "hessian_corrected_momentum": optkit.hessian_corrected_momentum,
}
NAMED = {
    "storm": functools.partial(optkit.storm, 0.1),
    "storm_coordinatewise": functools.partial(optkit.storm_coordinatewise, 0.1),
    "storm_plus": functools.partial(optkit.storm_plus, 0.1),
    "spider": functools.partial(optkit.spider, 0.1, 4),
    "spider with smoothness": functools.partial(optkit.spider, 0.1, 4, smoothness=10.0),
    "spider_boost": functools.partial(optkit.spider_boost, 0.1, 4),
    "page": functools.partial(optkit.page, 0.1, 0.3),
}
ANCHORED = {
    "svrg": functools.partial(optkit.svrg, 0.1, 4),
    "harpg": functools.partial(optkit.harpg, 0.1),
    "harpg normalized": functools.partial(optkit.harpg, 0.1, normalize=True),
}


def each(table):
    return pytest.mark.parametrize("build", table.values(), ids=list(table))


def each_by_name(table):
    return pytest.mark.parametrize(("build", "method"), [(build, name.split()[0]) for name, build in table.items()])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@each(ESTIMATORS)
def test_is_the_gradient_where_there_is_no_noise(build):
    problem = finite_sum(noise=0.0)
    params, updates, _ = run(optax.chain(build(), optax.scale(-0.1)), problem)
    before = jax.tree.map(lambda start, x: jnp.concatenate([start[None], x[:-1]]), PARAMS, params)
    assert_close(updates, optax.tree.scale(-0.1, jax.vmap(problem.full_gradient)(before)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@each({**RECURSIVE, **NAMED})
def test_both_routes_to_the_previous_gradient_give_the_same_numbers(build):
    kept = run(build(), finite_sum())
    given = run(passing_prev_grads(build(keep_params=False)), finite_sum())
    assert_close(kept[:2], given[:2])


def two_updates(tx):
    """Returns the gradients and the updates of the second of two steps."""
    problem = finite_sum()

    @jax.jit
    def run(params):
        state = tx.init(params)
        for component in range(2):
            grads = problem.gradient(component)(params)
            updates, state = tx.update(
                grads, state, params, grad_fn=problem.gradient(component), full_grad_fn=problem.full_gradient
            )
        return grads, updates

    return run(PARAMS)


@pytest.mark.usefixtures("x64")
@each(TRANSFORMATIONS)
def test_leaves_that_it_does_not_apply_to_pass_through(build):
    grads, updates = two_updates(build(applies_to={"w": True, "b": False}))
    np.testing.assert_array_equal(updates["b"], grads["b"])
    assert np.all(updates["w"] != grads["w"])


@pytest.mark.usefixtures("x64")
@each({**NAMED, **ANCHORED})
def test_leaves_that_are_not_trainable_stand_still(build):
    _, updates = two_updates(build(trainable={"w": True, "b": False}))
    np.testing.assert_array_equal(updates["b"], np.zeros(2))
    assert np.all(updates["w"] != 0)


def only_w(tree):
    return {"w": True, "b": tree is None}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@each({**TRANSFORMATIONS, **NAMED, **ANCHORED})
def test_a_leaf_inside_goes_its_own_way(build):
    # The loss has no terms with both leaves, so a run on one of two leaves is that of this leaf alone.
    problem = finite_sum()
    fixed = optax.masked(optax.set_to_zero(), {"w": False, "b": True})
    choice = {"applies_to" if build in TRANSFORMATIONS.values() else "trainable": only_w}
    _, inside, _ = run(optax.chain(build(**choice), fixed, optax.scale(0.01)), problem)
    _, alone, _ = run(optax.chain(build(), optax.scale(0.01)), problem, params={"w": PARAMS["w"]})
    assert_close(inside["w"], alone["w"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_the_rest_does_is_the_users():
    inside = {"w": True, "b": False}
    labels = {"w": "ours", "b": "adam"}
    tx = optax.chain(
        optkit.scale_by_storm(0.1, applies_to=inside),
        optax.partition({"ours": optax.scale(-1.0), "adam": optax.adam(0.1)}, labels),
    )
    problem = finite_sum()
    _, updates, _ = run(tx, problem)
    _, storm, _ = run(optkit.storm(0.1), problem, params={"w": PARAMS["w"]})
    _, adam, _ = run(optax.adam(0.1), problem, params={"b": PARAMS["b"]})
    assert_close(updates["w"], storm["w"])
    assert_close(updates["b"], adam["b"])


@each({**TRANSFORMATIONS, **NAMED, **ANCHORED})
def test_a_choice_of_leaves_that_injection_made_an_array_is_refused(build):
    name = "applies_to" if build in TRANSFORMATIONS.values() else "trainable"
    with pytest.raises(TypeError, match=rf"{name} cannot be an array, .* static_args"):
        build(**{name: jnp.array(True)})
    with pytest.raises(TypeError, match=rf"{name} must be a tree .* static_args"):
        build(**{name: True}).init(PARAMS)


def clipped(grad_fn):
    return lambda point: optax.clip_by_global_norm(0.5).update(grad_fn(point), optax.EmptyState())[0]


class Clipped(NamedTuple):
    """The gradients of a problem, each clipped by itself."""

    problem: FiniteSum

    def gradient(self, component):
        return clipped(self.problem.gradient(component))

    def full_gradient(self, params):
        return clipped(self.problem.full_gradient)(params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@each({name: {**NAMED, **ANCHORED}[name] for name in ("storm", "spider_boost", "page", "svrg", "harpg")})
def test_preprocessing_clips_the_gradients_at_all_points(build):
    clip = optax.clip_by_global_norm(0.5)
    right, ours, before = (
        run(tx, problem).updates
        for tx, problem in (
            (build(), Clipped(finite_sum())),
            (optkit.preprocess_gradients(build(), clip), finite_sum()),
            (optax.chain(clip, build()), finite_sum()),
        )
    )
    assert_close(ours, right)
    assert optax.tree.norm(optax.tree.sub(before, right)) > 1e-3, "in a chain the two points are clipped differently"


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@each({name: {**NAMED, **ANCHORED}[name] for name in ("storm", "spider_boost", "harpg")})
def test_multi_steps_need_the_gradient_of_all_parts(build):
    problem = finite_sum()
    params = jax.tree.map(jnp.asarray, PARAMS)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run_with(tx, grad_fns):
        point, state = params, tx.init(params)
        for _ in range(2):
            for component, grad_fn in enumerate(grad_fns):
                updates, state = tx.update(
                    problem.gradient(component)(point) if len(grad_fns) > 1 else grad_fn(point),
                    state, point, grad_fn=grad_fn, full_grad_fn=problem.full_gradient,
                )  # fmt: skip
                point = optax.apply_updates(point, updates)
        return point

    def of_both(point):
        return optax.tree.scale(0.5, optax.tree.add(problem.gradient(0)(point), problem.gradient(1)(point)))

    multi = optax.MultiSteps(build(), 2)
    right = run_with(build(), (of_both,))
    assert_close(run_with(multi, (of_both, of_both)), right, rtol=1e-6)  # it accumulates in float32
    with_the_last_part = run_with(multi, (problem.gradient(0), problem.gradient(1)))
    assert optax.tree.norm(optax.tree.sub(with_the_last_part, right)) > 1e-4


REAL_ONLY = ("storm_coordinatewise", "scale_by_storm_coordinatewise")


@pytest.mark.usefixtures("x64")
@each({name: build for name, build in {**TRANSFORMATIONS, **NAMED, **ANCHORED}.items() if name not in REAL_ONLY})
def test_complex_parameters_are_two_real_ones(build):
    tx = optax.chain(build(), optax.scale(0.1))
    curvatures, targets = jnp.array([1.0, 2.0]), jnp.array([1 - 1j, 2 + 0.5j])

    def train(params, to_complex, from_complex):
        def gradient(tree, component):
            return from_complex((curvatures + 0.1 * component) * (to_complex(tree) - targets * component))

        @jax.jit
        def step(params, state, component):
            grad_fn = functools.partial(gradient, component=component)
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, full_grad_fn=grad_fn)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        for component in range(4):
            params, state = step(params, state, component)
        return to_complex(params)

    start = jnp.array([3 + 1j, -2j])
    split = train((start.real, start.imag), lambda pair: pair[0] + 1j * pair[1], lambda x: (x.real, x.imag))
    np.testing.assert_allclose(train(start, lambda x: x, lambda x: x), split, rtol=1e-12)


@pytest.mark.parametrize("name", REAL_ONLY)
def test_a_rule_for_real_numbers_says_so(name):
    assert_refuses_complex_parameters(getattr(optkit, name)(0.1), name, "real and imaginary parts as two leaves")


@each({**NAMED, **ANCHORED})
def test_a_bad_gradient_is_never_forgotten_in_silence(build):
    # No entry's gradient depends on another's parameter: each must go on, or show that something is wrong.
    tx = build()

    @jax.jit
    def step(params, state, first):
        """Takes a step in which the first entry's gradient is another number."""
        grads = params.at[0].set(first)
        updates, state = tx.update(grads, state, params, grad_fn=lambda x: x, full_grad_fn=lambda x: x)
        return optax.apply_updates(params, updates), state

    for bad in (np.nan, np.inf):
        params, state = np.array([1.0, -2.0, 3.0], np.float32), tx.init(jnp.zeros(3))
        for count in range(8):
            before = np.asarray(params)
            params, state = step(params, state, bad if count == 2 else float(before[0]))
        moving = np.abs(params) < np.abs(before)
        assert np.all(np.isnan(params) | moving), bad


@each_by_name({**NAMED, **ANCHORED, **TRANSFORMATIONS})
def test_refuses_a_part_of_the_tree(build, method):
    params = jax.tree.map(jnp.asarray, PARAMS)
    for wrapped in (
        optax.masked(build(), {"w": True, "b": False}),
        optax.partition({"ours": build(), "other": optax.sgd(0.1)}, {"w": "ours", "b": "other"}),
    ):
        with pytest.raises(TypeError, match=f"^{method} .* cannot stand inside optax.masked or optax.partition"):
            wrapped.init(params)


@each_by_name({**NAMED, **RECURSIVE, **STEPS_OF_STORM})
def test_names_the_route_that_was_not_given(build, method):
    params = jax.tree.map(jnp.asarray, PARAMS)
    full = finite_sum().full_gradient
    for keep_params, name in ((True, "grad_fn"), (False, "prev_grads")):
        tx = build(keep_params=keep_params)
        with pytest.raises(TypeError, match=f"^{method} needs the extra argument {name}: call update"):
            tx.update(params, tx.init(params), params, full_grad_fn=full)


@each_by_name({**NAMED, **ANCHORED, **TRANSFORMATIONS})
def test_says_that_parameters_are_missing(build, method):
    params, problem = jax.tree.map(jnp.asarray, PARAMS), finite_sum()
    functions = {"grad_fn": problem.gradient(0), "full_grad_fn": problem.full_gradient}
    assert_needs_parameters(build(), method, params, **functions)


@each({**ESTIMATORS, **NAMED, **ANCHORED})
def test_initial_parameters_are_copied_so_that_they_can_be_donated(build):
    params = jax.tree.map(jnp.asarray, PARAMS)
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    assert not pointers & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(build().init(params))}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@each({**ESTIMATORS, "hessian_corrected_momentum": optkit.hessian_corrected_momentum})
def test_estimates_of_parts_are_kept_in_float32(build, dtype):
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), PARAMS)
    tx = build()
    update = functools.partial(tx.update, grad_fn=lambda point: point, full_grad_fn=lambda point: point)
    updates, state = jax.eval_shape(update, params, jax.eval_shape(tx.init, params), params)
    estimate = state.anchor_gradient if hasattr(state, "anchor_gradient") else state.estimate
    assert {x.dtype for x in jax.tree.leaves(estimate)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(("numbers", "keep_params"), [(2, True), (1, False)])
@each({**RECURSIVE, **{name: NAMED[name] for name in ("storm", "storm_plus", "spider_boost", "page")}})
def test_state_is_the_estimate_and_the_previous_parameters(build, numbers, keep_params):
    params = {"w": jax.ShapeDtypeStruct((1000, 100), jnp.float32)}
    cost = optkit.cost(build(keep_params=keep_params), params, state_only=True)
    np.testing.assert_allclose(cost.state_bytes_per_parameter, 4 * numbers, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_stands_in_front_of_any_preconditioner():
    tx = optax.chain(optkit.recursive_momentum(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(0.1))
    assert_close(run(tx, finite_sum()).updates, run(optax.adam(0.1), finite_sum()).updates)


@pytest.mark.usefixtures("x64")
def test_is_the_momentum_of_exact_unclipped_mars_with_gamma_one():
    correction = optkit.reduce_variance(1.0, 0.8, correction=optkit.MarsCorrection(max_norm=None, exact=True))
    mars = optax.chain(correction, optax.ema(0.8, debias=False), optax.scale(-0.1))
    ours = optax.chain(optkit.recursive_momentum(0.2), optax.scale(-0.1))
    assert_close(run(mars, finite_sum())[:2], run(ours, finite_sum())[:2])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_never_forgets_an_error_with_weight_zero():
    # d_t - g_t(x_t) stays what it was, for one component in all steps.
    problem = finite_sum()
    tx = optkit.recursive_momentum(0.0)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)._replace(count=jnp.array(1), estimate=optax.tree.ones_like(params))
    start = optax.tree.sub(state.estimate, problem.gradient(0)(params))

    @jax.jit
    def step(params, state):
        grad_fn = problem.gradient(0)
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, optax.tree.scale(-0.1, updates)), state

    for _ in range(3):
        params, state = step(params, state)
    error = optax.tree.sub(state.estimate, problem.gradient(0)(state.previous_params))
    assert_close(error, start)


@pytest.mark.slow
def test_weight_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"a must be in \[0, 1\], got 1.5"):
        optkit.recursive_momentum(1.5)
