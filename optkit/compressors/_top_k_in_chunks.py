"""Top-k in chunks: keeps the same number of entries in each block of a matrix.

Sarfi et al., "Communication Efficient LLM Pre-training with SparseLoCo", 2025, arXiv:2508.15706. How leaves are cut is
that of the authors' code, which takes it from DeMo. Leaves of no axis and of more than two, which that code does not
take, are a vector of one entry and stacked matrices here; and it remembers the length of chunks by the length of an
axis, across leaves, where here each leaf is cut by itself.
"""

from typing import Literal

from optkit.compressors._compressor import Compressor
from optkit.compressors._in_blocks import in_blocks_rule
from optkit.compressors._leafwise import Rule, by_shape, combine_rows, inner_products_of_rows
from optkit.compressors._top_k import largest_rule
from optkit.core.checks import check_integer, check_option
from optkit.core.chunks import Chunks, cut
from optkit.core.injection import refuse_arrays
from optkit.method import Method, Paper

__all__ = ["top_k_in_chunks"]

Matrices = Literal["square", "each_row"]
Vectors = Literal["line", "square"]


def top_k_in_chunks(
    number: int | None = None,
    chunk_size: int | None = None,
    *,
    matrices: Matrices = "square",
    vectors: Vectors = "line",
) -> Compressor:
    """Keeps the entries of largest magnitude of each chunk of a leaf, and sets the others to zero.

    Chunks of a leaf all have one size, the largest one that divides its axes and is not above `chunk_size`. A smaller
    chunk is sent whole if it has no more entries than are kept.

    Use it with error feedback for matrices, whose large entries stand in some rows and columns: each part of a matrix
    then has its share, and a place in a chunk takes 2 bytes instead of 4. `bin_values` makes values small, too. Avoid
    it for leaves whose axes have no divisor near `chunk_size`: an axis of prime length is cut into single entries, of
    which all are sent; `in_blocks(top_k(0.01))` cuts those.

    Args:
        number: How many entries of a chunk are kept, at least 1. Default: None, which stands for 32.
        chunk_size: The largest number of rows, and of columns, in a chunk, at least 1. Default: None, which stands for
            64. Of a leaf of more than two axes, the last two are matrices.
        matrices: How matrices are cut. With "square", a chunk has rows and columns, as in DeMo. With "each_row", a
            chunk is a row, of which the same share is kept as of a full square chunk, rounded to the nearest number,
            but at least one. Default: "square".
        vectors: How vectors are cut. With "line", a chunk has up to `chunk_size` entries, of which `number` are kept.
            With "square", it has up to as many as a square chunk, and the same share is kept, rounded as for rows.
            Default: "line".

    Returns:
        A `Compressor`. Its delta is the smallest share of the entries of a chunk that is kept.

    Raises:
        ValueError: If an argument is out of its range, or a word is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = top_k_in_chunks(1, 2)
        >>> x = jnp.array([[1.0, 5.0, 0.0, 0.0], [2.0, 3.0, 0.0, -1.0]])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]]

    Reference:
        arXiv:2508.15706
    """
    refuse_arrays(number=number, chunk_size=chunk_size)
    most, longest = 32 if number is None else number, 64 if chunk_size is None else chunk_size
    check_integer("number", most)
    check_integer("chunk_size", longest)
    check_option("matrices", matrices, Matrices)
    check_option("vectors", vectors, Vectors)

    def share(size):
        return max(1, round(size * most / longest**2))

    def rule_of(shape):
        rows, columns = (1, 1, *shape)[-2:]
        if len(shape) < 2:
            chunks = Chunks(shape, (1, 1), cut(columns, longest if vectors == "line" else longest**2))
            kept = most if vectors == "line" else share(chunks.size)
        elif matrices == "each_row":
            chunks = Chunks(shape, (rows, 1), (1, columns))
            kept = share(columns)
        else:
            chunks, kept = Chunks.square(shape, longest), most
        return _in_chunks_rule(chunks, min(kept, chunks.size))

    return by_shape(rule_of)


def _in_chunks_rule(chunks: Chunks, kept: int) -> Rule:
    """Makes the rule for leaves of one shape: that of blocks, for entries in the order of the chunks."""
    rule = in_blocks_rule(largest_rule(lambda _: kept), max(chunks.size, 1))

    def ordered(x):
        return chunks.split(x.reshape(chunks.shape)).ravel()

    def restored(x):
        return chunks.join(x).ravel()

    return Rule(
        encode=lambda x, drawn: rule.encode(ordered(x), drawn),
        decode=lambda sent, size, dtype: restored(rule.decode(sent, size, dtype)),
        delta=rule.delta,
        combine=lambda weights, rows, size, dtype: restored(combine_rows(rule, weights, rows, size, dtype)),
        inner_products=lambda rows, x: inner_products_of_rows(rule, rows, ordered(x)),
    )


SPARSE_LOCO = Paper("Communication Efficient LLM Pre-training with SparseLoCo", "Sarfi et al.", 2025, "2508.15706")

METHODS = (
    Method(
        name="compressors.top_k_in_chunks",
        factory=top_k_in_chunks,
        kind="function",
        summary="Keeps the entries of largest magnitude of each chunk of a matrix or vector.",
        paper=SPARSE_LOCO,
        also_known_as=("chunk-wise top-k", "chunked TopK", "SparseLoCo's top-k", "CCLoco"),
    ),
)
