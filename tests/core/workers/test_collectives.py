"""What the collectives promise, however the axis came to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from optkit.core.workers import collectives

WORKERS = 8
P = PartitionSpec


def by_vmap(f):
    return jax.jit(jax.vmap(f, in_axes=(None, 0), axis_name="workers"))


def by_pmap(f):
    return jax.pmap(f, "workers", in_axes=(None, 0))


def by_shard_map(f, *, check_vma):
    mesh = jax.make_mesh((WORKERS,), ("workers",), axis_types=(AxisType.Auto,))

    def one_worker(equal, own):
        return jax.tree.map(lambda x: x[None], f(equal, own[0]))

    return jax.jit(
        jax.shard_map(one_worker, mesh=mesh, in_specs=(P(), P("workers")), out_specs=P("workers"), check_vma=check_vma)
    )


MAPS = {
    "vmap": by_vmap,
    "pmap": by_pmap,
    "shard_map": lambda f: by_shard_map(f, check_vma=True),
    "shard_map_unchecked": lambda f: by_shard_map(f, check_vma=False),
}
under_each_map = pytest.mark.parametrize("mapped", MAPS.values(), ids=MAPS.keys())


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(WORKERS, *shape)), jnp.float32)


@under_each_map
@pytest.mark.parametrize("talks_if_true", [True, False])
def test_cond_takes_the_branch_that_talks_or_the_one_that_does_not(mapped, talks_if_true):
    def talk(tree):
        return jax.tree.map(lambda x: jax.lax.pmean(x, "workers"), tree)

    def keep(tree):
        return tree

    def step(count, x):
        branches = (talk, keep) if talks_if_true else (keep, talk)
        return collectives.cond(count % 2 == 0, *branches, {"x": x, "none": None, "nested": (2 * x[0],)})

    x = numbers(3)
    mean = jnp.broadcast_to(x.mean(axis=0), x.shape)
    for count in (0, 1):
        expected = mean if (count % 2 == 0) == talks_if_true else x
        result = mapped(step)(count, x)
        np.testing.assert_allclose(result["x"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result["nested"][0], 2 * expected[:, 0], rtol=1e-5, atol=1e-6)
        assert result["none"] is None


@under_each_map
def test_cond_runs_only_the_branch_that_it_takes(mapped):
    calls = []

    def step(count, x):
        def talk(x):
            jax.debug.callback(calls.append, x)
            return jax.lax.pmean(x, "workers")

        return collectives.cond(count % 2 == 0, talk, lambda x: x, x)

    step = mapped(step)
    for count, total in ((1, 0), (2, WORKERS), (3, WORKERS)):
        step(count, numbers())
        jax.effects_barrier()
        assert len(calls) == total


@under_each_map
def test_cond_can_be_differentiated(mapped):
    def step(count, x):
        return jax.grad(lambda x: jnp.sum(collectives.cond(count % 2 == 0, lambda x: x, lambda x: x**2, x)))(x)

    x = numbers(3)
    np.testing.assert_allclose(mapped(step)(1, x), 2 * x, rtol=1e-6)


def test_cond_leaves_what_is_equal_in_both_branches_equal():
    mesh = jax.make_mesh((4, 2), ("workers", "model"), axis_types=(AxisType.Auto,) * 2)

    def step(count, x):
        def talk(x):
            return jax.lax.pmean(x, "workers"), jax.lax.pmean(x, ("workers", "model"))

        def keep(x):
            return x, jax.lax.pmax(x, ("workers", "model"))

        return collectives.cond(count % 2 == 0, talk, keep, x)

    # With varying axes checked, shard_map itself refuses to return as equal (P()) what it believes to vary.
    step = jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P("workers", "model")), out_specs=(P("workers", "model"), P(None, None))
        )
    )
    x = jnp.arange(8.0).reshape(4, 2)
    mean, total = step(0, x)
    np.testing.assert_allclose(mean, np.broadcast_to(x.mean(axis=0), x.shape))
    np.testing.assert_allclose(total, [[3.5]])
    kept, largest = step(1, x)
    np.testing.assert_allclose(kept, x)
    np.testing.assert_allclose(largest, [[7.0]])


def test_outside_shard_map_a_branch_is_traced_once():
    traced = []

    def branch(x):
        traced.append(x)
        return jax.lax.pmean(x, "workers")

    jax.vmap(lambda x: collectives.cond(True, branch, lambda x: x, x), axis_name="workers")(numbers(3))
    assert len(traced) == 1


def test_cond_refuses_branches_of_different_trees():
    with pytest.raises(TypeError, match="tree structure"):
        collectives.cond(True, lambda x: {"a": x}, lambda x: {"b": x}, 1.0)


@under_each_map
def test_pmean_is_the_mean_over_workers(mapped):
    x = numbers(3)
    result = mapped(lambda _, x: collectives.pmean({"x": x, "none": None}, "workers"))(0, x)
    np.testing.assert_allclose(result["x"], np.broadcast_to(x.mean(axis=0), x.shape), rtol=1e-5, atol=1e-6)
    assert result["none"] is None


@under_each_map
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pmean_adds_16_bit_values_in_float32(mapped, dtype):
    ulp = 1 / float(jnp.finfo(dtype).eps)
    x = jnp.array([2 * ulp] + [1.0] * (WORKERS - 1), dtype)  # in 16 bits, 2 / eps + 1 is 2 / eps
    result = mapped(lambda _, x: collectives.pmean(x, "workers"))(0, x)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.full(WORKERS, np.float32(x).mean(), dtype=jnp.dtype(dtype)))


@under_each_map
@pytest.mark.usefixtures("x64")
def test_pmean_keeps_float64(mapped):
    x = jnp.array([1.0] + [1e-12] * (WORKERS - 1))
    result = mapped(lambda _, x: collectives.pmean(x, "workers"))(0, x)
    assert result.dtype == jnp.float64
    np.testing.assert_allclose(result, np.full(WORKERS, np.mean(np.asarray(x))), rtol=1e-15)


def test_pmean_over_no_axis_is_the_identity():
    tree = {"x": jnp.ones(3, jnp.bfloat16), "none": None}
    assert collectives.pmean(tree, None) is tree


@under_each_map
def test_switch_takes_one_of_branches_that_talk_in_different_ways(mapped):
    branches = [
        lambda x: jax.lax.pmean(x, "workers"),
        lambda x: jax.lax.ppermute(x, "workers", [(i, (i + 1) % WORKERS) for i in range(WORKERS)]),
        lambda x: x,
    ]
    x = numbers(3)
    expected = [jnp.tile(x.mean(axis=0), (WORKERS, 1)), jnp.roll(x, 1, axis=0), x]
    step = mapped(lambda index, x: collectives.switch(index, branches, x))
    for index in range(3):
        np.testing.assert_allclose(step(index, x), expected[index], rtol=0, atol=1e-6)


@under_each_map
def test_a_loop_may_carry_what_was_reduced(mapped):
    def step(count, x):
        return jax.lax.fori_loop(0, count, lambda _, x: collectives.vary_like(jax.lax.pmean(x, "workers"), x), x)

    x = numbers(3)
    np.testing.assert_allclose(mapped(step)(2, x), jnp.tile(x.mean(axis=0), (WORKERS, 1)), rtol=0, atol=1e-6)
