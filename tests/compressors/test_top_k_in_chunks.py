"""What top-k in chunks and bins promise: which entries are sent, as what, and in how many bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, normal_like
from round_trips import round_trip, sent

import optkit
from optkit.compressors import bin_values, in_blocks, nbytes, quantize_values, scaled_sign, top_k, top_k_in_chunks


def largest(x, number):
    """The entries of largest magnitude, and zeros."""
    kept = np.zeros(x.size)
    places = np.argsort(-np.abs(x.ravel()))[:number]
    kept[places] = x.ravel()[places]
    return kept.reshape(x.shape)


def test_each_block_of_a_matrix_keeps_its_largest_entries():
    x = np.asarray(normal(2, 6, 8))
    expected = np.zeros_like(x)
    for stack, row, column in np.ndindex(2, 2, 2):
        block = np.s_[stack, 3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
        expected[block] = largest(x[block], 5)
    np.testing.assert_array_equal(sent(top_k_in_chunks(5, 4), x), expected)


@pytest.mark.parametrize(("number", "kept"), [(1, 1), (3, 2), (5, 3), (6, 4)])  # 10/16 of the number, to even
def test_rows_and_long_vectors_keep_the_share_of_a_square(number, kept):
    rows, vector = np.asarray(normal(3, 10)), np.asarray(normal(20))
    of_rows = np.stack([largest(row, kept) for row in rows])
    np.testing.assert_array_equal(sent(top_k_in_chunks(number, 4, matrices="each_row"), rows), of_rows)
    of_vector = np.concatenate([largest(part, kept) for part in vector.reshape(2, 10)])
    np.testing.assert_array_equal(sent(top_k_in_chunks(number, 4, vectors="square"), vector), of_vector)


def test_vectors_are_cut_into_lines():
    x = np.asarray(normal(20))
    expected = np.concatenate([largest(part, 3) for part in x.reshape(5, 4)])
    np.testing.assert_array_equal(sent(top_k_in_chunks(3, 4), x), expected)
    np.testing.assert_array_equal(sent(top_k_in_chunks(4, 4), x), x)


def test_defaults_are_those_of_the_paper():
    leaf = jax.ShapeDtypeStruct((128, 192), jnp.float32)
    assert nbytes(top_k_in_chunks(), leaf) == 2 * 3 * 32 * (4 + 2)
    # 2 bits for each value in place of 32, a mean, and a table of four numbers.
    assert nbytes(bin_values(top_k_in_chunks()), leaf) == 2 * 3 * 32 * 2 + 2 * 3 * 32 // 4 + 4 + 16


def test_its_delta_is_the_smallest_share_that_is_kept():
    compressor = top_k_in_chunks(3, 4)
    assert compressor.delta({"matrix": jnp.ones((8, 4)), "vector": jnp.ones(4), "number": jnp.ones([])}) == 3 / 16
    assert compressor.delta({"matrix": jnp.ones((1, 2))}) == 1


def test_empty_leaves_and_numbers_are_sent_as_they_are():
    tree = {"none": None, "empty": jnp.zeros((0, 3)), "number": jnp.array(3.0)}
    compressor = bin_values(top_k_in_chunks())
    found = sent(compressor, tree)
    assert (found["none"], found["empty"].shape, found["number"].tolist()) == (None, (0, 3), 3.0)


def binned(values, bins, spread):
    """The quantizer, as its paper's code computes it."""
    centred = values - values.mean()
    width = spread * np.std(values, ddof=1) / bins
    codes = np.clip(np.round(centred / width + bins // 2), 0, bins - 1)
    table = {code: centred[codes == code].mean() for code in set(codes)}
    return np.array([table[code] for code in codes]) + values.mean()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bins", [3, 4])
def test_all_chunks_of_a_leaf_have_the_means_of_one_table(bins):
    x = np.asarray(normal(8, 12))
    for inner in (top_k_in_chunks(3, 4), top_k(0.3)):
        kept, found = map(np.asarray, (sent(inner, x), sent(bin_values(inner, bins, 5.0), x)))
        places = kept != 0
        np.testing.assert_allclose(found[places], binned(kept[places], bins, 5.0), rtol=1e-12)
        np.testing.assert_array_equal(found[~places], 0)
        np.testing.assert_allclose(found.sum(), kept.sum(), rtol=1e-12)


def test_equal_values_and_a_single_one_stay():
    equal, single = np.full(8, -2.0, np.float32), np.eye(8, dtype=np.float32)[3] * 5
    one, binned_one = top_k(1 / 8), bin_values(top_k(1 / 8))
    for x in (equal, single):
        np.testing.assert_allclose(sent(binned_one, x), sent(one, x), rtol=1e-6)
    np.testing.assert_allclose(sent(bin_values(top_k(1.0)), equal), equal, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "compressor",
    [bin_values(top_k_in_chunks(3, 4)), bin_values(in_blocks(top_k(0.4), 7))],
    ids=["chunks", "blocks"],
)
def test_messages_are_added_and_multiplied_without_unpacking_them_all(compressor):
    like = {"matrix": jnp.zeros((8, 12)), "vector": jnp.zeros(9)}
    trees, other = normal_like(like, rows=(3,)), normal_like(like, seed=1)
    weights = np.array([0.5, 2.0, 0.0])

    @jax.jit
    def window(trees, weights, other):
        each, _, messages = jax.vmap(lambda tree: round_trip(compressor, tree))(trees)
        return each, compressor.combine(weights, messages, like), compressor.inner_products(messages, other)

    each, total, products = jax.tree.map(np.asarray, window(trees, weights, other))
    for name, x in total.items():
        np.testing.assert_allclose(x, np.tensordot(weights, each[name], 1), atol=1e-12)
    expected = [sum(np.vdot(each[name][row], other[name]) for name in like) for row in range(3)]
    np.testing.assert_allclose(products, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "compressor", [bin_values(top_k_in_chunks(3, 4)), quantize_values(top_k(0.25))], ids=["bins", "levels"]
)
def test_a_mean_over_senders_divides_by_those_that_sent_an_entry(compressor):
    gradients = np.array(normal(3, 8, 12))
    gradients[:, 0, :] *= 100.0  # an entry that all send, too
    tx = optkit.compressed_mean(compressor, axis_name="workers", count="senders")
    mean = jax.vmap(lambda x: tx.update(x, tx.init(x))[0], axis_name="workers", out_axes=None)
    found = jax.jit(mean)(gradients)
    each = np.stack([sent(compressor, x) for x in gradients])
    senders = (each != 0).sum(axis=0)
    assert set(senders.ravel()) >= {0, 1, 3}
    np.testing.assert_allclose(found, each.sum(axis=0) / np.maximum(senders, 1), atol=1e-12)


def test_a_part_of_the_message_may_count_as_sent():
    tx = optkit.compressed_mean(top_k(0.5), optkit.feedback.ef14(0.5, 0.25), axis_name=None)
    gradient, update = jnp.array([4.0, 1.0]), jax.jit(tx.update)
    _, state = update(gradient, tx.init(gradient))
    assert state.own.error.tolist() == [3.0, 1.0]
    mean, state = update(gradient, state)
    assert (mean.tolist(), state.own.error.tolist()) == ([5.5, 0.0], [4.125, 1.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k_in_chunks(0), "number must be a positive integer, got 0"),
        (lambda: top_k_in_chunks(chunk_size=2.5), r"chunk_size must be a positive integer, got 2\.5"),
        (lambda: top_k_in_chunks(matrices="rows"), "matrices must be 'square' or 'each_row', got 'rows'"),
        (lambda: top_k_in_chunks(vectors="long"), "vectors must be 'line' or 'square', got 'long'"),
        (lambda: bin_values(top_k(), 1), "bins must be an integer of at least 2, got 1"),
        (lambda: bin_values(top_k(), 257), r"bins must be in \[2, 256\], got 257"),
        (lambda: bin_values(top_k(), spread=0.0), r"spread must be in \(0, inf\], got 0\.0"),
        (lambda: optkit.feedback.ef14(alpha=1.5), r"alpha must be in \[0, 1\], got 1\.5"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_compressors_that_keep_no_entries_have_no_bins():
    with pytest.raises(TypeError, match="bin_values needs a compressor that keeps entries, such as top_k, got one"):
        bin_values(scaled_sign()).compress(jnp.ones(4), None)
