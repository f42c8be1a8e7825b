"""Random dithering: entries are rounded at random to equal parts of the leaf's norm.

Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", 2016, arXiv:1610.02132.
"""

import math

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import (
    Codes,
    Rule,
    code_dtype,
    code_rule,
    code_sums,
    draw_uniform,
    leafwise,
    shares_of_norm,
)
from optkit.core.bits import pack
from optkit.core.checks import check_integer
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["dithering_inf", "qsgd"]


def dithering_rule(levels: int, order: float, axis_name: AxisName | None = None) -> Rule:
    """Makes the rule of `qsgd` (order 2) and `dithering_inf`; it draws one uniform number for each entry.

    Args:
        levels: See `qsgd`.
        order: Order of the norm.
        axis_name: Name of the axis over the workers that share the largest norm. Default: None, each has its own.

    Returns:
        The rule.
    """
    check_integer("levels", levels)
    bits = (2 * levels).bit_length()

    def encode(x, uniform):
        x = widen(x)
        norm, shares = shares_of_norm(x, order)
        if axis_name is not None:
            own, norm = norm, jax.lax.pmax(norm, axis_name)
            shares = shares * (own / jnp.where(norm > 0, norm, 1))
        level = jnp.minimum(jnp.floor(levels * shares + uniform), levels)
        return Codes(pack((jnp.where(x < 0, -level, level) + levels).astype(code_dtype(bits)), bits), norm)

    def value(code, scale):
        return (code.astype(scale.dtype) - levels) / levels * scale

    def omega(size):
        return min(size / levels**2, math.sqrt(size) / levels)

    if axis_name is not None:
        return code_rule(encode, bits, value, draw=draw_uniform, sums=code_sums(bits, levels))
    return code_rule(encode, bits, value, omega=omega, draw=draw_uniform)


def qsgd(levels: int = 16, *, key: Key, axis_name: AxisName | None = None, share_scale: bool = False) -> Compressor:
    """Rounds each entry at random to equal parts of the leaf's l2 norm, so that it is unbiased.

    The rule for an entry x_i of a leaf x, where r is drawn uniformly from [0, 1) for each entry::

        C(x)_i = |x|_2 * sign(x_i) * floor(levels * |x_i| / |x|_2 + r) / levels

    Use it when a method needs an unbiased compressor of few bits per entry. Avoid few levels for large leaves: with
    fewer levels than the square root of the number of entries, most entries become zero. An entry takes
    `1 + ceil(log2(levels + 1))` bits, and a leaf 4 bytes more (8 in double precision).

    Args:
        levels: Number of equal parts, at least 1. Default: 16.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.
        share_scale: Whether the workers on the axis take the largest of their norms, so that codes can be added up:
            then the bytes do not grow with the number of workers. Default: False. An entry that is not finite then
            spoils the leaf on all workers.

    Returns:
        A `Compressor` with omega `min(d / levels^2, sqrt(d) / levels)` for d entries, if each worker has its own norm.
        It stays unbiased with a shared one.

    Raises:
        ValueError: If `levels` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = qsgd(1, key=0)
        >>> x = jnp.array([3.0, 4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [5.0, 5.0]
    """
    return leafwise(dithering_rule(levels, 2, axis_name if share_scale else None), key, axis_name, real="qsgd")


def dithering_inf(
    levels: int = 16, *, key: Key, axis_name: AxisName | None = None, share_scale: bool = False
) -> Compressor:
    """Rounds each entry at random to equal parts of the leaf's largest magnitude, so that it is unbiased.

    The rule for an entry x_i of a leaf x, where r is drawn uniformly from [0, 1) for each entry::

        C(x)_i = max(|x|) * sign(x_i) * floor(levels * |x_i| / max(|x|) + r) / levels

    Use it when the entries of a leaf are of similar size: it is then far less noisy than `qsgd` with the same number of
    bits. Avoid it when one entry is much larger than the others, because then most of them become zero, as with `qsgd`.

    Args:
        levels: Number of equal parts, at least 1. Default: 16.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.
        share_scale: See `qsgd`; here it is the largest magnitude. Default: False.

    Returns:
        A `Compressor` with as many bytes and the same omega as `qsgd`.

    Raises:
        ValueError: If `levels` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = dithering_inf(1, key=0)
        >>> x = jnp.array([4.0, -4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -4.0]
    """
    return leafwise(
        dithering_rule(levels, math.inf, axis_name if share_scale else None), key, axis_name, real="dithering_inf"
    )


_QSGD = Paper(
    "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", "Alistarh et al.", 2016, "1610.02132"
)

METHODS = (
    Method(
        name="compressors.qsgd",
        factory=qsgd,
        kind="function",
        summary="Rounds each entry at random to equal parts of the leaf's l2 norm, so that it is unbiased.",
        paper=_QSGD,
        also_known_as=("random dithering", "stochastic quantization"),
    ),
    Method(
        name="compressors.dithering_inf",
        factory=dithering_inf,
        kind="function",
        summary="Rounds each entry at random to equal parts of the leaf's largest magnitude, so that it is unbiased.",
        paper=_QSGD,
        also_known_as=("random dithering",),
    ),
)
