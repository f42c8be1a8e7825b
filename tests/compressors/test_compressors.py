import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optkit import compressors
from optkit.compressors import global_top_k, nbytes

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
}
UNBIASED = {
    "rand_k": (compressors.rand_k(0.125, key=0), 8 * (4 + 4)),
    "qsgd": (compressors.qsgd(4, key=0), SIZE * 4 // 8 + 4),
    "qsgd_one_level": (compressors.qsgd(1, key=0), SIZE * 2 // 8 + 4),
    "dithering_inf": (compressors.dithering_inf(5, key=0), SIZE * 4 // 8 + 4),
    "natural": (compressors.natural(key=0), SIZE * 9 // 8),
    "natural_dithering": (compressors.natural_dithering(3, key=0), SIZE * 3 // 8 + 4),
    "natural_dithering_of_the_l2_norm": (compressors.natural_dithering(6, 2, key=0), SIZE * 4 // 8 + 4),
}
SIMULATED = {"wangni_sparsify": (compressors.wangni_sparsify(0.2, key=0), 4 * SIZE)}
ALL = {**CONTRACTIVE, **UNBIASED, **SIMULATED}


def round_trip(compressor, tree, state=None):
    state = compressor.init(tree) if state is None else state
    message, state = compressor.compress(tree, state)
    return compressor.decompress(message, tree), state


@functools.cache
def compiled(name):
    return jax.jit(lambda x, state: round_trip(ALL[name][0], x, state))


def send(name, x=None, state=None):
    """Compresses a vector; compiled once for each compressor."""
    x = X if x is None else x
    return compiled(name)(x, ALL[name][0].init(x) if state is None else state)


@functools.cache
def draws(name):
    """Many compressions of one vector."""
    compressor = ALL[name][0]

    def step(state, _):
        sent, state = round_trip(compressor, X, state)
        return state, sent

    return X, np.asarray(jax.jit(lambda state: jax.lax.scan(step, state, length=4000)[1])(compressor.init(X)))


@pytest.mark.parametrize("name", CONTRACTIVE)
def test_it_contracts_by_its_constant(name):
    compressor = CONTRACTIVE[name][0]
    delta = compressor.delta(TREE["matrix"])
    assert 0 < delta <= 1
    spike = jnp.zeros(SIZE).at[5].set(3.0)
    for x in (X, spike, jnp.ones(SIZE)):
        lost = jnp.sum((send(name, x)[0] - x) ** 2)
        assert lost <= (1 - delta) * jnp.sum(x**2) * (1 + 1e-6)


def test_scaled_signs_contract_by_just_the_ratio_of_norms():
    lost = jnp.sum((send("scaled_sign")[0] - X) ** 2) / jnp.sum(X**2)
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
    assert 0.02 < relative <= omega * (1.05 if name == "rand_k" else 1.0)  # whose constant is the variance itself


def test_wangni_keeps_as_many_as_asked_for_in_the_mean():
    _, sent = draws("wangni_sparsify")
    np.testing.assert_allclose(np.mean(np.sum(sent != 0, axis=1)), 12, rtol=0.02)


@pytest.mark.parametrize("name", ALL)
def test_a_message_has_the_bytes_of_the_formula(name):
    compressor, expected = ALL[name]
    x = TREE["matrix"]
    message = compressor.compress(x, compressor.init(x))[0]
    assert sum(part.nbytes for part in jax.tree.leaves(message)) == nbytes(compressor, x) == expected


@pytest.mark.parametrize("name", ALL)
def test_zero_stays_zero(name):
    np.testing.assert_array_equal(send(name, jnp.zeros(SIZE))[0], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_trees_keep_structure_and_dtypes_and_what_is_no_number_of_entries_is_sent(name):
    compressor = ALL[name][0]
    tree = {**TREE, "narrow": jnp.ones(3, jnp.bfloat16)}
    sent, _ = jax.jit(lambda tree: round_trip(compressor, tree))(tree)
    assert jax.tree.structure(sent) == jax.tree.structure(tree)
    assert jax.tree.map(jnp.shape, sent) == jax.tree.map(jnp.shape, tree)
    assert jax.tree.map(lambda x: x.dtype, sent) == jax.tree.map(lambda x: x.dtype, tree)
    round_trip(compressor, {})


@pytest.mark.parametrize("name", [*UNBIASED, *SIMULATED, "scaled_sign"])
def test_neither_tiny_nor_huge_entries_are_lost(name):
    sent = send(name)[0]
    for scale in (2.0**-100, 2.0**83):  # about 1e-30 and 1e25
        np.testing.assert_allclose(send(name, scale * X)[0] / scale, sent, rtol=1e-5)


@pytest.mark.parametrize("name", [*UNBIASED, *SIMULATED])
def test_the_next_draw_is_another_and_the_same_key_draws_the_same(name):
    first, state = send(name)
    np.testing.assert_array_equal(first, send(name)[0])
    assert np.any(first != send(name, X, state)[0])


def test_of_equal_entries_the_first_ones_are_kept():
    message, _ = compressors.top_k(0.5).compress(jnp.array([1.0, -1.0, 1.0, -1.0]), None)
    assert message.places.tolist() == [0, 1]


def test_powers_of_two_and_zero_are_sent_as_they_are_by_natural_compression():
    x = jnp.zeros(SIZE).at[:4].set(jnp.array([1.0, -0.5, 2.0**100, -(2.0**-126)]))
    np.testing.assert_array_equal(send("natural", x)[0], x)


def test_what_is_not_finite_stays_so():
    for name in ("identity", "natural", "qsgd", "dithering_inf", "natural_dithering", "scaled_sign", "top_k"):
        for value in (jnp.nan, jnp.inf):
            assert not np.all(np.isfinite(send(name, X.at[3].set(value))[0])), name


@pytest.mark.parametrize("axis_name", ["workers", None])
def test_workers_draw_for_themselves_with_an_axis_and_alike_without(axis_name):
    compressor = compressors.qsgd(2, key=0, axis_name=axis_name)
    state = compressor.init(X)
    sent, states = jax.jit(jax.vmap(lambda x: round_trip(compressor, x, state), axis_name="workers"))(
        jnp.stack([X] * 4)
    )
    assert np.any(sent != sent[0]) == (axis_name is not None)
    np.testing.assert_array_equal(states, jnp.stack([states[0]] * 4))


def test_the_worst_leaf_gives_a_trees_constant():
    tree = {"large": jnp.zeros(100), "small": jnp.zeros(2), "empty": jnp.zeros(0)}
    assert compressors.scaled_sign().delta(tree) == 1 / 100
    assert compressors.qsgd(1, key=0).omega(tree) == math.sqrt(100)
    assert compressors.top_k(0.5).omega is None
    assert compressors.natural(key=0).delta is None


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["top_k", "qsgd"])
def test_windows_of_messages_are_those_of_the_decompressed_trees(name):
    compressor = ALL[name][0]
    trees = normal(4, 5, 4)
    rows = jax.tree.map(lambda *x: jnp.stack(x), *(compressor.compress(x, compressor.init(x))[0] for x in trees[:3]))
    whole = np.stack([np.ravel(round_trip(compressor, x)[0]) for x in trees[:3]])
    np.testing.assert_allclose(compressor.inner_products(rows, trees[3]), whole @ np.ravel(trees[3]), rtol=1e-12)
    weights = jnp.array([2.0, -1.0, 0.5])
    np.testing.assert_allclose(np.ravel(compressor.combine(weights, rows, trees[3])), weights @ whole, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top_k", "natural"])
def test_leaves_sharded_over_explicit_axes_keep_their_sharding(name):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    compressor, x = ALL[name][0], TREE["matrix"]
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model")))
    with jax.set_mesh(mesh):
        sent = jax.jit(lambda x: round_trip(compressor, x)[0])(placed)
    assert sent.sharding == placed.sharding
    np.testing.assert_array_equal(sent, round_trip(compressor, x)[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALL)
def test_leaves_may_have_2_to_the_31_entries(name):
    leaf = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    decompressed, _ = jax.eval_shape(functools.partial(round_trip, ALL[name][0]), leaf)
    assert decompressed.shape == leaf.shape


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
    compressor, x = ALL[name][0], X[:8] + 1j * X[8:16]
    if name in ("identity", "top_k", "top_k_rounded_down", "global_top_k"):
        sent, _ = round_trip(compressor, x)
        kept = jnp.abs(sent) > 0
        np.testing.assert_array_equal(sent, jnp.where(kept, x, 0))
        assert jnp.min(jnp.where(kept, jnp.abs(x), jnp.inf)) == jnp.max(jnp.abs(x)) or kept.all()
    elif name == "rand_k":
        sent, _ = round_trip(compressor, x)
        np.testing.assert_allclose(sent[sent != 0], 8 * x[sent != 0])
    else:
        with pytest.raises(TypeError, match=r"works on real parameters, .* real and imaginary parts as two leaves"):
            compressor.init(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("rand_k", "natural")])
def test_what_is_not_finite_does_not_vanish(name, bad):
    sent, _ = round_trip(ALL[name][0], X.at[5].set(bad))
    assert not np.isfinite(sent[5])


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
