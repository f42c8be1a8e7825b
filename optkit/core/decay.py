"""Weight decay as a proximal step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ProximalDecayState(NamedTuple):
    """State of `proximal_decay`.

    Attributes:
        count: number of updates so far, equal on all workers.
    """

    count: jax.typing.ArrayLike


def proximal_decay(
    learning_rate: optax.ScalarOrSchedule, weight_decay: jax.typing.ArrayLike, mask: Any | None = None
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the parameters after the step, `(params + updates) / (1 + learning_rate * weight_decay)`.

    It comes last in a chain, behind `optax.scale_by_learning_rate` with the same learning rate.

    Args:
        learning_rate: a positive number or a schedule.
        weight_decay: strength of the decay, at least 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.

    Returns:
        A transformation whose `update` needs `params`.

    Example:
        >>> tx = optax.chain(optax.sgd(0.5), proximal_decay(0.5, weight_decay=2.0))
        >>> params = jnp.array([4.0])
        >>> tx.update(jnp.array([2.0]), tx.init(params), params)[0]  # (4 - 0.5 * 2) / (1 + 0.5 * 2) - 4
        Array([-2.5], dtype=float32)
    """

    def init_fn(params):
        del params
        return ProximalDecayState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("proximal_decay needs the parameters: call update(updates, state, params)")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        shrinkage = rate * weight_decay
        shrunk = jax.tree.map(lambda u, p: ((u - shrinkage * p) / (1 + shrinkage)).astype(u.dtype), updates, params)
        return shrunk, ProximalDecayState(count=optax.safe_increment(state.count))

    transformation = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return transformation if mask is None else optax.masked(transformation, mask)
