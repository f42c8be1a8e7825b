import jax
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_other_rows_only_decay, assert_refuses_vectors
from trajectories import last_update, trajectory

from optkit.orthonormalization._dion2 import scale_by_dion2
from optkit.orthonormalization._nordion2 import nordion2, scale_by_nordion2
from optkit.orthonormalization._normuon import scale_by_normuon

TORCH = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_rows_of_dion2_move(shape):
    gradients = normal(4, *shape)
    ours, theirs = (
        jax.tree.map(np.asarray, trajectory(tx, gradients))
        for tx in (
            scale_by_nordion2(0.3, weight_dimension_numbers=TORCH),
            scale_by_dion2(0.3, select="rows", weight_dimension_numbers=TORCH),
        )
    )
    for update, expected in zip(ours.updates, theirs.updates, strict=True):
        np.testing.assert_array_equal(np.any(update != 0, axis=1), np.any(expected != 0, axis=1))
        np.testing.assert_allclose(np.linalg.norm(update), np.linalg.norm(expected), rtol=1e-12)
    np.testing.assert_array_equal(ours.states.momentum, theirs.states.momentum)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_second_moments_of_other_rows_stay():
    tx = scale_by_nordion2(0.3, 0.5, 0.9, weight_dimension_numbers=TORCH)
    _, updates, states = jax.tree.map(np.asarray, trajectory(tx, normal(6, 6, 9)))
    for update, before, after in zip(updates[1:], states.second_moment[:-1], states.second_moment[1:], strict=True):
        still = ~np.any(update != 0, axis=1)
        np.testing.assert_array_equal(after[still], before[still])
        assert np.all(after[~still] != before[~still])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_selected_rows_of_the_first_update_are_equal_in_size():
    update = last_update(scale_by_nordion2(0.5, weight_dimension_numbers=TORCH), normal(1, 10, 4))
    sizes = np.linalg.norm(update, axis=1)
    sizes = sizes[sizes > 0]
    np.testing.assert_allclose(sizes, np.full(5, sizes[0]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_all_rows_give_normuon():
    gradients = normal(5, 9, 6)
    ours = last_update(scale_by_nordion2(1.0, 0.9, 0.8), gradients)
    np.testing.assert_allclose(ours, last_update(scale_by_normuon(0.9, 0.8), gradients), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_are_outputs():
    gradients = normal(4, 9, 6)
    torch = last_update(scale_by_nordion2(weight_dimension_numbers=TORCH), gradients)
    kernel = last_update(scale_by_nordion2(), np.asarray(gradients).mT)
    np.testing.assert_allclose(kernel.T, torch, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rows_that_are_not_selected_only_decay():
    assert_other_rows_only_decay(nordion2(0.1, 0.1, weight_decay=0.5, weight_dimension_numbers=TORCH), 0.95)


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
    assert_refuses_vectors(scale_by_nordion2(), "scale_by_nordion2")
