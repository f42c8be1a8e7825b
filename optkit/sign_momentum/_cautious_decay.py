"""Cautious weight decay: only what the update moves towards zero anyway decays.

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
    """Decays only the parameters that the update moves towards zero anyway.

    It stands where `optax.add_decayed_weights` would, before `optax.scale_by_learning_rate`. Of complex numbers the
    real part of `conj(update) * parameter` decides.

    Args:
        weight_decay: strength of the decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.

    Returns:
        A transformation without state whose `update` needs `params` if there is decay.

    Raises:
        ValueError: if `weight_decay` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.add_cautious_decayed_weights(0.5)
        >>> params = jnp.array([2.0, -2.0])
        >>> tx.update(jnp.ones(2), tx.init(params), params)[0]
        Array([2., 1.], dtype=float32)

    Reference:
        Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.
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
        summary="Decays only the parameters that the update moves towards zero anyway.",
        paper=Paper("Cautious Weight Decay", "Chen et al.", 2025, "2510.12402"),
        also_known_as=("CWD", "cautious weight decay"),
        grid=3e-3,
        learning_rate=1e-2,
    ),
)
