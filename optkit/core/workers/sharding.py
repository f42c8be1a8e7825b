"""Where the leaves of an optimizer's state belong."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding


def state_shardings(tx: optax.GradientTransformation, params: optax.Params) -> Any:
    """Says how to shard an optimizer's state, from how its parameters are sharded; allocates nothing.

    Jitted initialisation cannot find this out by itself on automatic mesh axes, since zeros do not depend on the
    parameters that they are shaped like. A leaf of the state is sharded

    - like its parameter where it has that parameter's shape;
    - where it sits at a parameter's place with another shape (one factor of a factored moment, a low-rank basis): along
      the axes whose size is that of one axis of the parameter and no other, like that axis; its other axes not at all;
    - not at all, that is replicated over the parameters' mesh, if it belongs to no parameter (counters, keys, injected
      hyperparameters).

    Axes are only ever sharded like parameter axes of equal size, so sizes always divide as they do for the parameters.

    Args:
        tx: the optimizer.
        params: parameters, or `jax.ShapeDtypeStruct` in their place with `sharding` set. Leaves that are not sharded
            over a mesh (NumPy arrays, arrays on one device) count as replicated over the mesh of the others. Without
            any mesh the state is on the parameters' device, by default the first local one.

    Returns:
        A tree structured like `tx.init(params)` with a `jax.sharding.Sharding` for every array.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optkit
        >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        >>> params = {"w": jax.device_put(jnp.ones((16, 4)), NamedSharding(mesh, PartitionSpec("data")))}
        >>> tx = optax.adam(1e-3)
        >>> shardings = optkit.state_shardings(tx, params)
        >>> tuple(shardings[0].mu["w"].spec), tuple(shardings[0].count.spec)
        (('data',), ())
        >>> state = jax.jit(tx.init, out_shardings=shardings)(params)

        To restore a checkpoint straight to its devices, give Orbax the tree that `abstract` is here:

        >>> abstract = jax.tree.map(
        ...     lambda x, sharding: x.update(sharding=sharding), jax.eval_shape(tx.init, params), shardings
        ... )
    """
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(tx.init, params))


def abstract_state(init: Callable[[Any], Any], params: optax.Params) -> Any:
    """Says what `init(params)` would be: shapes, dtypes and, as `state_shardings` explains, shardings.

    Args:
        init: makes a state from parameters.
        params: parameters, abstract or not.

    Returns:
        A tree structured like `init(params)`, of `jax.ShapeDtypeStruct`.
    """
    leaves, structure = jax.tree.flatten(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    # Without shardings, so that explicit mesh axes cannot make `init` raise.
    shapes = [shape.update(sharding=None) for shape in jax.eval_shape(lambda x: x, leaves)]
    state = jax.eval_shape(init, jax.tree.unflatten(structure, shapes))

    meshes = [sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)]
    placed = [sharding for sharding in shardings if sharding is not None]
    if meshes:
        default = NamedSharding(meshes[0], PartitionSpec())
        shardings = [sharding if isinstance(sharding, NamedSharding) else default for sharding in shardings]
    else:
        default = placed[0] if placed else SingleDeviceSharding(jax.local_devices()[0])
        shardings = [sharding or default for sharding in shardings]

    owners = [()] * len(jax.tree.leaves(state))
    owners = _find_owners(state, structure, list(zip(shapes, shardings, strict=True)), owners)
    state_leaves, state_structure = jax.tree.flatten(state)
    sharded = [
        leaf.update(sharding=_choose(leaf.shape, places, default))
        for leaf, places in zip(state_leaves, owners, strict=True)
    ]
    return jax.tree.unflatten(state_structure, sharded)


def _find_owners(node: Any, structure: Any, params: Sequence[Any], owners: Sequence[tuple]) -> list[tuple]:
    """Adds to each leaf's `owners` the parameters at whose place it sits, the innermost last.

    A leaf sits at a parameter's place if some tree around it has the structure of the parameters, with anything in the
    place of each: masked nodes, or a tree of its own.
    """
    with contextlib.suppress(ValueError):  # how JAX says that the structures differ
        sizes = [len(jax.tree.leaves(place)) for place in structure.flatten_up_to(node)]
        here = [param for param, size in zip(params, sizes, strict=True) for _ in range(size)]
        owners = [(*outer, param) for outer, param in zip(owners, here, strict=True)]
    children = jax.tree.leaves(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and children[0] is node:
        return list(owners)
    found = []
    for child in children:
        end = len(found) + len(jax.tree.leaves(child))
        found += _find_owners(child, structure, params, owners[len(found) : end])
    return found


def _choose(shape: tuple[int, ...], owners: Sequence[Any], default: Sharding) -> Sharding:
    """Gives a leaf the sharding of the innermost owner of its shape, otherwise of the innermost one, where it fits."""
    if not owners:
        return default
    param, sharding = next((owner for owner in reversed(owners) if owner[0].shape == shape), owners[-1])
    if param.shape == shape or not isinstance(sharding, NamedSharding):
        return sharding
    axes = [*sharding.spec, *[None] * (len(param.shape) - len(sharding.spec))]
    spec, free = [], set(range(len(axes)))
    for size in shape:
        matches = [axis for axis in sorted(free) if param.shape[axis] == size]
        free -= set(matches)
        spec.append(axes[matches[0]] if len(matches) == 1 else None)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=sharding.memory_kind)
