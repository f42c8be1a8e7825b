"""Top-k over all leaves together, in a form with which windows of gradients can compute without decompressing it."""

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import SPARSE, Entries, Rule, decode_entries, leafwise
from optkit.compressors._on_whole_tree import on_whole_tree
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.top_k import take
from optkit.core.top_k import top_k as find_top_k
from optkit.core.types import DTypeLike
from optkit.method import Method

__all__ = ["global_top_k"]


def global_top_k(density: float | None = None, *, dtype: DTypeLike | None = None) -> Compressor:
    """Keeps the entries of largest magnitude of all leaves together, and sets the others to zero.

    Use it with `error_feedback`, or to keep a window of gradients in memory: inner products and sums are computed
    without decompressing. Avoid it when a whole gradient does not fit into the memory of one device, because leaves are
    gathered if mesh axes are explicit. A kept entry takes the bytes of its value and 4 bytes for its place.

    Args:
        density: Share of all entries that are kept, in (0, 1]. Default: None, which stands for 0.01. The number is
            rounded down, but at least one entry is kept.
        dtype: Dtype of the kept values. Default: None, that of the leaves, but at least float32. With 16 bits,
            `error_feedback` keeps what is rounded off.

    Returns:
        A `Compressor` to `Entries`, with places of 32 bits. Its delta is the share of entries that are kept.

    Raises:
        ValueError: If `density` is outside its range, or if a tree has more than 2**31 entries.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> compressor = global_top_k(0.5)
        >>> tree = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([[3.0], [2.0]])}
        >>> entries, _ = compressor.compress(tree, compressor.init(tree))
        >>> entries.values.tolist(), entries.places.tolist()
        ([-4.0, 3.0], [1, 2])
        >>> jax.tree.map(jnp.ravel, compressor.decompress(entries, tree))
        {'a': Array([ 0., -4.], dtype=float32), 'b': Array([3., 0.], dtype=float32)}
    """
    refuse_arrays(density=density, dtype=dtype)
    check_range("density", density, 0.0, 1.0, low_open=True)
    share = 0.01 if density is None else density

    def number(size):
        return min(max(int(share * size), 1), size)

    def encode(x, _):
        if x.size > 2**31:
            raise ValueError(
                f"global_top_k counts entries with 32 bits and got a tree of {x.size} entries: split it with"
                " optax.partition"
            )
        places = find_top_k(x, number(x.size))
        values = take(x, places)
        return Entries(values if dtype is None else values.astype(dtype), places)

    rule = Rule(encode, decode_entries, delta=lambda size: number(size) / size, **SPARSE)
    return on_whole_tree(leafwise(rule))


METHODS = (
    Method(
        name="compressors.global_top_k",
        factory=global_top_k,
        kind="function",
        summary="Keeps the entries of largest magnitude of all leaves together, and sets the others to zero.",
        also_known_as=("Top-k", "TopK"),
    ),
)
