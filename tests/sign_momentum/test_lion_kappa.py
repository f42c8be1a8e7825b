import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_needs_parameters, assert_refuses_complex_parameters, assert_same_steps
from trajectories import descend, first_update, last

import optkit

MATRIX = (6, 4)


def norm_of_rows(x):
    return np.max(np.linalg.norm(x, axis=1))


# kappa, and its dual norm
NORMS = {
    "l1": (optkit.kappa.l1(), lambda x: np.max(np.abs(x))),
    "lp(3)": (optkit.kappa.lp(3.0), lambda x: np.linalg.norm(x.ravel(), 1.5)),
    "lp(2)": (optkit.kappa.lp(2.0), lambda x: np.linalg.norm(x.ravel())),
    "linf": (optkit.kappa.linf(), lambda x: np.sum(np.abs(x))),
    "group": (optkit.kappa.group(), norm_of_rows),
    "nuclear": (optkit.kappa.nuclear(), lambda x: np.linalg.norm(x, 2)),
}


def approach(tx, target, start, steps):
    """All iterates of a descent towards a target, along the difference from it."""
    return np.asarray(descend(tx, lambda params, _: params - target, start, steps=steps).params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kappa_name", NORMS)
@pytest.mark.parametrize("weight_decay", [0.5, 2.0])
@pytest.mark.parametrize("implicit_decay", [False, True])
def test_iterates_enter_the_dual_ball_and_stay(kappa_name, weight_decay, implicit_decay):
    kappa, dual_norm = NORMS[kappa_name]
    learning_rate, steps = 0.02, 1500
    target, start = 10 * np.asarray(normal(2, *MATRIX))
    tx = optkit.lion_kappa(learning_rate, kappa=kappa, weight_decay=weight_decay, implicit_decay=implicit_decay)
    norms = np.array([dual_norm(x) for x in approach(tx, target, start, steps)])
    radius = 1 / weight_decay
    rate = 1 / (1 + learning_rate * weight_decay) if implicit_decay else 1 - learning_rate * weight_decay
    distance_bound = (dual_norm(start) - radius) * rate ** np.arange(1, steps + 1)
    np.testing.assert_array_less(norms - radius, distance_bound + 1e-9)
    assert norms[-1] > 0.95 * radius, "the minimum lies outside: the constraint is active"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kappa_name", NORMS)
def test_iterates_that_start_inside_never_leave(kappa_name):
    kappa, dual_norm = NORMS[kappa_name]
    tx = optkit.lion_kappa(0.05, kappa=kappa, weight_decay=0.5)
    iterates = approach(tx, 10 * np.asarray(normal(*MATRIX)), np.zeros(MATRIX), 300)
    assert max(map(dual_norm, iterates)) <= 2.0 * (1 + 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kappa", "solution"),
    [
        (optkit.kappa.l1(), lambda c: np.clip(c, -1, 1)),
        (optkit.kappa.soft(0.5), lambda c: np.sign(c) * np.clip(np.abs(c) - 0.5, 0, 1)),
        (optkit.kappa.huber(0.5), lambda c: np.clip(c / 1.5, -1, 1)),
        (optkit.kappa.lp(2.0), lambda c: c / np.linalg.norm(c)),
        (optkit.kappa.half_squared_l2(), lambda c: c / 2),
    ],
    ids=["l1", "soft", "huber", "lp(2)", "half_squared_l2"],
)
def test_solves_the_implied_composite_problem(kappa, solution):
    # min |x - c|^2 / 2 + kappa*(x): the proximal operator of the conjugate, in closed form.
    target = 3 * np.asarray(normal(50, seed=1))
    learning_rate = 1e-3
    tx = optkit.lion_kappa(learning_rate, kappa=kappa, weight_decay=1.0)
    found = last(approach(tx, target, np.zeros(50), 20_000))
    np.testing.assert_allclose(found, solution(target), atol=1.1 * learning_rate)


@pytest.mark.usefixtures("x64")
def test_log_sum_exp_moves_on_the_simplex():
    tx = optkit.lion_kappa(0.01, kappa=optkit.kappa.log_sum_exp(), weight_decay=1.0)
    shares = -last(approach(tx, normal(8, seed=2), np.zeros(8), 3000))
    assert np.all(shares > 0)
    np.testing.assert_allclose(np.sum(shares), 1.0, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_equals_optax_lion_with_the_l1_kappa(weight_decay):
    schedule = optax.cosine_decay_schedule(0.1, 20)
    ours = optkit.lion_kappa(schedule, kappa=optkit.kappa.l1(), weight_decay=weight_decay)
    theirs = optax.lion(schedule, weight_decay=weight_decay)
    assert_same_steps(ours, theirs, normal(20, *MATRIX, seed=3), jnp.ones(MATRIX), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_implicit_decay_is_explicit_decay_at_a_smaller_rate():
    rate, weight_decay = 0.1, 0.5
    grads = jnp.array([1.0, -2.0, 0.5])
    params = jnp.array([3.0, 1.0, -1.0])
    implicit = optkit.lion_kappa(rate, weight_decay=weight_decay, implicit_decay=True)
    explicit = optkit.lion_kappa(rate / (1 + rate * weight_decay), weight_decay=weight_decay)
    first, second = (first_update(tx, grads, params) for tx in (implicit, explicit))
    np.testing.assert_allclose(first, second, rtol=1e-14)


def test_implicit_decay_leaves_masked_leaves_alone():
    params = {"decayed": jnp.array([3.0]), "free": jnp.array([3.0])}
    mask = {"decayed": True, "free": False}
    tx = optkit.lion_kappa(0.1, weight_decay=0.5, mask=mask, implicit_decay=True)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["free"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["decayed"], 2.9 / 1.05 - 3.0, rtol=1e-6)


KAPPAS = {
    **{name: kappa for name, (kappa, _) in NORMS.items()},
    "soft": optkit.kappa.soft(0.1),
    "top_k": optkit.kappa.top_k(3),
    "huber": optkit.kappa.huber(0.1),
    "half_squared_l2": optkit.kappa.half_squared_l2(),
    "relativistic": optkit.kappa.relativistic(0.1),
    "log_cosh": optkit.kappa.log_cosh(0.1),
}


@functools.partial(jax.jit, static_argnums=0)
def slope_of(kappa, x):
    return kappa(x)


VALUES = {
    "l1": lambda x: jnp.sum(jnp.abs(x)),
    "lp(3)": lambda x: jnp.linalg.norm(x.ravel(), 3),
    "lp(2)": lambda x: jnp.linalg.norm(x.ravel()),
    "linf": lambda x: jnp.max(jnp.abs(x)),
    "group": lambda x: jnp.sum(jnp.linalg.norm(x, axis=1)),
    "nuclear": lambda x: jnp.linalg.norm(x, "nuc"),
    "soft": lambda x: jnp.sum(jnp.maximum(jnp.abs(x) - 0.1, 0)),
    "top_k": lambda x: jnp.sum(jax.lax.top_k(jnp.abs(x.ravel()), 3)[0]),
    "huber": lambda x: jnp.sum(optax.losses.huber_loss(x, delta=0.1)) / 0.1,
    "half_squared_l2": lambda x: jnp.sum(x**2) / 2,
    "relativistic": lambda x: jnp.sum(jnp.hypot(x, 0.1)),
    "log_cosh": lambda x: 0.1 * jnp.sum(jnp.logaddexp(x / 0.1, -x / 0.1) - jnp.log(2.0)),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KAPPAS)
def test_kappa_is_a_subgradient_of_its_convex_function(name):
    points = np.asarray(normal(21, *MATRIX, seed=4))
    slope, values = slope_of(KAPPAS[name], points[0]), jax.jit(jax.vmap(VALUES[name]))(points)
    rise = np.tensordot(points - points[0], slope, 2)
    assert np.all(np.asarray(values) >= np.asarray(values[0]) + rise - 1e-12)


ZEROS = {shape: np.zeros(shape, np.float32) for shape in ((), (5,), MATRIX, (3, 2, 2, 2), (0,), (0, 4))}


@functools.cache
def slopes_of_zeros(name):
    return jax.jit(functools.partial(jax.tree.map, KAPPAS[name]))(ZEROS)


@pytest.mark.parametrize("name", KAPPAS)
@pytest.mark.parametrize("shape", ZEROS)
def test_kappa_of_zero_is_zero(name, shape):
    np.testing.assert_array_equal(slopes_of_zeros(name)[shape], ZEROS[shape])


@pytest.mark.parametrize("name", [name for name in NORMS if name != "nuclear"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norm_kappas_do_not_depend_on_the_scale(name, scale):
    x, kappa = np.float32([[3.0, -4.0, 1.0], [1.0, 2.0, -2.0]]), KAPPAS[name]
    np.testing.assert_allclose(slope_of(kappa, np.float32(scale) * x), slope_of(kappa, x), rtol=1e-5)


@pytest.mark.parametrize("name", KAPPAS)
def test_kappa_shows_what_is_not_a_number(name):
    slope = np.asarray(slope_of(KAPPAS[name], np.float32([[3.0, np.nan], [1.0, 2.0]])))
    assert np.any(np.isnan(slope))
    others = slope[~np.isnan(slope)]
    assert np.all((np.abs(others) <= 1) | (name == "half_squared_l2"))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KAPPAS)
def test_kappa_of_complex_numbers_takes_their_moduli(name):
    x, turn, kappa = np.asarray(normal(*MATRIX, seed=5)), np.exp(0.7j), KAPPAS[name]
    turned = turn * np.asarray(slope_of(kappa, x))
    np.testing.assert_allclose(slope_of(kappa, turn * x), turned, rtol=1e-10, atol=1e-14)


def test_a_kappa_for_real_numbers_says_so_from_the_start():
    tx = optkit.lion_kappa(0.1, kappa=optkit.kappa.log_sum_exp())
    assert_refuses_complex_parameters(tx, "kappa.log_sum_exp", " optax.contrib.split_real_and_imaginary")
    tx = optax.contrib.split_real_and_imaginary(tx)
    params = jnp.ones(2, jnp.complex64)
    np.testing.assert_allclose(tx.update(params, tx.init(params), params)[0], -0.05 - 0.05j, rtol=1e-6)


@pytest.mark.parametrize("name", KAPPAS)
@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**15)])
def test_kappa_takes_leaves_of_more_entries_than_32_bits_count(name, shape):
    assert jax.eval_shape(KAPPAS[name], jax.ShapeDtypeStruct(shape, jnp.float32)).shape == shape


@pytest.mark.parametrize("name", KAPPAS)
def test_kappa_does_not_rely_on_rank_promotion(name):
    with jax.numpy_rank_promotion("raise"):  # which JAX does where it traces
        jax.eval_shape(KAPPAS[name], jax.ShapeDtypeStruct(MATRIX, jnp.float32))


def test_a_kappa_that_injection_called_is_refused():
    with pytest.raises(TypeError, match=r"^kappa cannot be an array, .* static_args"):
        optax.inject_hyperparams(optkit.lion_kappa)(0.1, kappa=optkit.kappa.huber(0.1)).init(jnp.ones(2))
    tx = optkit.inject_hyperparams(optkit.lion_kappa)(0.1, kappa=optkit.kappa.huber(10.0))
    params = jnp.ones(2)
    np.testing.assert_allclose(tx.update(params, tx.init(params), params)[0], -1e-3, rtol=1e-6)


WITH_MOMENTUM = {
    "lion_kappa": optkit.lion_kappa(0.01),
    "lion_kappa, 16 bits": optkit.lion_kappa(0.01, mu_dtype=jnp.float16),
    "signum": optkit.signum(0.01),
    "signum, 16 bits": optkit.signum(0.01, mu_dtype=jnp.float16),
    "cautious_lion": optkit.cautious_lion(0.01),
}


def gradient_unless_given(params, given):
    is_given, value = given
    return jnp.where(is_given, value, params)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 1e8])
@pytest.mark.parametrize("tx", WITH_MOMENTUM.values(), ids=list(WITH_MOMENTUM))
def test_one_bad_gradient_does_not_let_it_drift_for_ever(tx, bad):
    given = np.arange(3000) == 3, np.full(3000, bad, np.float32)
    end = last(np.asarray(descend(tx, gradient_unless_given, np.float32([1.0, -1.0]), given).params))
    assert np.all(np.isnan(end) | (np.abs(end) < 0.1))


def test_nuclear_keeps_the_null_space():
    x = jnp.outer(jnp.array([1.0, 2.0, 2.0]), jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(optkit.kappa.nuclear()(x), x / 15, atol=1e-6)


def test_linf_and_top_k_break_ties_by_position():
    x = jnp.array([[1.0, -2.0], [2.0, -2.0]])
    np.testing.assert_array_equal(optkit.kappa.linf()(x), [[0, -1], [0, 0]])
    np.testing.assert_array_equal(optkit.kappa.top_k(2)(x), [[0, -1], [1, 0]])


def test_momentum_dtype_is_mu_dtype_and_float32_by_default():
    params = jnp.ones(3, jnp.bfloat16)
    assert optkit.lion_kappa(0.1).init(params)[0].mu.dtype == jnp.float32
    assert optkit.lion_kappa(0.1, mu_dtype=jnp.bfloat16).init(params)[0].mu.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.lion_kappa(0.1, b1=1.5), r"b1 must be in \[0, 1\], got 1.5"),
        (lambda: optkit.lion_kappa(0.1, b2=-0.1), r"b2 must be in \[0, 1\], got -0.1"),
        (lambda: optkit.lion_kappa(0.1, weight_decay=-1.0), r"weight_decay must be in \[0, inf\], got -1.0"),
        (lambda: optkit.lion_kappa(0.1, weight_decay=-1.0, implicit_decay=True), "weight_decay must be in"),
        (lambda: optkit.kappa.lp(1.0), r"p must be in \(1, inf\), got 1.0"),
        (lambda: optkit.kappa.soft(-1.0), "threshold must be in"),
        (lambda: optkit.kappa.huber(0.0), "threshold must be in"),
        (lambda: optkit.kappa.relativistic(0.0), "scale must be in"),
        (lambda: optkit.kappa.log_cosh(-2.0), "scale must be in"),
        (lambda: optkit.kappa.top_k(0), "k must be a positive integer, got 0"),
        (lambda: optkit.kappa.top_k(2.5), "k must be a positive integer, got 2.5"),
        (lambda: optkit.signum(0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_implicit_decay_without_parameters_says_how_to_call():
    assert_needs_parameters(optkit.lion_kappa(0.1, weight_decay=0.1, implicit_decay=True), "lion_kappa")
