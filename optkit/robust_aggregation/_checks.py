"""Errors of robust rules: about their arguments, too few rows, and aggregators that cannot be used in others."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays


def check_byzantine(byzantine: Any) -> None:
    """Raises unless a number of rows that may be arbitrary is an integer that is at least 0."""
    refuse_arrays(byzantine=byzantine)
    check_integer("byzantine", byzantine, 0)


def count_active(rows: Any, active: jax.Array | None, least: int, method: str) -> Any:
    """Returns how many rows take part, or says that there are too few.

    Args:
        rows: a tree of stacked rows, with leaves.
        active: which take part, all by default.
        least: how few are enough.
        method: the rule, for the message.

    Returns:
        An integer, or an array where `active` is given.

    Raises:
        ValueError: if there are fewer rows than that.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count < least:
        raise ValueError(f"{method} needs at least {least} rows, got {count}: lower byzantine, or add rows")
    return count if active is None else jnp.sum(active)


def is_stateless(aggregator: optax.GradientTransformation) -> bool:
    """Whether an aggregator keeps nothing between updates."""
    return not jax.tree.leaves(jax.eval_shape(aggregator.init, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)}))


def require_slices(aggregator: optax.GradientTransformationExtraArgs, method: str) -> None:
    """Raises unless an aggregator can be called with a slice of the coordinates: without state, and taking `total`."""
    if "total" not in inspect.signature(aggregator.update).parameters or not is_stateless(aggregator):
        raise ValueError(
            f"{method} with layout='transpose' needs a rule without state that takes the extra argument total, as those"
            " of optkit do: leave layout='gather'"
        )
