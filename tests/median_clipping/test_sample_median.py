import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from promises import assert_rows_are_workers, assert_shard_map_sees_that_an_aggregate_is_equal
from trajectories import first_update, flat, flat_rows

import optkit
from optkit.catalog import METHODS
from optkit.testing import check_transformation

PARAMS = {
    "kernel": np.zeros((3, 2)),
    "bias": np.zeros(4),
    "scalar": np.zeros(()),
    "empty": np.zeros((0, 2)),
    "none": None,
}
WORKERS = 8


def draw(seed, rows=WORKERS):
    return normal_like(PARAMS, seed, rows=(rows,))


@functools.partial(jax.jit, static_argnums=0)
def aggregate(aggregator, rows, **extra_args):
    return aggregator.update(rows, aggregator.init(None), **extra_args)[0]


# The same aggregator for the same arguments, so that tests share its programs.
geometric_median = functools.cache(optkit.geometric_median)


def falling(k):
    return 1.0 / (1.0 + k)


AGGREGATORS = {
    "coordinate": optkit.coordinate_median,
    "coordinate_omit": functools.partial(optkit.coordinate_median, nan_policy="omit"),
    "geometric": optkit.geometric_median,
    "geometric_zeros": functools.partial(optkit.geometric_median, 3, 0.1, tolerance=0, start="zeros"),
    "geometric_median": functools.partial(optkit.geometric_median, start="median", nan_policy="omit"),
    "geometric_per_leaf": functools.partial(optkit.geometric_median, per_leaf=True),
    "proximal_l2": functools.partial(optkit.proximal_median, falling),
    "proximal_linf": functools.partial(optkit.proximal_median, 0.5, optkit.median_step.linf(), 2, start="zeros"),
}
# Each is built once, so that tests share its programs.
AGGREGATORS = {name: functools.cache(build) for name, build in AGGREGATORS.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("backend", ["vmap", "pmap", "shard_map"])
def test_workers_and_stacked_rows_give_the_same(name, backend):
    params = jax.tree.map(jnp.asarray, PARAMS)
    assert_rows_are_workers(AGGREGATORS[name], [draw(0)], params, backend=backend, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGGREGATORS)
def test_shard_map_sees_that_the_result_is_equal_on_all_workers(name):
    rows, aggregator = draw(0), AGGREGATORS[name](axis_name="workers")
    expected = aggregate(AGGREGATORS[name](), rows)
    assert_shard_map_sees_that_an_aggregate_is_equal(aggregator, rows, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "example"),
    [
        (METHODS["coordinate_median"].optimizer_factory, {}),
        (METHODS["geometric_median"].optimizer_factory, {}),
        (METHODS["proximal_median"].optimizer_factory, {"tau": 1.0}),
    ],
)
def test_contract_over_workers(factory, example):
    check_transformation(
        factory,
        needs=("axis_name",),
        static_args=("axis_name", "iterations", "passes"),
        promises=["keeps_types", "takes_all_shapes", "works_masked", "is_deterministic", "agrees_between_backends"],
        learning_rate=1e-2,
        axis_name="workers",
        **example,
    )


@pytest.mark.parametrize("rows", [*range(1, 10), 15, 64, 65])
def test_coordinate_median_is_numpys(rows):
    gradients = normal(rows, 200, seed=1)
    median = aggregate(optkit.coordinate_median(), gradients)
    np.testing.assert_allclose(median, np.median(gradients, axis=0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 65])
def test_coordinate_median_propagates_or_omits_nan(rows):
    gradients = np.array(normal(rows, 200, seed=2))
    gradients[np.random.default_rng(3).random(gradients.shape) < 0.3] = np.nan
    gradients[:, 0] = np.nan
    propagated = aggregate(optkit.coordinate_median(), gradients)
    np.testing.assert_array_equal(np.isnan(propagated), np.any(np.isnan(gradients), axis=0))
    omitted = aggregate(optkit.coordinate_median(nan_policy="omit"), gradients)
    some = ~np.all(np.isnan(gradients), axis=0)
    np.testing.assert_allclose(omitted[some], np.nanmedian(gradients[:, some], axis=0), rtol=1e-6)
    assert np.all(np.isnan(omitted[~some]))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("start", ["zeros", "mean", "median"])
@pytest.mark.parametrize("rows", [3, 4, 9])
def test_geometric_median_is_where_the_unit_vectors_cancel(start, rows):
    gradients = draw(2, rows)
    center = flat(aggregate(optkit.geometric_median(3000, tolerance=0, start=start), gradients))
    differences = flat_rows(gradients) - center
    pull = np.sum(differences / np.linalg.norm(differences, axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(pull, 0.0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_geometric_median_per_leaf_is_that_of_each_leaf():
    gradients = draw(3, 5)
    together = aggregate(optkit.geometric_median(100, per_leaf=True), gradients)
    for name in ("kernel", "bias"):
        alone = aggregate(optkit.geometric_median(100), gradients[name])
        np.testing.assert_allclose(together[name], alone, rtol=1e-12)
    whole = aggregate(optkit.geometric_median(100), gradients)
    assert not np.allclose(together["bias"], whole["bias"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_smoothing_above_all_distances_gives_the_mean():
    gradients = draw(4)
    mean = jax.tree.map(lambda x: np.mean(x, axis=0), gradients)
    chex.assert_trees_all_close(aggregate(optkit.geometric_median(smoothing=1e6), gradients), mean, rtol=1e-12)


def with_rows(rows, values):
    """Adds rows of equal coordinates."""

    def add(x):
        return np.concatenate([x, np.stack([np.full(x.shape[1:], value, x.dtype) for value in values])])

    return jax.tree.map(add, rows)


ROBUST = {
    "coordinate": optkit.coordinate_median(),
    "geometric": optkit.geometric_median(50),
    "rfa": optkit.geometric_median(8, 0.1, tolerance=0, start="zeros"),
    "proximal": optkit.proximal_median(falling, passes=50),
    "proximal_from_zero": optkit.proximal_median(falling, passes=50, start="zeros"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBUST)
def test_outliers_move_the_median_no_further_however_far_they_are(name):
    honest = draw(5, 5)
    medians = [flat(aggregate(ROBUST[name], with_rows(honest, [far, far]))) for far in (1e3, 1e12)]
    radius = np.max(np.linalg.norm(flat_rows(honest), axis=1))
    for median in medians:
        assert np.linalg.norm(median) <= 2 * radius
    np.testing.assert_allclose(medians[0], medians[1], atol=0.02 * radius)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["coordinate", "geometric"])
def test_median_does_not_depend_on_the_order_of_rows_and_moves_with_them(name):
    gradients = jax.tree.map(np.asarray, draw(6, 5))
    median = aggregate(ROBUST[name], gradients)
    permuted = jax.tree.map(lambda x: x[[3, 0, 4, 1, 2]], gradients)
    chex.assert_trees_all_close(aggregate(ROBUST[name], permuted), median, rtol=1e-12)
    moved = jax.tree.map(lambda x: 3 * x + 1, gradients)
    expected = jax.tree.map(lambda x: 3 * np.asarray(x) + 1, median)
    chex.assert_trees_all_close(aggregate(ROBUST[name], moved), expected, rtol=1e-9)


def bound(rows, bad):
    """The most that bad rows may make of the longest other row."""
    return 2 * (1 - bad / rows) / (1 - 2 * bad / rows)


def length(x):
    return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def honest_rows(rng, rows, size):
    normal = rng.normal(size=(rows, size))
    with_zeros, twins = normal.copy(), normal.copy()
    with_zeros[::2] = 0
    twins[1:2] = twins[0]
    one_hot = np.eye(max(rows, size))[:rows, :size]
    return [normal, with_zeros, twins, one_hot, 100 + normal, rng.standard_cauchy(size=(rows, size))]


def bad_rows(rng, honest, rows, far):
    """Rows that are far away together or apart, or near where the median is."""
    size = honest.shape[1]
    axis = np.eye(1, size)
    reversed_sum = -honest.sum(axis=0) / max(np.linalg.norm(honest.sum(axis=0)), 1e-9)
    return [
        far * np.repeat(axis, rows, axis=0),
        far * axis * np.where(np.arange(rows) % 2, 1, -1)[:, None],
        far * rng.normal(size=(rows, size)) / (3 * size),
        far * np.repeat(reversed_sum[None], rows, axis=0),
        axis * far ** np.linspace(0, 1, rows)[:, None],
        np.repeat(np.median(honest, axis=0)[None], rows, axis=0) + 1e-7 * axis,
        np.zeros((rows, size)),
    ]


def attacked(rows, bad, size):
    """Rows of which the last are bad, for many honest ones, attacks, distances and scales, in float32."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            np.concatenate([scale * honest, (1 if far == 1e38 else scale) * attack]).astype(np.float32)
            for honest in honest_rows(rng, rows - bad, size)
            for scale, far in [(1e-20, 1e3), (1e-20, 1e38), (1.0, 1.0), (1.0, 1e6), (1.0, 1e38), (1e30, 1e6)]
            for attack in bad_rows(rng, honest, bad, far)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "bad", "size"), [(3, 1, 1), (4, 1, 2), (11, 4, 10), (11, 5, 3), (20, 9, 50)])
def test_no_outlier_moves_the_geometric_median_far_at_any_scale(rows, bad, size):
    gradients = attacked(rows, bad, size)
    aggregator = optkit.geometric_median()
    medians = jax.jit(jax.vmap(functools.partial(aggregate, aggregator)))(gradients)
    longest = length(gradients[:, : rows - bad]).max(axis=1)
    assert np.all(length(medians) <= np.where(longest > 0, bound(rows, bad) * longest, 0))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["gather", "transpose"])
def test_no_outlier_moves_the_geometric_median_of_workers_far(layout):
    gradients = attacked(WORKERS, 3, 10)
    aggregator = optkit.geometric_median(axis_name="workers", layout=layout)
    of_workers = jax.vmap(functools.partial(aggregate, aggregator), axis_name="workers")
    medians = jax.jit(jax.vmap(of_workers))(gradients)
    longest = length(gradients[:, :5]).max(axis=1)
    assert np.all(length(medians) <= bound(WORKERS, 3) * longest[:, None])


def test_four_attackers_of_eleven_move_it_little():
    rng = np.random.default_rng(1)
    honest = rng.normal(size=(7, 10))
    honest *= 4.2 / length(honest).max()
    attack = rng.normal(size=10)
    gradients = np.concatenate([honest, np.repeat(1e6 * attack[None] / length(attack), 4, axis=0)])
    median = aggregate(geometric_median(), gradients.astype(np.float32))
    assert length(median) < 4.7 * 4.2


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e30])
def test_geometric_median_scales_with_the_rows(scale):
    gradients = np.asarray(normal(7, 10, seed=12))
    median = aggregate(geometric_median(), gradients)
    scaled = np.asarray(aggregate(geometric_median(), scale * gradients))
    np.testing.assert_allclose(scaled / scale, median, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_geometric_median_leaves_a_row_that_it_starts_from_and_stays_at_one_that_it_is():
    leaves = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the coordinate-wise median is the first
    np.testing.assert_allclose(aggregate(geometric_median(), leaves), (3 - np.sqrt(3)) / 6, rtol=1e-4)
    stays = jnp.array([[0.0, 0.0], [1.0, 0.2], [-1.0, 0.2]])  # an angle above 120 degrees
    np.testing.assert_allclose(aggregate(geometric_median(), stays), 0.0, atol=1e-5)
    equal = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [5.0, 9.0]])
    np.testing.assert_array_equal(aggregate(geometric_median(), equal), equal[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_geometric_median_of_16_bits_is_that_of_32(dtype):
    gradients = normal(7, 10, seed=13, dtype=dtype)
    wide = aggregate(geometric_median(), gradients.astype(jnp.float32))
    np.testing.assert_array_equal(aggregate(geometric_median(), gradients), wide.astype(dtype))


def weiszfeld(rows, iterations, smoothing):
    center = np.zeros(rows.shape[1])
    for _ in range(iterations):
        weights = 1 / np.maximum(np.linalg.norm(rows - center, axis=1), smoothing)
        center = weights @ rows / weights.sum()
    return center


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_tolerance_all_iterations_run_and_have_a_gradient():
    rows = np.asarray(normal(5, 3, seed=14))
    for iterations in (1, 4):
        rfa = optkit.geometric_median(iterations, 0.1, tolerance=0, start="zeros")
        np.testing.assert_allclose(aggregate(rfa, rows), weiszfeld(rows, iterations, 0.1), rtol=1e-12)

    for smoothing in (None, 0.1):
        aggregator = optkit.geometric_median(4, smoothing, tolerance=0)
        loss = jax.jit(jax.value_and_grad(lambda rows: jnp.sum(aggregate(aggregator, rows) ** 2)))  # noqa: B023
        direction = np.asarray(normal(*rows.shape, seed=15))
        slope = (loss(rows + 1e-6 * direction)[0] - loss(rows - 1e-6 * direction)[0]) / 2e-6
        np.testing.assert_allclose(np.vdot(loss(rows)[1], direction), slope, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_smaller_tolerance_comes_nearer():
    rows = normal(9, 20, seed=16)
    exact = aggregate(optkit.geometric_median(3000, tolerance=0), rows)
    errors = [
        np.linalg.norm(aggregate(optkit.geometric_median(tolerance=tolerance), rows) - exact)
        for tolerance in (1e-1, jnp.array(1e-3), 1e-6)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("nan_policy", ["propagate", "omit"])
def test_geometric_median_of_bad_rows_only_is_nan(nan_policy):
    aggregator = optkit.geometric_median(nan_policy=nan_policy)
    assert np.all(np.isnan(aggregate(aggregator, np.full((3, 2), np.nan, np.float32))))
    nobody = aggregate(aggregator, np.ones((3, 2), np.float32), active=np.zeros(3, bool))
    assert np.all(np.isnan(nobody))
    _, bad = with_bad_row(np.inf)
    assert nan_policy == "omit" or np.all(np.isnan(flat(aggregate(aggregator, bad))))


@pytest.mark.parametrize(
    "build", [optkit.coordinate_median, optkit.geometric_median, functools.partial(optkit.proximal_median, 1.0)]
)
def test_complex_rows_are_refused(build):
    aggregator = build()
    with pytest.raises(TypeError, match=r"_median works on real parameters, .*split_real_and_imaginary"):
        aggregator.update(jnp.ones((3, 2), jnp.complex64), aggregator.init(None))


def injected(name, **arguments):
    return optax.inject_hyperparams(METHODS[name].optimizer_factory)(0.1, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coordinate_median", "geometric_median"])
def test_injected_bare_it_gives_the_plain_numbers(name):
    gradients, params = draw(17, 5), normal_like(PARAMS, 18)
    plain, tx = METHODS[name].optimizer_factory(0.1), injected(name)
    chex.assert_trees_all_close(
        jax.jit(first_update, static_argnums=0)(tx, gradients, params),
        jax.jit(first_update, static_argnums=0)(plain, gradients, params),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: injected("geometric_median", iterations=3), "iterations"),
        (lambda: injected("proximal_median", tau=1.0, passes=3), "passes"),
    ],
)
def test_injected_counts_are_refused(build, name):
    with pytest.raises(TypeError, match=rf"{name} cannot be an array, .* static_args"):
        build().init(jnp.ones(2))


def test_leaves_with_other_numbers_of_rows_are_named():
    aggregator = optkit.coordinate_median()
    with pytest.raises(
        ValueError, match=r"coordinate_median takes gradients with a leading axis, .* \(16, 2\), \(3,\)"
    ):
        aggregator.update({"a": jnp.ones((16, 2)), "b": jnp.ones(3)}, aggregator.init(None))


def with_bad_row(value):
    good = draw(7, 4)
    return good, with_rows(good, [value])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["zeros", "mean", "median"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_geometric_median_omits_rows_that_are_not_finite(start, value):
    good, bad = with_bad_row(value)
    build = functools.partial(geometric_median, 20, start=start)
    omitted, without = aggregate(build(nan_policy="omit"), bad), aggregate(build(), good)
    chex.assert_trees_all_close(omitted, without, rtol=1e-5, atol=1e-6)
    assert np.all(np.isnan(flat(aggregate(build(), with_bad_row(np.nan)[1]))))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_proximal_pass_is_one_step_of_tau_over_b_for_each_sample():
    samples = draw(8, 5)
    step = optkit.median_step.huber(0.3)
    median = normal_like(PARAMS, 9)

    @jax.jit
    def by_hand(median, sample):
        return optax.tree.add(median, step(optax.tree.sub(sample, median), 0.7 / 5))

    expected = median
    for i in range(5):
        expected = by_hand(expected, jax.tree.map(lambda x: np.asarray(x)[i], samples))  # noqa: B023
    passed = jax.jit(lambda median, samples: optkit.proximal_pass(median, samples, 0.7, step))(median, samples)
    chex.assert_trees_all_close(passed, expected, rtol=1e-12)


@pytest.mark.slow
def test_proximal_pass_over_one_sample_is_a_step_of_tracking():
    gradient = normal_like(PARAMS, 10)
    tx = optkit.scale_by_median_tracking(0.4, optkit.median_step.l2())

    @jax.jit
    def both(gradient):
        samples = jax.tree.map(lambda x: x[None], gradient)
        passed = optkit.proximal_pass(optax.tree.zeros_like(gradient), samples, 0.4)
        return passed, first_update(tx, gradient)

    passed, tracked = both(gradient)
    chex.assert_trees_all_close(passed, tracked, rtol=1e-6)
    assert optkit.proximal_pass({}, {}, 0.4) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("passes", [100, 1000])
@pytest.mark.parametrize(
    ("step", "solution"),
    [
        (optkit.median_step.l2(), optkit.geometric_median(3000)),
        (optkit.median_step.l1(), optkit.coordinate_median()),
        (optkit.median_step.half_squared_l2(), optkit.geometric_median(1, 1e9)),
    ],
    ids=["l2", "l1", "half_squared_l2"],
)
def test_proximal_median_converges_to_the_median_of_its_norm(step, solution, passes):
    gradients = draw(11, 7)
    near = flat(aggregate(optkit.proximal_median(lambda k: 10 / (1 + k), step, passes), gradients))
    error = np.linalg.norm(near - flat(aggregate(solution, gradients)))
    assert error < 10 / passes, "falls like tau"


@pytest.mark.parametrize("name", ["coordinate_median", "geometric_median", "proximal_median"])
def test_gradient_without_rows_is_refused(name):
    tx = METHODS[name].optimizer(0.1)
    params = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=f"{name} takes gradients with a leading axis"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.coordinate_median(nan_policy="raise"), "nan_policy must be 'propagate' or 'omit', got 'r"),
        (lambda: optkit.geometric_median(0), "iterations must be a positive integer, got 0"),
        (lambda: optkit.geometric_median(smoothing=0.0), r"smoothing must be in \(0, inf\], got 0.0"),
        (lambda: optkit.geometric_median(tolerance=-1.0), r"tolerance must be in \[0, inf\], got -1.0"),
        (lambda: optkit.geometric_median(start="ones"), "start must be 'zeros', 'mean' or 'median', got 'ones'"),
        (lambda: optkit.geometric_median(nan_policy="raise"), "nan_policy must be 'propagate' or"),
        (lambda: optkit.proximal_median(0.0), r"tau must be in \(0, inf\], got 0.0"),
        (lambda: optkit.proximal_median(1.0, passes=1.5), "passes must be a positive integer, got 1.5"),
        (lambda: optkit.proximal_median(1.0, start="ones"), "start must be 'zeros'"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
