"""Random dithering: entries rounded by lot to equal parts of the leaf's norm.

Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", 2016, arXiv:1610.02132.
"""

import math

import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Codes, Rule, draw_uniform, leafwise, shares_of_norm
from optkit.core.bits import pack, unpack
from optkit.core.checks import check_integer
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["dithering_inf", "qsgd"]


def dithering_rule(levels: int, order: float) -> Rule:
    """Makes the rule of `qsgd` (order 2) and `dithering_inf`; its draws are uniform, one for each entry."""
    check_integer("levels", levels)
    bits = (2 * levels).bit_length()

    def encode(x, uniform):
        x = widen(x)
        norm, shares = shares_of_norm(x, order)
        level = jnp.minimum(jnp.floor(levels * shares + uniform), levels)
        return Codes(pack((jnp.where(x < 0, -level, level) + levels).astype(jnp.uint32), bits), norm)

    def decode(sent, size, dtype):
        level = unpack(sent.codes, size, bits).astype(sent.scale.dtype) - levels
        return (level / levels * sent.scale).astype(dtype)

    def omega(size):
        return min(size / levels**2, math.sqrt(size) / levels)

    return Rule(encode, decode, omega=omega, draw=draw_uniform)


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


_QSGD = Paper(
    "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", "Alistarh et al.", 2016, "1610.02132"
)

METHODS = (
    Method(
        name="compressors.qsgd",
        factory=qsgd,
        kind="function",
        summary="Rounds each entry by lot to equal parts of the leaf's l2 norm, so that the mean is the entry.",
        paper=_QSGD,
        also_known_as=("random dithering", "stochastic quantization"),
    ),
    Method(
        name="compressors.dithering_inf",
        factory=dithering_inf,
        kind="function",
        summary="Rounds each entry by lot to equal parts of the leaf's largest magnitude; the mean is the entry.",
        paper=_QSGD,
        also_known_as=("random dithering",),
    ),
)
