import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from trajectories import trajectory

from optkit.core.adam import scale_by_adam
from optkit.core.checks import check_range
from optkit.core.extra_args import EXTRA_ARGS
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import in_float32, scalar_dtype, widen


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_small_gradients_keep_their_second_moment(dtype):
    params = jnp.ones(3, dtype)
    tx = in_float32(optax.adam(1e-3))
    updates, state = tx.update(jnp.full(3, 1e-4, dtype), tx.init(params), params)
    assert updates.dtype == dtype
    assert state[0].nu.dtype == jnp.float32
    np.testing.assert_allclose(updates.astype(jnp.float32), -1e-3, rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64():
    params = jnp.ones(3)
    tx = in_float32(optax.adam(1e-3))
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.dtype == state[0].nu.dtype == jnp.float64


def test_wider_gradients_do_not_widen_the_state():
    params = jnp.ones(3)
    tx = in_float32(optax.sgd(0.1, momentum=0.9))
    state = tx.init(params)
    with jax.enable_x64(True):
        updates, new_state = tx.update(jnp.ones(3, jnp.float64), state, params)
    assert updates.dtype == new_state[0].trace.dtype == jnp.float32


def test_without_parameters_updates_keep_their_own_dtype():
    grads = jnp.ones(3, jnp.bfloat16)
    tx = in_float32(optax.sgd(0.1))
    assert tx.update(grads, tx.init(grads))[0].dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
def test_epsilon_behind_the_bias_correction_is_optax_adam():
    grads = normal(10, 4)
    ours = trajectory(scale_by_adam(0.9, 0.99, 1e-2, eps_placement="post"), grads).updates
    np.testing.assert_allclose(ours, trajectory(optax.scale_by_adam(0.9, 0.99, 1e-2), grads).updates, rtol=1e-12)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array([0.1, 0.9]), jnp.array(7.0), lambda count: count])
def test_numbers_in_range_arrays_and_schedules_pass(value):
    check_range("b1", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1.0), np.array([0.5, 1.0]), float("nan"), -1])
def test_numbers_out_of_range_raise(value):
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got"):
        check_range("b1", value, 0.0, 1.0, high_open=True)


@pytest.mark.parametrize("axis_type", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_replicate_and_back(axis_type):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    sharding = jax.NamedSharding(mesh, jax.P("a", "b"))
    x = jax.device_put(jnp.arange(32.0).reshape(8, 4), sharding)
    back = jax.jit(lambda x: shard_like(jnp.cumsum(replicate(x).ravel()).reshape(x.shape), x))(x)
    np.testing.assert_array_equal(back.ravel(), jnp.cumsum(jnp.arange(32.0)))
    if axis_type == jax.sharding.AxisType.Explicit:
        assert back.sharding == sharding


@pytest.mark.parametrize("name", [name for name, argument in EXTRA_ARGS.items() if argument.points])
def test_functions_see_the_dtype_that_the_vocabulary_gives_them(name):
    seen = {"own": jnp.bfloat16, "float32": jnp.float32}[EXTRA_ARGS[name].points]

    def function(tree, *others):
        assert jax.tree.leaves(tree)[0].dtype == seen
        assert others == (1,) * (name == "minibatch_grad_fn")
        return tree

    def update(updates, state, params=None, **extra_args):
        assert jax.tree.leaves(params)[0].dtype == jnp.float32
        result = extra_args[name](params, *(1,) * (name == "minibatch_grad_fn"))
        assert jax.tree.leaves(result)[0].dtype == jnp.float32
        return updates, state

    params = {"w": jnp.ones(2, jnp.bfloat16)}
    tx = in_float32(optax.GradientTransformationExtraArgs(optax.init_empty_state, update))
    updates, _ = tx.update(params, tx.init(params), params, **{name: function, "other": None})
    assert updates["w"].dtype == jnp.bfloat16


def test_a_difference_of_losses_is_not_lost_in_16_bits():
    def update(updates, state, params=None, *, value_fn):
        up, down = (jax.tree.map(lambda p: p + step, params) for step in (1e-3, -1e-3))  # noqa: B023
        return jax.tree.map(lambda _: (value_fn(up) - value_fn(down)) / 2e-3, updates), state

    params = jnp.ones((), jnp.bfloat16)
    tx = in_float32(optax.GradientTransformationExtraArgs(optax.init_empty_state, update))
    slope, _ = tx.update(params, tx.init(params), params, value_fn=lambda w: 3 * w)
    np.testing.assert_allclose(float(slope), 3.0, rtol=float(jnp.finfo(jnp.bfloat16).eps))


def test_types_are_widened_like_arrays():
    types = {"w": jax.ShapeDtypeStruct((2,), jnp.bfloat16), "b": jax.ShapeDtypeStruct((), jnp.int8)}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), widen(types)) == {"w": ((2,), jnp.float32), "b": ((), jnp.int8)}


@pytest.mark.usefixtures("x64")
def test_statistics_are_real_and_need_no_promotion():
    with jax.numpy_dtype_promotion("strict"):
        assert scalar_dtype([jnp.ones((), jnp.bfloat16), jnp.ones((), jnp.complex64), jnp.int32(0)]) == jnp.float32
        assert scalar_dtype([jnp.ones((), jnp.float32), jnp.ones((), jnp.complex128)]) == jnp.float64
