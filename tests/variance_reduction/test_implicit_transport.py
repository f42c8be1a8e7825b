import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from promises import assert_initialises_from_types, assert_needs_parameters, assert_same_steps
from trajectories import descend, last, trajectory

import optkit
from optkit.testing import check_transformation

CURVATURE = jnp.array([0.1, 0.5, 1.0])
START = jnp.array([3.0, -4.0, 5.0])
INNERS = {
    "descent": optax.sgd(0.3),
    "heavy ball": optax.sgd(0.1, momentum=0.9),
    "Nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "Adam": optax.adam(0.3),
}


def noisy(params, noise):
    return CURVATURE * params + noise


def reported(tx, noise, start=START):
    """The reported parameters after each step on a noisy quadratic."""
    params, _, states = descend(tx, noisy, start, noise)
    return jax.vmap(optkit.igt_eval_params)(states, params)


def weights(tx, steps):
    """The weight of each step's gradient in the last average."""
    return last(trajectory(tx, jnp.eye(steps)).states).average


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"delta": 3.0}, {"averaging": "ata"}, {"averaging": "ata", "interval": 5.0}])
@pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)
def test_on_a_quadratic_without_noise_it_is_the_inner_optimizer(inner, options):
    transported = optkit.implicit_gradient_transport(inner, **options)
    start, noise = START.astype(jnp.float64), jnp.zeros((30, 3))
    plain = descend(inner, noisy, start, noise).params
    np.testing.assert_allclose(reported(transported, noise, start), plain, rtol=1e-9, atol=1e-12)


def test_full_average_weighs_all_gradients_equally():
    tx = optkit.implicit_gradient_transport(optax.sgd(0.1))
    np.testing.assert_allclose(weights(tx, 20), 1 / 20, rtol=1e-5)


@pytest.mark.parametrize("interval", [1.0, 2.0, 7.0])
def test_tail_average_weighs_no_gradient_negatively(interval):
    of_each = weights(optkit.implicit_gradient_transport(optax.sgd(0.1), "ata", interval=interval), 60)
    assert jnp.all(of_each >= 0)
    np.testing.assert_allclose(jnp.sum(of_each), 1.0, rtol=1e-5)


def test_tail_average_forgets_what_lies_before_the_tail():
    of_each = weights(optkit.implicit_gradient_transport(optax.sgd(0.1), "ata", interval=4.0), 80)
    assert jnp.sum(of_each[:40]) < 0.1 < jnp.sum(of_each[60:])


def test_full_average_halves_the_noise_of_descent():
    noise = jax.random.normal(jax.random.key(0), (500, 3))
    plain = descend(optax.sgd(0.1), noisy, START, noise).params
    transported = reported(optkit.igt(0.1, momentum=None), noise)
    assert jnp.linalg.norm(transported[-1]) < 0.5 * jnp.linalg.norm(plain[-1])


WRAPPED = {
    "chain": lambda tx: optax.chain(optax.clip(10.0), tx),
    "inject_hyperparams": lambda _: optax.inject_hyperparams(optkit.igt, ("nesterov",))(learning_rate=0.1),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_eval_params_finds_the_state_in_other_states(wrap):
    bare, wrapped = optkit.igt(0.1), wrap(optkit.igt(0.1))
    expected = bare.update(START, bare.init(START), START)[1]
    _, state = wrapped.update(START, wrapped.init(START), START)
    np.testing.assert_allclose(optkit.igt_eval_params(state, START), optkit.igt_eval_params(expected, START), rtol=1e-6)


def test_eval_params_takes_masked_leaves_from_the_loop():
    params = {"inside": jnp.array([1.0]), "outside": jnp.array([2.0]), "nothing": None}
    tx = optax.masked(optkit.igt(0.1), {"inside": True, "outside": False, "nothing": False})
    _, state = tx.update(params, tx.init(params), params)
    reported = optkit.igt_eval_params(state, params)
    np.testing.assert_allclose(reported["inside"], 0.9, rtol=1e-6)
    assert reported["outside"] is params["outside"]
    assert reported["nothing"] is None


def test_eval_params_takes_every_part_of_a_partition():
    params = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
    tx = optax.partition({"slow": optkit.igt(0.1), "fast": optkit.igt(0.5)}, {"a": "slow", "b": "fast"})
    _, state = tx.update(params, tx.init(params), params)
    reported = optkit.igt_eval_params(state, params)
    np.testing.assert_allclose([reported["a"][0], reported["b"][0]], [0.9, 0.5], rtol=1e-6)


def test_eval_params_says_that_there_is_no_such_state():
    with pytest.raises(ValueError, match="found no ImplicitTransportState"):
        optkit.igt_eval_params(optax.sgd(0.1).init(START), START)


def test_true_params_of_bfloat16_stay_in_float32():
    params = jnp.ones(3, jnp.bfloat16)
    tx = optkit.igt(1e-4)
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.dtype == optkit.igt_eval_params(state, params).dtype == jnp.bfloat16
    np.testing.assert_allclose(state[1].params, 1 - 1e-4, rtol=1e-6)


def test_weight_decay_of_igt_is_taken_at_the_shifted_params():
    decayed = descend(optkit.igt(0.1, weight_decay=0.5), lambda params, _: CURVATURE * params, START, steps=3).params
    by_hand = descend(optkit.igt(0.1), lambda params, _: (CURVATURE + 0.5) * params, START, steps=3).params
    np.testing.assert_allclose(decayed, by_hand, rtol=1e-6)


def test_weight_decay_of_igt_adam_is_taken_at_the_true_params():
    constant = jnp.tile(jnp.array([1.0, 1.0, -1.0]), (3, 1))
    by_hand = optkit.implicit_gradient_transport(optax.chain(optax.add_decayed_weights(0.5), optax.adam(0.1)))
    assert_same_steps(optkit.igt_adam(0.1, weight_decay=0.5), by_hand, constant, START, rtol=1e-5)


def test_decay_spares_masked_leaves():
    params = {"decayed": jnp.array([4.0]), "free": jnp.array([4.0])}
    tx = optkit.igt(0.1, weight_decay=0.5, mask={"decayed": True, "free": False})
    _, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    reported = optkit.igt_eval_params(state, params)
    np.testing.assert_allclose([reported["decayed"][0], reported["free"][0]], [3.8, 4.0], rtol=1e-6)


def test_wrapper_hands_on_extra_args():
    promises = ["hands_on_extra_args", "keeps_types", "takes_all_shapes"]
    check_transformation(optkit.implicit_gradient_transport, promises=promises, inner=optax.sgd(1e-3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"averaging": "tail"}, "averaging must be 'full' or 'ata', got 'tail'"),
        ({"delta": 0.0}, r"delta must be in \(0, inf\], got 0.0"),
        ({"interval": 0.5}, r"interval must be in \[1, inf\], got 0.5"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.igt(0.1, **arguments)


def test_bad_weight_decay_of_igt_adam():
    with pytest.raises(ValueError, match=r"weight_decay must be in \[0, inf\], got -1.0"):
        optkit.igt_adam(0.1, weight_decay=-1.0)


def test_update_without_params():
    assert_needs_parameters(optkit.implicit_gradient_transport(optax.sgd(0.1)), "implicit_gradient_transport")


TRANSPORTS = {
    "igt": functools.partial(optkit.igt, 0.1),
    "igt_adam": functools.partial(optkit.igt_adam, 0.1),
    "nigt": functools.partial(optkit.nigt, 0.1),
    "implicit_gradient_transport": functools.partial(optkit.implicit_gradient_transport, optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", TRANSPORTS)
def test_init_takes_types(name):
    assert_initialises_from_types(TRANSPORTS[name](), {"kernel": jnp.ones((2, 4, 8))})


@pytest.mark.parametrize("name", TRANSPORTS)
def test_missing_parameters_are_said_by_name(name):
    assert_needs_parameters(TRANSPORTS[name](), name)


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("averaging", ["full", "ata"])
def test_counts_are_converted_where_dtypes_are_not_promoted(name, averaging):
    tx = TRANSPORTS[name](**({} if name == "nigt" else {"averaging": averaging}))
    params = jnp.ones(2)
    with jax.numpy_dtype_promotion("strict"):
        _, state = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
        jax.eval_shape(tx.update, params, state, params)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_turn_of_the_complex_plane_turns_the_updates(name):
    tx = TRANSPORTS[name]()
    params = jnp.array([1 + 2j, -3 + 0.5j])

    def turned(factor):
        state = tx.init(factor * params)
        for _ in range(2):
            updates, state = tx.update(factor * params, state, factor * params)
        return updates

    np.testing.assert_allclose(turned(1j), 1j * turned(1.0), rtol=1e-5)
