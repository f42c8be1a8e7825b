import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from golden_files import assert_replays, replays
from promises import assert_needs_parameters, assert_refuses_complex_parameters, assert_rows_are_workers

import optkit
from optkit.testing import check_transformation
from optkit.testing.golden import replay_gradients

FACTORIES = {
    "vr_sgd": optkit.vr_sgd,
    "vr_momentum": optkit.vr_momentum,
    "vr_adam": optkit.vr_adam,
    "vr_lars": optkit.vr_lars,
    "vr_lamb": optkit.vr_lamb,
}
EACH_OPTIMIZER = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
PARAMS = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(5), "scale": jnp.float32(2.0)}


def rows(seed=0, parts=4):
    return normal_like(PARAMS, seed, rows=(parts,))


@functools.partial(jax.jit, static_argnums=0)
def average(tx, gradients, params=None):
    """One update of a transformation in its first step."""
    return tx.update(gradients, tx.init(jax.tree.map(lambda g: g[0], gradients)), params)[0]


@pytest.mark.slow
@replays("vr_sgd", "vr_momentum", "vr_adam", "vr_lars", "vr_lamb")
def test_golden_vr(recording):
    hyperparams = recording.hyperparams
    assert hyperparams["n_workers"] == next(iter(recording.tree("grads").values())).shape[1]
    optional = ("momentum", "b1", "b2", "b3", "eps", "weight_decay", "trust_coefficient")
    arguments = hyperparams.take("learning_rate", "gamma") | hyperparams.take_recorded(*optional)
    tx = FACTORIES[recording.meta["method"]](**arguments)
    assert_replays(recording, replay_gradients(tx, recording))


@pytest.mark.slow
@EACH_OPTIMIZER
def test_workers_and_microbatches_give_the_same(factory):
    assert_rows_are_workers(functools.partial(factory, 0.1), map(rows, range(3)), PARAMS, rtol=1e-6)


@pytest.mark.slow
@EACH_OPTIMIZER
def test_keeps_the_contract_over_workers(factory):
    check_transformation(
        functools.partial(factory, axis_name="workers"),
        needs=("axis_name",),
        promises=["keeps_types", "takes_all_shapes", "agrees_between_backends"],
        static_args=("axis_name",),
        learning_rate=1e-2,
    )


@EACH_OPTIMIZER
@pytest.mark.parametrize("axis_name", [None, "workers"])
def test_one_part_raises(factory, axis_name):
    tx = factory(0.1, axis_name=axis_name)
    update = jax.vmap(tx.update, (0, None), axis_name=axis_name) if axis_name else tx.update
    with pytest.raises(ValueError, match="needs at least 2 of them, got 1"):
        update(rows(parts=1), tx.init(PARAMS))


def test_gradients_without_leading_axis_raise():
    tx = optkit.vr_sgd(0.1)
    params = {"square": jnp.ones((3, 3))}
    with pytest.raises(ValueError, match=r"params\['square'\] has shape \(3,\) and the parameter \(3, 3\)"):
        tx.update(params, tx.init(params), params)


@pytest.mark.usefixtures("x64")
def test_weighs_by_the_clipped_ratio_with_mean_one():
    gradients = np.random.default_rng(0).standard_normal((8, 30)) + 0.5
    ratio = gradients.mean(0) ** 2 / gradients.var(0)
    expected = np.clip(ratio / ratio.mean(), 0.2, 1) * gradients.mean(0)
    np.testing.assert_allclose(average(optkit.scale_by_gradient_snr(0.2), gradients), expected, rtol=1e-12)


@pytest.mark.slow
def test_leaves_do_not_mix():
    gradients = rows()
    together = average(optkit.scale_by_gradient_snr(), gradients)
    alone = average(optkit.scale_by_gradient_snr(), {"bias": gradients["bias"]})
    np.testing.assert_array_equal(together["bias"], alone["bias"])


def test_gamma_of_one_averages():
    gradients = rows()
    averaged = average(optkit.scale_by_gradient_snr(1.0), gradients)
    jax.tree.map(lambda a, g: np.testing.assert_allclose(a, g.mean(0), rtol=1e-6), averaged, gradients)


def test_scalars_are_averaged():
    gradients = rows()
    averaged = average(optkit.scale_by_gradient_snr(), gradients)
    np.testing.assert_allclose(averaged["scale"], gradients["scale"].mean(), rtol=1e-6)


def test_zero_gradients_stay_zero():
    gradients = optax.tree.zeros_like(rows())
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), average(optkit.scale_by_gradient_snr(), gradients))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e15])
def test_gradients_that_agree_are_averaged_at_any_scale(size):
    gradients = np.stack([np.float32(size) * np.arange(1.0, 9.0, dtype=np.float32)] * 4)
    np.testing.assert_allclose(average(optkit.scale_by_gradient_snr(), gradients), gradients[0], rtol=1e-6)


def test_a_coordinate_without_noise_takes_the_weight():
    gradients = jnp.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]])
    averaged = average(optkit.scale_by_gradient_snr(0.1), gradients)
    np.testing.assert_allclose(averaged, [1.0, 0.15, 0.25], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e12])
def test_weights_do_not_depend_on_the_scale_of_the_gradient(scale):
    gradients, tx = np.asarray(rows()["kernel"]), optkit.scale_by_gradient_snr()
    scaled = average(tx, gradients * np.float32(scale))
    np.testing.assert_allclose(scaled, np.asarray(average(tx, gradients)) * np.float32(scale), rtol=1e-4)


def test_first_smoothed_weights_are_the_weights():
    gradients = rows()
    plain, smoothed = (average(optkit.scale_by_gradient_snr(b3=b3), gradients) for b3 in (None, 0.9))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), plain, smoothed)


def test_without_correction_smoothed_weights_start_small():
    gradients = rows()
    plain, smoothed = (
        average(optkit.scale_by_gradient_snr(**options), gradients) for options in ({}, {"b3": 0.9, "debias": False})
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(0.1 * a, b, rtol=1e-5), plain, smoothed)


def test_second_moment_sees_the_weighted_gradient():
    gradients, tx = rows(), optkit.vr_adam(0.1, b3=None)
    weighted = average(optkit.scale_by_gradient_snr(), gradients)
    nu = optax.tree.get(jax.jit(tx.update)(gradients, tx.init(PARAMS), PARAMS)[1], "nu")
    jax.tree.map(lambda v, g: np.testing.assert_allclose(v, 0.001 * g**2, rtol=1e-4), nu, weighted)


def test_states_are_those_of_the_base_and_one_number_a_parameter_for_the_average():
    def numbers(tx):
        return optkit.cost(tx, jnp.zeros(100), state_only=True).state_bytes // 400

    assert [numbers(factory(0.1)) for factory in FACTORIES.values()] == [0, 1, 3, 1, 3]


@EACH_OPTIMIZER
def test_sends_twice_what_data_parallel_training_sends(factory):
    def data_parallel(updates, params):
        del params
        return jax.lax.pmean(updates, "workers")

    params = jnp.zeros(1000)
    plain, ours = (
        optkit.cost(tx, params, axis_name="workers", axis_size=4)
        for tx in (optax.stateless(data_parallel), factory(0.1, axis_name="workers"))
    )
    assert ours.sent == {kind: 2 * size for kind, size in plain.sent.items()}


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (optkit.scale_by_gradient_snr, {"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        (optkit.scale_by_gradient_snr, {"b3": 1.0}, r"b3 must be in \[0, 1\), got 1.0"),
        (optkit.vr_momentum, {"learning_rate": 0.1, "momentum": -1.0}, r"momentum must be in \[0, 1\], got -1.0"),
        (optkit.vr_adam, {"learning_rate": 0.1, "b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
        (optkit.vr_lars, {"learning_rate": 0.1, "trust_coefficient": 0.0}, "trust_coefficient must be in "),
        (optkit.vr_lamb, {"learning_rate": 0.1, "weight_decay": -1.0}, "weight_decay must be in "),
    ],
)
def test_wrong_arguments_raise(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(**arguments)


@EACH_OPTIMIZER
@pytest.mark.parametrize("with_params", [True, False])
def test_mean_gradients_are_said_to_lack_the_rows(factory, with_params):
    tx = factory(0.1)
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match=f"{factory.__name__} takes gradients with a leading axis, of as many microb"):
        tx.update(params, tx.init(params), params if with_params else None)


@EACH_OPTIMIZER
def test_complex_parameters_are_refused_by_name(factory):
    assert_refuses_complex_parameters(factory(0.1), factory.__name__)


@pytest.mark.slow
def test_averaged_weights_keep_their_dtype_with_wider_gradients():
    tx = optkit.vr_adam(0.1)
    state = tx.init(jnp.ones(3))
    with jax.enable_x64(True):
        gradients = jax.ShapeDtypeStruct((4, 3), jnp.float64)
        _, new_state = jax.eval_shape(tx.update, gradients, state, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert [x.dtype for x in jax.tree.leaves(new_state)] == [x.dtype for x in jax.tree.leaves(state)]


@pytest.mark.slow
def test_updates_need_no_parameters_unless_they_are_relative_to_them():
    gradients = jnp.array([[1.0, 6.0], [1.0, -4.0]])
    params = jnp.ones(2)
    tx = optkit.vr_adam(0.1)
    np.testing.assert_array_equal(average(tx, gradients), average(tx, gradients, params))
    for named, build in (
        ("vr_adam", functools.partial(optkit.vr_adam, weight_decay=0.1)),
        ("vr_lars", optkit.vr_lars),
        ("vr_lamb", optkit.vr_lamb),
    ):
        assert_needs_parameters(build(0.1), named, gradients=gradients)


@pytest.mark.slow
def test_which_steps_are_relative_may_depend_on_the_whole_tree():
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    gradients = jax.tree.map(lambda x: np.stack([x, 2 * x]), params)
    vectors = lambda tree: jax.tree.map(lambda x: x.ndim < 2, tree)  # noqa: E731
    tx = optkit.vr_lars(1.0, 0.0, trust_ratio_mask=vectors)
    updates = average(tx, gradients, params)
    np.testing.assert_allclose(updates["kernel"], -1.5)
    np.testing.assert_allclose(updates["bias"], -0.001, rtol=1e-6)
