"""Arrays on a mesh with explicit axes, JAX's default, where every product must say how it is sharded.

On automatic axes, or on one device, these functions do nothing, because the partitioner decides.
"""

import jax
from jax.sharding import NamedSharding, PartitionSpec


def replicate(x: jax.Array) -> jax.Array:
    """Gathers an array that is sharded over explicit axes, for operations that cannot be partitioned."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def shard_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Gives an array the sharding of another array of the same shape, if that one is sharded over explicit axes."""
    sharding = jax.typeof(like).sharding
    return x if all(axis is None for axis in sharding.spec) else jax.sharding.reshard(x, sharding)
