import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from round_trips import round_trip
from worker_runs import bytes_sent

from optkit import compressors
from optkit.compressors import global_top_k, in_blocks, nbytes, on_whole_tree, quantize_values

SIZE = 64
TREE = {
    "matrix": normal(8, 8),
    "scalar": jnp.array(-0.7),
    "none": None,
    "empty": jnp.zeros((0, 3)),
}
X = TREE["matrix"].ravel()
# Biased ones: the compressor, and the bytes of 64 entries of float32.
CONTRACTIVE = {
    "identity": (compressors.identity(), 4 * SIZE),
    "top_k": (compressors.top_k(0.1), 7 * (4 + 4)),
    "top_k_rounded_down": (compressors.top_k(0.1, round_up=False), 6 * (4 + 4)),
    "scaled_sign": (compressors.scaled_sign(), SIZE // 8 + 4),
    "global_top_k": (global_top_k(0.1), 6 * (4 + 4)),
    "top_k_in_blocks": (in_blocks(compressors.top_k(0.1), 24), (3 + 3 + 2) * (4 + 2)),
    "top_k_of_the_tree_in_blocks": (on_whole_tree(in_blocks(compressors.top_k(0.1), 24)), (3 + 3 + 2) * (4 + 2)),
    "scaled_sign_in_blocks": (in_blocks(compressors.scaled_sign(), 20), 3 * (3 + 4) + 1 + 4),
    "scaled_sign_of_the_tree": (on_whole_tree(compressors.scaled_sign()), SIZE // 8 + 4),
}
# Biased ones without a constant.
BIASED = {
    "ternary": (compressors.ternary(key=0), SIZE * 2 // 8 + 4),
    "ternary_as_published": (compressors.ternary(key=0, follow="code"), SIZE * 2 // 8 + 4),
    "hard_threshold": (compressors.hard_threshold(0.5, 0.25), 16 * (4 + 4)),
    "hard_threshold_of_2_bits": (quantize_values(compressors.hard_threshold(0.5, 0.25)), 4 + 4 + 16 * 4),
    "top_k_of_2_bits": (quantize_values(compressors.top_k(0.1)), 2 + 4 + 7 * 4),
    "rand_k_of_4_bits": (quantize_values(compressors.rand_k(0.125, key=0), 4), 4 + 4 + 8 * 4),
    "global_top_k_of_4_bits": (quantize_values(global_top_k(0.1), 4), 3 + 4 + 6 * 4),
    "top_k_in_blocks_of_2_bits": (quantize_values(in_blocks(compressors.top_k(0.1), 24)), 3 * (1 + 4) + 8 * 2),
    "top_k_of_2_bits_in_blocks": (in_blocks(quantize_values(compressors.top_k(0.1)), 24), 3 * (1 + 4) + 8 * 2),
}
UNBIASED = {
    "rand_k": (compressors.rand_k(0.125, key=0), 8 * (4 + 4)),
    "qsgd": (compressors.qsgd(4, key=0), SIZE * 4 // 8 + 4),
    "qsgd_one_level": (compressors.qsgd(1, key=0), SIZE * 2 // 8 + 4),
    "dithering_inf": (compressors.dithering_inf(5, key=0), SIZE * 4 // 8 + 4),
    "natural": (compressors.natural(key=0), SIZE * 9 // 8),
    "natural_dithering": (compressors.natural_dithering(3, key=0), SIZE * 3 // 8 + 4),
    "natural_dithering_of_the_l2_norm": (compressors.natural_dithering(6, 2, key=0), SIZE * 4 // 8 + 4),
    "ternary_unclipped": (compressors.ternary(0.0, key=0), SIZE * 2 // 8 + 4),
    "rand_k_in_blocks": (in_blocks(compressors.rand_k(0.125, key=0), 24), (3 + 3 + 2) * (4 + 2)),
    "rand_k_of_the_tree": (on_whole_tree(compressors.rand_k(0.125, key=0)), 8 * (4 + 4)),
    "qsgd_in_blocks": (in_blocks(compressors.qsgd(4, key=0), 20), 3 * (10 + 4) + 2 + 4),
    "gaussian_sketch": (compressors.gaussian_sketch(16, key=0), 16 * 4 + 8),
    "srht_sketch": (compressors.srht_sketch(16, key=0), 16 * 4 + 8),
    "count_sketch": (compressors.count_sketch(16, key=0), 16 * 4 + 8),
}
# Those whose constant is the variance itself.
EXACT = {"rand_k", "rand_k_in_blocks", "rand_k_of_the_tree", "gaussian_sketch", "srht_sketch", "count_sketch"}
OF_THE_TREE = {
    "global_top_k",
    "top_k_of_the_tree_in_blocks",
    "scaled_sign_of_the_tree",
    "global_top_k_of_4_bits",
    "rand_k_of_the_tree",
    "gaussian_sketch",
    "srht_sketch",
    "count_sketch",
}
SIMULATED = {"wangni_sparsify": (compressors.wangni_sparsify(0.2, key=0), 4 * SIZE)}
ALL = {**CONTRACTIVE, **UNBIASED, **BIASED, **SIMULATED}
# Those that keep entries as they are.
KEPT = [name for name in CONTRACTIVE if "sign" not in name] + ["hard_threshold"]
KEPT_AND_SCALED = [name for name in UNBIASED if "rand_k" in name]


def send(name, x=X, state=None):
    """Compresses a vector; one program for each compressor, the first step and all others."""
    compressor = ALL[name][0]
    return round_trip(compressor, x, compressor.init(x) if state is None else state)


@functools.cache
def draws(name):
    """Many compressions of one vector."""
    compressor = ALL[name][0]

    @jax.jit
    def run(state):
        # The states one after another, and then all compressions at once, which takes less time than each by itself.
        states = jax.lax.scan(lambda now, _: (round_trip(compressor, X, now).state, now), state, length=4000)[1]
        return jax.vmap(lambda now: round_trip(compressor, X, now).sent)(states)

    return np.asarray(X), np.asarray(run(compressor.init(X)))


@pytest.mark.parametrize("name", CONTRACTIVE)
def test_it_contracts_by_its_constant(name):
    compressor = CONTRACTIVE[name][0]
    delta = compressor.delta(TREE["matrix"])
    assert 0 < delta <= 1
    spike = jnp.zeros(SIZE).at[5].set(3.0)
    for x in (X, spike, jnp.ones(SIZE)):
        lost = jnp.sum((send(name, x).sent - x) ** 2)
        assert lost <= (1 - delta) * jnp.sum(x**2) * (1 + 1e-6)


def test_scaled_signs_contract_by_just_the_ratio_of_norms():
    lost = jnp.sum((send("scaled_sign").sent - X) ** 2) / jnp.sum(X**2)
    np.testing.assert_allclose(1 - lost, jnp.sum(jnp.abs(X)) ** 2 / (SIZE * jnp.sum(X**2)), rtol=1e-5)


@pytest.mark.parametrize("name", [*UNBIASED, *SIMULATED])
def test_the_mean_over_draws_is_the_vector(name):
    x, sent = draws(name)
    error = np.linalg.norm(sent.mean(axis=0) - x)
    noise = np.sqrt(np.sum(sent.var(axis=0)) / len(sent))
    assert 0 < error < 2 * noise
    assert np.linalg.norm(sent[:40].mean(axis=0) - x) > 3 * error  # it falls with the root of their number


@pytest.mark.parametrize("name", UNBIASED)
def test_the_variance_is_at_most_its_constant(name):
    x, sent = draws(name)
    relative = np.mean(np.sum((sent - x) ** 2, axis=1)) / np.sum(x**2)
    omega = UNBIASED[name][0].omega(x)
    assert 0.02 < relative <= omega * (1.05 if name in EXACT else 1.0)
    assert relative > 0.95 * omega or name not in EXACT - {"rand_k_in_blocks"}  # whose last block is another


def test_wangni_keeps_as_many_as_asked_for_in_the_mean():
    _, sent = draws("wangni_sparsify")
    np.testing.assert_allclose(np.mean(np.sum(sent != 0, axis=1)), 12, rtol=0.02)


@pytest.mark.parametrize("name", ALL)
def test_a_message_has_the_bytes_of_the_formula(name):
    compressor, expected = ALL[name]
    message = send(name).message
    assert sum(part.nbytes for part in jax.tree.leaves(message)) == nbytes(compressor, X) == expected
    assert nbytes(compressor, TREE["matrix"]) == expected


@pytest.mark.parametrize("name", ALL)
def test_zero_stays_zero(name):
    np.testing.assert_array_equal(send(name, jnp.zeros(SIZE)).sent, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_trees_keep_structure_and_dtypes_and_what_is_no_number_of_entries_is_sent(name):
    compressor = ALL[name][0]
    tree = {**TREE, "narrow": jnp.ones(3, jnp.bfloat16)}
    program = jax.jit(lambda tree: (round_trip(compressor, tree).sent, round_trip(compressor, {})))
    # Those with a constant are run on leaves of every dtype further down; what a program returns is known without.
    sent, _ = jax.eval_shape(program, tree) if name in {*CONTRACTIVE, *UNBIASED} else program(tree)
    assert jax.tree.structure(sent) == jax.tree.structure(tree)
    assert jax.tree.map(jnp.shape, sent) == jax.tree.map(jnp.shape, tree)
    assert jax.tree.map(lambda x: x.dtype, sent) == jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize("name", [*UNBIASED, *SIMULATED, "scaled_sign"])
def test_neither_tiny_nor_huge_entries_are_lost(name):
    sent = send(name).sent
    for scale in (2.0**-100, 2.0**83):  # about 1e-30 and 1e25
        np.testing.assert_allclose(send(name, scale * X).sent / scale, sent, rtol=1e-5)


@pytest.mark.parametrize("name", [*UNBIASED, *SIMULATED])
def test_the_next_draw_is_another_and_the_same_key_draws_the_same(name):
    first, state, _ = send(name)
    np.testing.assert_array_equal(first, send(name).sent)
    assert np.any(first != send(name, X, state).sent)


def test_of_equal_entries_the_first_ones_are_kept():
    message, _ = compressors.top_k(0.5).compress(jnp.array([1.0, -1.0, 1.0, -1.0]), None)
    assert message.places.tolist() == [0, 1]


def test_powers_of_two_and_zero_are_sent_as_they_are_by_natural_compression():
    x = jnp.zeros(SIZE).at[:4].set(jnp.array([1.0, -0.5, 2.0**100, -(2.0**-126)]))
    np.testing.assert_array_equal(send("natural", x).sent, x)


def test_what_is_not_finite_stays_so():
    for name in set(ALL) - {name for name in ALL if "rand_k" in name}:  # which may leave it out
        for value in (jnp.nan, jnp.inf):
            assert not np.all(np.isfinite(send(name, X.at[3].set(value)).sent)), name


@pytest.mark.parametrize("axis_name", ["workers", None])
def test_workers_draw_for_themselves_with_an_axis_and_alike_without(axis_name):
    compressor = compressors.qsgd(2, key=0, axis_name=axis_name)
    state = compressor.init(X)
    over_workers = jax.vmap(lambda x: round_trip(compressor, x, state), axis_name="workers")
    sent, states, _ = jax.jit(over_workers)(np.stack([X] * 4))
    assert np.any(sent != sent[0]) == (axis_name is not None)
    np.testing.assert_array_equal(states, np.stack([states[0]] * 4))


def test_the_worst_leaf_gives_a_trees_constant():
    tree = {"large": jnp.zeros(100), "small": jnp.zeros(2), "empty": jnp.zeros(0)}
    assert compressors.scaled_sign().delta(tree) == 1 / 100
    assert compressors.qsgd(1, key=0).omega(tree) == math.sqrt(100)
    assert compressors.top_k(0.5).omega is None
    assert compressors.natural(key=0).delta is None


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ALL)
def test_windows_of_messages_are_those_of_the_decompressed_trees(name):
    compressor, number = ALL[name][0], 10  # more than are combined in one pass
    trees = normal(number + 1, 5, 5)
    weights = jnp.asarray(np.random.default_rng(0).standard_normal(number)).at[3].set(0.0)

    @jax.jit
    def window(trees, weights):
        def step(state, x):
            message, state = compressor.compress(x, state)
            return state, (message, compressor.decompress(message, x))

        rows, whole = jax.lax.scan(step, compressor.init(trees[0]), trees[:number])[1]
        # What is left out may be anything.
        rows = jax.tree.map(lambda x: x.at[3].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x, rows)
        products = compressor.inner_products(rows, trees[-1])
        return whole, products, compressor.combine(weights, rows, trees[-1])

    whole, products, combined = window(trees, weights)
    whole, others = whole.reshape(number, -1), np.arange(number) != 3
    np.testing.assert_allclose(products[others], (whole @ trees[-1].ravel())[others], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(combined.ravel(), weights @ whole, rtol=1e-12, atol=1e-13)


SUMMED = {
    "identity": compressors.identity(),
    "rand_k": compressors.rand_k(0.25, key=0),
    "rand_k_in_blocks": in_blocks(compressors.rand_k(0.25, key=0), 24),
    "rand_k_of_the_tree": on_whole_tree(compressors.rand_k(0.25, key=0)),
    "ternary": compressors.ternary(key=0, axis_name="workers"),
    "ternary_in_blocks": in_blocks(compressors.ternary(key=0, axis_name="workers"), 24),
    "ternary_as_published": compressors.ternary(key=0, axis_name="workers", follow="code"),
    "qsgd": compressors.qsgd(16, key=0, axis_name="workers", share_scale=True),
    "dithering_inf": compressors.dithering_inf(40, key=0, axis_name="workers", share_scale=True),
    "gaussian_sketch": compressors.gaussian_sketch(16, key=0),
    "srht_sketch": compressors.srht_sketch(16, key=0),
    "count_sketch": compressors.count_sketch(16, key=0),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SUMMED)
def test_sums_of_messages_are_those_of_the_decompressed_trees(name):
    compressor, workers = SUMMED[name], 5
    like = {**TREE, "matrix": jnp.zeros((7, 9)), "narrow": jnp.ones(3, jnp.bfloat16)}
    trees = normal_like(like, rows=(workers,))

    def worker(tree):
        message, _ = compressor.compress(tree, compressor.init(tree))
        summed = jax.lax.psum(compressor.sums.addends(message, workers), "workers")
        return compressor.sums.total(summed, message, tree), compressor.decompress(message, tree)

    totals, parts = jax.jit(jax.vmap(worker, axis_name="workers"))(trees)
    assert jax.tree.map(lambda x: x.dtype, totals) == jax.tree.map(lambda x: x.dtype, trees)
    for total, part in zip(jax.tree.leaves(totals), jax.tree.leaves(parts), strict=True):
        rtol, atol = (1e-12, 1e-13) if total.dtype == jnp.float64 else (0.02, 0.02)
        expected = np.broadcast_to(np.sum(np.asarray(part, float), axis=0), part.shape)
        np.testing.assert_allclose(np.asarray(total, float), expected, rtol=rtol, atol=atol)


def test_codes_with_a_shared_norm_are_unbiased():
    compressor, rows = compressors.qsgd(2, key=0, axis_name="workers", share_scale=True), normal(3, 30)
    rows = rows * jnp.array([[1.0], [0.2], [3.0]])
    assert compressor.omega is None

    def worker(x):
        def step(state, _):
            message, state = compressor.compress(x, state)
            return state, (message.scale, compressor.decompress(message, x))

        return jax.lax.scan(step, compressor.init(x), length=3000)[1]

    norms, draws = map(np.asarray, jax.jit(jax.vmap(worker, axis_name="workers"))(rows))
    np.testing.assert_allclose(norms, np.max(np.linalg.norm(rows, axis=1)), rtol=1e-5)
    noise = np.sqrt(np.sum(draws.var(axis=1), axis=1) / draws.shape[1])
    assert np.all(np.linalg.norm(draws.mean(axis=1) - rows, axis=1) < 2 * noise)


@pytest.mark.parametrize(("workers", "bits"), [(1, 8), (127, 8), (128, 16), (32767, 16), (32768, 32)])
def test_codes_are_added_up_in_as_few_bits_as_hold_their_sum(workers, bits):
    message = jax.eval_shape(lambda x: compressors._ternary.ternary_rule(0.0, None, None).encode(x, x), X)
    sums = compressors._leafwise.code_sums(2, 1)
    addends = jax.eval_shape(lambda message: sums.addends(message, workers), message)
    assert (addends.shape, addends.dtype) == ((SIZE,), jnp.dtype(f"int{bits}"))


def test_messages_are_added_up_only_if_they_are_alike_on_all_workers():
    summed = {name for name, (compressor, _) in ALL.items() if compressor.sums is not None}
    sketches = {"gaussian_sketch", "srht_sketch", "count_sketch"}
    assert summed == {"identity", "rand_k", "rand_k_in_blocks", "rand_k_of_the_tree", *sketches}
    for of_each_worker in (
        compressors.rand_k(key=0, axis_name="workers"),
        compressors.ternary(key=0, axis_name="workers", share_scale=False),
        compressors.qsgd(key=0, axis_name="workers"),
        quantize_values(compressors.rand_k(key=0)),
    ):
        assert of_each_worker.sums is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ternary", "dithering_inf", "rand_k", "count_sketch"])
def test_sums_send_the_bytes_of_their_addends(name):
    compressor, size, workers = SUMMED[name], 64, 8
    # 8 * 40 does not fit into 8 bits.
    bytes_of_addends = {"ternary": size, "dithering_inf": 2 * size, "rand_k": 16 * 4, "count_sketch": 16 * 4}[name]

    def update(updates, state, params=None):
        del params
        message, state = compressor.compress(updates, state)
        summed = jax.lax.psum(compressor.sums.addends(message, workers), "workers")
        return compressor.sums.total(summed, message, updates), state

    sent = bytes_sent(optax.GradientTransformation(compressor.init, update), size)
    scales = 4 if name in {"ternary", "dithering_inf"} else 0
    assert sent == {"all-reduce": 2 * (workers - 1) / workers * (bytes_of_addends + scales)}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*CONTRACTIVE, *UNBIASED])
def test_constants_hold_for_every_shape_and_dtype(name):
    compressor, number = ALL[name][0], 400 if name in UNBIASED else 1  # no others draw
    dtypes, shapes = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64), ((), (5,), (3, 4), (50,), (0, 2))
    like = [jax.ShapeDtypeStruct(shape, dtype) for dtype in dtypes for shape in shapes]
    tree = normal_like(like, seed=1)

    def step(state, _):
        sent, state, _ = round_trip(compressor, tree, state)
        return state, sent

    sent = jax.jit(lambda state: jax.lax.scan(step, state, length=number)[1])(compressor.init(tree))
    groups = [[i] for i, x in enumerate(tree) if x.size]
    for group in [range(len(tree))] if name in OF_THE_TREE else groups:
        x = np.concatenate([np.asarray(tree[i], float).ravel() for i in group])
        draws = np.concatenate([np.asarray(sent[i], float).reshape(number, -1) for i in group], axis=1)
        leaves = [tree[i] for i in group]
        # Of what is rounded to the dtype of the leaf.
        rounding = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves) * np.linalg.norm(draws, axis=1).max()
        errors = np.linalg.norm(draws - x, axis=1)
        if name in CONTRACTIVE:
            delta = compressor.delta(leaves)
            assert np.all(errors <= np.sqrt(1 - delta) * np.linalg.norm(x) + rounding), leaves
            continue
        noise = np.sqrt(np.sum(draws.var(axis=0)) / number)
        assert np.linalg.norm(draws.mean(axis=0) - x) <= 2.5 * noise + rounding, leaves
        # A mean of squares over so many draws, which are heavy-tailed for small leaves, lies within a quarter.
        limit = np.sqrt(compressor.omega(leaves)) * np.linalg.norm(x)
        assert np.sqrt(np.mean(errors**2)) <= 1.25 * limit + rounding, leaves


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_represented_is_not_finite_and_what_is_finite_is_right(name):
    x = X / jnp.max(jnp.abs(X))
    expected = 2.0**127 * np.asarray(send(name, x).sent, float)
    if "hard_threshold" in name:  # above which all entries are now
        compressor = compressors.hard_threshold(0.0, 0.25)
        expected = round_trip(quantize_values(compressor) if "bits" in name else compressor, x).sent * 2.0**127
    huge = np.asarray(send(name, x * 2.0**127).sent, float)
    finite = np.isfinite(huge)
    np.testing.assert_allclose(huge[finite], expected[finite], rtol=1e-4, atol=1e-5 * 2.0**127)
    if not any(part in name for part in ("rand_k", "qsgd", "natural", "l2", "wangni", "sketch")):  # larger than x
        assert finite.all()


@pytest.mark.parametrize("name", ALL)
def test_subnormal_entries_become_zero_or_stay_small(name):
    x = X * 1e-40
    sent = send(name, x).sent
    assert np.all(np.isfinite(sent))
    assert np.max(np.abs(np.asarray(sent, float))) <= 64 * np.max(np.abs(np.asarray(X, float))) * 1e-40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top_k", "natural", "qsgd_in_blocks", "srht_sketch", "top_k_in_blocks_of_2_bits"])
def test_leaves_sharded_over_explicit_axes_keep_their_sharding(name):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    compressor, x = ALL[name][0], TREE["matrix"]
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model")))
    with jax.set_mesh(mesh):
        sent = round_trip(compressor, placed).sent
    assert sent.sharding == placed.sharding
    np.testing.assert_array_equal(sent, round_trip(compressor, x).sent)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["global_top_k", "scaled_sign", "qsgd_in_blocks", "gaussian_sketch", "natural"])
def test_messages_are_gathered_and_combined_where_jax_tracks_what_varies(name):
    compressor, rows = ALL[name][0], normal(8, SIZE)
    state = compressor.init(rows[0])

    def worker(row):
        message, _ = compressor.compress(row[0], state)
        gathered = jax.lax.all_gather(message, "workers")
        return compressor.decompress(message, row[0])[None], compressor.combine(jnp.ones(8), gathered, row[0])[None]

    mesh = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))
    over_workers = jax.shard_map(worker, mesh=mesh, in_specs=jax.P("workers"), out_specs=jax.P("workers"))
    parts, totals = jax.jit(over_workers)(rows)
    np.testing.assert_allclose(
        totals, np.broadcast_to(np.sum(np.asarray(parts), axis=0), totals.shape), rtol=1e-5, atol=1e-5
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALL)
def test_leaves_may_have_2_to_the_31_entries(name):
    leaf = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    assert jax.eval_shape(functools.partial(round_trip, ALL[name][0]), leaf).sent.shape == leaf.shape


@pytest.mark.parametrize("name", ["top_k", "rand_k"])
def test_larger_leaves_are_refused_where_entries_have_places(name):
    leaf = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)
    with pytest.raises(ValueError, match=f"{name} counts the entries of a leaf with 32 bits, and one has 4294967296"):
        jax.eval_shape(functools.partial(round_trip, ALL[name][0]), leaf)


@pytest.mark.parametrize("name", ALL)
def test_ranks_and_dtypes_are_not_promoted(name):
    tree = {"matrix": jnp.ones((4, 4)), "narrow": jnp.ones(3, jnp.bfloat16)}
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(functools.partial(round_trip, ALL[name][0]), tree)


@pytest.mark.parametrize("name", ALL)
def test_complex_numbers_are_compressed_as_they_are_or_refused(name):
    compressor, x = ALL[name][0], np.asarray(X[:8]) + 1j * np.asarray(X[8:16])
    if name in KEPT:
        sent = np.asarray(round_trip(compressor, x).sent)
        kept = np.abs(sent) > 0
        np.testing.assert_array_equal(sent, np.where(kept, x, 0))
        assert kept[np.argmax(np.abs(x))]
    elif name in KEPT_AND_SCALED:
        sent = np.asarray(round_trip(compressor, x).sent)
        np.testing.assert_allclose(sent[sent != 0], 8 * x[sent != 0])
    else:
        with pytest.raises(TypeError, match=r"works on real parameters, .* real and imaginary parts as two leaves"):
            compressor.init(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", [name for name in ALL if "rand_k" not in name and name != "natural"])
def test_what_is_not_finite_does_not_vanish(name, bad):
    assert not np.isfinite(send(name, X.at[5].set(bad)).sent[5])


@pytest.mark.parametrize("density", [0.0, 1.5])
@pytest.mark.parametrize("name", ["top_k", "rand_k", "wangni_sparsify"])
def test_a_wrong_density_is_named(name, density):
    key = {} if name == "top_k" else {"key": 0}
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got"):
        getattr(compressors, name)(density, **key)


@pytest.mark.parametrize("name", ["qsgd", "dithering_inf", "natural_dithering"])
def test_a_wrong_number_of_levels_is_named(name):
    for levels in (0, 2.0):
        with pytest.raises(ValueError, match=f"levels must be a positive integer, got {levels}"):
            getattr(compressors, name)(levels, key=0)


@pytest.mark.parametrize(("arguments", "message"), [((24,), r"levels must be in \[1, 23\]"), ((3, 0.5), "order must")])
def test_natural_dithering_names_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        compressors.natural_dithering(*arguments, key=0)
