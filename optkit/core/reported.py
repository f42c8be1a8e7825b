"""Parameters that an optimizer keeps in its state, to report in place of those of the training loop."""

from typing import Any

import jax
import optax

from optkit.core.trees import unmask_tree


def reported_params(state: Any, params: optax.Params, kind: type, field: str, method: str) -> optax.Params:
    """Returns parameters that stand in the state of a method.

    Args:
        state: The state of the optimizer. The method may be chained with or wrapped in other transformations.
        params: The parameters of the training loop.
        kind: The type of the method's state.
        field: The field of this state that holds the parameters, or None where it holds none.
        method: Public name of the function that calls this one, for the message.

    Returns:
        A tree like `params`. Leaves that a mask keeps from the method are those of the training loop.

    Raises:
        ValueError: If there is no such state.

    Example:
        >>> import jax.numpy as jnp
        >>> state = optax.contrib.schedule_free(optax.sgd(1.0), 1.0).init(jnp.ones(2))
        >>> reported_params((state,), jnp.zeros(2), optax.contrib.ScheduleFreeState, "z", "eval_params").tolist()
        [1.0, 1.0]
    """

    def is_kind(x):
        return isinstance(x, kind)

    states = [found for found in jax.tree.leaves(state, is_leaf=is_kind) if is_kind(found)]
    if not states:
        raise ValueError(f"{method} found no {kind.__name__} in the state that it got")
    for found in states:
        kept = getattr(found, field)
        params = params if kept is None else optax.tree.cast_like(unmask_tree(kept, params), params)
    return params
