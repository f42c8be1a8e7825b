import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit
from optkit.core.extra_args import EXTRA_ARGS

PARAMS = {"w": jnp.array([3.0, -4.0])}
CLIP = optax.clip(1.0)


def recording():
    """A transformation that keeps the extra arguments it got."""

    def update(updates, state, params=None, **extra_args):
        del params
        got.append(extra_args)
        return updates, state

    got = []
    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update), got


def test_every_gradient_of_the_vocabulary_is_preprocessed():
    inner, got = recording()
    tx = optkit.preprocess_gradients(inner, CLIP)
    functions = {name: lambda point, *_: point for name, argument in EXTRA_ARGS.items() if argument.points == "own"}
    gradients = dict.fromkeys(("prev_grads", "predicted_grads"), PARAMS)
    others = {"value": 7.0, "value_fn": lambda _: 7.0}
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, **functions, **gradients, **others)
    np.testing.assert_array_equal(updates["w"], [1.0, -1.0])
    assert set(got[0]) == {*functions, *gradients, *others} - {"hvp_fn"}
    for name in set(functions) - {"hvp_fn"}:
        np.testing.assert_array_equal(got[0][name](PARAMS, 0)["w"], [1.0, -1.0])
    for name in gradients:
        np.testing.assert_array_equal(got[0][name]["w"], [1.0, -1.0])
    assert got[0]["value"] == got[0]["value_fn"](PARAMS) == 7.0


def test_a_penalty_is_taken_at_the_point_of_its_gradient():
    inner, got = recording()
    tx = optkit.preprocess_gradients(inner, optax.add_decayed_weights(0.5))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad_fn=optax.tree.zeros_like)
    np.testing.assert_array_equal(updates["w"], [4.5, -6.0])
    np.testing.assert_array_equal(got[0]["grad_fn"]({"w": jnp.array([2.0, 4.0])})["w"], [1.0, 2.0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_gradients_keep_their_dtype_and_norms_are_taken_in_float32(dtype):
    gradients = jnp.full(3, 300.0, dtype)  # the squares overflow in float16
    tx = optkit.preprocess_gradients(optax.identity(), optax.clip_by_global_norm(3.0**0.5))
    updates, _ = tx.update(gradients, tx.init(gradients))
    assert updates.dtype == dtype
    np.testing.assert_allclose(updates.astype(jnp.float32), 1.0, rtol=1e-2)


def test_a_transformation_with_a_state_is_refused():
    with pytest.raises(ValueError, match="preprocess_gradients takes a transformation without state"):
        optkit.preprocess_gradients(optkit.storm(), optax.trace(0.9)).init(PARAMS)


@pytest.mark.slow
def test_a_product_with_the_hessian_is_derived_from_what_is_clipped():
    def hessian_product(vector, point):
        del point
        return vector

    tx = optkit.preprocess_gradients(optkit.harpg(1.0), CLIP)
    state = tx.init(optax.tree.scale(2.0, PARAMS))
    with pytest.raises(TypeError, match="harpg needs the extra argument grad_fn"):
        tx.update(PARAMS, state, PARAMS, hvp_fn=hessian_product)
    updates, _ = tx.update(PARAMS, state, PARAMS, grad_fn=jax.grad(lambda p: jnp.sum(p["w"] ** 2)))
    np.testing.assert_array_equal(updates["w"], [-1.0, 1.0])
