"""The scaled sign: one bit for each entry, and one magnitude for each leaf.

Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019, arXiv:1901.09847. The
rule is that of the authors' code (epfml/error-feedback-SGD).
"""

import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Codes, Rule, code_rule, leafwise
from optkit.core.bits import pack
from optkit.core.precision import widen
from optkit.method import Method, Paper

__all__ = ["scaled_sign"]


def scaled_sign_rule() -> Rule:
    """Makes the rule of `scaled_sign`."""

    def encode(x, _):
        x = widen(x)
        # Divided before the sum, which could overflow otherwise.
        return Codes(pack((x < 0).astype(jnp.uint8), 1), jnp.sum(jnp.abs(x) / float(max(x.size, 1))))

    return code_rule(encode, 1, lambda code, scale: jnp.where(code == 1, -scale, scale), delta=lambda size: 1 / size)


def scaled_sign() -> Compressor:
    """Keeps the signs of the entries, and multiplies them by the mean magnitude of the leaf.

    The rule, where the sign of zero is 1::

        C(x) = mean(|x|) * sign(x)

    Use it with error feedback, or in a method that has its own, when one bit per entry is all that can be sent. Avoid
    it without error feedback, because it is biased. A leaf takes one bit per entry and 4 bytes more (8 in double
    precision).

    Returns:
        A `Compressor` with delta 1/d for d entries. That is the worst case, in which only one entry is not zero; for a
        given vector x it is `|x|_1^2 / (d |x|_2^2)`.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = scaled_sign()
        >>> x = jnp.array([3.0, -1.0, 2.0, -2.0])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [2.0, -2.0, 2.0, -2.0]
    """
    return leafwise(scaled_sign_rule(), real="scaled_sign")


ERROR_FEEDBACK_FIXES_SIGN_SGD = Paper(
    "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", "Karimireddy et al.", 2019, "1901.09847"
)

METHODS = (
    Method(
        name="compressors.scaled_sign",
        factory=scaled_sign,
        kind="function",
        summary="Keeps the signs of a leaf, multiplied by its mean magnitude.",
        paper=ERROR_FEEDBACK_FIXES_SIGN_SGD,
        also_known_as=("scaled signSGD", "EF-signSGD"),
    ),
)
