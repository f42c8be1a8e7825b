"""MARS optimizers as people use them: masks, other parameters, stacked layers, injection, bad and complex gradients."""

import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trajectories
from callable_models import CallableModel
from draws import normal_like
from optax.contrib import MuonDimensionNumbers
from promises import (
    assert_initialises_from_types,
    assert_needs_parameters,
    assert_refuses_complex_parameters,
    assert_same_steps,
)
from trajectories import trajectory

import optkit
from optkit.core.adam import scale_by_adam

BUILDERS = (optkit.mars_adamw, optkit.mars_lion, optkit.mars_shampoo, optkit.mars_m)
EACH = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
OF_MATRICES = pytest.mark.parametrize("build", [optkit.mars_shampoo, optkit.mars_m], ids=lambda build: build.__name__)
PARAMS = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
UNCLIPPED = optkit.MarsCorrection(max_norm=None)
EXACT = optkit.MarsCorrection(exact=True)
first_update = jax.jit(trajectories.first_update, static_argnums=0)
flax_stacked = functools.partial(optkit.flax_dimension_numbers, stacked=lambda _: True)


def assert_close(actual, expected, rtol=1e-6):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=rtol)


# Which leaves decay, move, and are corrected


@EACH
@pytest.mark.parametrize(
    "mask",
    [
        {"kernel": True, "bias": False},
        lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        lambda params: flax.traverse_util.path_aware_map(lambda _, x: x.ndim > 1, params),
    ],
    ids=["tree", "function", "function of paths"],
)
def test_a_mask_only_says_what_decays(build, mask):
    gradients = {"kernel": jnp.ones((3, 4)), "bias": jnp.full(4, 0.5)}
    masked = first_update(build(0.1, weight_decay=0.1, mask=mask), gradients, PARAMS)
    plain = first_update(build(0.1, weight_decay=0.1), gradients, PARAMS)
    np.testing.assert_allclose(masked["bias"], -0.1, rtol=1e-5)  # Adam's, downhill and without decay
    np.testing.assert_allclose(plain["bias"], -0.11, rtol=1e-5)
    np.testing.assert_array_equal(masked["kernel"], plain["kernel"])


@EACH
def test_frozen_leaves_are_neither_moved_nor_kept(build):
    trainable = {"kernel": False, "bias": True}
    tx = build(0.1, trainable=trainable)
    updates = first_update(tx, PARAMS, PARAMS)
    assert not np.any(updates["kernel"])
    np.testing.assert_array_equal(updates["bias"], first_update(build(0.1), PARAMS, PARAMS)["bias"])
    assert all(leaf.size <= 4 for leaf in jax.tree.leaves(tx.init(PARAMS)))


def test_leaves_that_the_correction_does_not_apply_to_pass_through():
    updates = first_update(
        optkit.reduce_variance(applies_to=lambda tree: {**tree, "kernel": True, "bias": False}), PARAMS, PARAMS
    )
    np.testing.assert_array_equal(updates["bias"], PARAMS["bias"])
    assert not np.allclose(updates["kernel"], PARAMS["kernel"])


@EACH
def test_two_kinds_of_others_are_a_partition(build):
    params = {**PARAMS, "scale": jnp.ones(2)}
    labels = {"kernel": "sgd", "bias": "sgd", "scale": "adam"}
    others = optax.partition({"sgd": optax.sgd(0.5), "adam": optax.adam(0.3)}, labels)
    updates = first_update(build(0.1, others=others), params, params)
    np.testing.assert_allclose(updates["bias"], -0.5)
    np.testing.assert_allclose(updates["scale"], -0.3, rtol=1e-5)


@EACH
def test_the_others_are_by_default_the_authors_adamw(build):
    vectors = {"a": jnp.ones(3), "b": jnp.ones(())}
    adam = (
        scale_by_adam(0.9, 0.95, 1e-8, eps_placement="pre")
        if build is optkit.mars_m
        else optax.scale_by_adam(0.9, 0.95, 1e-8)
    )
    decay = optax.add_decayed_weights(0.1, {"a": True, "b": False})
    authors = optax.chain(adam, decay, optax.scale_by_learning_rate(0.2))
    gradients = normal_like(vectors, rows=(5,))
    assert_same_steps(build(0.2, mask={"a": True, "b": False}), authors, gradients, vectors, atol=1e-6)


@EACH
def test_others_of_16_bit_parameters_are_moved_in_float32(build):
    params = jax.tree.map(lambda x: x.astype(jnp.float16), PARAMS)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 1e-4), params)
    updates = first_update(build(0.1, others=optax.adam(0.1)), gradients, params)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-2)


@EACH
def test_a_model_that_is_callable_is_a_tree(build):
    params = CallableModel(**PARAMS)
    mask, everywhere = CallableModel(kernel=True, bias=False), CallableModel(kernel=True, bias=True)
    tx = build(0.1, weight_decay=0.1, mask=mask, corrected=mask, trainable=everywhere)
    expected = first_update(build(0.1, weight_decay=0.1, mask={"kernel": True, "bias": False}), PARAMS, PARAMS)
    updates = first_update(tx, params, params)
    assert_close({"kernel": updates.kernel, "bias": updates.bias}, expected)


@EACH
def test_a_stacked_bias_makes_the_default_raise(build):
    params = {"layers": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}}
    message = r"the leaf 'layers/bias' of shape \(2, 4\) is a bias.*flax_dimension_numbers, stacked=.*or by corrected"
    with pytest.raises(ValueError, match=f"{build.__name__}.*{message}"):
        build(0.1).init(params)
    build(0.1, weight_dimension_numbers=flax_stacked).init(params)


@EACH
@pytest.mark.parametrize(
    "choice",
    [
        {"corrected": {"w": False}},
        {"corrected": lambda tree: jax.tree.map(lambda _: False, tree)},
        {"weight_dimension_numbers": optkit.flax_dimension_numbers},
    ],
    ids=["tree", "function", "names of Flax"],
)
def test_that_nothing_is_corrected_is_said(build, choice):
    with pytest.raises(ValueError, match=f"{build.__name__}: by {next(iter(choice))} no leaf is a matrix"):
        build(0.1, **choice).init({"w": jnp.ones((3, 4))})


def test_shampoo_says_that_corrected_leaves_of_more_axes_need_numbers():
    with pytest.raises(ValueError, match="mars_shampoo: by weight_dimension_numbers no leaf is a matrix"):
        optkit.mars_shampoo(0.1, corrected=True).init({"kernel": jnp.ones((2, 3, 4))})


# Several matrices in one leaf


@EACH
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("correction", [optkit.MarsCorrection(), UNCLIPPED], ids=["clipped", "unclipped"])
@pytest.mark.parametrize(
    "numbers", [flax_stacked, MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)], ids=["flax", "one"]
)
def test_each_layer_of_a_stack_is_moved_as_if_alone(build, correction, numbers):
    gradients = {"kernel": normal_like(jnp.ones((2, 4, 3)), rows=(4,))}
    params = {"kernel": jnp.ones((2, 4, 3))}
    tx = functools.partial(build, 0.1, correction=correction)
    together = trajectory(tx(corrected=True, weight_dimension_numbers=numbers), gradients, params).updates
    alone = tx()
    for layer in range(2):
        part = functools.partial(jax.tree.map, lambda x, layer=layer: np.asarray(x)[..., layer, :, :])
        assert_close(part(together), trajectory(alone, part(gradients), part(params)).updates, rtol=1e-12)


@pytest.mark.slow
@OF_MATRICES
@pytest.mark.usefixtures("x64")
def test_singular_values_of_stacked_layers_are_those_of_each(build):
    kernel = normal_like(jnp.ones((2, 4, 3)), seed=1)
    tx = build(1.0, corrected=True, weight_decay=0.0, weight_dimension_numbers=flax_stacked)
    together = first_update(tx, {"kernel": kernel}, {"kernel": kernel})["kernel"]
    of_one = build(1.0, weight_decay=0.0)
    alone = np.stack([first_update(of_one, layer, layer) for layer in np.asarray(kernel)])
    values = functools.partial(np.linalg.svd, compute_uv=False)
    np.testing.assert_allclose(values(together), values(alone), rtol=1e-12)


@pytest.mark.slow
def test_leaves_that_are_labelled_matrices_count_matrices_along_leading_axes():
    kernel = normal_like(jnp.ones((2, 4, 3)))
    labelled = first_update(optkit.mars_m(0.1, corrected={"w": True}), {"w": kernel}, {"w": kernel})["w"]
    of_one = optkit.mars_m(0.1)
    alone = np.stack([first_update(of_one, layer, layer) for layer in np.asarray(kernel)])
    np.testing.assert_allclose(labelled, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_corrected_vectors_of_a_stacked_model_take_adam():
    params = {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((2, 3))}
    tx = optkit.mars_shampoo(0.1, corrected=True, weight_dimension_numbers=flax_stacked)
    gradients = normal_like(params, rows=(3,))
    alone = trajectory(optkit.mars_adamw(0.1, corrected=True), gradients, params).updates
    assert_close(trajectory(tx, gradients, params).updates["bias"], alone["bias"], rtol=1e-12)


# Injection


@pytest.mark.slow
@EACH
def test_bare_injection_gives_the_plain_numbers(build):
    gradients = normal_like(PARAMS, rows=(4,))
    injected = optax.inject_hyperparams(build)(learning_rate=1e-2)
    assert_same_steps(injected, build(1e-2), gradients, PARAMS, atol=1e-6)


@EACH
def test_everything_may_be_passed_to_injection(build):
    arguments = {
        "mask": lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        "corrected": lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        "weight_dimension_numbers": optkit.flax_dimension_numbers,
        "correction": optkit.MarsCorrection(clip_scope="global"),
        "others": optax.sgd(0.1),
        "weight_decay": 0.1,
        "mu_dtype": jnp.float32,
    }
    gradients = normal_like(PARAMS, rows=(3,))
    injected = optkit.inject_hyperparams(build)(1e-2, **arguments)
    assert_same_steps(injected, build(1e-2, **arguments), gradients, PARAMS, atol=1e-6)


@EACH
def test_functions_passed_bare_are_named(build):
    function = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    for name in ("mask", "corrected", "trainable"):
        with pytest.raises(TypeError, match=f"{name} must be a tree.*static_args"):
            optax.inject_hyperparams(build)(0.1, **{name: function}).init(PARAMS)
    with pytest.raises(TypeError, match=r"weight_dimension_numbers.*static_args"):
        optax.inject_hyperparams(build)(0.1, weight_dimension_numbers=optkit.flax_dimension_numbers).init(PARAMS)
    with pytest.raises(TypeError, match=r"mu_dtype cannot be an array.*static_args"):
        optax.inject_hyperparams(build)(0.1, mu_dtype=jnp.float32).init(PARAMS)


@OF_MATRICES
def test_a_function_given_as_orthogonalize_is_static(build):
    tx = optax.inject_hyperparams(build)(0.1, orthogonalize=optkit.linalg.newton_schulz)
    with pytest.raises(TypeError, match=r"orthogonalize.*static_args"):
        tx.init(PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDERS[1:], ids=lambda build: build.__name__)
def test_a_scheduled_gamma_takes_two_buffers_under_injection(build):
    gamma = lambda count: jnp.where(count < 2, 0.0, 0.3)  # noqa: E731
    gradients = normal_like(PARAMS, rows=(5,))
    plain = build(1e-2, gamma=gamma, correction=UNCLIPPED)
    injected = optax.inject_hyperparams(build)(1e-2, gamma=gamma, correction=UNCLIPPED)
    assert_same_steps(injected, plain, gradients, PARAMS, atol=1e-6)


def test_one_buffer_alone_refuses_a_gamma_that_may_change():
    optax.inject_hyperparams(optkit.scale_by_mars_momentum)().init(PARAMS)
    with pytest.raises(TypeError, match=r"gamma cannot be an array.*static_args"):
        optax.inject_hyperparams(optkit.scale_by_mars_momentum)(gamma=0.1).init(PARAMS)


# What precedes the exact form, and parts of a batch


def loss(params, batch):
    return 0.5 * optax.tree.norm(optax.tree.sub(params, batch), squared=True)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def train(tx, batches, grad_fn_of, every=1):
    """Parameters after steps on the batches, of which each has `every` parts along its leading axis."""
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(len(jax.tree.leaves(batches)[0]) // every):
        parts = jax.tree.map(lambda x, s=step: x[s * every : (s + 1) * every], batches)
        for part in range(every):
            here = jax.grad(loss)(params, jax.tree.map(lambda x, j=part: x[j], parts))
            updates, state = tx.update(here, state, params, grad_fn=grad_fn_of(parts, part))
            params = optax.apply_updates(params, updates)
    return params


def of_all_parts(parts, _):
    """The gradient of the mean loss, accumulated by a scan."""

    def grad_fn(params):
        def add(total, part):
            return optax.tree.add(total, jax.grad(loss)(params, part)), None

        total, _ = jax.lax.scan(add, optax.tree.zeros_like(params), parts)
        return optax.tree.scale(1 / len(jax.tree.leaves(parts)[0]), total)

    return grad_fn


@pytest.mark.slow
@pytest.mark.parametrize("build", [optkit.mars_adamw, optkit.mars_m], ids=lambda build: build.__name__)
def test_parts_of_a_batch_need_the_gradient_of_all_of_them(build):
    batches = normal_like(PARAMS, rows=(8,))
    exact = functools.partial(build, 0.1, gamma=0.5, correction=EXACT)

    @functools.partial(jax.jit, static_argnums=0)
    def whole(tx):
        params, state = PARAMS, tx.init(PARAMS)
        for step in range(4):
            grad_fn = of_all_parts(jax.tree.map(lambda x, s=step: x[2 * s : 2 * s + 2], batches), None)
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            params = optax.apply_updates(params, updates)
        return params

    by_scan = whole(exact())
    assert_close(train(optax.MultiSteps(exact(), 2), batches, of_all_parts, 2), by_scan, rtol=1e-5)

    def of_the_last_part(parts, part):
        return lambda params: jax.grad(loss)(params, jax.tree.map(lambda x: x[part], parts))

    wrong = train(optax.MultiSteps(exact(), 2), batches, of_the_last_part, 2)
    assert not np.allclose(wrong["kernel"], by_scan["kernel"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("build", [optkit.mars_adamw, optkit.mars_m], ids=lambda build: build.__name__)
def test_what_precedes_the_exact_form_goes_into_preprocess_gradients(build):
    batches = optax.tree.scale(5.0, normal_like(PARAMS, rows=(4,)))
    exact = functools.partial(build, 0.1, gamma=0.5, correction=EXACT)
    clip = optax.clip_by_global_norm(1.0)

    def of_batch(parts, part):
        return lambda params: jax.grad(loss)(params, jax.tree.map(lambda x: x[part], parts))

    def clipped(parts, part):
        return lambda params: clip.update(of_batch(parts, part)(params), clip.init(params))[0]

    by_hand = train(optax.chain(clip, exact()), batches, clipped)
    assert_close(train(optkit.preprocess_gradients(exact(), clip), batches, of_batch), by_hand)
    in_front = train(optax.chain(clip, exact()), batches, of_batch)
    assert not np.allclose(in_front["kernel"], by_hand["kernel"], atol=1e-3)


# Gradients that are not finite, complex parameters, updates without parameters


@EACH
@pytest.mark.parametrize("correction", [optkit.MarsCorrection(), UNCLIPPED], ids=["clipped", "unclipped"])
def test_after_a_bad_gradient_updates_are_nan(build, correction):
    tx = build(0.1, correction=correction)
    gradients = jax.tree.map(np.array, normal_like(PARAMS, rows=(6,)))
    for bad in (np.nan, np.inf):
        gradients["kernel"][2, 0, 0] = bad
        updates = np.asarray(trajectory(tx, gradients, PARAMS).updates["kernel"])[:, 0, 0]
        assert np.isfinite(updates[:2]).all(), bad
        assert np.isnan(updates[2:]).all(), bad


@pytest.mark.parametrize(("correction", "advice"), [(None, "split_real_and_imaginary"), (EXACT, "as two leaves")])
def test_lion_says_that_it_works_on_real_parameters(correction, advice):
    assert_refuses_complex_parameters(optkit.mars_lion(0.1, correction=correction), "mars_lion", advice)


@pytest.mark.parametrize("build", [optkit.mars_adamw, optkit.mars_shampoo, optkit.mars_m], ids=lambda b: b.__name__)
def test_a_turn_of_the_complex_plane_turns_the_updates(build):
    params = jax.tree.map(lambda x: x + 0j, PARAMS)
    gradients = jax.tree.map(
        lambda x, y: x + 1j * y, normal_like(PARAMS, 1, rows=(3,)), normal_like(PARAMS, 2, rows=(3,))
    )
    tx = build(0.1, mask={"kernel": False, "bias": False})
    turned = trajectory(tx, optax.tree.scale(1j, gradients), params).updates
    assert_close(turned, optax.tree.scale(1j, trajectory(tx, gradients, params).updates), rtol=1e-5)


@OF_MATRICES
def test_singular_values_of_complex_updates_are_near_one(build):
    gradient = jnp.array([[3 + 4j, 0], [0, 2j]])
    update = first_update(build(1.0, weight_decay=0.0), gradient, jnp.zeros_like(gradient))
    values = np.linalg.svd(update, compute_uv=False) / (0.2 * 2**0.5 if build is optkit.mars_m else 1.0)
    assert 0.6 < np.min(values) < np.max(values) < 1.25


@EACH
def test_updates_need_no_parameters_where_nothing_decays(build):
    gradients = {"kernel": PARAMS["kernel"]}
    tx = build(0.1, weight_decay=0.0)
    expected = first_update(tx, gradients, gradients)
    assert_close(jax.jit(tx.update)(gradients, tx.init(gradients))[0], expected)
    assert_needs_parameters(build(0.1, weight_decay=0.1), build.__name__, PARAMS)


@EACH
def test_errors_of_the_exact_form_name_the_optimizer(build):
    tx = build(0.1, correction=EXACT)
    with pytest.raises(TypeError, match=f"{build.__name__} needs the extra argument grad_fn"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match=f"{build.__name__} evaluates functions of all parameters"):
        optax.masked(tx, {"kernel": True, "bias": False}).init(PARAMS)


@EACH
def test_init_takes_types(build):
    for correction in (None, EXACT):
        assert_initialises_from_types(build(0.1, correction=correction), PARAMS)
