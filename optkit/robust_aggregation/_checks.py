"""Errors of robust rules: wrong arguments, too few rows, and aggregators that cannot be used inside others."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays


def check_byzantine(byzantine: Any) -> None:
    """Raises unless the number of rows that may be arbitrary is an integer of at least 0."""
    refuse_arrays(byzantine=byzantine)
    check_integer("byzantine", byzantine, 0)


def count_active(rows: Any, active: jax.Array | None, least: int, method: str) -> Any:
    """Counts the rows that take part, and raises if there are too few rows.

    Args:
        rows: A tree of stacked rows, with at least one leaf.
        active: Which rows take part. Default: all.
        least: The smallest number of rows that is enough.
        method: Name of the rule, for the message.

    Returns:
        An integer, or an array if `active` is given.

    Raises:
        ValueError: If there are fewer than `least` rows.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count < least:
        raise ValueError(f"{method} needs at least {least} rows, got {count}: lower byzantine, or add rows")
    return count if active is None else jnp.sum(active)


def is_stateless(aggregator: optax.GradientTransformation) -> bool:
    """Tells whether an aggregator keeps nothing between updates."""
    return not jax.tree.leaves(jax.eval_shape(aggregator.init, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)}))


def require_slices(aggregator: optax.GradientTransformationExtraArgs, method: str) -> None:
    """Raises unless an aggregator can be called with slices: it has no state, and its `update` takes `total`."""
    if "total" not in inspect.signature(aggregator.update).parameters or not is_stateless(aggregator):
        raise ValueError(
            f"{method} with layout='transpose' needs a rule without state that takes the extra argument total, as those"
            " of optkit do: use layout='gather' for this rule"
        )
