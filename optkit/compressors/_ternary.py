"""Ternary gradients: each entry becomes zero, or plus or minus the scale of its leaf, at random.

Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", 2017, arXiv:1705.07878.
The published code (wenwei202/terngrad) has another scale, `follow="code"`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Codes, Rule, code_rule, code_sums, draw_uniform, leafwise, shares_of_largest
from optkit.core.bits import pack
from optkit.core.checks import check_option, check_range
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["ternary"]


def ternary_rule(
    clip_factor: jax.typing.ArrayLike, follow: Literal["paper", "code"] | None, axis_name: AxisName | None
) -> Rule:
    """Makes the rule of `ternary`; it draws one uniform number for each entry.

    Args:
        clip_factor: See `ternary`.
        follow: See `ternary`.
        axis_name: Name of the axis over the workers that share the largest scale; None if each has its own.

    Returns:
        The rule.
    """

    def encode(x, uniform):
        x = widen(x)
        largest, shares = shares_of_largest(x)
        limit = largest * _limit(shares, clip_factor)
        if follow != "code":
            x = jnp.clip(x, -limit, limit)  # Eq. (9)
            limit = jnp.minimum(largest, limit)
        scale = limit if axis_name is None else jax.lax.pmax(limit, axis_name)  # Eq. (4), and scaler sharing
        level = jnp.where(uniform * scale < jnp.abs(x), jnp.sign(x), 0)  # Eq. (2), (3)
        return Codes(pack((level + 1).astype(jnp.uint8), 2), scale)

    sums = None if axis_name is None else code_sums(2, 1)
    return code_rule(
        encode, 2, lambda code, scale: (code.astype(scale.dtype) - 1) * scale, draw=draw_uniform, sums=sums
    )


def _limit(x: jax.Array, clip_factor: jax.typing.ArrayLike) -> jax.Array:
    """Returns the largest magnitude that is not clipped, from a vector whose largest magnitude is 1."""
    deviation = jnp.std(x) if x.size else jnp.zeros([], x.dtype)
    limit = jnp.asarray(clip_factor, x.dtype) * deviation
    # Without clipping, or where all entries are equal but for rounding.
    return jnp.where((limit > 1e-5 * deviation) & (deviation > 4 * jnp.finfo(x.dtype).eps), limit, 1)


def ternary(
    clip_factor: jax.typing.ArrayLike = 2.5,
    *,
    key: Key,
    axis_name: AxisName | None = None,
    share_scale: bool = True,
    follow: Literal["paper", "code"] | None = None,
) -> Compressor:
    """Rounds each entry at random to zero, or to plus or minus the scale of its leaf.

    The rule for an entry x_i of a leaf x, where r is drawn uniformly from [0, 1) for each entry::

        y = clip(x, -clip_factor * std(x), clip_factor * std(x))
        s = max(|y|)                                    (the largest one of all workers)
        C(x)_i = s * sign(y_i)    if r * s < |y_i|, otherwise 0

    Use it when an entry may take 2 bits and there is no room for error feedback. Avoid it when the gradient has few
    large entries, because nearly all others then become zero, and with weight decay in the gradient, which should come
    after the mean over workers. A leaf takes 2 bits per entry and 4 bytes more (8 in double precision), and one number
    that is compared over the workers.

    Args:
        clip_factor: Entries are clipped to so many standard deviations of their leaf, at least 0. Default: 2.5. Zero
            clips nothing. Where all entries of a leaf are equal, nothing is clipped either.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.
        share_scale: Whether the workers on the axis take the largest of their scales, so that codes can be added up.
            Default: True. An entry that is not finite then spoils the leaf on all workers.
        follow: With "code", the scale is `clip_factor * std(x)` as in the published code, and nothing is clipped but
            entries larger than that. Default: None, which stands for "paper".

    Returns:
        A `Compressor`. Without clipping it is unbiased, with omega `(sqrt(d) - 1) / 2` for d entries if the worker has
        its own scale; a larger one that is shared has no constant. With clipping it is unbiased for y.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = ternary(0.0, key=0)
        >>> x = jnp.array([4.0, -4.0, 0.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -4.0, 0.0]

    Reference:
        arXiv:1705.07878
    """
    check_range("clip_factor", clip_factor, 0.0)
    check_option("follow", follow, Literal["paper", "code"], or_none=True)
    rule = ternary_rule(clip_factor, follow, axis_name if share_scale else None)
    if rule.sums is None and not isinstance(clip_factor, jax.Array) and clip_factor == 0:
        rule = rule._replace(omega=lambda size: (math.sqrt(size) - 1) / 2)
    return leafwise(rule, key, axis_name, real="ternary")


METHODS = (
    Method(
        name="compressors.ternary",
        factory=ternary,
        kind="function",
        summary="Rounds each entry at random to zero, or to plus or minus the scale of its leaf.",
        paper=Paper(
            "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning",
            "Wen et al.",
            2017,
            "1705.07878",
        ),
        also_known_as=("ternary gradients", "ternarization"),
    ),
)
