import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit

INNER = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.0),
    "lion": lambda: optax.lion(0.1, weight_decay=0.0),
}


def trajectory(tx, steps=30):
    """Noisy gradients, and the updates that `tx` made of them."""
    grads = jax.random.normal(jax.random.key(0), (steps, 5, 4))
    params = jnp.ones((5, 4))

    def step(state, grad):
        updates, state = tx.update(grad, state, params)
        return state, updates

    return grads, jax.lax.scan(step, tx.init(params), grads)[1]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_never_moves_against_the_gradient(inner, wrapper):
    grads, updates = trajectory(wrapper(INNER[inner]()))
    assert jnp.all(updates * grads <= 0)
    _, plain_updates = trajectory(INNER[inner]())
    assert jnp.any(plain_updates * grads > 0), "the inner optimizer does"


@pytest.mark.parametrize("inner", INNER)
def test_grams_keeps_the_size_of_the_inner_update(inner):
    _, updates = trajectory(optkit.grams(INNER[inner]()))
    _, plain_updates = trajectory(INNER[inner]())
    np.testing.assert_array_equal(jnp.abs(updates), jnp.abs(plain_updates))


@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_ascent_is_the_same_before_the_learning_rate(wrapper):
    before = optax.chain(wrapper(optax.trace(0.9), before_learning_rate=True), optax.scale_by_learning_rate(0.1))
    np.testing.assert_allclose(trajectory(before)[1], trajectory(wrapper(optax.sgd(0.1, 0.9)))[1], rtol=1e-6)


def test_cautious_without_disagreement_changes_nothing():
    _, plain = trajectory(optax.sgd(0.1))
    _, masked = trajectory(optkit.cautious(optax.sgd(0.1)))
    np.testing.assert_array_equal(plain, masked)


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("mean_clamp", 4 / 3), ("numel_plus_one", 4 / 4)])
def test_cautious_rescales_the_coordinates_that_move(scale, factor):
    tx = optkit.cautious(optax.trace(0.9), scale=scale, before_learning_rate=True)
    params = jnp.zeros(4)
    _, state = tx.update(jnp.ones(4), tx.init(params), params)
    updates, _ = tx.update(jnp.array([1.0, 1.0, 1.0, -0.1]), state, params)
    np.testing.assert_allclose(updates, factor * jnp.array([1.9, 1.9, 1.9, 0.0]), rtol=1e-6)


@pytest.mark.parametrize("scale", ["mean_clamp", "numel_plus_one"])
def test_cautious_rescales_sharded_leaves_as_whole_ones(scale):
    gradient, update = jax.random.normal(jax.random.key(0), (2, 16, 3))

    def cautious_update(axis_name, update, gradient):
        inner = optax.stateless(lambda _, params: params)  # proposes what it is given as parameters
        tx = optkit.cautious(inner, scale=scale, before_learning_rate=True, axis_name=axis_name)
        return tx.update(gradient, tx.init(update), update)[0]

    mesh = jax.make_mesh((8,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.P("shards")
    sharded = jax.shard_map(functools.partial(cautious_update, "shards"), mesh=mesh, in_specs=rows, out_specs=rows)
    np.testing.assert_allclose(jax.jit(sharded)(update, gradient), cautious_update(None, update, gradient), rtol=1e-6)


def test_cautious_without_rescaling_talks_to_nobody():
    tx = optkit.cautious(optax.sgd(0.1), scale="none", axis_name="workers")
    cost = optkit.cost(tx, {"w": jax.ShapeDtypeStruct((8,), jnp.float32)}, axis_name="workers", axis_size=8)
    assert cost.sent == {}


@pytest.mark.parametrize("scale", ["none", "mean_clamp", "numel_plus_one"])
def test_cautious_stands_still_where_nothing_agrees(scale):
    tx = optkit.cautious(optax.scale(-1.0), scale=scale, before_learning_rate=True)
    params = jnp.ones(4)
    np.testing.assert_array_equal(tx.update(params, tx.init(params), params)[0], jnp.zeros(4))


def test_grams_stands_still_at_a_zero_gradient():
    tx = optkit.grams(optax.sgd(0.1, momentum=0.9))
    params = jnp.ones(2)
    _, state = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(tx.update(jnp.zeros(2), state, params)[0], jnp.zeros(2))


def quadratic_loss(tx, learning_rate):
    """Loss after 300 steps on a quadratic with eigenvalues from 0.01 to 10 in a random basis."""
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (100, 100)))[0]
    hessian = (rotation * jnp.logspace(-2, 1, 100)) @ rotation.T
    start = jax.random.normal(jax.random.key(0), (100,))
    optimizer = tx(learning_rate)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(hessian @ params, state, params)
        return (optax.apply_updates(params, updates), state), None

    params, _ = jax.lax.scan(step, (start, optimizer.init(start)), length=300)[0]
    return params @ hessian @ params / 2


@pytest.mark.parametrize("learning_rate", [0.01, 0.03])
@pytest.mark.parametrize("tx", [optkit.grams_adamw, optkit.cautious_adamw])
def test_beats_adam_on_a_quadratic_at_small_rates(tx, learning_rate):
    assert quadratic_loss(tx, learning_rate) < quadratic_loss(optax.adam, learning_rate)


COMPLEX = jnp.array([1j, -1, 1 - 1j, -1 + 2j])


def test_cautious_compares_directions_of_complex_numbers():
    tx = optkit.cautious(optax.sgd(1.0))
    np.testing.assert_array_equal(tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)[0], -COMPLEX)
    proposal = jnp.array([1j, 1 + 1j, -2j, -1.0])  # its real products with the gradients: 1, -1, 2, 1
    tx = optkit.cautious(optax.stateless(lambda *_: proposal), scale="none", before_learning_rate=True)
    np.testing.assert_array_equal(tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)[0], proposal * jnp.array([1, 0, 1, 1]))


def test_grams_takes_the_direction_of_complex_gradients():
    tx = optkit.grams(optax.stateless(lambda *_: jnp.full(4, 3.0 + 4.0j)), before_learning_rate=True)
    updates, _ = tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)
    np.testing.assert_allclose(updates, 5 * COMPLEX / jnp.abs(COMPLEX), rtol=1e-6)


def test_cautious_decay_compares_directions_of_complex_numbers():
    tx = optkit.add_cautious_decayed_weights(0.5)
    params = jnp.array([2j, 2, -2, 1 + 1j])
    right = COMPLEX + 0.5 * params * jnp.array([1, 0, 0, 1])
    np.testing.assert_allclose(tx.update(COMPLEX, tx.init(params), params)[0], right, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "build", [optkit.cautious_adamw, optkit.cautious_lion, optkit.grams_adamw, optkit.lion_kappa, optkit.signum]
)
def test_turning_complex_gradients_turns_the_updates(build):
    grads = jax.random.normal(jax.random.key(0), (5, 4), complex)

    def run(grads):
        tx = build(0.1)
        return jax.lax.scan(lambda state, grad: tx.update(grad, state)[::-1], tx.init(grads[0]), grads)[1]

    turn = jnp.exp(0.7j)
    np.testing.assert_allclose(run(turn * grads), turn * run(grads), rtol=1e-10)


NEEDS_NO_PARAMETERS = {
    "cautious": lambda: optkit.cautious(optax.sgd(0.1)),
    "grams": lambda: optkit.grams(optax.sgd(0.1)),
    "add_cautious_decayed_weights": optkit.add_cautious_decayed_weights,
    "cautious_adamw": lambda: optkit.cautious_adamw(0.1),
    "cautious_lion": lambda: optkit.cautious_lion(0.1),
    "grams_adamw": lambda: optkit.grams_adamw(0.1),
    "lion_kappa": lambda: optkit.lion_kappa(0.1),
    "lion_kappa, implicit": lambda: optkit.lion_kappa(0.1, implicit_decay=True),
    "signum": lambda: optkit.signum(0.1),
}


@pytest.mark.parametrize("build", NEEDS_NO_PARAMETERS.values(), ids=list(NEEDS_NO_PARAMETERS))
def test_without_decay_parameters_are_not_needed(build):
    tx, grads = build(), jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(tx.update(grads, tx.init(grads))[0], tx.update(grads, tx.init(grads), grads)[0])


@pytest.mark.parametrize(
    "name",
    ["add_cautious_decayed_weights", "cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"],
)
def test_decay_without_parameters_names_the_method(name):
    rate = {} if name.startswith("add_") else {"learning_rate": 0.1}
    tx = getattr(optkit, name)(**rate, weight_decay=0.1)
    with pytest.raises(ValueError, match=rf"^{name} needs the parameters: call update\(updates, state, params\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_decay_masks_may_be_functions_of_the_whole_tree():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    mask = functools.partial(jax.tree.map, lambda x: x.ndim > 1)
    for name in ("cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"):
        tx = getattr(optkit, name)(0.1, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0.0)


@pytest.mark.parametrize("name", ["mask", "mu_dtype"])
@pytest.mark.parametrize("method", ["cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"])
def test_static_arguments_that_injection_made_arrays_are_refused(method, name):
    with pytest.raises(TypeError, match=f"^{name} cannot be an array, .* static_args"):
        getattr(optkit, method)(0.1, **{name: jnp.array(1)})


@pytest.mark.parametrize("scale", ["mean_clamp", "numel_plus_one"])
@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**15)])
def test_cautious_takes_leaves_of_more_entries_than_32_bits_count(scale, shape):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    tx = optkit.cautious(optax.sgd(0.1), scale=scale)
    assert jax.eval_shape(tx.update, leaf, jax.eval_shape(tx.init, leaf), leaf)[0].shape == shape


@pytest.mark.usefixtures("x64")
def test_epsilon_of_cautious_adamw_follows_either_path_of_the_authors():
    grad, b1, b2, eps = 0.3, 0.9, 0.999, 0.1
    m, v = (1 - b1) * grad, (1 - b2) * grad**2
    loop = (1 - b2) ** 0.5 / (1 - b1) * m / (v**0.5 + eps)  # foreach=False
    foreach = m / (1 - b1) / ((v / (1 - b2)) ** 0.5 + eps)  # foreach=True
    params = jnp.zeros(())
    for arguments, right in (({}, loop), ({"eps_placement": "post"}, foreach)):
        tx = optkit.cautious_adamw(1.0, b1, b2, eps, **arguments)
        np.testing.assert_allclose(tx.update(jnp.asarray(grad), tx.init(params))[0], -right, rtol=1e-12)


def test_weight_decay_is_not_masked():
    params = jnp.array([4.0, -4.0])
    for tx in (optkit.cautious_adamw, optkit.cautious_lion, optkit.grams_adamw):
        decayed = tx(0.1, weight_decay=0.5)
        updates, _ = decayed.update(jnp.zeros(2), decayed.init(params), params)
        np.testing.assert_allclose(updates, -0.05 * params, rtol=1e-6)


def test_cautious_decay_moves_towards_zero_only_with_the_update():
    tx = optkit.add_cautious_decayed_weights(0.5, mask={"decayed": True, "free": False})
    params = {"decayed": jnp.array([2.0, -2.0, 2.0]), "free": jnp.array([2.0])}
    before_learning_rate = {"decayed": jnp.array([1.0, 1.0, 0.0]), "free": jnp.array([1.0])}
    updates, _ = tx.update(before_learning_rate, tx.init(params), params)
    np.testing.assert_array_equal(updates["decayed"], [2.0, 1.0, 0.0])
    np.testing.assert_array_equal(updates["free"], [1.0])


@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_extra_arguments_reach_the_inner_optimizer(wrapper):
    tx = wrapper(optax.polyak_sgd())
    params = jnp.ones(2)
    updates, _ = tx.update(params, tx.init(params), params, value=1.0, unknown=None)
    assert jnp.all(updates < 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.cautious(optax.sgd(0.1), scale="mean"), "scale must be 'mean_clamp'.* got 'mean'"),
        (lambda: optkit.cautious(optax.sgd(0.1), threshold=0.0), r"threshold must be in \(0, 1\], got 0.0"),
        (lambda: optkit.cautious_adamw(0.1, eps_placement="mid"), "eps_placement must be 'pre' or 'post', got 'mid'"),
        (lambda: optkit.grams_adamw(0.1, b2=1.0), r"b2 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.grams_adamw(0.1, eps=-1.0), "eps must be in"),
        (lambda: optkit.add_cautious_decayed_weights(-0.1), "weight_decay must be in"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_cautious_decay_without_parameters_says_how_to_call():
    tx = optkit.add_cautious_decayed_weights(0.1)
    with pytest.raises(ValueError, match=r"update\(updates, state, params\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
