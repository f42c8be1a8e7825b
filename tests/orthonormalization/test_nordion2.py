import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.orthonormalization._dion2 import scale_by_dion2
from optkit.orthonormalization._nordion2 import nordion2, scale_by_nordion2
from optkit.orthonormalization._normuon import scale_by_normuon

TORCH = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def updates_and_states(tx, gradients):
    state, seen, jitted = tx.init(gradients[0]), [], jax.jit(tx.update)
    for gradient in gradients:
        update, state = jitted(gradient, state)
        seen.append((update, state))
    return seen


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_rows_of_dion2_move(shape):
    gradients = normal(4, *shape)
    ours = updates_and_states(scale_by_nordion2(0.3, weight_dimension_numbers=TORCH), gradients)
    theirs = updates_and_states(scale_by_dion2(0.3, select="rows", weight_dimension_numbers=TORCH), gradients)
    for (update, state), (expected, expected_state) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(jnp.any(update != 0, axis=1), jnp.any(expected != 0, axis=1))
        np.testing.assert_allclose(jnp.linalg.norm(update), jnp.linalg.norm(expected), rtol=1e-12)
        np.testing.assert_array_equal(state.momentum, expected_state.momentum)


@pytest.mark.usefixtures("x64")
def test_second_moments_of_other_rows_stay():
    seen = updates_and_states(scale_by_nordion2(0.3, 0.5, 0.9, weight_dimension_numbers=TORCH), normal(6, 6, 9))
    for (_, before), (update, after) in itertools.pairwise(seen):
        still = ~jnp.any(update != 0, axis=1)
        np.testing.assert_array_equal(after.second_moment[still], before.second_moment[still])
        assert jnp.all(after.second_moment[~still] != before.second_moment[~still])


@pytest.mark.usefixtures("x64")
def test_selected_rows_of_the_first_update_are_equal_in_size():
    update, _ = updates_and_states(scale_by_nordion2(0.5, weight_dimension_numbers=TORCH), normal(1, 10, 4))[0]
    sizes = jnp.linalg.norm(update, axis=1)
    sizes = sizes[sizes > 0]
    np.testing.assert_allclose(sizes, jnp.full(5, sizes[0]), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_all_rows_give_normuon():
    gradients = normal(5, 9, 6)
    ours = updates_and_states(scale_by_nordion2(1.0, 0.9, 0.8), gradients)[-1][0]
    np.testing.assert_allclose(ours, updates_and_states(scale_by_normuon(0.9, 0.8), gradients)[-1][0], atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rows_are_outputs():
    gradients = normal(4, 9, 6)
    torch = updates_and_states(scale_by_nordion2(weight_dimension_numbers=TORCH), gradients)[-1][0]
    kernel = updates_and_states(scale_by_nordion2(), gradients.mT)[-1][0]
    np.testing.assert_allclose(kernel.T, torch, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rows_that_are_not_selected_only_decay():
    params, gradient = normal(6, 9), normal(6, 9, seed=1).at[2].multiply(10.0)
    tx = nordion2(0.1, 0.1, weight_decay=0.5, weight_dimension_numbers=TORCH)
    new = params + jax.jit(tx.update)(gradient, tx.init(params), params)[0]
    rest = jnp.array([0, 1, 3, 4, 5])
    np.testing.assert_allclose(new[rest], 0.95 * params[rest], rtol=1e-12)
    assert jnp.min(jnp.abs(new[2] - 0.95 * params[2])) > 0


@pytest.mark.parametrize(("arguments", "message"), [
    ({"fraction": 1.5}, r"fraction must be in \(0, 1\], got 1.5"),
    ({"ef_decay": -0.5}, r"ef_decay must be in \[0, 1\], got -0.5"),
    ({"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
    ({"scale": "paper_rms"}, "scale must be 'jordan', 'spectral', 'rms' or None, got 'paper_rms'"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nordion2(0.1, **arguments)


def test_epsilon_must_be_positive():
    with pytest.raises(ValueError, match=r"eps must be in \(0, inf\], got 0.0"):
        scale_by_nordion2(eps=0.0)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"the leaf 'bias' of shape \(3,\) is not a matrix"):
        scale_by_nordion2().init({"bias": jnp.ones(3)})
