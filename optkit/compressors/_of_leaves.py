"""Compressors that work on each leaf by itself: sparsification, quantization, signs.

Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", 2016, arXiv:1610.02132;
Horváth et al., "Natural Compression for Distributed Deep Learning", 2019, arXiv:1905.10988; Wangni et al., "Gradient
Sparsification for Communication-Efficient Distributed Optimization", 2017, arXiv:1710.09854; Karimireddy et al., "Error
Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019, arXiv:1901.09847 (the scaled sign).
"""

import math

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Rule, leafwise
from optkit.compressors._rules import (
    as_it_came,
    dithering_rule,
    natural_dithering_rule,
    natural_rule,
    rand_k_rule,
    scaled_sign_rule,
    top_k_rule,
    wangni_rule,
)
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName, Key


def identity() -> Compressor:
    """Sends everything as it is.

    Returns:
        A `Compressor` with delta 1 and omega 0.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = identity()
        >>> compressor.compress(jnp.ones(2), None)[0].tolist()
        [1.0, 1.0]
    """
    return leafwise(Rule(lambda x, _: x, as_it_came, lambda _: 1.0, lambda _: 0.0))


def top_k(density: float = 0.01, *, round_up: bool = True) -> Compressor:
    """Keeps the entries of largest magnitude of each leaf, and forgets the others.

    On the wire an entry kept is its value and a place of 4 bytes. Of equal entries the first ones are kept. Do not take
    it without error feedback, or a method with its own: what it forgets has a bias. `global_top_k` takes the largest of
    all leaves together.

    Args:
        density: share of a leaf's entries that are kept, in (0, 1]; default 0.01. At least one of each leaf is.
        round_up: rounds their number up (default), as Deep Gradient Compression does, not down.

    Returns:
        A `Compressor` with delta k/d for k of d entries.

    Raises:
        ValueError: if `density` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = top_k(0.5)
        >>> entries, _ = compressor.compress(jnp.array([3.0, -1.0, 0.0, -4.0]), None)
        >>> entries.values.tolist(), entries.places.tolist()
        ([-4.0, 3.0], [3, 0])
    """
    refuse_arrays(density=density)
    check_range("density", density, 0.0, 1.0, low_open=True)
    return leafwise(top_k_rule(density, round_up=round_up))


def rand_k(density: float = 0.01, *, key: Key, axis_name: AxisName | None = None, round_up: bool = True) -> Compressor:
    """Keeps entries drawn by lot, times d/k so that the mean over draws is the vector.

    On the wire an entry kept is its value and a place of 4 bytes. It is far noisier than `top_k` at the same size where
    few entries are large.

    Args:
        density: share of a leaf's entries that are kept, in (0, 1]; default 0.01. At least one of each leaf is.
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.
        round_up: rounds their number up (default), not down.

    Returns:
        A `Compressor` with omega d/k - 1 for k of d entries.

    Raises:
        ValueError: if `density` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = rand_k(0.5, key=0)
        >>> x = jnp.ones(4)
        >>> entries, state = compressor.compress(x, compressor.init(x))
        >>> entries.values.tolist()
        [2.0, 2.0]
    """
    refuse_arrays(density=density)
    check_range("density", density, 0.0, 1.0, low_open=True)
    return leafwise(rand_k_rule(density, round_up=round_up), key, axis_name)


def scaled_sign() -> Compressor:
    """Keeps signs, times the mean magnitude of the leaf.

    On the wire a leaf is a bit an entry and 4 bytes (8 in double precision). Zero counts as positive. Do not take it
    without error feedback, or a method with its own.

    Returns:
        A `Compressor` with delta 1/d for d entries: what it is at worst, for one entry that is not zero. It is
        `|x|_1^2 / (d |x|_2^2)`.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = scaled_sign()
        >>> x = jnp.array([3.0, -1.0, 2.0, -2.0])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [2.0, -2.0, 2.0, -2.0]
    """
    return leafwise(scaled_sign_rule(), real="scaled_sign")


def qsgd(levels: int = 16, *, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Rounds each entry by lot to one of some equal parts of the leaf's l2 norm, so that the mean is the entry.

    On the wire an entry has `1 + ceil(log2(levels + 1))` bits, and a leaf 4 bytes more (8 in double precision). Large
    leaves need many levels: with fewer than the root of their size most entries become zero.

    Args:
        levels: number of parts, at least 1; default 16.
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor` with omega `min(d / levels^2, sqrt(d) / levels)`.

    Raises:
        ValueError: if `levels` is no positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = qsgd(1, key=0)
        >>> x = jnp.array([3.0, 4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [5.0, 5.0]
    """
    return leafwise(dithering_rule(levels, 2), key, axis_name, real="qsgd")


def dithering_inf(levels: int = 16, *, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Rounds like `qsgd`, to parts of the largest magnitude: with far less noise where entries are of one size.

    Args:
        levels: number of parts, at least 1; default 16.
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor` of the same size on the wire and the same omega as `qsgd`.

    Raises:
        ValueError: if `levels` is no positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = dithering_inf(1, key=0)
        >>> x = jnp.array([4.0, -4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -4.0]
    """
    return leafwise(dithering_rule(levels, math.inf), key, axis_name, real="dithering_inf")


def natural(*, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Rounds each entry by lot to one of the two powers of two around it, so that the mean is the entry.

    On the wire an entry is its sign and exponent, 9 bits (12 in double precision). Subnormal numbers become zero, and
    NaN infinite.

    Args:
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor` with omega 1/8.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = natural(key=0)
        >>> x = jnp.array([4.0, -0.25, 0.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -0.25, 0.0]
    """
    return leafwise(natural_rule(), key, axis_name, real="natural")


def natural_dithering(
    levels: int = 8, order: float = math.inf, *, key: Key, axis_name: AxisName | None = None
) -> Compressor:
    """Rounds each entry by lot to the leaf's norm over a power of two, or to zero, so that the mean is the entry.

    On the wire an entry has `1 + ceil(log2(levels + 1))` bits, and a leaf 4 bytes more (8 in double precision).

    Args:
        levels: number of powers, from 1, the norm itself, to 23; default 8.
        order: of the norm, from 1 to infinity (default).
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor` with omega `1/8 + r min(1, r)`, where `r = d^(1 / min(order, 2)) 2^(1 - levels)`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = natural_dithering(3, key=0)
        >>> x = jnp.array([4.0, -2.0, 1.0, 0.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -2.0, 1.0, 0.0]
    """
    return leafwise(natural_dithering_rule(levels, order), key, axis_name, real="natural_dithering")


def wangni_sparsify(density: float = 0.01, *, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Keeps entries by lot, large ones more often, over the probability to be kept: mean and number are as wanted.

    For simulation only: the number of entries kept varies, and arrays on the wire do not, so that it sends everything,
    zeros too. An entry kept with a chance of at most one in a million is not scaled, as in the original.

    Args:
        density: share of a leaf's entries that are kept in the mean, in (0, 1]; default 0.01. At least one is.
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor`; no constant is known of the four rounds of the paper's iteration.

    Raises:
        ValueError: if `density` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = wangni_sparsify(0.5, key=0)
        >>> x = jnp.array([4.0, 0.0, 0.0, 4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, 0.0, 0.0, 4.0]
    """
    refuse_arrays(density=density)
    return leafwise(wangni_rule(density), key, axis_name, real="wangni_sparsify")
