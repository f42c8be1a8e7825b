"""What all optimizers of matrices do around their direction: decay, learning rate, and AdamW on other parameters."""

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
    """Makes an optimizer of a direction for matrices, and gives all other parameters AdamW or another optimizer.

    Args:
        method: the public name of the optimizer, for messages.
        learning_rate: a positive number or a schedule, of both.
        direction: builds what the matrices move against from a tree of `MuonDimensionNumbers`, with None for leaves
            that are no matrices.
        labels: see `matrices_and_others`, as all arguments that are not here.
        others: the optimizer of all other parameters. None: AdamW with 0.9 and 0.95, without decay.
        weight_decay: strength of the decoupled decay of the matrices, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        cautious_decay: decays only what the update moves towards zero; off by default.
        eps_of_others: epsilon of AdamW; default 1e-8.
        weight_dimension_numbers: see `matrices_and_others`.
        axis_name: axis over workers, or a tuple of axes, over which gradients of the other parameters are averaged.
        mu_dtype: dtype of AdamW's first moment, that of the parameters by default, in float32 at least.

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
