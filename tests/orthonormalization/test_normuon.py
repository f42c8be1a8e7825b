import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_cautious_decay_spares_what_moves_outward, assert_names_leaf_without_numbers
from trajectories import last_update, trajectory

from optkit.core.linalg.newton_schulz import newton_schulz, polar_express
from optkit.orthonormalization._muon import scale_by_muon
from optkit.orthonormalization._normuon import normuon, scale_by_normuon

TORCH = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("scale", "nesterov"), [("spectral", False), ("rms", True), ("jordan", False), (None, True)])
def test_the_norm_is_that_of_muons_update(scale, nesterov):
    gradients = normal(3, 9, 6)
    theirs = scale_by_muon(0.9, nesterov=nesterov, ema=False, orthogonalize=polar_express, scale=scale)
    expected = np.linalg.norm(last_update(theirs, gradients))
    ours = last_update(scale_by_normuon(0.9, nesterov=nesterov, scale=scale), gradients)
    np.testing.assert_allclose(np.linalg.norm(ours), expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rows_of_the_first_update_are_equal_in_size():
    update = last_update(scale_by_normuon(weight_dimension_numbers=TORCH), normal(1, 9, 6))
    sizes = np.linalg.norm(update, axis=1)
    np.testing.assert_allclose(sizes, np.full(9, sizes[0]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_are_outputs():
    gradients = normal(3, 9, 6)
    torch = last_update(scale_by_normuon(weight_dimension_numbers=TORCH), gradients)
    kernel = last_update(scale_by_normuon(), np.asarray(gradients).mT)
    np.testing.assert_allclose(kernel.T, torch, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_second_moments_are_averages_of_the_rows_mean_squares():
    gradients = np.asarray(normal(2, 4, 6))
    states = trajectory(scale_by_normuon(0.0, 0.9, orthogonalize=lambda x: x), gradients).states
    squares = np.mean(gradients**2, axis=1)
    np.testing.assert_allclose(states.second_moment[-1], 0.09 * squares[0] + 0.1 * squares[1], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_updates_of_the_paper_have_a_root_mean_square_of_a_fifth():
    update = last_update(scale_by_normuon(ema=True, scale="paper_rms"), normal(3, 2, 9, 6))
    np.testing.assert_allclose(np.sqrt(np.mean(update**2, axis=(-2, -1))), [0.2, 0.2], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_average_and_sum_give_the_same_updates():
    exact = functools.partial(newton_schulz, eps=0.0)
    one, other = (last_update(scale_by_normuon(ema=ema, orthogonalize=exact), normal(4, 9, 6)) for ema in (True, False))
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("scale", ["spectral", "paper_rms"])
def test_a_gradient_of_zeros_gives_an_update_of_zeros(scale):
    update = last_update(scale_by_normuon(scale=scale), jnp.zeros((2, 4, 6)))
    np.testing.assert_array_equal(update, np.zeros((4, 6)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_cautious_decay_spares_what_the_update_moves_outward():
    assert_cautious_decay_spares_what_moves_outward(normuon)


def test_one_number_a_row_is_kept_beside_the_momentum():
    params = {"kernel": jnp.zeros((4, 6)), "experts": jnp.zeros((3, 4, 6)), "empty": jnp.zeros((0, 6))}
    state = scale_by_normuon().init(params)
    assert jax.tree.map(jnp.shape, optax.tree.get(state, "second_moment")) == {
        "kernel": (6,),
        "experts": (3, 6),
        "empty": None,
    }


@pytest.mark.parametrize(("arguments", "message"), [
    ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ({"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
    ({"scale": "adam"}, "scale must be 'jordan', 'spectral', 'rms', 'paper_rms' or None, got 'adam'"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        normuon(0.1, **arguments)


def test_epsilon_must_be_positive():
    with pytest.raises(ValueError, match=r"eps must be in \(0, inf\], got 0.0"):
        scale_by_normuon(eps=0.0)


def test_a_leaf_without_numbers_is_named():
    assert_names_leaf_without_numbers(scale_by_normuon)
