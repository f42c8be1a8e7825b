import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from jax.sharding import AxisType, PartitionSpec
from promises import (
    assert_decay_spares_masked_leaves,
    assert_rows_are_workers,
    assert_shard_map_sees_that_an_aggregate_is_equal,
)

import optkit
from optkit.core.cost.hlo import read
from optkit.testing import check_transformation

PARAMS = {
    "kernel": np.zeros((3, 2)),
    "bias": np.zeros(4),
    "scalar": np.zeros(()),
    "empty": np.zeros((0, 2)),
    "none": None,
}
WORKERS = 8
BYZANTINE = 2


def draw(seed, rows=WORKERS):
    return normal_like(PARAMS, seed, rows=(rows,))


def row_of(rows):
    return jax.tree.map(lambda x: x[0], rows)


@functools.partial(jax.jit, static_argnums=0)
def aggregate(aggregator, rows, extra_args=None):
    return aggregator.update(rows, aggregator.init(row_of(rows)), **(extra_args or {}))[0]


def vectors(rows):
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(rows)], axis=1)


def vector(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


# Each a factory that takes an axis name and a layout.
RULES = {
    "trimmed_mean": functools.partial(optkit.trimmed_mean, BYZANTINE),
    "meamed": functools.partial(optkit.meamed, BYZANTINE),
    "phocas": functools.partial(optkit.phocas, BYZANTINE),
    "krum": functools.partial(optkit.krum, BYZANTINE),
    "multi_krum": functools.partial(optkit.krum, BYZANTINE, 4, 1.0, 5),
    "cge": functools.partial(optkit.cge, BYZANTINE),
    "aksel": optkit.aksel,
    "centered_clip": functools.partial(optkit.centered_clip, 1.5, 3),
    "nearest_neighbor_mixing": functools.partial(
        optkit.nearest_neighbor_mixing, optkit.trimmed_mean(BYZANTINE), BYZANTINE
    ),
    "nearest_neighbor_mixing_krum": functools.partial(
        optkit.nearest_neighbor_mixing, optkit.krum(BYZANTINE, 3), BYZANTINE
    ),
    "bucketing": functools.partial(optkit.bucketing, optkit.geometric_median(5), 2, key=3),
    "coordinate_median": functools.partial(optkit.coordinate_median, nan_policy="omit"),
    "geometric_median": functools.partial(
        optkit.geometric_median, 8, 0.1, tolerance=0, start="zeros", nan_policy="omit"
    ),
}


@functools.cache
def rule_of(name):
    """One rule for all tests of stacked rows, so that their aggregates are one program."""
    return RULES[name]()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("layout", ["gather", "transpose"])
def test_workers_and_stacked_rows_give_the_same(name, layout):
    def build(axis_name):
        return rule_of(name) if axis_name is None else RULES[name](axis_name=axis_name, layout=layout)

    params = jax.tree.map(jnp.asarray, PARAMS)
    for backend in ("vmap", "pmap"):
        assert_rows_are_workers(build, [draw(0)], params, backend=backend, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("layout", ["gather", "transpose"])
def test_shard_map_sees_that_the_result_is_equal_on_all_workers(name, layout):
    rows, aggregator = draw(0), RULES[name](axis_name="workers", layout=layout)
    expected = aggregate(rule_of(name), rows)
    assert_shard_map_sees_that_an_aggregate_is_equal(aggregator, rows, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "statistics"),
    [("trimmed_mean", 0), ("krum", WORKERS**2 + WORKERS), ("cge", WORKERS), ("centered_clip", 3 * WORKERS)],
)
def test_transposed_workers_send_two_rows(name, statistics, dtype):
    size = 1000 * WORKERS
    rows = jnp.zeros((WORKERS, size), dtype)
    aggregator = RULES[name](axis_name="workers", layout="transpose")
    mesh = jax.make_mesh((WORKERS,), ("workers",), axis_types=(AxisType.Auto,))

    def one_worker(row):
        return aggregator.update(row[0], aggregator.init(row[0]))[0][None]

    spec = PartitionSpec("workers")
    lowered = jax.jit(jax.shard_map(one_worker, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)).lower(rows)
    sent = read(lowered.compile(), lowered).sent
    share = size * rows.dtype.itemsize * (WORKERS - 1) / WORKERS
    assert sent.pop("all-to-all") == share
    assert sent.pop("all-gather") == share
    assert sent.pop("all-reduce", 0) == statistics * 4 * 2 * (WORKERS - 1) / WORKERS
    assert not sent


def with_attackers(honest, value):
    return jax.tree.map(lambda x: np.concatenate([x, np.full((BYZANTINE, *x.shape[1:]), value, x.dtype)]), honest)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RULES if name != "bucketing"])
def test_too_few_finite_rows_give_nan(name):
    rows = draw(13)

    def with_bad_rows(value, good):
        bad = jax.tree.map(lambda x: np.full_like(x, value), rows)
        return jax.tree.map(lambda x, y: np.concatenate([x[:good], y[good:]]), rows, bad)

    spoilt = [with_bad_rows(value, good) for good in (1, 0) for value in (np.nan, np.inf)]
    finite = np.isfinite([vector(aggregate(rule_of(name), rows)) for rows in spoilt])
    # With one good row: these leave rows out that are not finite.
    left_out = {"coordinate_median": [True, False], "geometric_median": [True, True], "centered_clip": [True, True]}
    expected = np.array([*left_out.get(name, [False, False]), False, False])
    np.testing.assert_array_equal(finite, np.broadcast_to(expected[:, None], finite.shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("bucketing", "centered_clip")])
def test_rules_scale_with_the_rows(name):
    # The other one smooths by 0.1.
    aggregator = optkit.geometric_median() if name == "geometric_median" else rule_of(name)
    rows = draw(14)
    expected = vector(aggregate(aggregator, rows))
    for scale in np.float32([1e-25, 1e25]):
        scaled = vector(aggregate(aggregator, jax.tree.map(lambda x: scale * np.asarray(x), rows)))  # noqa: B023
        np.testing.assert_allclose(scaled / scale, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_complex_rows_are_refused(name):
    rows, aggregator = np.ones((WORKERS, 2), np.complex64), RULES[name]()
    with pytest.raises(TypeError, match=r"works on real parameters, .*split_real_and_imaginary"):
        aggregator.update(rows, aggregator.init(rows[0]))


@pytest.mark.parametrize("name", RULES)
def test_no_ranks_or_dtypes_are_promoted(name):
    rows = draw(15)
    aggregator = RULES[name]()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda rows: aggregator.update(rows, aggregator.init(row_of(rows)))[0], rows)


COORDINATEWISE = ("trimmed_mean", "meamed", "phocas", "coordinate_median")


@pytest.mark.parametrize("name", [name for name in RULES if name != "bucketing"])
def test_arbitrary_rows_do_not_move_the_aggregate_out_of_the_honest_range(name):
    honest = draw(1, WORKERS - BYZANTINE)
    values = [1e30, -1e30, 1e6, np.inf, -np.inf, np.nan]
    moved = np.stack([vector(aggregate(rule_of(name), with_attackers(honest, value))) for value in values])
    rows = vectors(honest)
    if name in COORDINATEWISE:
        # What is averaged around a center in the range may lie as far outside as honest values do from the center.
        slack = np.ptp(rows, axis=0) if name in ("phocas", "meamed") else 0.0
        assert np.all(moved >= rows.min(axis=0) - slack)
        assert np.all(moved <= rows.max(axis=0) + slack)
    else:
        assert np.all(np.linalg.norm(moved, axis=1) <= 1.5 * np.max(np.linalg.norm(rows, axis=1)))


BUCKETS_OF_TWO = optkit.bucketing(optkit.trimmed_mean(1), 2, key=0)


@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_a_bad_row_spoils_one_bucket_only(value):
    honest = draw(2, WORKERS - 1)
    rows = jax.tree.map(lambda x: np.concatenate([x, np.full_like(x[:1], value)]), honest)
    moved = vector(aggregate(BUCKETS_OF_TWO, rows))
    assert np.all(np.abs(moved) <= np.abs(vectors(honest)).max(axis=0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in RULES if name != "bucketing"])
def test_order_of_rows_does_not_count(name):
    rows = draw(3)
    permuted = jax.tree.map(lambda x: np.asarray(x)[[5, 3, 0, 7, 4, 1, 6, 2]], rows)
    found, expected = aggregate(rule_of(name), permuted), aggregate(rule_of(name), rows)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in RULES if name != "centered_clip"])
def test_equal_rows_give_that_row(name):
    rows = jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), draw(4))
    chex.assert_trees_all_close(aggregate(rule_of(name), rows), row_of(rows), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("bucketing", "centered_clip")])
def test_absent_rows_count_as_if_they_were_not_there(name):
    rows = jax.tree.map(np.array, draw(5, WORKERS + 1))
    active = np.arange(WORKERS + 1) != 4
    others = jax.tree.map(lambda x: x[active], rows)
    for leaf in jax.tree.leaves(rows):
        leaf[4] = np.nan
    actual = aggregate(rule_of(name), rows, {"active": active})
    chex.assert_trees_all_close(actual, aggregate(rule_of(name), others), rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_that_have_not_arrived_count_as_the_center():
    rows = draw(6)
    active = np.arange(WORKERS) < 5
    aggregator = optkit.centered_clip(1e9)
    expected = jax.tree.map(lambda x: np.sum(x[:5], axis=0) / WORKERS, rows)
    chex.assert_trees_all_close(aggregate(aggregator, rows, {"active": active}), expected, rtol=1e-12, atol=1e-15)


def reference_trimmed_mean(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def reference_around(x, center, f):
    order = np.argsort(np.abs(x - center), axis=0, kind="stable")[: len(x) - f]
    return np.take_along_axis(x, order, axis=0).mean(axis=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rows", "f"), [(1, 0), (3, 1), (6, 2), (9, 4), (65, 20)])
def test_coordinate_rules_are_numpys(rows, f):
    x = np.array(normal(rows, 100, seed=7))
    x[:f] = x[0]  # attackers send the same
    trimmed = reference_trimmed_mean(x, f)
    lower_median = np.sort(x, axis=0)[(rows - 1) // 2]
    np.testing.assert_allclose(aggregate(optkit.trimmed_mean(f), x), trimmed, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(aggregate(optkit.meamed(f), x), reference_around(x, lower_median, f), atol=1e-14)
    np.testing.assert_allclose(aggregate(optkit.phocas(f), x), reference_around(x, trimmed, f), atol=1e-14)


@pytest.mark.slow
def test_krum_separates_rows_that_lie_far_from_zero():
    cluster = np.float32(1e4) + np.float32(1e-2) * np.asarray(normal(6, 50, seed=8))
    rows = np.concatenate([cluster, cluster[:2] + 1])
    chosen = aggregate(optkit.krum(2, 4), rows)
    np.testing.assert_allclose(chosen, np.mean(cluster, axis=0), atol=0.05)


@pytest.mark.slow
def test_centered_clip_moves_no_further_than_the_radius_and_remembers():
    aggregator = optkit.centered_clip(0.5)
    update = jax.jit(aggregator.update)
    rows = np.zeros((4, 2), np.float32)
    rows[0] = 1e12
    state = aggregator.init(np.zeros(2, np.float32))
    for step in range(1, 4):
        center, state = update(rows, state)
        np.testing.assert_allclose(state.center, center)
        assert np.linalg.norm(center) <= 0.5 * step / 4 * (1 + 1e-6)
    honest = np.full((4, 2), 0.1, np.float32)
    for _ in range(40):
        center, state = update(honest, state)
    np.testing.assert_allclose(center, 0.1, rtol=1e-5)


@pytest.mark.slow
def test_nearest_neighbor_mixing_brings_honest_rows_together():
    honest = draw(9, WORKERS - BYZANTINE)
    all_rows = optax.with_extra_args_support(optax.identity())
    mixing = optkit.nearest_neighbor_mixing(all_rows, BYZANTINE)
    mixed = vectors(jax.jit(mixing.update)(with_attackers(honest, 50.0), mixing.init(None))[0])
    honest = vectors(honest)
    mixed = mixed[: len(honest)]
    assert np.mean(np.var(mixed, axis=0)) < 0.3 * np.mean(np.var(honest, axis=0))


@pytest.mark.slow
def test_buckets_are_drawn_anew_and_equal_for_equal_keys():
    rows = draw(10)
    aggregator = optkit.bucketing(optkit.coordinate_median(), 2, key=1)
    state = aggregator.init(row_of(rows))
    update = jax.jit(aggregator.update)
    first, state = update(rows, state)
    second, _ = update(rows, state)
    assert not np.allclose(vector(first), vector(second))
    again = optkit.bucketing(optkit.coordinate_median(), 2, key=jax.random.key(1))
    chex.assert_trees_all_close(aggregate(again, rows), first, rtol=1e-6)


@pytest.mark.slow
def test_bucketing_leaves_absent_rows_out():
    rows = jax.tree.map(np.ones_like, draw(11, 5))
    for leaf in jax.tree.leaves(rows):
        leaf[3] = np.nan
    aggregator = optkit.bucketing(optkit.trimmed_mean(0), 2, key=0)
    ones = aggregate(aggregator, rows, {"active": np.arange(5) != 3})
    np.testing.assert_allclose(vector(ones), 1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("summed", [False, True])
def test_workers_and_stacked_rows_have_the_same_momenta(summed):
    rows = draw(12)
    stacked = optkit.robust_sgd(0.1, optkit.trimmed_mean(2), 0.9, summed=summed, workers=WORKERS)
    own = optkit.robust_sgd(0.1, optkit.trimmed_mean(2, axis_name="workers"), 0.9, summed=summed)

    def run(tx, gradients):
        params = jax.tree.map(jnp.zeros_like, row_of(rows))
        state = tx.init(params)
        for scale in (1.0, -0.5, 2.0):
            updates, state = tx.update(jax.tree.map(lambda x: scale * x, gradients), state, params)  # noqa: B023
            params = optax.apply_updates(params, updates)
        return params

    mapped = optkit.on_workers(lambda g: run(own, g), axis_name="workers", out_axes=None, backend="shard_map")
    expected = jax.jit(functools.partial(run, stacked))(rows)
    chex.assert_trees_all_close(mapped(rows), expected, rtol=1e-5, atol=1e-6)


def test_decay_spares_masked_leaves():
    build = functools.partial(optkit.robust_sgd, aggregator=optkit.trimmed_mean(1))
    assert_decay_spares_masked_leaves(build, rows=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["gather", "transpose"])
def test_contract_over_workers(layout):
    def factory(learning_rate, axis_name):
        rule = optkit.centered_clip(1.0, axis_name=axis_name, layout=layout)
        return optkit.robust_sgd(learning_rate, rule, b1=0.9)

    check_transformation(
        factory,
        needs=("axis_name",),
        static_args=("axis_name",),
        promises=["keeps_types", "takes_all_shapes", "is_deterministic", "agrees_between_backends"],
        learning_rate=1e-2,
        axis_name="workers",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trimmed_mean", "krum", "cge", "meamed", "centered_clip", "bucketing"])
def test_gradient_without_rows_is_refused(name):
    params = jnp.ones((9, 2))
    tx = RULES[name]()
    with pytest.raises(ValueError, match="takes gradients with a leading axis"):
        jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)


def too_few(aggregator, rows):
    return lambda: jax.eval_shape(lambda x: aggregator.update(x, aggregator.init(x[0])), np.ones((rows, 3)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.trimmed_mean(-1), "byzantine must be an integer of at least 0, got -1"),
        (lambda: optkit.cge(1.5), "byzantine must be an integer of at least 0, got 1.5"),
        (lambda: optkit.krum(1, 0), "selected must be a positive integer, got 0"),
        (lambda: optkit.krum(1, power=0.0), r"power must be in \(0, inf\], got 0.0"),
        (lambda: optkit.krum(1, neighbors=0), "neighbors must be a positive integer, got 0"),
        (lambda: optkit.centered_clip(0.0), r"radius must be in \(0, inf\], got 0.0"),
        (lambda: optkit.centered_clip(1.0, 0), "iterations must be a positive integer, got 0"),
        (lambda: optkit.self_centered_clip(-1.0), r"radius must be in \(0, inf\], got -1.0"),
        (lambda: optkit.bucketing(optkit.aksel(), 0, key=0), "size must be a positive integer, got 0"),
        (lambda: optkit.nearest_neighbor_average(-2), "byzantine must be an integer of at least 0, got -2"),
        (lambda: optkit.aksel(axis_name="workers", layout="ring"), "layout must be 'gather' or 'transpose', got"),
        (lambda: optkit.aksel(layout="transpose"), "layout='transpose' is for workers: give axis_name too"),
        (lambda: optkit.geometric_median(per_leaf=True, axis_name="w", layout="transpose"), "per_leaf must be False"),
        (lambda: optkit.robust_sgd(0.1, optkit.aksel(), 1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.robust_sgd(0.1, optkit.aksel(), weight_decay=-1.0), "weight_decay must be in"),
        (lambda: optkit.per_row(optax.identity(), 0), "rows must be a positive integer, got 0"),
        (
            lambda: optkit.bucketing(optkit.centered_clip(1.0), key=0, axis_name="workers", layout="transpose"),
            "bucketing with layout='transpose' needs a rule without state that takes the extra argument total",
        ),
        (too_few(optkit.trimmed_mean(2), 4), "trimmed_mean with byzantine=2 needs at least 5 rows, got 4"),
        (too_few(optkit.krum(2), 6), "krum with byzantine=2, selected=1 and neighbors=None needs at least 7 rows"),
        (too_few(optkit.cge(2), 4), "cge with byzantine=2 needs at least 5 rows, got 4"),
        (too_few(optkit.meamed(1), 2), "meamed with byzantine=1 needs at least 3 rows, got 2"),
        (too_few(optkit.nearest_neighbor_mixing(optkit.aksel(), 3), 6), "needs at least 7 rows, got 6"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (optkit.trimmed_mean, "byzantine"),
        (lambda x: optkit.krum(1, x), "selected"),
        (lambda x: optkit.krum(1, neighbors=x), "neighbors"),
        (lambda x: optkit.centered_clip(1.0, x), "iterations"),
        (lambda x: optkit.self_centered_clip(1.0, x), "iterations"),
        (lambda x: optkit.bucketing(optkit.aksel(), x, key=0), "size"),
        (lambda x: optkit.per_row(optax.identity(), x), "rows"),
        (lambda x: optkit.robust_sgd(0.1, optkit.aksel(), 0.9, workers=x), "workers"),
        (lambda x: optkit.robust_sgd(0.1, optkit.aksel(), mask=x), "mask"),
        (lambda x: optkit.attacks.under_attack(optkit.attacks.sign_flip, x), "byzantine"),
    ],
)
def test_static_arguments_are_no_arrays(build, name):
    with pytest.raises(TypeError, match=rf"{name} cannot be an array, .*static_args"):
        build(jnp.array(2))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [optkit.nearest_neighbor_average(1), optkit.self_centered_clip(1.0)])
def test_rules_around_an_own_value_say_that_they_need_it(rule):
    with pytest.raises(TypeError, match=r"needs the extra argument own: call update\(grads, state, params, own=value"):
        jax.eval_shape(rule.update, jnp.ones((4, 2)), rule.init(None))
