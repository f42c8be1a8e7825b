import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import (
    assert_names_leaf_without_numbers,
    assert_other_rows_only_decay,
    assert_refuses_vectors,
    assert_same_parameters,
)
from trajectories import trajectory

from optkit.core.linalg.newton_schulz import polar_express
from optkit.orthonormalization._dion2 import dion2, scale_by_dion2
from optkit.orthonormalization._muon import muon

TORCH = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


def first_step(tx, gradients):
    """As one program, in NumPy."""
    run = trajectory(tx, jax.tree.map(lambda g: np.asarray(g)[None], gradients))
    return jax.tree.map(lambda x: np.asarray(x)[-1], run)


def ones_for(gradients):
    return jax.tree.map(lambda g: np.ones(g.shape[1:], g.dtype), gradients)


def moved(direction, axis):
    return np.flatnonzero(np.any(np.asarray(direction) != 0, axis=axis))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "select", "side"), [
    ((6, 9), None, 0), ((9, 6), None, 1), ((6, 6), None, 0), ((9, 6), "rows", 0), ((6, 9), "columns", 1),
])  # fmt: skip
def test_the_slices_with_the_largest_sums_of_magnitudes_are_selected(shape, select, side):
    gradient = normal(*shape)
    tx = scale_by_dion2(0.25, select=select, weight_dimension_numbers=TORCH)
    sums = np.sum(np.abs(gradient), axis=1 - side)
    largest = np.sort(np.argsort(-sums)[: -(-shape[side] // 4)])
    np.testing.assert_array_equal(moved(first_step(tx, gradient).updates, 1 - side), largest)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_are_outputs():
    gradient = normal(4, 6)
    kernel = first_step(scale_by_dion2(0.5, select="rows"), gradient.T).updates
    torch = first_step(scale_by_dion2(0.5, select="rows", weight_dimension_numbers=TORCH), gradient).updates
    np.testing.assert_allclose(kernel.T, torch, atol=1e-12)


@pytest.mark.slow
def test_of_equal_rows_the_first_are_selected():
    tx = scale_by_dion2(0.5, weight_dimension_numbers=TORCH)
    direction = first_step(tx, jnp.ones((5, 8)).at[4].set(-1.0)).updates
    np.testing.assert_array_equal(moved(direction, 1), [0, 1, 2])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_is_selected_is_orthogonalized_alone():
    gradient = np.array(normal(6, 9))
    gradient[[1, 4]] *= 10.0
    tx = scale_by_dion2(0.3, scale="spectral", weight_dimension_numbers=TORCH)
    direction = first_step(tx, gradient).updates
    expected = np.sqrt(6 / 9) * jax.jit(polar_express)(gradient[[1, 4]])
    np.testing.assert_allclose(direction[[1, 4]], expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_what_is_selected_shrinks_in_the_momentum_and_the_rest_stays():
    gradient = np.array(normal(6, 9))
    gradient[2] *= 10.0
    tx = scale_by_dion2(0.1, 0.7, weight_dimension_numbers=TORCH)
    state = first_step(tx, gradient).states
    gradient[2] *= 0.7
    np.testing.assert_allclose(state.momentum, gradient, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_that_are_not_selected_only_decay():
    assert_other_rows_only_decay(dion2(0.1, 0.1, weight_decay=0.5, weight_dimension_numbers=TORCH), 0.95)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_small_rows_have_their_turn():
    gradients = np.tile(normal(6, 9), (40, 1, 1))
    gradients[:, 0] *= 0.2
    tx = dion2(0.1, 0.3, 0.5, weight_decay=0.0, weight_dimension_numbers=TORCH)
    params = np.asarray(trajectory(tx, gradients, np.ones((6, 9))).params)
    assert np.all(params[0, 0] == 1)
    assert np.all(params[-1, 0] != 1)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_all_rows_give_muon_without_nesterov(shape):
    gradients = normal(10, *shape)
    ours = dion2(0.1, 1.0, 0.9, weight_decay=0.1)
    theirs = muon(0.1, 0.9, weight_decay=0.1, nesterov=False, ema=False, orthogonalize=polar_express, scale="spectral")
    assert_same_parameters(ours, theirs, gradients, ones_for(gradients), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_each_matrix_of_a_batch_selects_by_itself():
    gradients, tx = np.asarray(normal(3, 8, 4)), scale_by_dion2()
    batch = first_step(tx, gradients).updates
    alone = [first_step(tx, gradient).updates for gradient in gradients]
    np.testing.assert_allclose(batch, np.stack(alone), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_leaves_of_equal_shape_select_by_themselves():
    gradients = {"a": normal(8, 4), "b": normal(8, 4, seed=1), "c": normal(4, 8)}
    tx = scale_by_dion2()
    together = first_step(tx, gradients).updates
    alone = {name: first_step(tx, gradient).updates for name, gradient in gradients.items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), together, alone)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_other_leaves_are_those_of_the_optimizer_that_is_given():
    gradients = {"kernel": normal(8, 6, 4), "bias": normal(8, 4), "embedding": normal(8, 6, 4)}
    labels = {"kernel": "matrix", "bias": "other", "embedding": "other"}
    others = optax.lion(0.2, 0.9, 0.95, weight_decay=0.3)
    tx, leaves = dion2(0.1, labels=labels, others=others), ("bias", "embedding")
    assert_same_parameters(tx, others, gradients, ones_for(gradients), leaves=leaves, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_by_default_leaves_that_are_no_matrices_are_adamws_at_the_same_rate():
    gradients = {"kernel": normal(8, 6, 4), "bias": normal(8, 4)}
    adam = optax.adam(0.1, 0.9, 0.95)
    assert_same_parameters(dion2(0.1), adam, gradients, ones_for(gradients), leaves=("bias",), atol=1e-12)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
    ({"ef_decay": 1.5}, r"ef_decay must be in \[0, 1\], got 1.5"),
    ({"select": "heads"}, "select must be 'rows', 'columns' or None, got 'heads'"),
    ({"scale": "paper_rms"}, "scale must be 'jordan', 'spectral', 'rms' or None, got 'paper_rms'"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dion2(0.1, **arguments)


def test_a_vector_is_refused():
    assert_refuses_vectors(scale_by_dion2(), "scale_by_dion2")


@pytest.mark.slow
def test_a_leaf_without_numbers_is_named():
    assert_names_leaf_without_numbers(scale_by_dion2)
