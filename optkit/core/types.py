"""Names for the types of arguments that many functions take."""

from typing import Any, TypeAlias

import jax
import optax

AxisName: TypeAlias = str
"""The name of a mapped axis, of workers for example."""

DTypeLike: TypeAlias = jax.typing.DTypeLike
"""A dtype, or its name."""

Key: TypeAlias = int | jax.Array
"""A seed, or a key of `jax.random.key`."""

Mask: TypeAlias = Any
"""A tree of booleans, one for each parameter or for each subtree of them, or a function that makes one of them."""

Schedule: TypeAlias = optax.Schedule
"""A function of the number of steps."""
