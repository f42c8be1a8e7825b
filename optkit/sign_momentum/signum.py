"""Signum: the sign of a momentum.

Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018, arXiv:1802.04434. Algorithm 2.
Every part is Optax's; `optax.signum` has neither decay nor 16-bit parameters under an injected learning rate.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.precision import in_float32


def signum(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array = 0.0,
    mask: Any | None = None,
    *,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Moves every parameter by the learning rate, against the sign of the gradient's exponential average.

    Do not take it where gradients are mostly noise: the sign of a small average moves as far as that of a large one.

    Args:
        learning_rate: a positive number or a schedule; the length of every coordinate's step.
        b1: decay of the average, in [0, 1); default 0.9; 0 is signSGD.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        mu_dtype: dtype of the average; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.signum(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018, arXiv:1802.04434.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("weight_decay", weight_decay, 0.0)
    return in_float32(
        optax.chain(
            optax.ema(b1, debias=False, accumulator_dtype=mu_dtype),  # Alg. 2, momentum
            optax.scale_by_sign(),  # Alg. 2, update
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
