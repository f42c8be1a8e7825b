"""What all optimizers of matrices add to their direction: decay, learning rate, and AdamW on all other parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from optkit.core.decay import add_cautious_decay, add_decay
from optkit.core.matrices_and_others import adamw, matrices_and_others
from optkit.core.types import AxisName, DTypeLike, Mask


def matrix_optimizer(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    direction: Callable[[Any], optax.GradientTransformation],
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    cautious_decay: bool = False,
    eps_of_others: float = 1e-8,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer of a direction for matrices, and uses AdamW or another optimizer on all other parameters.

    Args:
        method: The public name of the optimizer, for messages.
        learning_rate: The learning rate, a positive number or a schedule. It is that of both.
        direction: Builds the direction of the matrices from a tree of `MuonDimensionNumbers`, with None for leaves that
            are not matrices.
        labels: See `matrices_and_others`. Default: None.
        others: The optimizer of all other parameters. Default: AdamW with decay rates 0.9 and 0.95, without weight
            decay.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. Only the matrices decay.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        cautious_decay: Whether only the parameters that the update moves towards zero decay. Default: False.
        eps_of_others: The epsilon of AdamW. Default: 1e-8.
        weight_dimension_numbers: See `matrices_and_others`. Default: None.
        axis_name: Name of the axis over workers. It may be a tuple of names. Gradients of the other parameters are
            averaged over it.
        mu_dtype: Dtype of the first moment of AdamW. Default: that of the parameters, but at least float32.

    Returns:
        The optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = matrix_optimizer("method", 0.5, lambda numbers: optax.identity())
        >>> params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
        >>> tx.update(params, tx.init(params))[0]["kernel"]
        Array([[-0.5]], dtype=float32)
    """
    decay = add_cautious_decay if cautious_decay else add_decay

    def matrices(numbers, mask):
        return optax.chain(
            direction(numbers), decay(method, weight_decay, mask), optax.scale_by_learning_rate(learning_rate)
        )

    return matrices_and_others(
        method,
        matrices,
        others,
        functools.partial(adamw, method, learning_rate, 0.9, 0.95, eps_of_others, mu_dtype=mu_dtype),
        labels=labels,
        weight_dimension_numbers=weight_dimension_numbers,
        mask=mask,
        axis_name=axis_name,
    )
