import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers
from promises import assert_cautious_decay_spares_what_moves_outward, assert_same_parameters
from trajectories import compiled_first_update, first_update

from optkit.core.linalg.newton_schulz import newton_schulz, polar_express
from optkit.orthonormalization import muon, scale_by_muon


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("scale", "wide", "tall"), [
    ("jordan", 2.0, 1.0), ("spectral", 2.0, 0.5), ("rms", 0.8, 0.8), (None, 1.0, 1.0),
])  # fmt: skip
def test_singular_values_of_an_update_are_about_the_scale(scale, wide, tall):
    # Kernels of Flax: inputs times outputs.
    for shape, expected in (((4, 16), wide), ((16, 4), tall)):
        update = compiled_first_update(scale_by_muon(scale=scale), normal(*shape))
        values = np.linalg.svd(update, compute_uv=False) / expected
        assert 0.6 < np.min(values) < np.max(values) < 1.25


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_average_and_sum_give_the_same_steps():
    exact = functools.partial(newton_schulz, eps=0.0)
    one, other = (muon(0.1, ema=ema, orthogonalize=exact) for ema in (True, False))
    assert_same_parameters(one, other, normal(10, 6, 4), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_momentum_is_as_published(nesterov):
    seen = []

    def spy(x):
        seen.append(x)
        return x

    tx = scale_by_muon(0.9, nesterov=nesterov, orthogonalize=spy)
    gradients = np.asarray(normal(3, 6, 4))
    state, momentum = tx.init(gradients[0]), np.zeros((6, 4))
    for gradient in gradients:
        _, state = tx.update(gradient, state)
        momentum = 0.9 * momentum + 0.1 * gradient
        expected = 0.1 * gradient + 0.9 * momentum if nesterov else momentum
        np.testing.assert_allclose(seen[-1][0], expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_without_nesterov_it_is_optax_muon():
    theirs = optax.contrib.muon(0.1, nesterov=False, eps=1e-12, consistent_rms=None)
    exact = functools.partial(newton_schulz, eps=1e-12)
    ours = muon(0.1, nesterov=False, orthogonalize=exact)
    assert_same_parameters(ours, theirs, normal(8, 6, 4), atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_products_of_rows_give_the_steps_of_newton_schulz():
    gradients = {"wide": normal(6, 4, 20), "tall": normal(6, 20, 4), "square": normal(6, 4, 4)}
    ours, plain = muon(0.1), muon(0.1, orthogonalize=newton_schulz)
    assert_same_parameters(ours, plain, gradients, atol=1e-11)
    wide = normal(4, 64)
    fewer, more = (
        jax.jit(lambda g, tx=tx: first_update(tx, g)).lower(wide).compile().cost_analysis()["flops"]
        for tx in (ours, plain)
    )
    assert fewer < 0.6 * more


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("blocks", [(3, 3), (1, 3, 2)])
def test_blocks_of_rows_are_matrices_of_their_own(blocks):
    kernel = np.asarray(normal(4, 6))
    update = compiled_first_update(scale_by_muon(scale="spectral", row_blocks=blocks), kernel)
    ends = np.cumsum(blocks)[:-1]
    of_part = jax.jit(functools.partial(first_update, scale_by_muon(scale="spectral")))
    alone = [of_part(part) for part in np.split(kernel, ends, axis=1)]
    np.testing.assert_allclose(update, np.concatenate(alone, axis=1), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_blocks_are_given_for_each_leaf():
    kernels = {"fused": normal(4, 6), "whole": normal(4, 6)}
    update = compiled_first_update(scale_by_muon(row_blocks={"fused": (3, 3), "whole": None}), kernels)
    whole = compiled_first_update(scale_by_muon(), kernels)
    np.testing.assert_allclose(update["whole"], whole["whole"], atol=1e-12)
    assert np.max(np.abs(np.subtract(update["fused"], whole["fused"]))) > 1e-2


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_heads_of_attention_may_be_a_batch():
    kernel = np.asarray(normal(4, 3, 2))
    batch = compiled_first_update(scale_by_muon(weight_dimension_numbers=MuonDimensionNumbers(0, 2)), kernel)
    blocks = compiled_first_update(scale_by_muon(row_blocks=(2, 2, 2)), kernel.reshape(4, 6))
    np.testing.assert_allclose(np.asarray(batch).reshape((4, 6)), blocks, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_convolution_is_the_matrix_of_its_flattened_inputs():
    kernel = np.asarray(normal(3, 2, 4, 5))
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    update = compiled_first_update(muon(0.1, weight_dimension_numbers=numbers), kernel)
    expected = compiled_first_update(muon(0.1), kernel.reshape(24, 5))
    np.testing.assert_allclose(np.asarray(update).reshape((24, 5)), expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_cautious_decay_spares_what_the_update_moves_outward():
    assert_cautious_decay_spares_what_moves_outward(muon)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_other_leaves_are_adamws():
    gradients = {"kernel": normal(8, 6, 4), "bias": normal(8, 4), "embedding": normal(8, 6, 4)}
    labels = {"kernel": "matrix", "bias": "other", "embedding": "other"}
    tx, adam = muon(0.1, weight_decay=0.5, labels=labels), optax.adam(0.1, 0.9, 0.95, 1e-10)
    assert_same_parameters(tx, adam, gradients, leaves=("bias", "embedding"), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("data", "model"), (("data", "model"), None)])
def test_sharded_matrices_take_the_same_steps(axis_type, spec):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    tx = muon(0.1, orthogonalize=polar_express)
    gradient = np.asarray(normal(32, 16))
    expected = compiled_first_update(tx, gradient)
    with jax.set_mesh(mesh):
        update = compiled_first_update(tx, jax.device_put(gradient, sharding))
    np.testing.assert_allclose(update, expected, atol=1e-10)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ({"scale": "frobenius"}, "scale must be 'jordan', 'spectral', 'rms' or None, got 'frobenius'"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        muon(0.1, **arguments)


def test_blocks_that_do_not_sum_to_the_rows_are_refused():
    with pytest.raises(ValueError, match=r"row_blocks must sum to the 6 rows of a matrix, got \(3, 4\)"):
        first_update(scale_by_muon(row_blocks=(3, 4)), normal(4, 6))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"the leaf 'bias' of shape \(3,\) is not a matrix"):
        first_update(scale_by_muon(), {"bias": jnp.ones(3)})


@pytest.mark.slow
def test_a_leaf_without_numbers_is_named():
    with pytest.raises(ValueError, match=r"scale_by_muon: the leaf 'head' of shape \(3, 4\) is not a matrix by"):
        first_update(scale_by_muon(weight_dimension_numbers={"head": None}), {"head": jnp.ones((3, 4))})
