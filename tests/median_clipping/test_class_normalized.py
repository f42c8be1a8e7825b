import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from trajectories import flat

import optkit
from optkit.catalog import METHODS
from optkit.testing import check_transformation
from optkit.testing.golden import replay_gradients


@pytest.mark.slow
@replays("class_normalized")
def test_golden_class_normalized(recording):
    hyperparams = recording.hyperparams
    assert hyperparams["n_classes"] == next(iter(recording.tree("grads").values())).shape[1]
    rescaled = any(name.startswith("full_grads.") for name in recording.arrays)
    aggregator = optkit.class_normalized(hyperparams["eps"], rescaling="code" if rescaled else "none")
    tx = optax.chain(aggregator, optax.sgd(hyperparams["lr"], hyperparams["sgd_momentum"]))
    extra_args = {"full_grads": recording.tree("full_grads")} if rescaled else {}
    assert_replays(recording, replay_gradients(tx, recording, extra_args))


CLASSES = 4


def class_gradients(seed=0, classes=CLASSES):
    """Gradients of very different sizes, of two leaves."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-3, 3, classes)
    return {
        "w": sizes[:, None, None] * rng.normal(size=(classes, 3, 2)),
        "b": sizes * rng.normal(size=classes),
    }


def near(gradients, seed=1):
    """The gradients over all data, of which `gradients` are noisy versions."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda g: g * (1 + 0.5 * rng.normal(size=g.shape)), gradients)


@functools.partial(jax.jit, static_argnames=("eps", "p_min", "rescaling", "axis_name"))
def aggregate(gradients, full_grads=None, **options):
    tx = optkit.class_normalized(**options)
    return tx.update(gradients, tx.init(None), full_grads=full_grads)[0]


def only(gradients, row):
    """The gradients with all classes but one left out of the batch."""
    return jax.tree.map(lambda g: np.where(np.arange(len(g)) == row, g.T, 0).T, gradients)


def without(gradients, row):
    return jax.tree.map(lambda g: np.where(np.arange(len(g)) == row, 0, g.T).T, gradients)


def inner(left, right):
    return np.vdot(flat(left), flat(right))


def length(tree):
    return np.linalg.norm(flat(tree))


def assert_equal(actual, expected, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), actual, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_class_pulls_with_a_unit_gradient_over_all_leaves():
    gradients = class_gradients()
    units = [aggregate(only(gradients, row), eps=0.0) for row in range(CLASSES)]
    np.testing.assert_allclose([length(unit) for unit in units], 1, rtol=1e-12)
    assert_equal(aggregate(gradients, eps=0.0), jax.tree.map(lambda *rows: np.sum(rows, axis=0), *units))


@pytest.mark.usefixtures("x64")
def test_the_scale_of_a_class_does_not_matter():
    gradients = class_gradients()
    factors = np.array([1.0, 1e-3, 5.0, 100.0])
    rescaled = {"w": factors[:, None, None] * gradients["w"], "b": factors * gradients["b"]}
    assert_equal(aggregate(rescaled, eps=0.0), aggregate(gradients, eps=0.0))


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_at_most_the_rate_times_the_classes_long(seed):
    tx = optax.chain(optkit.class_normalized(), optax.sgd(0.1))
    params = jax.tree.map(lambda g: np.zeros(g.shape[1:], np.float32), class_gradients(seed))
    state, update = tx.init(params), jax.jit(tx.update)
    for gradients in (class_gradients(seed), jax.tree.map(lambda g: 1e10 * np.ones_like(g), class_gradients(seed))):
        updates, _ = update(gradients, state, params)
        assert length(updates) <= 0.1 * CLASSES * (1 + 1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rescaling", ["none", "projection", "code"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_a_missing_class_contributes_nothing(rescaling, eps):
    gradients = class_gradients()
    full = near(gradients)
    others = [row for row in range(CLASSES) if row != 2]
    rest = jax.tree.map(lambda g: g[others], (gradients, full))
    options = {"eps": eps, "rescaling": rescaling}
    assert_equal(aggregate(without(gradients, 2), full, **options), aggregate(*rest, **options))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rescaling", ["projection", "code"])
def test_the_full_gradient_itself_needs_no_rescaling(rescaling):
    gradients = class_gradients()
    actual = aggregate(gradients, gradients, eps=0.0, rescaling=rescaling)
    assert_equal(actual, aggregate(gradients, eps=0.0))


@pytest.mark.usefixtures("x64")
def test_a_rescaled_class_moves_along_its_full_gradient_as_far_as_that():
    gradients = class_gradients()
    full = near(gradients)
    for row in range(CLASSES):
        moved = aggregate(only(gradients, row), full, eps=0.0, rescaling="projection")
        along = jax.tree.map(lambda g, row=row: g[row], full)
        np.testing.assert_allclose(inner(moved, along) / length(along), 1, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_code_multiplies_by_the_product_of_the_projections():
    gradients = class_gradients()
    full = near(gradients)
    product = 1.0
    for row in range(CLASSES):
        unit = aggregate(only(gradients, row), eps=0.0)
        along = jax.tree.map(lambda g, row=row: g[row], full)
        product *= inner(unit, along) / length(along)
    projected = aggregate(gradients, full, eps=0.0, rescaling="projection")
    coded = aggregate(gradients, full, eps=0.0, rescaling="code")
    assert_equal(coded, jax.tree.map(lambda u: product * u, projected))


@pytest.mark.slow
def test_small_and_negative_projections_are_clamped():
    gradients = {"w": jnp.eye(2)}
    full = {"w": jnp.array([[0.01, 1.0], [0.0, -1.0]])}
    updates = aggregate(gradients, full, eps=0.0, rescaling="projection", p_min=0.1)
    np.testing.assert_allclose(updates["w"], [10.0, 10.0], rtol=1e-6)


def test_sixteen_bit_gradients_are_normalized_in_float32():
    gradients = jnp.full((2, 1000), 300.0, jnp.float16)  # their squares are no float16
    np.testing.assert_allclose(aggregate(gradients), 2 / np.sqrt(1000), rtol=1e-3)
    assert aggregate(gradients).dtype == jnp.float16


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backend", ["vmap", "shard_map"])
def test_workers_sum_their_classes_before_they_normalize(backend):
    shares = [class_gradients(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *shares)
    rule = optkit.on_workers(
        lambda own: aggregate(own, axis_name="workers"), axis_name="workers", out_axes=None, backend=backend
    )
    assert_equal(rule(stacked), aggregate(jax.tree.map(lambda *rows: sum(rows), *shares)))


@pytest.mark.slow
def test_works_over_workers():
    check_transformation(
        METHODS["class_normalized"].optimizer_factory,
        needs=("axis_name",),
        axis_name="workers",
        stacked="classes",
        static_args=("rescaling", "axis_name"),
        promises=["keeps_types", "agrees_between_backends"],
        learning_rate=0.1,
    )


def test_momentum_after_it_is_that_of_sgd():
    sgd = optax.sgd(0.1, 0.9)
    tx = optax.chain(optkit.class_normalized(), sgd)
    gradients = jnp.array([[3.0, 4.0], [0.0, -2.0]])
    params = jnp.zeros(2)
    state, sgd_state, update = tx.init(params), sgd.init(params), jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(gradients, state, params)
        expected, sgd_state = sgd.update(aggregate(gradients), sgd_state)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
        ({"p_min": 0.0}, r"p_min must be in \(0, 1\], got 0.0"),
        ({"rescaling": "paper"}, "rescaling must be 'none', 'projection' or 'code', got 'paper'"),
    ],
)
def test_wrong_hyperparameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.class_normalized(**arguments)


@pytest.mark.parametrize("rescaling", ["projection", "code"])
def test_missing_full_gradients_are_named(rescaling):
    with pytest.raises(TypeError, match="class_normalized needs the extra argument full_grads"):
        aggregate(class_gradients(), rescaling=rescaling)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_gradients_have_units_at_any_scale(scale):
    gradients = np.array([[3.0, 4.0], [0.0, -1.0]], np.float32) * np.float32(scale)
    np.testing.assert_allclose(aggregate(gradients, eps=0.0), [0.6, -0.2], rtol=1e-6)


@pytest.mark.parametrize("rescaling", ["none", "projection", "code"])
def test_no_ranks_or_dtypes_are_promoted(rescaling):
    rows = {"kernel": jnp.ones((3, 2, 4)), "bias": jnp.ones((3, 4))}
    tx = optkit.class_normalized(rescaling=rescaling)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda rows: tx.update(rows, tx.init(None), full_grads=rows), rows)


@pytest.mark.slow
def test_what_it_cannot_take_is_named():
    tx = optkit.class_normalized()
    with pytest.raises(ValueError, match="class_normalized takes gradients with a leading axis"):
        tx.update({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, tx.init(None))
    with pytest.raises(TypeError, match="class_normalized works on real parameters"):
        tx.update(jnp.ones((2, 3), jnp.complex64), tx.init(None))
