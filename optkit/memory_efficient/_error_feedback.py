"""Error feedback: what a compressor forgets of one gradient is added to the next.

Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of Speech
DNNs", 2014; Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019,
arXiv:1901.09847. Errors are kept without the learning rate, as in EFCP (Modoranu et al., 2023, arXiv:2306.06098).
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
        error: what was not handed on so far, shaped and sharded like the parameters, in float32 at least; equal on all
            workers if the gradients are.
        compressor: state of the compressor.
        inner: state of the inner transformation.
    """

    error: optax.Updates
    compressor: Any
    inner: optax.OptState


def error_feedback(
    inner: optax.GradientTransformation, compressor: Compressor
) -> optax.GradientTransformationExtraArgs:
    """Hands compressed gradients on to a transformation, and what they lack with the gradients after.

    Gradients and errors are added up exactly: the sum of what is handed on and of the last error is that of all
    gradients. Do not take it where the gradient's scale changes abruptly: old errors come late, at their old scale.

    Args:
        inner: gets the gradients as they are after compression. In the extra argument `compressed` it gets them in
            compressed form.
        compressor: what compresses, such as `optkit.compressors.global_top_k`.

    Returns:
        A transformation; its state is one number a parameter, and those of the compressor and of `inner`.

    Raises:
        TypeError: from `init`, if parameters are complex.

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
        Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019,
        arXiv:1901.09847.
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
        summary="Compresses gradients, and adds what a compressor forgets of one to the next.",
        paper=ERROR_FEEDBACK_FIXES_SIGN_SGD,
        also_known_as=("EF", "EF14", "EF-SGD", "error compensation"),
        example={"compressor": global_top_k(0.25)},
        learning_rate=2e-4,
        grid=1e-2,
        golden="efcp_mfac",
    ),
)
