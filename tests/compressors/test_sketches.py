import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from draws import normal_like
from round_trips import round_trip, sent

from optkit import compressors
from optkit.compressors._sketches import _hadamard, srht

SKETCHES = [compressors.gaussian_sketch, compressors.srht_sketch, compressors.count_sketch]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1, 2, 64, 512])
def test_the_transform_is_sylvesters_hadamard_matrix(size):
    x = np.random.default_rng(0).standard_normal(size)
    np.testing.assert_allclose(jax.jit(_hadamard)(x), scipy.linalg.hadamard(size) @ x / size**0.5, atol=1e-12)


def test_rows_are_drawn_without_repetition_each_as_often():
    draw = jax.jit(jax.vmap(lambda key: srht(5).draw(key, 12, jnp.float32)))
    signs, rows = map(np.asarray, draw(jax.random.split(jax.random.key(0), 3000)))
    assert {len(set(row)) for row in rows.tolist()} == {5}
    np.testing.assert_allclose(np.bincount(np.ravel(rows), minlength=16) / 3000, 5 / 16, atol=0.05)
    assert set(np.ravel(signs).tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose(np.mean(signs, axis=0), 0, atol=0.08)


@pytest.mark.parametrize("make", SKETCHES)
def test_a_sketch_is_drawn_anew_in_each_step_alike_for_equal_keys(make):
    x, compressor = np.arange(30, dtype=np.float32), make(8, key=3)
    _, state, first = round_trip(compressor, x, compressor.init(x))
    again = round_trip(make(8, key=3), x).message
    np.testing.assert_array_equal(first.numbers, again.numbers)
    assert np.any(first.numbers != round_trip(compressor, x, state).message.numbers)


@pytest.mark.parametrize("make", SKETCHES)
def test_a_sketch_is_linear(make):
    like, compressor = {"a": jnp.zeros((4, 5)), "b": jnp.zeros(()), "none": None}, make(8, key=0)
    x, y = normal_like(like, 1), normal_like(like, 2)
    trees = (x, y, jax.tree.map(np.add, x, y))
    sketches = [np.asarray(round_trip(compressor, tree).message.numbers) for tree in trees]
    np.testing.assert_allclose(sketches[0] + sketches[1], sketches[2], atol=1e-5)


@pytest.mark.parametrize("make", SKETCHES)
def test_other_implementations_of_keys_are_kept(make):
    arrived, _, message = round_trip(make(8, key=jax.random.key(0, impl="rbg")), np.ones(5, np.float32))
    assert message.key.shape == (4,)
    assert np.all(np.isfinite(arrived))


@pytest.mark.parametrize("make", SKETCHES)
@pytest.mark.parametrize("tree", [{}, {"empty": jnp.zeros((0, 2))}, jnp.array(2.0)])
def test_trees_may_be_small_or_empty(make, tree):
    assert jax.tree.map(jnp.shape, sent(make(3, key=0), tree)) == jax.tree.map(jnp.shape, tree)


@pytest.mark.parametrize("make", SKETCHES)
def test_a_wrong_size_is_named(make):
    with pytest.raises(ValueError, match="size must be a positive integer, got 0"):
        make(0, key=0)
