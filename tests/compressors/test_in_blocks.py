import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, normal_like
from round_trips import round_trip, sent

from optkit.compressors import (
    Compressor,
    global_top_k,
    identity,
    in_blocks,
    nbytes,
    on_whole_tree,
    quantize_values,
    rand_k,
    scaled_sign,
    top_k,
)


@pytest.mark.parametrize("make", [scaled_sign, lambda: top_k(0.3), lambda: quantize_values(top_k(0.5))])
def test_each_block_is_compressed_by_itself_a_shorter_last_one_too(make):
    compressor, x = make(), np.asarray(normal(3, 9))
    expected = np.concatenate([sent(compressor, block) for block in np.split(x.ravel(), [10, 20])])
    np.testing.assert_array_equal(np.ravel(sent(in_blocks(compressor, 10), x)), expected)


@pytest.mark.parametrize("size", [7, 10])
def test_a_leaf_that_fits_into_a_block_is_one(size):
    x = normal(size)
    np.testing.assert_array_equal(sent(in_blocks(scaled_sign(), 10), x), sent(scaled_sign(), x))
    assert nbytes(in_blocks(scaled_sign(), 10), x) == nbytes(scaled_sign(), x)


def test_blocks_have_draws_of_their_own():
    message = round_trip(in_blocks(rand_k(0.25, key=0), 16), np.ones(164, np.float32)).message
    places = np.sort(message.full.places, axis=1)
    assert len({tuple(row) for row in places}) > 8


@pytest.mark.parametrize(("block_size", "dtype"), [(2**16, jnp.uint16), (2**16 + 1, jnp.int32)])
def test_places_take_16_bits_if_these_count_a_block(block_size, dtype):
    x = np.zeros(2 * block_size + 1, np.float32)
    x[[block_size - 1, block_size, 2 * block_size]] = 5.0
    arrived, _, message = round_trip(in_blocks(top_k(1e-5), block_size), x)
    assert message.full.places.dtype == message.rest.places.dtype == dtype
    assert message.full.places.tolist() == [[block_size - 1], [0]]
    np.testing.assert_array_equal(arrived, x)


def test_leaves_of_more_than_2_to_the_31_entries_have_blocks():
    leaf = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)
    assert nbytes(in_blocks(top_k(0.01)), leaf) == 2**32 // 4096 * 41 * 6


def test_constants_are_those_of_the_worst_block():
    assert in_blocks(scaled_sign(), 10).delta(jnp.zeros(25)) == 1 / 10
    assert in_blocks(rand_k(0.25, key=0), 4).omega({"a": jnp.zeros(8), "b": jnp.zeros(6)}) == 3.0
    assert in_blocks(rand_k(0.5, key=0), 4).omega(jnp.zeros(7)) == 1.0
    assert in_blocks(scaled_sign(), 10).omega is None


def test_the_default_is_blocks_of_4096_entries():
    assert nbytes(in_blocks(scaled_sign()), jnp.zeros(3 * 4096)) == 3 * (512 + 4)


def test_the_vector_of_all_leaves_has_blocks_too():
    tree = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array(4.0), "none": None}
    for compressor in (on_whole_tree(in_blocks(top_k(0.5), 2)), in_blocks(on_whole_tree(top_k(0.5)), 2)):
        kept = sent(compressor, tree)
        assert (kept["a"].tolist(), kept["b"].tolist(), kept["none"]) == ([0.0, 2.0, 0.0], 4.0, None)


def test_on_the_whole_tree_top_k_is_the_global_one():
    tree = {
        "a": normal(4, 5),
        "b": jnp.array(-0.3),
        "narrow": normal(7, dtype=jnp.bfloat16),
        "empty": jnp.zeros((0, 2)),
    }
    ours, theirs = on_whole_tree(top_k(0.25, round_up=False)), global_top_k(0.25)
    jax.tree.map(np.testing.assert_array_equal, sent(ours, tree), sent(theirs, tree))
    assert ours.delta(tree) == theirs.delta(tree) == 7 / 28
    assert nbytes(ours, tree) == nbytes(theirs, tree)


def test_one_scale_serves_the_whole_tree():
    tree = {"a": jnp.array([1.0, -3.0]), "b": jnp.array([[8.0]])}
    signs = sent(on_whole_tree(scaled_sign()), tree)
    assert (signs["a"].tolist(), signs["b"].tolist()) == ([4.0, -4.0], [[4.0]])
    assert nbytes(on_whole_tree(scaled_sign()), tree) == 1 + 4


def test_whole_trees_may_be_empty():
    for tree in ({}, {"none": None}, {"empty": jnp.zeros((0, 2))}):
        for compressor in (on_whole_tree(scaled_sign()), on_whole_tree(in_blocks(top_k(0.5)))):
            assert jax.tree.structure(sent(compressor, tree)) == jax.tree.structure(tree)


def test_bytes_of_a_compressor_with_an_axis_are_counted_outside_of_it():
    tree = normal_like({"a": jnp.zeros(64), "b": jnp.zeros(())})
    compressor = rand_k(0.25, key=0, axis_name="workers")
    assert nbytes(compressor, tree, axis_name="workers") == nbytes(rand_k(0.25, key=0), tree) == 17 * 8


@pytest.mark.parametrize("block_size", [0, 2.0])
def test_a_wrong_block_size_is_named(block_size):
    with pytest.raises(ValueError, match=f"block_size must be a positive integer, got {block_size}"):
        in_blocks(scaled_sign(), block_size)


@pytest.mark.parametrize("function", [in_blocks, quantize_values])
def test_compressors_without_a_rule_for_a_leaf_are_refused(function):
    own = Compressor(*identity()[:5])
    with pytest.raises(ValueError, match=f"^{function.__name__} changes the rule .* pass one that treats each leaf by"):
        function(own)
    assert on_whole_tree(own).change_rule is None
