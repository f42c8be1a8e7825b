"""Linear sketches: a tree becomes a few random sums of its entries, which can be added up over workers.

Song, Wang, Yu, Zhang, "Sketching for First Order Method: Efficient Algorithm for Low-Bandwidth Channel and
Vulnerability", 2022, arXiv:2210.08371. A sketch R of a vector x is drawn anew in each step, alike on all workers, with
E R'R = I, so that R'Rx is unbiased.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optkit.compressors._compressor import Compressor, Sums
from optkit.compressors._leafwise import Rule, Sketch, leafwise
from optkit.compressors._on_whole_tree import on_whole_tree
from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays
from optkit.core.keys import typed
from optkit.core.precision import widen
from optkit.core.top_k import add, take
from optkit.core.types import Key
from optkit.method import Method, Paper

__all__ = ["count_sketch", "gaussian_sketch", "srht_sketch"]

_LARGEST_HADAMARD = 64


class LinearSketch(NamedTuple):
    """A random matrix R, as functions of its draws.

    Attributes:
        draw: Returns the draws for a vector of a given size and dtype, from a key.
        project: Returns Rx, from the vector x and the draws.
        back: Returns R'y, from a vector y, the draws and the size.
        omega: Returns the constant of variance of R'Rx for a vector of a given size.
    """

    draw: Callable[[jax.Array, int, Any], Any]
    project: Callable[[jax.Array, Any], jax.Array]
    back: Callable[[jax.Array, Any, int], jax.Array]
    omega: Callable[[int], float]


def gaussian(size: int) -> LinearSketch:
    """Makes a matrix of `size` rows of standard normal numbers, over the root of `size`.

    A draw is a function that returns one row: the whole matrix would be far larger than the vector.
    """

    def draw(key, entries, dtype):
        return lambda i: jax.random.normal(jax.random.fold_in(key, i), (entries,), dtype)

    def project(x, row):
        return jax.lax.map(lambda i: jnp.dot(row(i), x, precision="highest"), jnp.arange(size)) / size**0.5

    def back(numbers, row, entries):
        del entries

        def add_row(total, numbered):
            number, i = numbered
            return total + number * row(i), None

        others = (numbers[1:], jnp.arange(1, size))
        return jax.lax.scan(add_row, numbers[0] * row(0), others)[0] / size**0.5

    return LinearSketch(draw, project, back, omega=lambda entries: (entries + 1) / size)


def srht(size: int) -> LinearSketch:
    """Makes rows of a Hadamard matrix whose columns have random signs: the subsampled randomized Hadamard transform.

    The draws are the signs, of as many entries as the next power of two, and the places of at most `size` rows.
    """

    def draw(key, entries, dtype):
        whole = _power_of_two(entries)
        for_signs, for_start, for_step = jax.random.split(key, 3)
        # One random bit for each sign.
        words = jax.random.bits(for_signs, (-(-whole // 32), 1), jnp.uint32)
        sign = _sign(words >> jnp.arange(32, dtype=jnp.uint32)[None], dtype).ravel()[:whole]
        # Multiples of an odd number reach each row once; from a random start, each row is drawn as often as any other.
        start = jax.random.bits(for_start, dtype=jnp.uint32)
        step = jax.random.bits(for_step, dtype=jnp.uint32) | 1
        rows = start + step * jnp.arange(min(size, whole), dtype=jnp.uint32) & jnp.uint32(whole - 1)
        return sign, rows

    def project(x, drawn):
        sign, rows = drawn
        mixed = _hadamard(sign * jnp.pad(x, (0, sign.size - x.size)))
        return take(mixed, rows) * (sign.size / rows.size) ** 0.5

    def back(numbers, drawn, entries):
        sign, rows = drawn
        mixed = _hadamard(add(jnp.zeros([sign.size], numbers.dtype), rows, numbers))
        return (sign * mixed)[:entries] * (sign.size / rows.size) ** 0.5

    def omega(entries):
        whole = _power_of_two(entries)
        return whole / min(size, whole) - 1

    return LinearSketch(draw, project, back, omega)


def count(size: int) -> LinearSketch:
    """Makes a matrix with one entry, 1 or -1, in each column.

    The draws are the row of each column, its bucket, and its sign.
    """

    def draw(key, entries, dtype):
        words = jax.random.bits(key, (entries,), jnp.uint32)
        return ((words >> 1) % jnp.uint32(size)).astype(jnp.int32), _sign(words, dtype)

    def project(x, drawn):
        bucket, sign = drawn
        return jax.ops.segment_sum(sign * x, bucket, size)

    def back(numbers, drawn, entries):
        del entries
        bucket, sign = drawn
        return sign * numbers[bucket]

    return LinearSketch(draw, project, back, omega=lambda entries: max(entries - 1, 0) / size)


def sketch_rule(sketch: LinearSketch, key: Key) -> Rule:
    """Makes the rule of a sketch. Its draw is the data of a key, which a message carries so that it can be decoded."""

    def drawn(data, size, dtype):
        return sketch.draw(jax.random.wrap_key_data(data, impl=jax.random.key_impl(typed(key))), size, dtype)

    def encode(x, data):
        x = widen(x)
        return Sketch(sketch.project(x, drawn(data, x.size, x.dtype)), data)

    def decode(sent, size, dtype):
        return sketch.back(sent.numbers, drawn(sent.key, size, sent.numbers.dtype), size).astype(dtype)

    def total(numbers, own, size, dtype):
        return decode(own._replace(numbers=numbers), size, dtype)

    return Rule(
        encode,
        decode,
        omega=sketch.omega,
        draw=lambda key, *_: jax.random.key_data(key),
        sums=Sums(lambda sent, _: sent.numbers, total),
    )


def _sketch(make: Callable[[int], LinearSketch], size: int, key: Key) -> Compressor:
    refuse_arrays(size=size)
    check_integer("size", size)
    return on_whole_tree(leafwise(sketch_rule(make(size), key), key, real=f"{make.__name__}_sketch"))


def gaussian_sketch(size: int, *, key: Key) -> Compressor:
    """Sends random sums of all entries of the tree, with normal factors that all workers draw alike.

    The rule, where R has `size` rows of normal numbers of variance `1 / size`, drawn anew in each step::

        C(x) = R' R x

    Use it to compare sketches with their theory, or on small trees: a sketch is linear, so that the sum over workers
    takes `size` numbers, however many they are. Avoid it on large trees, because each step draws `size` numbers for
    each entry, twice; `srht_sketch` and `count_sketch` are as accurate. With all three, use learning rates that are
    smaller by the factor `1 + omega`, and do not use error feedback, because they do not contract.

    Args:
        size: Number of sums, at least 1.
        key: Seed of the random draws, an integer or a JAX key.

    Returns:
        A `Compressor` with omega `(d + 1) / size` for d entries. A message is `size` numbers and the data of a key; its
        `sums` add up the numbers alone.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = gaussian_sketch(2, key=0)
        >>> x = jnp.ones(10)
        >>> compressor.compress(x, compressor.init(x))[0].numbers.shape, compressor.omega(x)
        ((2,), 5.5)

    Reference:
        arXiv:2210.08371
    """
    return _sketch(gaussian, size, key)


def srht_sketch(size: int, *, key: Key) -> Compressor:
    """Sends random rows of a Hadamard transform of the tree with random signs, which all workers draw alike.

    The rule, where D is the number of entries, filled with zeros to a power of two, H the orthonormal Hadamard matrix,
    E random signs, and S takes `size` rows without repetition, drawn anew in each step::

        R = sqrt(D / size) * S H E
        C(x) = R' R x

    Use it when messages must be short and add up over workers, and the error should be spread evenly over all entries.
    Avoid it when time is short, because two transforms take `log2(D)` operations per entry each; `count_sketch` takes
    one. See `gaussian_sketch` for learning rates.

    Args:
        size: Number of rows, at least 1. No more than D are sent.
        key: Seed of the random draws, an integer or a JAX key.

    Returns:
        A `Compressor` with omega `D / size - 1`, or 0 if `size` is at least D. A message is `size` numbers and the data
        of a key; its `sums` add up the numbers alone.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = srht_sketch(4, key=0)
        >>> x = jnp.array([1.0, -2.0, 3.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).round(5).tolist()
        [1.0, -2.0, 3.0]

    Reference:
        arXiv:2210.08371
    """
    return _sketch(srht, size, key)


def count_sketch(size: int, *, key: Key) -> Compressor:
    """Adds up all entries of the tree in random buckets, with random signs that all workers draw alike.

    The rule, where an entry i has the random bucket b(i) and the random sign e(i), drawn anew in each step::

        s_b = sum of e(i) x_i over all i with b(i) = b
        C(x)_i = e(i) * s_b(i)

    Use it when messages must be short and add up over workers: it takes one addition per entry. Avoid it when one entry
    is much larger than all others, because it shows at all entries of its bucket. On GPUs the sums of a bucket are
    added up in any order. See `gaussian_sketch` for learning rates.

    Args:
        size: Number of buckets, at least 1.
        key: Seed of the random draws, an integer or a JAX key.

    Returns:
        A `Compressor` with omega `(d - 1) / size` for d entries. A message is `size` numbers and the data of a key; its
        `sums` add up the numbers alone.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = count_sketch(1, key=0)
        >>> x = jnp.array([3.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [3.0]

    Reference:
        arXiv:2210.08371
    """
    return _sketch(count, size, key)


def _sign(words: jax.Array, dtype: Any) -> jax.Array:
    """Returns 1 or -1, from the lowest bit of each integer."""
    return 1 - 2 * (words & 1).astype(dtype)


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _hadamard(x: jax.Array) -> jax.Array:
    """Multiplies by the orthonormal Hadamard matrix, in Sylvester's order, of a vector whose size is a power of two."""
    # As products with small matrices, axis by axis: XLA would fuse a chain of butterflies, and compute sums anew.
    size, shape = x.size, []
    while size > 1:
        shape.append(min(size, _LARGEST_HADAMARD))
        size //= shape[-1]
    x = x.reshape(shape)
    for axis, length in enumerate(shape):
        matrix = functools.reduce(np.kron, [np.array([[1.0, 1.0], [1.0, -1.0]])] * (length.bit_length() - 1))
        product = jnp.tensordot(jnp.asarray(matrix / length**0.5, x.dtype), x, (1, axis), precision="highest")
        x = jnp.moveaxis(product, 0, axis)
    return x.ravel()


SKETCHING = Paper(
    "Sketching for First Order Method: Efficient Algorithm for Low-Bandwidth Channel and Vulnerability",
    "Song, Wang, Yu, Zhang",
    2022,
    "2210.08371",
)

METHODS = (
    Method(
        name="compressors.gaussian_sketch",
        factory=gaussian_sketch,
        kind="function",
        summary="Sends random sums of all entries, with normal factors, which add up over workers.",
        paper=SKETCHING,
        also_known_as=("Johnson-Lindenstrauss sketch", "linear sketch"),
    ),
    Method(
        name="compressors.srht_sketch",
        factory=srht_sketch,
        kind="function",
        summary="Sends random rows of a Hadamard transform, which add up over workers.",
        paper=SKETCHING,
        also_known_as=("SRHT", "subsampled randomized Hadamard transform"),
    ),
    Method(
        name="compressors.count_sketch",
        factory=count_sketch,
        kind="function",
        summary="Adds up all entries in random buckets, which add up over workers.",
        paper=SKETCHING,
        also_known_as=("CountSketch",),
    ),
)
