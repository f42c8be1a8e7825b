"""The decay of Muon and NorMuon that spares what an update moves outward."""

from typing import Any

import jax
import optax

from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.sign_momentum.cautious import add_cautious_decayed_weights


def add_cautious_decay(
    method: str, weight_decay: float | jax.Array, mask: Any | None = None
) -> optax.GradientTransformationExtraArgs:
    """Is `add_cautious_decayed_weights` inside a named optimizer: without decay it needs no parameters.

    Args:
        method: the public name of the optimizer.
        weight_decay: strength of the decay, at least 0.
        mask: tree of booleans: the leaves that decay. All by default.

    Returns:
        A transformation whose `update` needs `params` if there is decay.

    Raises:
        ValueError: if `weight_decay` is negative; from `update`, without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = add_cautious_decay("muon", 0.5)
        >>> params = jnp.array([2.0, -2.0])
        >>> tx.update(jnp.ones(2), tx.init(params), params)[0]
        Array([2., 1.], dtype=float32)
    """
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return add_decay(method, weight_decay, mask)
    decay = optax.with_extra_args_support(
        add_cautious_decayed_weights(weight_decay, mask if mask is None else lambda _: mask)
    )

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, method)
        return decay.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(decay.init, update_fn)
