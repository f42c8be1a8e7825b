"""Optimizers for matrices under the idioms of Optax, Flax and Equinox, with the right numbers."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from flax import nnx
from promises import assert_needs_parameters
from trajectories import first_update

from optkit.orthonormalization import dion, dion2, flax_dimension_numbers, muon, nordion2, normuon, scale_by_dion

OPTIMIZERS: dict[str, Any] = {"muon": muon, "dion": dion, "dion2": dion2, "normuon": normuon, "nordion2": nordion2}
of_each = pytest.mark.parametrize("name", OPTIMIZERS)

PARAMS = {"kernel": normal(16, 32), "bias": jnp.zeros(32)}


def assert_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


@pytest.mark.parametrize(("name", "argument"), [
    ("dion", {"rank": 2}), ("dion", {"rank_fraction": 0.5}), ("dion2", {"fraction": 0.5}),
    ("nordion2", {"fraction": 0.5}), ("normuon", {"mu_dtype": jnp.bfloat16}),
    ("muon", {"mask": lambda _: jnp.array(True)}),
])  # fmt: skip
def test_a_static_argument_is_refused_as_an_array(name, argument):
    tx = optax.inject_hyperparams(OPTIMIZERS[name])(1e-2, **argument)
    with pytest.raises(TypeError, match=rf"{next(iter(argument))} cannot be an array.*static_args"):
        tx.init(PARAMS)


@pytest.mark.parametrize("argument", ["power_iterations", "rank_multiple_of"])
def test_a_static_argument_of_dions_transformation_is_refused_as_an_array(argument):
    tx = optax.inject_hyperparams(scale_by_dion)(**{argument: 2})
    with pytest.raises(TypeError, match=rf"{argument} cannot be an array.*static_args"):
        tx.init(PARAMS)


@pytest.mark.slow
@of_each
@pytest.mark.parametrize("cautious_decay", [False, True])
def test_parameters_are_needed_for_decay_only(name, cautious_decay):
    options: dict[str, Any] = {"cautious_decay": True} if cautious_decay and "muon" in name else {}
    tx = OPTIMIZERS[name](1e-2, weight_decay=0.0, **options)
    updates, _ = jax.eval_shape(tx.update, PARAMS, jax.eval_shape(tx.init, PARAMS))
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
    assert_needs_parameters(OPTIMIZERS[name](1e-2, weight_decay=0.1, **options), name, PARAMS)


# Complex matrices

COMPLEX = jnp.array([[3 + 4j, 0], [0, 2j]])


@pytest.mark.slow
def test_muon_turns_complex_matrices_as_optax_does():
    tx = muon(1.0)
    update, _ = tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)
    np.testing.assert_allclose(jnp.linalg.svd(update, compute_uv=False), [1.047, 0.731], atol=1e-3)
    np.testing.assert_allclose(jnp.diag(update) / jnp.diag(COMPLEX), [-0.731 / 5, -1.047 / 2], atol=1e-3)


@pytest.mark.slow
@of_each
@pytest.mark.usefixtures("x64")
def test_a_complex_matrix_is_updated_up_to_unitary_factors(name):
    # With unitary diagonal U and V the update of U A V is U u(A) V. That of a real A is known to be right.
    real = normal(3, 6, 4)
    left, right = (jnp.exp(1j * jnp.arange(size) ** 2) for size in (6, 4))
    tx = OPTIMIZERS[name](0.1, weight_decay=0.0)

    @jax.jit
    def updates(gradients, turn):
        state = tx.init(gradients[0])
        if name == "dion":  # The basis turns with the shorter side; real and complex draws differ.
            basis = turn[:, None] * optax.tree.get(tx.init(real[0]), "basis")
            state = optax.tree.set(state, basis=basis.astype(gradients.dtype))

        def step(state, gradient):
            update, state = tx.update(gradient, state)
            return state, update

        return jax.lax.scan(step, state, gradients)[1]

    expected = left[:, None] * updates(real, jnp.ones(4)) * right
    np.testing.assert_allclose(updates(left[:, None] * real * right, right.conj()), expected, atol=1e-8)


# Layers that are stacked along a leading axis, as `nn.scan` and `nnx.vmap` make them

STACKED = {"layers": {"kernel": normal(3, 8, 6, seed=1), "bias": jnp.ones((3, 6))}}
STACKS = functools.partial(flax_dimension_numbers, stacked=lambda path: path.startswith("layers/"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "given"), [
    ("muon", {"weight_dimension_numbers": STACKS}),
    ("dion", {"weight_dimension_numbers": STACKS}),
    ("muon", {"labels": {"layers": {"kernel": "matrix", "bias": "other"}}}),
])  # fmt: skip
def test_stacked_layers_are_updated_each_as_if_alone(name, given):
    together, of_layer = (
        jax.jit(functools.partial(first_update, OPTIMIZERS[name](1e-2, **options))) for options in (given, {})
    )
    gradients = normal_like(STACKED)
    updates = together(gradients, STACKED)
    for layer in range(3):
        one = functools.partial(jax.tree.map, lambda x, layer=layer: x[layer])
        assert_close(one(updates), of_layer(one(gradients), one(STACKED)), atol=2e-6)


@of_each
def test_a_stacked_bias_is_never_a_matrix_by_default(name):
    with pytest.raises(ValueError, match=rf"^{name} takes leaves of two axes .* 'layers/bias' .*_numbers, stacked="):
        OPTIMIZERS[name](1e-2).init(STACKED)


# Libraries

OTHER_NAMES = {
    "equinox": eqx.filter(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), eqx.is_inexact_array),
    "haiku": {"linear": {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}},
    "dict": {"w1": jnp.ones((3, 4))},
}


@of_each
@pytest.mark.parametrize("tree", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_numbers_that_no_leaf_gets_are_refused(name, tree):
    with pytest.raises(ValueError, match=rf"^{name}: by weight_dimension_numbers no leaf is a matrix"):
        OPTIMIZERS[name](1e-2, weight_dimension_numbers=flax_dimension_numbers).init(tree)


@pytest.mark.slow
def test_kernels_of_nnx_are_found_by_their_names():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    before = {"kernel": model.kernel[...], "bias": jnp.zeros(3)}
    gradients = jax.tree.map(jnp.cos, nnx.state(model, nnx.Param))
    tx = muon(1e-2, weight_dimension_numbers=flax_dimension_numbers)
    nnx.Optimizer(model, tx, wrt=nnx.Param).update(model, gradients)
    tx = muon(1e-2)
    updates, _ = tx.update(jax.tree.map(jnp.cos, before), tx.init(before), before)
    after = optax.apply_updates(before, updates)
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), after, atol=1e-6)


# Settings of JAX


@of_each
def test_ranks_and_dtypes_need_no_promotion(name):
    # AdamW is Optax's, which promotes.
    tx = OPTIMIZERS[name](1e-2, others=optax.sgd(0.1))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        updates = jax.eval_shape(functools.partial(first_update, tx), PARAMS, PARAMS)
    assert updates["kernel"].shape == (16, 32)


@of_each
def test_a_state_keeps_its_dtypes_when_x64_is_switched_on(name):
    tx = OPTIMIZERS[name](1e-2)
    state = jax.eval_shape(tx.init, PARAMS)
    with jax.enable_x64(True):
        _, new_state = jax.eval_shape(tx.update, PARAMS, state, PARAMS)
    assert jax.tree.map(lambda x: x.dtype, new_state) == jax.tree.map(lambda x: x.dtype, state)
