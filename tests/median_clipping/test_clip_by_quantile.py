import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import optkit
from optkit.median_clipping import _clip_by_quantile as clip_by_quantile
from optkit.median_clipping._clip_by_quantile import _count


def heavy_tailed(seed, dtype=jnp.float32):
    shapes = {"kernel": (8, 5), "bias": (24,), "scalar": ()}
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: jax.random.cauchy(key, shape).astype(dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def clipped(gradients, fraction, **options):
    tx = optkit.clip_by_quantile(fraction, **options)
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])(gradients)


def kth_largest(x, k):
    return np.sort(np.abs(np.asarray(x, np.float64)).ravel())[-k]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1.0])
def test_threshold_is_the_kth_largest_of_all_leaves(dtype, fraction):
    gradients = heavy_tailed(0, dtype)
    everything = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradients)])
    threshold = kth_largest(everything, max(1, int(np.ceil(fraction * 65))))
    updates = clipped(gradients, fraction)
    for update, gradient in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True):
        assert update.dtype == dtype
        np.testing.assert_array_equal(
            np.asarray(update, np.float64), np.clip(np.asarray(gradient, np.float64), -threshold, threshold)
        )


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1.0, 1e20])
def test_each_leaf_has_its_threshold_with_per_leaf(scale):
    gradients = jax.tree.map(lambda g: scale * g, heavy_tailed(1))
    for update, gradient in zip(
        jax.tree.leaves(clipped(gradients, 0.25, per_leaf=True)), jax.tree.leaves(gradients), strict=True
    ):
        k = max(1, int(np.ceil(0.25 * gradient.size)))
        assert np.max(np.abs(np.asarray(update, np.float64))) == kth_largest(gradient, k)
        assert np.sum(np.asarray(update) != np.asarray(gradient)) <= k - 1


def test_ties_are_clipped_to_their_value():
    np.testing.assert_array_equal(clipped(jnp.array([2.0, -2.0, 2.0, 1.0]), 0.5), [2.0, -2.0, 2.0, 1.0])
    np.testing.assert_array_equal(clipped(jnp.array([9.0, -2.0, 2.0, 1.0]), 0.5), [2.0, -2.0, 2.0, 1.0])


def test_mostly_zero_gradients_vanish():
    np.testing.assert_array_equal(clipped(jnp.array([9.0, 0.0, 0.0, 0.0]), 0.5), jnp.zeros(4))


def test_nan_stays_and_counts_as_largest():
    np.testing.assert_array_equal(clipped(jnp.array([jnp.nan, -5.0, 4.0, 1.0]), 0.5), [jnp.nan, -5.0, 4.0, 1.0])
    np.testing.assert_array_equal(clipped(jnp.array([jnp.inf, -5.0, 4.0, 1.0]), 0.5), [5.0, -5.0, 4.0, 1.0])


@pytest.mark.parametrize("per_leaf", [False, True])
@pytest.mark.parametrize("check_vma", [False, True])
def test_leaves_sharded_inside_shard_map_count_together(per_leaf, check_vma):
    gradients = {name: leaf for name, leaf in heavy_tailed(2).items() if leaf.ndim}
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))
    tx = optkit.clip_by_quantile(0.2, per_leaf=per_leaf, axis_name="shards")
    spec = PartitionSpec("shards")
    sharded = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[0], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
    )
    whole = clipped(gradients, 0.2, per_leaf=per_leaf)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(sharded)(gradients), whole)


@pytest.mark.parametrize("per_leaf", [False, True])
@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**16), (3, 2**20, 2**11)])
def test_more_coordinates_than_an_integer_counts_are_clipped(shape, per_leaf):
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in "ab"}
    tx = optkit.clip_by_quantile(0.1, per_leaf=per_leaf)
    assert jax.eval_shape(lambda g: tx.update(g, tx.init(g))[0], shapes) == shapes


@pytest.mark.parametrize("shape", [(), (7,), (300, 301), (3, 5, 7)])
def test_counts_are_multiples_and_a_rest(shape):
    marked = jax.random.bernoulli(jax.random.key(0), 0.9, shape)
    high, low = _count(marked)
    assert high * 2**16 + low == np.sum(marked)
    assert low < 2**16


def test_counts_of_leaves_whose_axes_are_counted_in_turn(monkeypatch):
    monkeypatch.setattr(clip_by_quantile, "_COUNTED_AT_ONCE", 2**10)
    marked = jnp.ones((3, 300, 301), bool)
    high, low = _count(marked)
    assert (high, low) == divmod(marked.size, 2**16)


@pytest.mark.slow
def test_decay_after_it_is_not_clipped():
    gradients, params = heavy_tailed(3), heavy_tailed(4)
    decay = optax.add_decayed_weights(0.5, {"kernel": True, "bias": False, "scalar": False})
    tx = optax.chain(optkit.clip_by_quantile(0.3), decay, optax.sgd(0.1))
    updates, _ = tx.update(gradients, tx.init(params), params)
    expected = clipped(gradients, 0.3)
    np.testing.assert_allclose(updates["kernel"], -0.1 * (expected["kernel"] + 0.5 * params["kernel"]), rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -0.1 * expected["bias"], rtol=1e-6)


def test_clips_momentum_after_a_trace():
    tx = optax.chain(optax.trace(0.5), optkit.clip_by_quantile(0.5))
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.array([4.0, 1.0]), state)
    updates, _ = tx.update(jnp.array([4.0, 1.0]), state)
    np.testing.assert_allclose(updates, [6.0, 1.5])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.clip_by_quantile(0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: optkit.clip_by_quantile(1.5), r"fraction must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
