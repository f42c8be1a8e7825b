import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from callable_models import CallableModel
from promises import assert_needs_parameters

from optkit.core.decay import add_decay

PARAMS = {"kernel": jnp.array([4.0]), "bias": jnp.array([4.0])}
GRADS = {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}
MASK = {"kernel": True, "bias": False}


def kernels(params):
    return jax.tree.map(lambda p: p is params["kernel"], params)


@pytest.mark.parametrize(
    ("params", "grads", "mask"),
    [
        (PARAMS, GRADS, MASK),
        (PARAMS, GRADS, kernels),
        (CallableModel(**PARAMS), CallableModel(**GRADS), CallableModel(**MASK)),
    ],
    ids=["tree", "function", "callable tree"],
)
def test_only_the_leaves_of_the_mask_decay(params, grads, mask):
    tx = add_decay("method", 0.5, mask)
    updates, _ = tx.update(grads, tx.init(params), params)
    expected = jax.tree.map(lambda g, decays: g + 2.0 * decays, grads, mask(params) if mask is kernels else mask)
    jax.tree.map(np.testing.assert_allclose, updates, expected)


def test_without_decay_no_parameters_are_needed():
    tx = add_decay("method", 0.0, MASK)
    assert tx.update(GRADS, tx.init(PARAMS))[0] is GRADS


def test_the_public_method_says_that_decay_needs_parameters():
    assert_needs_parameters(add_decay("method", 0.5), "method", PARAMS, GRADS)


def test_strengths_may_be_schedules_and_traced():
    schedule = optax.linear_schedule(1.0, 0.0, 2)
    tx = add_decay("method", schedule)
    state = tx.init(PARAMS)
    for expected in (5.0, 3.0, 1.0):
        updates, state = tx.update(GRADS, state, PARAMS)
        np.testing.assert_allclose(updates["bias"], expected)
    traced = jax.jit(lambda w: add_decay("method", w).update(GRADS, add_decay("method", w).init(PARAMS), PARAMS)[0])
    np.testing.assert_allclose(traced(0.5)["bias"], 3.0)


def test_negative_strengths_are_named():
    with pytest.raises(ValueError, match=r"weight_decay must be in \[0, inf\], got -1"):
        add_decay("method", -1.0)
