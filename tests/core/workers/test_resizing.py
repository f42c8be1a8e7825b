import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal

import optkit

PARAMS = {"w": np.zeros((4, 6), np.float32), "b": np.zeros((4, 2), np.float32)}
EF14, ECONTROL, MOMENTUM = optkit.feedback.ef14(), optkit.feedback.econtrol(0.1), optax.trace(0.9)


@functools.cache
def trained(rule, inner=None):
    mean = optkit.compressed_mean(optkit.compressors.top_k(0.3), rule, axis_name="workers")
    return trained_by(optax.chain(*([] if inner is None else [inner]), mean))


def trained_by(tx):
    axes = optkit.worker_axes(tx, PARAMS, axis_name="workers")

    def worker(grads):
        state = tx.init(jax.tree.map(lambda g: g[0], grads))
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], state, grads)[0]

    grads = jax.tree.map(lambda p: normal(4, 5, *p.shape[1:]), PARAMS)
    state = jax.jit(jax.vmap(worker, out_axes=axes, axis_name="workers"))(grads)
    return tx, axes, jax.tree.map(np.asarray, state)


def resize(state, axes, old_to_new, **arguments):
    """The state of other workers, as one program and in NumPy."""
    resized = jax.jit(lambda state: optkit.resize_workers(state, axes, old_to_new, **arguments))(state)
    return jax.tree.map(np.asarray, resized)


def sums(tree):
    return jax.tree.map(lambda x: np.sum(x, axis=0), tree)


@pytest.mark.parametrize("old_to_new", [[0, 1, 2, 3], [2, 0, 1, 3], [0, None, 1, None], [0, 3, 1, 5], [None, 0, 2, 1]])
def test_what_is_owed_stays_in_the_sum(old_to_new):
    _, axes, (state,) = trained(ECONTROL)
    resized = resize(state, axes[0], old_to_new)
    rows = max(row for row in old_to_new if row is not None) + 1
    assert {len(x) for x in jax.tree.leaves(resized.own)} == {rows}
    for field in ("error", "estimate"):
        before, after = sums(getattr(state.own, field)), sums(getattr(resized.own, field))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), before, after)
    # So the mean of the estimates, which all remember as a sum, is still that of the workers' own.
    jax.tree.map(
        lambda total, own: np.testing.assert_allclose(total, own, rtol=1e-5, atol=1e-6),
        resized.shared.total,
        sums(resized.own.estimate),
    )


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: optkit.power_sgd(1, axis_name="workers", min_compression_rate=0.5), "error"),
        (lambda: optkit.scale_by_demo(axis_name="workers", top_k=1), "residual"),
        (lambda: optkit.scale_by_deep_gradient_compression(axis_name="workers", density=0.2), "velocity"),
    ],
    ids=["power_sgd", "demo", "deep_gradient_compression"],
)
def test_what_other_methods_owe_stays_too(build, field):
    params = {"w": np.zeros((4, 5, 6), np.float32)}
    tx = build()
    axes = optkit.worker_axes(tx, params, axis_name="workers")
    update = optkit.on_workers(tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend="vmap")
    init = optkit.on_workers(tx.init, axis_name="workers", out_axes=axes, backend="vmap")
    _, state = update({"w": normal(4, 5, 6)}, init(params))
    resized = resize(state, axes, [None, 1, 0, None])
    before, after = sums(getattr(state, field)["w"]), sums(getattr(resized, field)["w"])
    assert np.any(before != 0)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_rows_that_are_kept_move_and_new_ones_are_as_init_makes_them():
    tx, axes, state = trained(EF14, MOMENTUM)
    start = tx.init(jax.tree.map(lambda p: np.full_like(p[0], 7.0), PARAMS))
    new = jax.tree.map(lambda x: x + 3 if jnp.issubdtype(x.dtype, jnp.floating) else x, start)
    momentum = resize(state, axes, [1, None, 0, 3], workers=5, initial=new)[0].trace["w"]
    before = state[0].trace["w"]
    np.testing.assert_array_equal(momentum[[1, 0, 3]], before[[0, 2, 3]])
    np.testing.assert_array_equal(momentum[[2, 4]], 3.0)
    assert np.any(before[1] != 0)  # a momentum is nobody's due


def test_what_is_equal_on_all_workers_stays():
    _, axes, (state,) = trained(EF14)
    resized = resize(state, axes[0], [0, None, None, None])
    assert resized.count == state.count == 5
    assert resized.dropped.shape == ()


@pytest.mark.parametrize(
    ("old_to_new", "workers", "message"),
    [
        ([0, 0, 1, 2], None, "old_to_new must give each worker that stays a row of its own among 3 workers"),
        ([0, 1, 2, 3], 2, "old_to_new must give each worker that stays a row of its own among 2 workers"),
        ([0, 1, 2], None, "old_to_new names 3 workers, but a leaf"),
        ([None, None, None, None], None, "at least one worker must stay or be new"),
    ],
)
def test_what_cannot_be_is_named(old_to_new, workers, message):
    _, axes, (state,) = trained(EF14)
    with pytest.raises(ValueError, match=re.escape(message)):
        optkit.resize_workers(state, axes[0], old_to_new, workers=workers)
