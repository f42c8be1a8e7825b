import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from promises import smallest_excess

import optkit

SHAPES = {"kernel": (3, 2), "bias": (4,), "scalar": ()}
PARAMS = {name: np.zeros(shape) for name, shape in SHAPES.items()}


def vector(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def huber(r, threshold):
    return jnp.sum(optax.losses.huber_loss(r, delta=threshold))


def norm(x):
    return jnp.linalg.norm(vector(x))


# step, and the function D whose proximal step it is
STEPS = {
    "l2": (optkit.median_step.l2(), norm),
    "l1": (optkit.median_step.l1(), lambda x: jnp.sum(jnp.abs(vector(x)))),
    "linf": (optkit.median_step.linf(), lambda x: jnp.max(jnp.abs(vector(x)))),
    "half_squared_l2": (optkit.median_step.half_squared_l2(), lambda x: norm(x) ** 2 / 2),
    "huber_l2": (optkit.median_step.huber_l2(0.7), lambda x: huber(norm(x), 0.7)),
    "huber": (optkit.median_step.huber(0.7), lambda x: huber(vector(x), 0.7)),
    "elastic_net": (
        optkit.median_step.elastic_net(0.4),
        lambda x: norm(x) ** 2 / 2 + 0.4 * jnp.sum(jnp.abs(vector(x))),
    ),
    # Of r = m - g, so that the quantile is that of g.
    "quantile": (
        optkit.median_step.quantile(0.8),
        lambda x: jnp.sum(jnp.maximum(-0.8 * vector(x), 0.2 * vector(x))),
    ),
    "insensitive_l2": (optkit.median_step.insensitive_l2(0.6), lambda x: jnp.maximum(norm(x) - 0.6, 0)),
}
ALL = {
    **{name: step for name, (step, _) in STEPS.items()},
    "subgradient_l1": optkit.median_step.subgradient_l1(),
    "subgradient_l2": optkit.median_step.subgradient_l2(),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", STEPS)
def test_step_minimises_the_proximal_objective(name):
    step, function = STEPS[name]
    unit, others = normal_like(PARAMS), normal_like(PARAMS, 1, rows=(29,))

    def excess(tau, scale):
        difference = optax.tree.scale(scale, unit)

        def objective(p):
            return function(optax.tree.sub(p, difference)) + optax.tree.norm(p, squared=True) / (2 * tau)

        return smallest_excess(objective, step(difference, tau), others)

    over_all = jax.jit(jax.vmap(jax.vmap(excess, (0, None)), (None, 0)))
    assert jnp.min(over_all(jnp.array([0.1, 1.0, 10.0]), jnp.array([0.1, 1.0, 5.0]))) >= -1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_projection_on_a_dual_ball_is_the_step_of_any_norm():
    # The spectral norm; its dual is the nuclear norm, whose ball is that of the l1 norm of the singular values.
    def project_on_nuclear_ball(x, radius):
        left, values, right = jnp.linalg.svd(x, full_matrices=False)
        return (left * optax.projections.projection_l1_ball(values, radius)) @ right

    gradient = 3 * normal(4, 3)
    tx = optkit.scale_by_median_tracking(1.5, project_on_nuclear_ball)
    best, _ = tx.update(gradient, tx.init(gradient))

    def objective(p):
        return jnp.linalg.norm(p - gradient, 2) + jnp.sum(p**2) / 3

    for noise in normal(100, 4, 3, seed=1):
        assert objective(best + 0.01 * noise) >= objective(best)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shapes", [SHAPES, {"empty": (0, 3)}, {"empty": (0,), "bias": (4,)}, {}])
def test_step_of_zero_is_zero(name, shapes):
    zeros = {leaf: jnp.zeros(shape) for leaf, shape in shapes.items()}
    step = ALL[name](zeros, 0.3)
    jax.tree.map(np.testing.assert_array_equal, step, zeros)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ALL)
def test_tree_is_one_vector(name):
    difference = optax.tree.scale(2.0, normal_like(PARAMS))
    np.testing.assert_allclose(vector(ALL[name](difference, 0.5)), ALL[name](vector(difference), 0.5), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "order"),
    [("l2", 2), ("l1", np.inf), ("linf", 1), ("insensitive_l2", 2), ("subgradient_l1", np.inf), ("subgradient_l2", 2)],
)
def test_step_is_never_longer_than_tau_in_the_dual_norm(name, order):
    for scale in (0.01, 1.0, 1e6):
        step = ALL[name](optax.tree.scale(scale, normal_like(PARAMS)), 0.5)
        assert jnp.linalg.norm(vector(step), order) <= 0.5 * (1 + 1e-5)


@pytest.mark.usefixtures("x64")
def test_relatives_agree_where_they_meet():
    difference = optax.tree.scale(2.0, normal_like(PARAMS, 3))

    def assert_equal(a, b):
        np.testing.assert_allclose(vector(a), vector(b), rtol=1e-12)

    assert_equal(optkit.median_step.quantile(0.5)(difference, 1.0), optkit.median_step.l1()(difference, 0.5))
    assert_equal(optkit.median_step.insensitive_l2(0.0)(difference, 1.0), optkit.median_step.l2()(difference, 1.0))
    mean = optkit.median_step.half_squared_l2()(difference, 1.0)
    assert_equal(optkit.median_step.elastic_net(0.0)(difference, 1.0), mean)
    assert_equal(optkit.median_step.huber(1e6)(difference, 1.0), mean)
    assert_equal(optkit.median_step.huber_l2(1e6)(difference, 1.0), mean)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in STEPS if name != "insensitive_l2"])
def test_huge_tau_reaches_the_gradient(name):
    difference = normal_like(PARAMS, 4)
    np.testing.assert_allclose(vector(ALL[name](difference, 1e9)), vector(difference), rtol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda step: optkit.clipped_sgd(1.0, 0.5, step),
        lambda step: optkit.median_tracking_sgd(1.0, 0.5, step),
        lambda step: optkit.scale_by_median_tracking(0.5, step),
        lambda step: optkit.proximal_median(0.5, step),
        lambda step: optkit.proximal_pass(jnp.zeros(1), jnp.ones((2, 1)), 1.0, step),
    ],
)
@pytest.mark.parametrize("step", [optkit.prox.l1(1.0), optkit.prox.masked(optkit.prox.box(0.0, 1.0), None), 0.9])
def test_a_proximal_map_of_a_penalty_is_no_step_towards_a_median(build, step):
    with pytest.raises(TypeError, match=r"must be a step towards a median, such as optkit.median_step.l1\(\)"):
        build(step)


def test_the_message_names_the_method_and_what_it_got():
    message = r"step of clipped_sgd must .*, got optkit.prox.l1\(...\), the proximal map of a penalty"
    with pytest.raises(TypeError, match=message):
        optkit.clipped_sgd(1.0, 0.5, optkit.prox.l1(1.0))


@pytest.mark.parametrize("name", ALL)
def test_complex_differences_are_refused(name):
    with pytest.raises(TypeError, match="works on real parameters"):
        ALL[name](jnp.ones(2, jnp.complex64), 0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.median_step.huber(0.0), r"threshold must be in \(0, inf\], got 0.0"),
        (lambda: optkit.median_step.huber_l2(-1.0), r"threshold must be in \(0, inf\], got -1.0"),
        (lambda: optkit.median_step.elastic_net(-1.0), r"l1 must be in \[0, inf\], got -1.0"),
        (lambda: optkit.median_step.quantile(1.0), r"quantile must be in \(0, 1\), got 1.0"),
        (lambda: optkit.median_step.insensitive_l2(-0.1), r"epsilon must be in \[0, inf\], got -0.1"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
