"""The shardings of an optimizer's state."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding


def state_shardings(tx: optax.GradientTransformation, params: optax.Params) -> Any:
    """Finds the shardings of an optimizer's state from those of its parameters, without allocating anything.

    A leaf of the state is sharded by these rules:

    - If it has the shape of its parameter, it is sharded like the parameter.
    - If it belongs to a parameter but has another shape (one factor of a factored moment, a low-rank basis), each of
      its axes is sharded like the axis of the parameter that has the same size, if there is exactly one. Its other axes
      are not sharded.
    - If it belongs to no parameter (counters, keys, injected hyperparameters), it is replicated over the parameters'
      mesh.

    Axes are only ever sharded like parameter axes of equal size, so sizes divide as they do for the parameters.

    Use it for `jax.jit(tx.init, out_shardings=...)` with sharded parameters: on automatic mesh axes, jitted
    initialization cannot find the shardings, because zeros do not depend on the parameters whose shape they have.

    Args:
        tx: The optimizer.
        params: The parameters, or `jax.ShapeDtypeStruct` in their place with `sharding` set. Leaves that are not
            sharded over a mesh (NumPy arrays, arrays on one device) count as replicated over the mesh of the others. If
            no leaf has a mesh, the state is placed on the parameters' device, or on the first local device.

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
    """Returns the shapes, dtypes and shardings of `init(params)`; `state_shardings` explains the shardings.

    Args:
        init: Makes a state from parameters.
        params: The parameters, abstract or not.

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
    """Adds to each leaf's `owners` the parameters at whose place the leaf sits, the innermost last.

    A leaf sits at a parameter's place if some tree around it has the structure of the parameters, with anything in the
    place of each parameter: a masked node, or a tree of its own.
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
    """Chooses the sharding of the innermost owner with the leaf's shape, or else fits that of the innermost owner."""
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
