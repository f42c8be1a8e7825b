import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, normal_like
from promises import assert_keeps_explicit_sharding
from trajectories import flat

from optkit.compressors import global_top_k
from optkit.compressors._leafwise import Entries

TREE = {
    "a": jnp.array([[0.5, -7.0, 1.0], [2.0, 0.0, 4.0]]),
    "b": jnp.array(-5.0),
    "none": None,
    "empty": jnp.zeros((0, 3)),
    "c": jnp.array([3.0, 6.0, 1.5]),
}


def compress(tree, density, dtype=None):
    compressor = global_top_k(density, dtype=dtype)
    return compressor, compressor.compress(tree, compressor.init(tree))[0]


def stacked(compressor, *trees):
    rows = [compressor.compress(tree, None)[0] for tree in trees]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


@pytest.mark.slow
def test_the_largest_entries_of_all_leaves_together_are_kept():
    compressor, entries = compress(TREE, 0.3)  # of 10 entries
    kept = compressor.decompress(entries, TREE)
    np.testing.assert_array_equal(kept["a"], [[0.0, -7.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(kept["b"], -5.0)
    np.testing.assert_array_equal(kept["c"], [0.0, 6.0, 0.0])
    assert kept["none"] is None
    assert kept["empty"].shape == (0, 3)


@pytest.mark.parametrize(("density", "number"), [(0.01, 1), (0.1, 1), (0.19, 1), (0.2, 2), (1.0, 10)])
def test_their_number_is_rounded_down_to_one_at_least(density, number):
    assert compress(TREE, density)[1].values.shape == (number,)


def test_everything_is_kept_at_density_one():
    compressor, entries = compress(TREE, 1.0)
    jax.tree.map(np.testing.assert_array_equal, compressor.decompress(entries, TREE), TREE)


@pytest.mark.slow
def test_it_contracts_by_the_share_of_entries_kept():
    tree = {"a": normal(40, 20), "b": normal(200, seed=1)}
    for density in (0.01, 0.25, 0.9):
        compressor, entries = compress(tree, density)
        rest = jax.tree.map(jnp.subtract, tree, compressor.decompress(entries, tree))
        norm, lost = (float(sum(jnp.sum(x**2) for x in jax.tree.leaves(y))) for y in (tree, rest))
        assert lost <= (1 - density) * norm


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_inner_products_and_combinations_are_those_of_the_decompressed_trees():
    in_double_precision = jax.tree.map(lambda x: x.astype(float), TREE)
    trees = [normal_like(in_double_precision, seed) for seed in range(4)]
    compressor = global_top_k(0.5)
    rows = stacked(compressor, *trees[:3])
    vectors = np.stack([flat(compressor.decompress(compressor.compress(tree, None)[0], tree)) for tree in trees[:3]])
    np.testing.assert_allclose(compressor.inner_products(rows, trees[3]), vectors @ flat(trees[3]), rtol=1e-12)
    weights = jnp.array([2.0, -1.0, 0.5])
    np.testing.assert_allclose(flat(compressor.combine(weights, rows, trees[3])), weights @ vectors, rtol=1e-12)


def test_values_have_the_dtype_asked_for_and_places_32_bits():
    _, entries = compress(TREE, 0.5, jnp.bfloat16)
    assert (entries.values.dtype, entries.places.dtype) == (jnp.bfloat16, jnp.int32)
    assert compress(jax.tree.map(lambda x: x.astype(jnp.float16), TREE), 0.5)[1].values.dtype == jnp.float32


def test_what_is_decompressed_has_the_dtypes_of_the_tree():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    compressor, entries = compress(tree, 0.5)
    assert jax.tree.map(lambda x: x.dtype, compressor.decompress(entries, tree)) == {
        "a": jnp.bfloat16,
        "b": jnp.float32,
    }


def test_what_is_decompressed_is_sharded_like_the_tree_on_explicit_axes():
    compressor = global_top_k(0.25)
    assert_keeps_explicit_sharding(
        lambda x: compressor.decompress(compressor.compress(x, None)[0], x), normal(8, 4), ("data", "model")
    )


@pytest.mark.parametrize("tree", [{}, {"none": None}, {"empty": jnp.zeros((0, 2))}])
def test_nothing_is_kept_of_nothing(tree):
    compressor, entries = compress(tree, 0.5)
    assert entries.values.shape == (0,)
    assert jax.tree.structure(compressor.decompress(entries, tree)) == jax.tree.structure(tree)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_a_wrong_density_is_named(density):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got"):
        global_top_k(density)


def test_trees_too_large_for_32_bits_are_refused():
    tree = {"a": jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
    compressor = global_top_k(0.01)
    with pytest.raises(ValueError, match="32 bits and got a tree of 2147483649 entries"):
        jax.eval_shape(lambda tree: compressor.compress(tree, None), tree)


def test_entries_are_a_tree():
    assert len(jax.tree.leaves(Entries(jnp.ones(2), jnp.arange(2)))) == 2
