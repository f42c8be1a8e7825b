"""Error feedback: what a compressor drops of one gradient is added to the next.

Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of Speech
DNNs", 2014; Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019,
arXiv:1901.09847. Errors do not contain the learning rate, as in EFCP (Modoranu et al., 2023, arXiv:2306.06098).
"""

from typing import Any, NamedTuple

import jax
import optax

from optkit.compressors import Compressor, global_top_k
from optkit.compressors._scaled_sign import ERROR_FEEDBACK_FIXES_SIGN_SGD
from optkit.core.complex_numbers import only_real
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["error_feedback"]


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`.

    Attributes:
        error: The part of the gradients that was not passed on so far, at least in float32, with the shapes and
            shardings of the parameters. It is equal on all workers if the gradients are.
        compressor: State of the compressor.
        inner: State of the inner transformation.
    """

    error: optax.Updates
    compressor: Any
    inner: optax.OptState


def error_feedback(
    inner: optax.GradientTransformation, compressor: Compressor
) -> optax.GradientTransformationExtraArgs:
    """Passes compressed gradients to a transformation, and adds what the compressor drops to the next gradient.

    The update rule, where C compresses and decompresses, and inner is the update of the inner transformation::

        a = e + g
        e = a - C(a)
        u = inner(C(a))

    Nothing is lost: the sum of all gradients passed on, plus the last error e, is the sum of all gradients.

    Use it when a compressor is biased, such as `optkit.compressors.global_top_k` or `scaled_sign`, or when a window of
    gradients must be small. Avoid it when the scale of the gradients changes abruptly, because old errors arrive late
    and at their old scale; it needs one number per parameter. It compresses what the inner transformation gets; it does
    not send anything.

    Args:
        inner: The transformation that is wrapped. It gets the gradients after compression, and their compressed form as
            the extra argument `compressed`.
        compressor: Compresses the gradients, for example `optkit.compressors.global_top_k`.

    Returns:
        A transformation. Its state is one number per parameter, and the states of the compressor and of `inner`.

    Raises:
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.error_feedback(optax.identity(), optkit.compressors.global_top_k(0.5))
        >>> state = tx.init(jnp.zeros(2))
        >>> updates, state = tx.update(jnp.array([3.0, 2.0]), state)
        >>> updates.tolist(), state.error.tolist()
        ([3.0, 0.0], [0.0, 2.0])
        >>> tx.update(jnp.array([3.0, 2.0]), state)[0].tolist()
        [0.0, 4.0]

    Reference:
        arXiv:1901.09847
    """
    refuse_arrays(compressor=compressor)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ErrorFeedbackState(
            error=optax.tree.zeros_like(widen(params)), compressor=compressor.init(params), inner=inner.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        wanted = jax.tree.map(lambda e, g: e + g.astype(e.dtype), state.error, updates)  # a = e + g
        compressed, compressor_state = compressor.compress(wanted, state.compressor)
        handed_on = compressor.decompress(compressed, updates)
        error = jax.tree.map(lambda a, c: a - c.astype(a.dtype), wanted, handed_on)  # e = a - c
        updates, inner_state = inner.update(handed_on, state.inner, params, **{**extra_args, "compressed": compressed})
        return updates, ErrorFeedbackState(error=error, compressor=compressor_state, inner=inner_state)

    return only_real("error_feedback", optax.GradientTransformationExtraArgs(init_fn, update_fn))


METHODS = (
    Method(
        name="error_feedback",
        factory=error_feedback,
        kind="wrapper",
        summary="Compresses gradients, and adds what the compressor drops of one gradient to the next.",
        paper=ERROR_FEEDBACK_FIXES_SIGN_SGD,
        also_known_as=("EF", "EF14", "EF-SGD", "error compensation"),
        example={"compressor": global_top_k(0.25)},
        learning_rate=2e-4,
        grid=1e-2,
        golden="efcp_mfac",
    ),
)
