import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal

import optkit

COMPLEX = jnp.array([1j, -1, 1 - 1j, -1 + 2j])


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("mean_clamp", 4 / 3), ("numel_plus_one", 4 / 4)])
def test_cautious_rescales_the_coordinates_that_move(scale, factor):
    tx = optkit.cautious(optax.trace(0.9), scale=scale, before_learning_rate=True)
    params = jnp.zeros(4)
    _, state = tx.update(jnp.ones(4), tx.init(params), params)
    updates, _ = tx.update(jnp.array([1.0, 1.0, 1.0, -0.1]), state, params)
    np.testing.assert_allclose(updates, factor * jnp.array([1.9, 1.9, 1.9, 0.0]), rtol=1e-6)


@pytest.mark.parametrize("scale", ["mean_clamp", "numel_plus_one"])
def test_cautious_rescales_sharded_leaves_as_whole_ones(scale):
    gradient, update = normal(2, 16, 3)

    def cautious_update(axis_name, update, gradient):
        inner = optax.stateless(lambda _, params: params)  # proposes what it is given as parameters
        tx = optkit.cautious(inner, scale=scale, before_learning_rate=True, axis_name=axis_name)
        return tx.update(gradient, tx.init(update), update)[0]

    mesh = jax.make_mesh((8,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.P("shards")
    sharded = jax.shard_map(functools.partial(cautious_update, "shards"), mesh=mesh, in_specs=rows, out_specs=rows)
    np.testing.assert_allclose(jax.jit(sharded)(update, gradient), cautious_update(None, update, gradient), rtol=1e-6)


def test_cautious_without_rescaling_talks_to_nobody():
    tx = optkit.cautious(optax.sgd(0.1), scale="none", axis_name="workers")
    cost = optkit.cost(tx, {"w": jax.ShapeDtypeStruct((8,), jnp.float32)}, axis_name="workers", axis_size=8)
    assert cost.sent == {}


@pytest.mark.parametrize("scale", ["none", "mean_clamp", "numel_plus_one"])
def test_cautious_stands_still_where_nothing_agrees(scale):
    tx = optkit.cautious(optax.scale(-1.0), scale=scale, before_learning_rate=True)
    params = jnp.ones(4)
    np.testing.assert_array_equal(tx.update(params, tx.init(params), params)[0], jnp.zeros(4))


def test_cautious_compares_directions_of_complex_numbers():
    tx = optkit.cautious(optax.sgd(1.0))
    np.testing.assert_array_equal(tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)[0], -COMPLEX)
    proposal = jnp.array([1j, 1 + 1j, -2j, -1.0])  # its real products with the gradients: 1, -1, 2, 1
    tx = optkit.cautious(optax.stateless(lambda *_: proposal), scale="none", before_learning_rate=True)
    np.testing.assert_array_equal(tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)[0], proposal * jnp.array([1, 0, 1, 1]))


@pytest.mark.parametrize("scale", ["mean_clamp", "numel_plus_one"])
@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**15)])
def test_cautious_takes_leaves_of_more_entries_than_32_bits_count(scale, shape):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    tx = optkit.cautious(optax.sgd(0.1), scale=scale)
    assert jax.eval_shape(tx.update, leaf, jax.eval_shape(tx.init, leaf), leaf)[0].shape == shape


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_epsilon_of_cautious_adamw_follows_either_path_of_the_authors():
    grad, b1, b2, eps = 0.3, 0.9, 0.999, 0.1
    m, v = (1 - b1) * grad, (1 - b2) * grad**2
    loop = (1 - b2) ** 0.5 / (1 - b1) * m / (v**0.5 + eps)  # foreach=False
    foreach = m / (1 - b1) / ((v / (1 - b2)) ** 0.5 + eps)  # foreach=True
    params = jnp.zeros(())
    for arguments, right in (({}, loop), ({"eps_placement": "post"}, foreach)):
        tx = optkit.cautious_adamw(1.0, b1, b2, eps, **arguments)
        np.testing.assert_allclose(tx.update(jnp.asarray(grad), tx.init(params))[0], -right, rtol=1e-12)
