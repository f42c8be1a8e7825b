"""One gather brings a tree of any dtypes from all workers, bit for bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optkit
from optkit.core.cost import hlo
from optkit.core.workers.gathering import bytes_together, gather_together

WORKERS = 4
DTYPES = (
    "complex128",
    "complex64",
    "float64",
    "float32",
    "bfloat16",
    "float16",
    "int64",
    "int32",
    "int16",
    "uint16",
    "int8",
    "uint8",
    "bool",
)


def tree_of(worker):
    rng = np.random.default_rng(worker)
    tree = {name: jnp.asarray(100 * rng.standard_normal((3, 5)), name) for name in DTYPES}
    return {**tree, "scalar": jnp.asarray(rng.standard_normal(), jnp.bfloat16), "empty": jnp.zeros((0, 3), jnp.int8)}


def stacked():
    return jax.tree.map(lambda *rows: jnp.stack(rows), *map(tree_of, range(WORKERS)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backend", ["vmap", "pmap", "shard_map"])
def test_every_worker_gets_all_rows_bit_for_bit(backend):
    rows = stacked()
    gather = optkit.on_workers(
        lambda tree: gather_together(tree, "workers"), axis_name="workers", out_axes=None, backend=backend
    )
    chex.assert_trees_all_equal(gather(rows), rows)
    chex.assert_trees_all_equal_shapes_and_dtypes(gather(rows), rows)


@pytest.mark.usefixtures("x64")
def test_the_bits_of_what_is_no_number_stay():
    odd = jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45], jnp.float32)
    rows = jnp.stack([odd, odd[::-1]])
    gathered = jax.vmap(lambda x: gather_together(x, "workers"), axis_name="workers", out_axes=None)(rows)
    np.testing.assert_array_equal(np.asarray(gathered).view(np.uint32), np.asarray(rows).view(np.uint32))


@pytest.mark.usefixtures("x64")
def test_one_collective_sends_the_stated_bytes():
    rows = stacked()
    gather = optkit.on_workers(
        lambda tree: gather_together(tree, "workers"), axis_name="workers", out_axes=None, backend="shard_map"
    )
    lowered = jax.jit(gather).lower(rows)
    compiled = lowered.compile()
    assert hlo.read(compiled, lowered).sent == {"all-gather": (WORKERS - 1) * bytes_together(tree_of(0))}
    assert compiled.as_text().count(" all-gather(") + compiled.as_text().count(" all-gather-start(") == 1


@pytest.mark.usefixtures("x64")
def test_one_worker_without_an_axis_is_one_row():
    tree = tree_of(0)
    chex.assert_trees_all_equal(gather_together(tree, None), jax.tree.map(lambda x: x[None], tree))
    assert gather_together({}, "workers") == {}
