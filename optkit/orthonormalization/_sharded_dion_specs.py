"""The sharding of the state of sharded Dion, as specs for `jax.shard_map`."""

from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from optkit.core.linalg.matrix_view import DENSE_KERNELS, matrix_views
from optkit.core.types import AxisName
from optkit.core.workers.sharding import abstract_state
from optkit.orthonormalization._dion import ScaleByDionState
from optkit.orthonormalization._low_rank import sends_factors
from optkit.orthonormalization._sharded_layout import axes_of, is_spec

__all__ = ["sharded_dion_specs"]


def sharded_dion_specs(
    tx: optax.GradientTransformation,
    params: optax.Params,
    specs: Any,
    *,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    fsdp_axis: str | None = None,
    tp_axis: str | None = None,
) -> Any:
    """Returns how the state of an optimizer with sharded Dion in it is sharded, as specs for `jax.shard_map`.

    Use it for the `in_specs` and `out_specs` of the state. Where only factors are averaged, the momenta of
    data-parallel workers differ. They lie one after another along their first axis, which is n times longer in the
    whole state for n workers. After `sync_momentum` these parts are equal. Everything else has the shape for whole
    parameters.

    Args:
        tx: The optimizer.
        params: Whole parameters, or `jax.ShapeDtypeStruct` in their place.
        specs: How the parameters are sharded, see `scale_by_sharded_dion`.
        weight_dimension_numbers: See `scale_by_sharded_dion`. It must be the same as in `tx`. Default: None.
        axis_name: See `scale_by_sharded_dion`. It must be the same as in `tx`. Default: None.
        fsdp_axis: See `scale_by_sharded_dion`. It must be the same as in `tx`. Default: None.
        tp_axis: See `scale_by_sharded_dion`. It must be the same as in `tx`. Default: None.

    Returns:
        A tree of `jax.sharding.PartitionSpec` with the structure of the state.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> from jax.sharding import PartitionSpec as P
        >>> axes = {"axis_name": "data", "fsdp_axis": "fsdp", "tp_axis": "tensor"}
        >>> tx = optkit.scale_by_sharded_dion(P("tensor", "fsdp"), **axes)
        >>> optkit.sharded_dion_specs(tx, jnp.ones((8, 4)), P("tensor", "fsdp"), **axes)
        ScaleByDionState(momentum=P(('data', 'tensor'), 'fsdp'), basis=P('fsdp', 'tensor'))
    """
    everywhere = jax.tree.map(lambda _: 0, params, is_leaf=lambda node: node is None)
    specs = jax.tree.broadcast(specs, everywhere, is_leaf=is_spec)
    workers = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    named = {axis for spec in jax.tree.leaves(specs, is_leaf=is_spec) for axes in axes_of(spec) for axis in axes}
    names = tuple(sorted(named | {*workers, fsdp_axis, tp_axis} - {None}))
    mesh = AbstractMesh((1,) * len(names), names)

    def init_on_one_device(params):
        init = tx.init
        for name in names:
            init = jax.vmap(init, in_axes=None, axis_name=name, axis_size=1)
        return jax.tree.map(lambda x: x.reshape(x.shape[len(names) :]), init(params))

    def placed(spec, x):
        return x if x is None else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    def of_momentum(spec, view, basis, momentum):
        if (
            view is None
            or not jax.tree.leaves(basis)
            or not sends_factors(basis.shape[-1], view.row_count, view.column_count)
        ):
            return jax.tree.map(lambda _: spec, momentum)
        first, *rest = [*axes_of(spec), ()][: len(view.shape)]
        return PartitionSpec((*workers, *first) or None, *(axes or None for axes in rest))

    def of_basis(spec, view, basis):
        if view is None:
            return basis
        axes = [*axes_of(spec), *[()] * len(view.shape)]
        sides = {axis for dim in (*view.rows, *view.columns) for axis in axes[dim]}
        spread = [axis if axis in sides else None for axis in (fsdp_axis, tp_axis)]
        return jax.tree.map(lambda _: PartitionSpec(*(axes[dim] or None for dim in view.batch), *spread), basis)

    def of_node(node):
        if not isinstance(node, ScaleByDionState):
            return node.sharding.spec
        return ScaleByDionState(
            momentum=jax.tree.map(of_momentum, specs, views, node.basis, node.momentum, is_leaf=is_spec),
            basis=jax.tree.map(of_basis, specs, views, node.basis, is_leaf=is_spec),
        )

    views = matrix_views(params, _kernels if weight_dimension_numbers is None else weight_dimension_numbers)
    state = abstract_state(init_on_one_device, jax.tree.map(placed, specs, params, is_leaf=is_spec))
    return jax.tree.map(of_node, state, is_leaf=lambda node: isinstance(node, ScaleByDionState))


def _kernels(tree: Any) -> Any:
    return jax.tree.map(lambda x: DENSE_KERNELS if x.ndim > 1 else None, tree)
