import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trajectories
from draws import normal
from optax.contrib import MuonDimensionNumbers
from promises import assert_same_steps

import optkit

first_update = jax.jit(trajectories.first_update, static_argnums=0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(12, 16), (16, 12)])
def test_singular_values_of_an_update_are_about_the_scaled_learning_rate(shape):
    update = first_update(optkit.mars_m(0.1, weight_decay=0.0), normal(*shape))
    values = np.linalg.svd(update, compute_uv=False) / (0.1 * 0.2 * 16**0.5)
    assert 0.6 < np.min(values) < np.max(values) < 1.25


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "stretch"), [((4, 16), 1.0), ((16, 4), 2.0)])
def test_shampoo_stretches_matrices_with_more_rows(shape, stretch):
    update = first_update(optkit.mars_shampoo(0.1), normal(*shape))
    values = np.linalg.svd(update, compute_uv=False) / (0.1 * stretch)
    assert 0.6 < np.min(values) < np.max(values) < 1.25


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("build", [optkit.mars_lion, optkit.mars_shampoo, optkit.mars_m])
def test_one_buffer_gives_the_steps_of_two(build):
    gradients = {"kernel": normal(20, 6, 4), "bias": normal(20, 4, seed=1)}
    params = jax.tree.map(lambda g: np.asarray(g)[0], gradients)
    unclipped = optkit.MarsCorrection(max_norm=None)
    one = build(0.1, gamma=0.3, correction=unclipped)
    two = build(0.1, gamma=optax.constant_schedule(0.3), correction=unclipped)
    assert_same_steps(one, two, gradients, params, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_convolutions_are_matrices_of_output_channels_by_their_numbers():
    kernel = normal(3, 2, 5, 8)
    matrix = kernel.reshape(30, 8)
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    tx = optkit.mars_m(0.1, weight_dimension_numbers=numbers)
    np.testing.assert_allclose(
        first_update(tx, kernel).reshape(30, 8), first_update(optkit.mars_m(0.1), matrix), atol=1e-14
    )


@pytest.mark.usefixtures("x64")
def test_epsilon_of_the_other_leaves_stands_beside_the_uncorrected_root():
    gradients = {"bias": jnp.full(4, 1e-6)}
    update = first_update(optkit.mars_m(1.0, weight_decay=0.0), gradients)
    root = 0.05**0.5  # of (1 - 0.95) g^2 over g^2
    np.testing.assert_allclose(update["bias"], -root / (root + 1e-8 / 1e-6), rtol=1e-12)


@pytest.mark.slow
def test_embeddings_may_be_left_to_adamw():
    params = {"kernel": normal(6, 4), "embedding": normal(9, 4)}
    tx = optkit.mars_m(0.1, weight_decay=0.0, corrected={"kernel": True, "embedding": False})
    updates = first_update(tx, params, params)
    np.testing.assert_allclose(np.abs(updates["embedding"]), 0.1, rtol=1e-3)


def test_a_vector_among_the_matrices_is_named():
    params = {"bias": jnp.ones(5)}
    tx = optkit.mars_m(0.1, corrected=True)
    with pytest.raises(ValueError, match=r"mars_m: the leaf 'bias' of shape \(5,\) is not a matrix"):
        tx.init(params)


@pytest.mark.slow
def test_products_may_be_rounded_to_bfloat16():
    params = normal(12, 16)
    for build in (optkit.mars_m, optkit.mars_shampoo):
        rounding = functools.partial(optkit.linalg.newton_schulz, dtype=jnp.bfloat16)
        exact, rounded = (first_update(build(0.1, orthogonalize=function), params) for function in (None, rounding))
        assert rounded.dtype == exact.dtype
        exact, rounded = np.asarray(exact), np.asarray(rounded)
        assert 0 < np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)
