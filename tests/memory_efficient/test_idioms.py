"""What people write around these optimizers: injection, Flax NNX, models that are callable trees, shapes alone."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from callable_models import CallableModel
from draws import normal, normal_like
from flax import nnx
from promises import assert_needs_parameters
from trajectories import compiled_first_update, descend, first_update, last, trajectory

import optkit
from optkit import catalog, cost, subspace_projector

METHODS = {
    name: entry
    for name, entry in catalog.METHODS.items()
    if entry.family == "memory_efficient" and entry.kind == "optimizer"
}
PARAMS = {"kernel": normal(16, 32), "bias": jnp.zeros(32)}

every_method = pytest.mark.parametrize("name", METHODS)


def example(name, **arguments):
    return METHODS[name].factory(**{**METHODS[name].example, **arguments})


def trained(tx, params=PARAMS, steps=4):
    """What there is after each of some steps along random gradients."""
    return trajectory(tx, normal_like(params, 1, rows=(steps,)), params)


def without_params(tx):
    """Does not hand on the parameters to `update`."""

    def update(updates, state, params=None):
        del params
        return tx.update(updates, state)

    return optax.GradientTransformation(tx.init, update)


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), x.dtype, jax.typeof(x).weak_type), tree)


def assert_same(actual, expected, rtol=1e-5):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected)


@pytest.mark.slow
@every_method
def test_bare_injection_gives_the_plain_numbers_and_the_same_state(name):
    rate = METHODS[name].example["learning_rate"]
    plain = trained(METHODS[name].factory(rate), steps=2)
    injected = trained(optax.inject_hyperparams(METHODS[name].factory)(learning_rate=rate), steps=2)
    assert_same(injected.params, plain.params)
    assert types(injected.states.inner_state) == types(plain.states)


@pytest.mark.slow
def test_bare_injection_keeps_frugals_subspace():
    tx = optax.inject_hyperparams(optkit.frugal_adamw)(learning_rate=1e-2)
    ours, adam = (trained(each).params for each in (tx, optax.adam(1e-2)))
    assert np.max(np.abs(np.subtract(ours["kernel"], adam["kernel"])[-1])) > 1e-3
    plain, numbers = (cost(t, PARAMS, state_only=True).state_bytes for t in (optkit.frugal_adamw(1e-2), tx))
    hyperparameters_and_count = 4 * (7 + 1)
    assert numbers - plain == hyperparameters_and_count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "given"),
    [
        (optkit.frugal_adamw, {"update_gap": 2, "rest_scale": 0.5, "key": 3}),
        (optkit.galore_adamw, {"update_gap": 2, "scale": 0.25, "key": 3}),
    ],
)
def test_periods_factors_and_keys_may_be_injected(method, given):
    projector = subspace_projector("uniform", rank=2)
    expected = trained(method(1e-2, projector=projector, **given)).params
    injected = optax.inject_hyperparams(method)(learning_rate=1e-2, projector=projector, **given)
    assert set(injected.init(PARAMS).hyperparams) >= set(given)
    assert_same(trained(injected).params, expected)


@pytest.mark.parametrize(
    ("factory", "argument", "value"),
    [
        (optkit.micro_adam, "window", 3),
        (optkit.micro_adam, "density", 0.1),
        (optkit.micro_adam, "alpha", 0.1),
        (optkit.micro_adam, "bits", 8),
        (optkit.scale_by_micro_adam, "block_size", 8),
        (optkit.m_fac, "window", 3),
        (optkit.sparse_m_fac, "density", 0.1),
        (optkit.ggt, "window", 3),
        (optkit.sparse_ggt, "density", 0.1),
        (optkit.adam_sn, "subset_size", 4),
        (optkit.adagrad_sn, "mask", lambda _: False),
        (optkit.rmsprop_sn, "subset_leaves", lambda _: False),
        (optkit.sgd_sm, "leaves", lambda _: False),
        (optkit.frugal_lion, "leaves", lambda _: False),
    ],
)
def test_bare_injection_of_what_is_static_says_what_to_do(factory, argument, value):
    arguments = {} if factory is optkit.scale_by_micro_adam else {"learning_rate": 0.1}
    with pytest.raises(TypeError, match=rf"^{argument} .*static_args"):
        optax.inject_hyperparams(factory)(**arguments, **{argument: value}).init(PARAMS)


@pytest.mark.slow
def test_optkits_injection_finds_what_is_static():
    arguments = {"projector": subspace_projector("svd", rank=2), "leaves": lambda _: {"kernel": True, "bias": False}}
    expected = trained(optkit.galore_adamw(1e-2, **arguments)).params
    assert_same(trained(optkit.inject_hyperparams(optkit.galore_adamw)(1e-2, **arguments)).params, expected)


def loss_of_linear_layer(params, x):
    return jnp.sum((x @ params["kernel"] + params["bias"]) ** 2)


@nnx.jit
def gradient_of_nnx(model, x):
    return nnx.grad(lambda model: jnp.sum(model(x) ** 2))(model)


@pytest.mark.slow
@every_method
def test_flax_nnx_takes_steps(name):
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    params = {"kernel": model.kernel[...], "bias": model.bias[...]}
    tx = example(name)
    tx = optax.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    inputs = np.stack([normal(5, 4, seed=seed) for seed in range(2)])
    expected = descend(tx, jax.grad(loss_of_linear_layer), params, inputs).params
    for x in inputs:
        optimizer.update(model, gradient_of_nnx(model, x))
    assert_same({"kernel": model.kernel[...], "bias": model.bias[...]}, jax.tree.map(lambda p: p[-1], expected), 1e-4)


@pytest.mark.slow
@every_method
def test_a_model_that_is_a_callable_tree_trains(name):
    masks = {"kernel": True, "bias": False}
    tx = example(name, weight_decay=0.1, mask=CallableModel(**masks))
    ours = trained(tx, CallableModel(**PARAMS), steps=2).params
    expected = trained(example(name, weight_decay=0.1, mask=masks), steps=2).params
    assert_same(ours.kernel, expected["kernel"])


@pytest.mark.parametrize("method", [optkit.galore_adamw, optkit.frugal_lion, optkit.adam_snsm, optkit.adam_sn])
def test_choices_may_be_callable_trees(method):
    numbers = optax.contrib.MuonDimensionNumbers(0, 1)
    chosen = "subset_leaves" if method is optkit.adam_sn else "leaves"
    tx = method(
        1e-2,
        **{
            chosen: CallableModel(kernel=True, bias=False),
            "weight_dimension_numbers": CallableModel(kernel=numbers, bias=None),
        },
    )
    trees = method(
        1e-2,
        **{
            chosen: {"kernel": True, "bias": False},
            "weight_dimension_numbers": lambda _: {"kernel": numbers, "bias": None},
        },
    )
    ours, expected = trained(tx, CallableModel(**PARAMS), steps=1).params, trained(trees, steps=1).params
    assert_same(ours.kernel, expected["kernel"])


@every_method
def test_without_decay_updates_need_no_parameters(name):
    assert_same(trained(without_params(example(name)), steps=2).params, trained(example(name), steps=2).params)


@pytest.mark.slow
@every_method
def test_with_decay_the_public_method_asks_for_parameters(name):
    assert_needs_parameters(example(name, weight_decay=0.1), name, PARAMS)


@every_method
def test_init_takes_shapes(name):
    shapes = {"kernel": jax.ShapeDtypeStruct((2, 4), jnp.float32), "other": jax.ShapeDtypeStruct((3,), jnp.float32)}
    state = example(name).init(shapes)
    expected = example(name).init(jax.tree.map(jnp.zeros_like, shapes))
    assert types(state) == types(expected)


@every_method
def test_ranks_are_not_promoted(name):
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda: trained(example(name), steps=2))


# Optax's moving averages, whose bias it corrects, do not work so.
@pytest.mark.parametrize("name", [name for name in METHODS if name not in {"adam_sn", "adam_snsm", "frugal_adamw"}])
def test_dtypes_are_not_promoted(name):
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda: trained(example(name), steps=2))


@every_method
def test_a_state_keeps_its_dtypes_when_x64_is_switched_on(name):
    tx = example(name)
    state = jax.eval_shape(tx.init, PARAMS)
    with jax.enable_x64(True):
        updates, new_state = jax.eval_shape(tx.update, PARAMS, state, PARAMS)
    dtypes = jax.tree.map(lambda x: x.dtype, (state, PARAMS))
    assert jax.tree.map(lambda x: x.dtype, (new_state, updates)) == dtypes


@every_method
@pytest.mark.parametrize("shape", [(2**16, 2**15), (2**31,)])
def test_leaves_may_have_more_entries_than_integers_count(name, shape):
    params = {"huge": jax.ShapeDtypeStruct(shape, jnp.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = jax.eval_shape(example(name).init, params)
        assert jax.eval_shape(example(name).update, params, state, params)[0] == params


SUBSET_NORMS = ("adam_sn", "rmsprop_sn", "adagrad_sn")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SUBSET_NORMS])
def test_complex_parameters_are_refused(name):
    params = jax.tree.map(lambda x: x.astype(jnp.complex64), PARAMS)
    with pytest.raises(TypeError, match=rf"^{name} .*optax.contrib.split_real_and_imaginary"):
        example(name).init(params)
    split = trained(optax.contrib.split_real_and_imaginary(example(name)), params, steps=1)
    assert np.isfinite(split.params["kernel"]).all()


def run_of(tx, gradients, params):
    """The updates and states of a run, in NumPy."""
    run = trajectory(tx, gradients, params)
    return jax.tree.map(np.asarray, (run.updates, run.states))


@pytest.mark.parametrize("name", SUBSET_NORMS)
def test_subset_norms_of_complex_numbers_are_those_of_their_magnitudes(name):
    params = jax.tree.map(lambda x: np.asarray(x, np.complex64), PARAMS)
    tx = example(name)
    grads = jax.tree.map(np.asarray, normal_like(params, rows=(1,)))
    update, state = run_of(tx, grads, params)
    turned, _ = run_of(tx, jax.tree.map(lambda g: 1j * g, grads), params)
    real, real_state = run_of(tx, jax.tree.map(np.abs, grads), PARAMS)
    assert_same(turned, jax.tree.map(lambda u: 1j * u, update))
    assert_same(jax.tree.map(np.abs, update), jax.tree.map(np.abs, real))
    assert_same(optax.tree.get(state, "nu"), optax.tree.get(real_state, "nu"))


CENTRE = jax.tree.map(lambda x: np.asarray(x)[..., :3], PARAMS)
same_example = functools.cache(example)


def gradient_with_error(params, error):
    grads = optax.tree.sub(params, CENTRE)
    return {**grads, "kernel": grads["kernel"].at[0, 0].add(error)}


@every_method
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_gradient_shows_in_the_parameters(name, bad):
    """Or it is a step as any other, where the sign of an infinite entry is taken."""
    distance = jax.tree.map(np.asarray, normal_like(CENTRE))
    errors = np.where(np.arange(600) == 2, np.float32(bad), np.float32(0.0))
    start = jax.tree.map(np.add, CENTRE, distance)
    # One transformation for both kinds of errors, so that their runs are one program.
    params = last(descend(same_example(name), gradient_with_error, start, errors).params)
    kernel = np.asarray(params["kernel"]) - CENTRE["kernel"]
    assert np.isnan(kernel[0, 0]) or np.max(np.abs(kernel)) < 0.2 * np.max(np.abs(distance["kernel"]))


def first_kernel_with(bad):
    """Two gradients like the parameters; one entry of the first is bad."""
    gradients = jax.tree.map(lambda x: np.stack([x, x]), PARAMS)
    gradients["kernel"][0, 0, 0] = bad
    return gradients


@functools.cache
def same_example_without_params(name):
    return without_params(example(name))


@pytest.mark.parametrize("method", [optkit.rmsprop_sn, optkit.adam_sn, optkit.adagrad_sn])
def test_a_subset_with_an_infinite_entry_is_not_stuck_in_silence(method):
    update = trajectory(without_params(method(0.1)), first_kernel_with(np.inf), PARAMS).updates["kernel"][1]
    assert np.array_equal(np.isnan(update), np.broadcast_to(np.arange(32) == 0, (16, 32)))


@pytest.mark.parametrize("name", ["sparse_m_fac", "sparse_ggt", "micro_adam"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_the_window_does_not_hold_is_not_stuck_in_silence(name, bad):
    updates = trajectory(same_example_without_params(name), first_kernel_with(bad), PARAMS).updates
    assert np.all(np.isnan(updates["kernel"][1]))


@pytest.mark.parametrize("name", ["adam_sn", "adam_snsm", "frugal_adamw", "galore_adamw"])
def test_stacked_biases_are_no_matrices(name):
    params = {"kernel": jnp.ones((3, 4, 6)), "bias": jnp.ones((3, 6))}
    with pytest.raises(ValueError, match=rf"^{name} .*flax_dimension_numbers.*stacked="):
        example(name).init(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam_sn", "adam_snsm", "frugal_adamw", "frugal_lion", "galore_adamw", "sgd_sm"])
def test_stacked_layers_are_those_alone(name):
    key = {} if name != "frugal_lion" else {"projector": subspace_projector("svd", rank=2)}
    stacked = {"kernel": np.asarray(normal(3, 4, 6)), "bias": np.ones((3, 6), np.float32)}
    numbers = {"kernel": optax.contrib.MuonDimensionNumbers(1, 2), "bias": None}
    grads = jax.tree.map(np.asarray, normal_like(stacked, 1))
    tx, alone = example(name, **key, weight_dimension_numbers=numbers), example(name, **key)
    updates = jax.tree.map(np.asarray, compiled_first_update(tx, grads, stacked))
    update_alone = jax.jit(functools.partial(first_update, alone))
    for layer in range(3):
        params, gradient = (jax.tree.map(lambda x, i=layer: x[i], tree) for tree in (stacked, grads))
        expected = update_alone(gradient, params)
        assert_same(jax.tree.map(lambda x, i=layer: x[i], updates), expected, 1e-4)


@pytest.mark.parametrize("name", ["adam_sn", "sgd_sm", "frugal_adamw", "galore_adamw"])
def test_numbers_or_leaves_that_reach_no_leaf_are_named(name):
    chosen = "subset_leaves" if name == "adam_sn" else "leaves"
    nowhere = {"w": False, "b": False}
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match=rf"^{name}: by weight_dimension_numbers no leaf is a matrix, although 'w'"):
        example(name, weight_dimension_numbers=optkit.flax_dimension_numbers).init(params)
    with pytest.raises(ValueError, match=rf"^{name}: {chosen} chooses no leaf, although 'w' has two axes or more"):
        example(name, **{chosen: nowhere}).init(params)
