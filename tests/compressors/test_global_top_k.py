import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, normal_like
from promises import assert_keeps_explicit_sharding
from round_trips import round_trip, sent
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


@pytest.mark.slow
def test_the_largest_entries_of_all_leaves_together_are_kept():
    kept = sent(global_top_k(0.3), TREE)  # of 10 entries
    np.testing.assert_array_equal(kept["a"], [[0.0, -7.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(kept["b"], -5.0)
    np.testing.assert_array_equal(kept["c"], [0.0, 6.0, 0.0])
    assert kept["none"] is None
    assert kept["empty"].shape == (0, 3)


@pytest.mark.parametrize(("density", "number"), [(0.01, 1), (0.1, 1), (0.19, 1), (0.2, 2), (1.0, 10)])
def test_their_number_is_rounded_down_to_one_at_least(density, number):
    assert round_trip(global_top_k(density), TREE).message.values.shape == (number,)


def test_everything_is_kept_at_density_one():
    jax.tree.map(np.testing.assert_array_equal, sent(global_top_k(1.0), TREE), TREE)


@pytest.mark.slow
def test_it_contracts_by_the_share_of_entries_kept():
    tree = {"a": normal(40, 20), "b": normal(200, seed=1)}
    for density in (0.01, 0.25, 0.9):
        whole, kept = flat(tree), flat(sent(global_top_k(density), tree))
        assert np.sum((whole - kept) ** 2) <= (1 - density) * np.sum(whole**2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_inner_products_and_combinations_are_those_of_the_decompressed_trees():
    in_double_precision = jax.tree.map(lambda x: x.astype(float), TREE)
    trees = [normal_like(in_double_precision, seed) for seed in range(4)]
    compressor = global_top_k(0.5)
    arrived, _, messages = zip(*(round_trip(compressor, tree) for tree in trees[:3]), strict=True)
    rows, vectors = jax.tree.map(lambda *x: np.stack(x), *messages), np.stack([flat(tree) for tree in arrived])
    products = jax.jit(compressor.inner_products)(rows, trees[3])
    np.testing.assert_allclose(products, vectors @ flat(trees[3]), rtol=1e-12)
    weights = np.array([2.0, -1.0, 0.5])
    combined = jax.jit(compressor.combine)(weights, rows, trees[3])
    np.testing.assert_allclose(flat(combined), weights @ vectors, rtol=1e-12)


def test_values_have_the_dtype_asked_for_and_places_32_bits():
    entries = round_trip(global_top_k(0.5, dtype=jnp.bfloat16), TREE).message
    assert (entries.values.dtype, entries.places.dtype) == (jnp.bfloat16, jnp.int32)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float16), TREE)
    assert round_trip(global_top_k(0.5), narrow).message.values.dtype == jnp.float32


def test_what_is_decompressed_has_the_dtypes_of_the_tree():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    arrived = sent(global_top_k(0.5), tree)
    assert jax.tree.map(lambda x: x.dtype, arrived) == {"a": jnp.bfloat16, "b": jnp.float32}


def test_what_is_decompressed_is_sharded_like_the_tree_on_explicit_axes():
    assert_keeps_explicit_sharding(functools.partial(sent, global_top_k(0.25)), normal(8, 4), ("data", "model"))


@pytest.mark.parametrize("tree", [{}, {"none": None}, {"empty": jnp.zeros((0, 2))}])
def test_nothing_is_kept_of_nothing(tree):
    arrived, _, entries = round_trip(global_top_k(0.5), tree)
    assert entries.values.shape == (0,)
    assert jax.tree.structure(arrived) == jax.tree.structure(tree)


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
