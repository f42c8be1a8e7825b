import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from optkit.core import top_k as module
from optkit.core.top_k import first_in_blocks, number_in_blocks, top_k

top_k_in_blocks = jax.jit(module.top_k_in_blocks, static_argnums=(1, 2))
places_in_whole = jax.jit(module.places_in_whole, static_argnums=(1, 2, 3))


def expected_places(x, block_size, density):
    """Block after block by NumPy, whose stable sort takes the first of equal entries."""
    found = []
    for start in range(0, x.size, block_size):
        block = np.abs(x[start : start + block_size])
        found.append(np.argsort(-block, kind="stable")[: math.ceil(block.size * density)])
    return np.concatenate([*found, np.zeros(0, int)])


@pytest.mark.parametrize("size", [0, 5, 37, 48])
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_largest_of_each_block(size, density):
    x = np.round(np.asarray(normal(size, seed=size)), 1)
    places = top_k_in_blocks(jnp.asarray(x), 16, density)
    np.testing.assert_array_equal(places, expected_places(x, min(16, max(size, 1)), density))
    assert places.size == number_in_blocks(size, 16, density)


def test_of_equal_entries_the_first_is_taken():
    x = jnp.array([1.0, -2.0, 2.0, 2.0])
    assert top_k(x, 2).tolist() == [1, 2]
    assert top_k_in_blocks(x, 4, 0.5).tolist() == [1, 2]


@pytest.mark.slow
def test_places_in_whole_lead_to_the_same_entries():
    x = normal(37)
    places = places_in_whole(top_k_in_blocks(x, 8, 0.3), 37, 8, 0.3)
    assert len(set(places.tolist())) == places.size
    blocks = np.asarray(places) // 8
    for block in range(5):
        kept, whole = np.abs(x[places[blocks == block]]), np.abs(x[8 * block : 8 * block + 8])
        np.testing.assert_array_equal(np.sort(kept), np.sort(whole)[-len(kept) :])


def test_places_in_whole_take_stacked_rows():
    row = first_in_blocks(37, 8, 0.3)
    stacked = places_in_whole(jnp.stack([row, row]), 37, 8, 0.3)
    np.testing.assert_array_equal(stacked[1], places_in_whole(row, 37, 8, 0.3))


@pytest.mark.parametrize(("block_size", "dtype"), [(2**15, jnp.int16), (2**15 + 1, jnp.int32)])
def test_sixteen_bits_where_they_suffice(block_size, dtype):
    x = jnp.arange(2.0**15 + 1)
    places = top_k_in_blocks(x, block_size, 1e-5)
    assert places.dtype == first_in_blocks(x.size, block_size, 1e-5).dtype == dtype
    assert places_in_whole(places, x.size, block_size, 1e-5)[-1] == 2**15


@pytest.mark.parametrize("size", [0, 3, 16, 37])
def test_first_entries_are_as_many_and_each_once(size):
    places = places_in_whole(first_in_blocks(size, 16, 0.3), size, 16, 0.3)
    assert places.size == number_in_blocks(size, 16, 0.3) == len(set(places.tolist()))
    assert all(place < size for place in places.tolist())


def test_whole_arrays_are_flattened():
    x = jnp.array([[[1.0, -9.0]], [[4.0, 0.0]]])
    assert top_k(x, 3).tolist() == [1, 2, 0]
    assert top_k(x, 0).size == 0
