"""Cautious weight decay: only the parameters that the update moves towards zero decay.

Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optkit.core.decay import add_cautious_decay
from optkit.core.types import Mask
from optkit.method import Method, Paper

__all__ = ["add_cautious_decayed_weights"]


def add_cautious_decayed_weights(
    weight_decay: float | jax.Array = 0.0, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds weight decay to the update only where the update moves a parameter towards zero. It has no state.

    The update rule, where u is the update before the learning rate, which is subtracted from the parameters::

        u = u + wd * x where u * x > 0, else u

    For complex numbers the real part of `conj(u) * x` takes the place of `u * x`.

    Use it in place of `optax.add_decayed_weights`, before `optax.scale_by_learning_rate`, when decay should not work
    against the optimizer. It costs no memory. Avoid it after the learning rate, because the sign of the update is then
    the opposite.

    Args:
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.

    Returns:
        A transformation without state. Its `update` needs `params` if `weight_decay` is not 0.

    Raises:
        ValueError: If `weight_decay` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.add_cautious_decayed_weights(0.5)
        >>> params = jnp.array([2.0, -2.0])
        >>> tx.update(jnp.ones(2), tx.init(params), params)[0]
        Array([2., 1.], dtype=float32)

    Reference:
        arXiv:2510.12402
    """
    return add_cautious_decay("add_cautious_decayed_weights", weight_decay, mask)


def _after_adam(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(), build(), optax.scale_by_learning_rate(learning_rate))


METHODS = (
    Method(
        name="add_cautious_decayed_weights",
        factory=add_cautious_decayed_weights,
        kind="transformation",
        compose=_after_adam,
        example={"weight_decay": 1e-4},
        summary="Adds weight decay only where the update moves a parameter towards zero.",
        paper=Paper("Cautious Weight Decay", "Chen et al.", 2025, "2510.12402"),
        also_known_as=("CWD", "cautious weight decay"),
        grid=3e-3,
        learning_rate=1e-2,
    ),
)
