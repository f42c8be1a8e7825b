"""Updates of methods that overwrite the parameters: averages, outer steps, retractions."""

from typing import Any

import jax

from optkit.core.precision import widen


def add_update(x: jax.Array, update: jax.Array) -> jax.Array:
    """Adds an update to a value of float32 at least, and returns the sum in the value's dtype."""
    return x + update.astype(x.dtype)


def overwrite(new: Any, params: Any) -> Any:
    """Returns the updates `new - params`, computed in float32 at least, in the parameters' dtypes."""
    return jax.tree.map(lambda x, p: (widen(x) - widen(p)).astype(p.dtype), new, params)
