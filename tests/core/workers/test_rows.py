import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optkit
from optkit.core.workers.rows import over_rows, psum, require_rows


def spread(row, weight, *, axis_name):
    """Talks by a sum and by a gather."""
    mean = jax.tree.map(lambda x: jax.lax.pmean(x, axis_name), row)
    return jax.tree.map(lambda x, m: weight * (jax.lax.all_gather(x, axis_name).max(axis=0) - m), row, mean)


@pytest.mark.parametrize("backend", ["vmap", "pmap", "shard_map"])
def test_stacked_rows_and_workers_give_the_same(backend):
    rows = {"kernel": jax.random.normal(jax.random.key(0), (8, 3, 2)), "none": None}
    stacked = over_rows(spread, None)(rows, 2.0)
    rule = over_rows(spread, "workers")
    workers = optkit.on_workers(rule, axis_name="workers", in_axes=(0, None), out_axes=None, backend=backend)
    np.testing.assert_allclose(workers(rows, 2.0)["kernel"], stacked["kernel"], rtol=1e-6)
    assert stacked["kernel"].shape == (3, 2)


def test_trees_without_leaves_are_rows_too():
    assert over_rows(spread, None)({}, 1.0) == {}


def test_leaves_with_different_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match="axis"):
        over_rows(spread, None)({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))}, 1.0)


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32, jnp.float32])
def test_sums_over_stacked_rows_are_those_over_workers(dtype):
    rows = (jax.random.normal(jax.random.key(0), (8, 3)) > 0).astype(dtype)
    workers = optkit.on_workers(over_rows(psum, "workers"), axis_name="workers", out_axes=None)
    stacked = over_rows(psum, None)(rows)
    np.testing.assert_array_equal(workers(rows), stacked)
    np.testing.assert_array_equal(stacked, np.sum(rows, axis=0))


@pytest.mark.parametrize("rows", [{"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": jnp.ones(2), "b": jnp.ones([])}])
def test_gradients_without_equal_leading_axes_are_named(rows):
    with pytest.raises(ValueError, match=r"method takes gradients with a leading axis, .*got leaves of shapes \(2"):
        require_rows(rows, "method")
    require_rows({}, "method")
