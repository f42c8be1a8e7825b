import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from trajectories import last, trajectory

from optkit.compressors import Compressor, global_top_k
from optkit.memory_efficient._error_feedback import error_feedback

LIKE = {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(5), "none": None}


@pytest.mark.parametrize("values", [None, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_handed_on_and_the_error_are_together_the_gradient_exactly(values, dtype):
    tx = error_feedback(optax.identity(), global_top_k(0.2, dtype=values))
    params = jax.tree.map(lambda x: x.astype(dtype), LIKE)
    state = tx.init(params)
    for seed in range(4):
        gradient = normal_like(params, seed)
        wanted = jax.tree.map(lambda e, g: e + g.astype(e.dtype), state.error, gradient)
        updates, state = tx.update(gradient, state, params)
        together = jax.tree.map(lambda u, e: u.astype(e.dtype) + e, updates, state.error)
        jax.tree.map(np.testing.assert_array_equal, together, wanted)


def test_no_gradient_is_lost():
    tx = error_feedback(optax.identity(), global_top_k(0.1))
    gradients = normal_like(LIKE, rows=(20,))
    _, updates, states = trajectory(tx, gradients)
    total, handed_on = (jax.tree.map(lambda x: jnp.sum(x, axis=0), tree) for tree in (gradients, updates))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), optax.tree.add(handed_on, last(states.error)), total
    )


@pytest.mark.slow
def test_without_loss_it_is_the_inner_transformation():
    tx, inner = error_feedback(optax.scale_by_adam(), global_top_k(1.0)), optax.scale_by_adam()
    states = tx.init(LIKE), inner.init(LIKE)
    for seed in range(3):
        (ours, ours_state), (theirs, theirs_state) = (
            t.update(normal_like(LIKE, seed), state, LIKE) for t, state in zip((tx, inner), states, strict=True)
        )
        states = ours_state, theirs_state
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    jax.tree.map(lambda e: np.testing.assert_array_equal(e, 0.0), states[0].error)


def test_the_inner_transformation_gets_the_compressed_form_and_other_extra_arguments():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        seen.update(extra_args, params=params)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = error_feedback(inner, global_top_k(0.1))
    updates, _ = tx.update(normal_like(LIKE), tx.init(LIKE), LIKE, value=3.0)
    assert seen["value"] == 3.0
    assert seen["params"] is LIKE
    np.testing.assert_array_equal(global_top_k(0.1).decompress(seen["compressed"], LIKE)["kernel"], updates["kernel"])


def test_a_compressor_keeps_a_state():
    """One that hands everything on in every second step."""

    def compress(tree, count):
        return jax.tree.map(lambda x: jnp.where(count % 2 == 1, x, 0.0), tree), count + 1

    def not_needed(*args):
        raise NotImplementedError

    every_second = Compressor(lambda _: jnp.array(0), compress, lambda sent, _: sent, not_needed, not_needed)
    tx = error_feedback(optax.identity(), every_second)
    state, sent = tx.init(jnp.zeros(2)), []
    for _ in range(4):
        updates, state = tx.update(jnp.ones(2), state)
        sent.append(updates[0])
    np.testing.assert_array_equal(sent, [0.0, 2.0, 0.0, 2.0])


@pytest.mark.slow
def test_errors_are_kept_in_float32_for_sixteen_bit_parameters():
    tx = error_feedback(optax.identity(), global_top_k(0.5))
    params = jnp.ones(4, jnp.float16)
    updates, state = tx.update(params, tx.init(params), params)
    assert (updates.dtype, state.error.dtype) == (jnp.float16, jnp.float32)
