"""Dion inside `jax.shard_map`, on shards of matrices over data-parallel, FSDP and tensor axes of a mesh.

Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan, Langford, "Dion: Distributed Orthonormalized Updates", 2025,
arXiv:2504.05295. As in the authors' code (microsoft/dion), columns are orthonormalized along the tensor axis and the
basis is spread over both; the orthonormal factor is found by Cholesky factorizations of summed products. The numbers
are those of `scale_by_dion` on averaged gradients of whole matrices, which `jax.jit` partitions without any of this.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from optkit.core.checks import check_count, check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.linalg.matrix_view import (
    DENSE_KERNELS,
    MatrixView,
    from_matrices,
    matrix_views,
    require_views,
    to_matrices,
)
from optkit.core.linalg.orthonormal import cholesky_qr
from optkit.core.matrices_and_others import adamw, matrices_and_others
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes, unzip
from optkit.core.types import AxisName, DTypeLike, Key, Mask
from optkit.core.workers import collectives
from optkit.core.workers.sharding import abstract_state
from optkit.orthonormalization._dion import ScaleByDionState


class _Layout(NamedTuple):
    """How the matrices of one leaf lie on the mesh.

    Attributes:
        first: whether columns are orthonormalized along the first axis of a matrix.
        along: mesh axes over that side of a matrix.
        across: mesh axes over the other side.
        batch: mesh axes over each axis that counts matrices.
        length: of the other side of a whole matrix.
        rank: columns of the factors.
        sends_factors: whether data-parallel workers average factors and not gradients.
        scale: what the update is multiplied by.
    """

    first: bool
    along: tuple[str, ...]
    across: tuple[str, ...]
    batch: tuple[tuple[str, ...], ...]
    length: int
    rank: int
    sends_factors: bool
    scale: float


def scale_by_sharded_dion(
    specs: Any,
    rank_fraction: float | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    *,
    rank: int | None = None,
    rank_multiple_of: int | None = None,
    power_iterations: int | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    fsdp_axis: str | None = None,
    tp_axis: str | None = None,
    key: Key = 0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Is `scale_by_dion` for shards of parameters, inside `jax.shard_map`.

    Both `init` and `update` see one device's shards. `fsdp_axis` and `tp_axis` may each shard one side of a matrix, but
    not the same; columns are orthonormalized along the side that is not over `fsdp_axis` or is over `tp_axis`. No
    device ever holds more of a matrix than its shard: what is sent are the two factors, summed over one axis each, the
    basis, and products of their columns. Do not take it where `jax.jit` partitions the step: `scale_by_dion` stays
    sharded there too.

    With `axis_name`, give each worker's own gradients: they are averaged as by `scale_by_dion`, which see for momenta
    that part, and call `sync_momentum` now and then. Where `jax.shard_map` checks what varies between devices, it
    averages gradients itself: take them of `jax.lax.pcast(params, axis_name, to="varying")`, or use `check_vma=False`.

    Args:
        specs: tree of `jax.sharding.PartitionSpec`, a prefix of the parameters, as `jax.shard_map` takes it: how each
            leaf is sharded. Axes that count matrices may be sharded over any mesh axis.
        rank_fraction: rank over the shorter side of a whole matrix, in (0, 1], rounded up. None: 0.25.
        momentum: how much stays of what an update took, in [0, 1]; default 0.95.
        rank: the rank itself, in place of `rank_fraction`; at most the shorter side.
        rank_multiple_of: ranks by `rank_fraction` are rounded up to a multiple of it, at least 1. None: 1. Ranks of
            matrices over `tp_axis` must be multiples of its devices.
        power_iterations: power iterations a step, at least 1. None: 1.
        eps: added to the norms of columns, at least 0; default 1e-8.
        weight_dimension_numbers: which axes are inputs and outputs, see `scale_by_dion`. Of several axes that make up
            one side of a matrix, none may be sharded.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged.
        fsdp_axis: the axis over which parameters are sharded for memory; None (default) if there is none.
        tp_axis: the axis over which layers are computed in parts; None (default) if there is none.
        key: an integer seed or a JAX key, for the first basis, equal on all devices.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByDionState`: momenta are sharded like parameters, the basis over `fsdp_axis` and
        `tp_axis`; `sharded_dion_specs` says so to `jax.shard_map`. All leaves must be matrices, but leaves without
        entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, a leaf is no matrix, or it is sharded otherwise.

    Example:
        >>> import optkit
        >>> from jax.sharding import AxisType, PartitionSpec as P
        >>> mesh = jax.make_mesh((1, 1), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
        >>> spec = P("fsdp", "tensor")
        >>> tx = optkit.scale_by_sharded_dion(spec, rank=1, fsdp_axis="fsdp", tp_axis="tensor")
        >>> first = jax.shard_map(lambda g: tx.update(g, tx.init(g))[0], mesh=mesh, in_specs=spec, out_specs=spec)
        >>> jnp.abs(jax.jit(first)(jnp.array([[0.0, 3.0], [0.0, 0.0]]))).round(2)
        Array([[0., 1.],
               [0., 0.]], dtype=float32)

    Reference:
        Ahn et al., "Dion: Distributed Orthonormalized Updates", 2025, arXiv:2504.05295.
    """
    refuse_arrays(
        rank_fraction=rank_fraction,
        rank=rank,
        rank_multiple_of=rank_multiple_of,
        power_iterations=power_iterations,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )
    rank_fraction = 0.25 if rank_fraction is None else rank_fraction
    rank_multiple_of = 1 if rank_multiple_of is None else rank_multiple_of
    power_iterations = 1 if power_iterations is None else power_iterations
    check_range("rank_fraction", rank_fraction, 0.0, 1.0, low_open=True)
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_count("rank_multiple_of", rank_multiple_of)
    check_count("power_iterations", power_iterations)
    if rank is not None:
        check_count("rank", rank)
    if fsdp_axis is not None and fsdp_axis == tp_axis:
        raise ValueError(f"fsdp_axis and tp_axis must be different mesh axes, got {fsdp_axis!r} for both")

    def rank_of(shorter):
        wanted = rank or rank_multiple_of * math.ceil(rank_fraction * shorter / rank_multiple_of)
        return min(wanted, shorter)

    def views_and_layouts(tree):
        views = require_views(tree, weight_dimension_numbers, "scale_by_sharded_dion")
        layout = functools.partial(_layout, fsdp_axis=fsdp_axis, tp_axis=tp_axis, rank_of=rank_of)
        full_specs = jax.tree.broadcast(specs, views, is_leaf=_is_spec)
        return views, jax.tree.map(layout, views, full_specs)

    step = functools.partial(_step, decay=momentum, iterations=power_iterations, eps=eps, axis_name=axis_name)

    def init_fn(params):
        views, layouts = views_and_layouts(params)
        leaves, structure = jax.tree.flatten(params)
        data, bases = key_data(key), []
        for x, view, layout in zip(leaves, *map(structure.flatten_up_to, (views, layouts)), strict=True):
            data, fresh = split(data, key)
            bases.append(None if view is None else _draw_basis(fresh, x, view, layout))
        return ScaleByDionState(
            momentum=optax.tree.zeros_like(params, dtype=mu_dtype), basis=structure.unflatten(bases)
        )

    def update_fn(updates, state, params=None):
        del params
        views, layouts = views_and_layouts(updates)

        gradients = jax.tree.map(to_matrices, updates, views)
        momenta = jax.tree.map(to_matrices, state.momentum, views)
        results = map_equal_shapes(step, gradients, momenta, state.basis, layouts)
        directions, momenta, bases = unzip(gradients, results, 3)
        new_state = ScaleByDionState(
            momentum=jax.tree.map(from_matrices, state.momentum, views, momenta),
            basis=optax.tree.cast_like(bases, state.basis),
        )
        return jax.tree.map(from_matrices, updates, views, directions), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def sharded_dion(
    learning_rate: optax.ScalarOrSchedule,
    specs: Any,
    rank_fraction: float | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    rank: int | None = None,
    rank_multiple_of: int | None = None,
    power_iterations: int | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    fsdp_axis: str | None = None,
    tp_axis: str | None = None,
    key: Key = 0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion on shards of hidden matrices inside `jax.shard_map`, AdamW or what `others` is on all other parameters.

    Where the training step is written for whole arrays, under `jax.jit`, take `dion`, which sends as little. See
    `scale_by_sharded_dion` for how matrices may be sharded and what is averaged over `axis_name`.

    Args:
        learning_rate: a positive number or a schedule; 0.005 to 0.05 for networks.
        specs: tree of `jax.sharding.PartitionSpec`, a prefix of the parameters: how each leaf is sharded.
        rank_fraction: rank over the shorter side of a matrix, in (0, 1]. None: 0.25.
        momentum: how much stays in the momentum of what an update took, in [0, 1]; default 0.95.
        weight_decay: strength of the decoupled decay of Dion's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. It gets gradients averaged over `axis_name` and
            must treat each entry by itself, as AdamW does. None: AdamW at `learning_rate` with the authors' 0.9, 0.95
            and epsilon 1e-8, without decay; their configurations take AdamW or Lion (0.9 and 0.95) at the same rate,
            but that over the root of the inputs for the last layer.
        rank: the rank itself, in place of `rank_fraction`; at most the shorter side.
        rank_multiple_of: ranks by `rank_fraction` are rounded up to a multiple of it, at least 1. None: 1.
        power_iterations: power iterations a step, at least 1. None: 1.
        eps: added to the norms of columns, at least 0; default 1e-8.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_dion`; a tree with None
            for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of two
            axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged.
        fsdp_axis: the axis over which parameters are sharded for memory; None (default) if there is none.
        tp_axis: the axis over which layers are computed in parts; None (default) if there is none.
        key: an integer seed or a JAX key for the first power iteration, equal on all devices.
        mu_dtype: dtype of Dion's momenta; default the parameters', but at least float32.

    Returns:
        An optimizer of one device's shards.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> from jax.sharding import AxisType, PartitionSpec as P
        >>> mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        >>> params = {"kernel": jnp.array([[3.0, 6.0], [4.0, 8.0]]), "bias": jnp.array([2.0])}
        >>> specs = {"kernel": P("fsdp", "tensor"), "bias": P()}
        >>> axes = {"axis_name": "data", "fsdp_axis": "fsdp", "tp_axis": "tensor"}
        >>> tx = optkit.sharded_dion(0.1, specs, rank=1, weight_decay=0.0, **axes)
        >>> states = optkit.sharded_dion_specs(tx, params, specs, **axes)
        >>> shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
        >>> state = jax.jit(shard_map(tx.init, in_specs=(specs,), out_specs=states))(params)
        >>> step = jax.jit(shard_map(tx.update, in_specs=(specs, states, specs), out_specs=(specs, states)))
        >>> updates, state = step(params, state, params)
        >>> updates["kernel"].round(2), updates["bias"].round(1)
        (Array([[-0.03, -0.05],
               [-0.04, -0.07]], dtype=float32), Array([-0.1], dtype=float32))

    Reference:
        Ahn et al., "Dion: Distributed Orthonormalized Updates", 2025, arXiv:2504.05295.
    """

    def matrices(numbers, mask):
        return optax.chain(
            scale_by_sharded_dion(
                specs,
                rank_fraction,
                momentum,
                rank=rank,
                rank_multiple_of=rank_multiple_of,
                power_iterations=power_iterations,
                eps=eps,
                weight_dimension_numbers=numbers,
                axis_name=axis_name,
                fsdp_axis=fsdp_axis,
                tp_axis=tp_axis,
                key=key,
                mu_dtype=mu_dtype,
            ),
            add_decay("sharded_dion", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )

    return matrices_and_others(
        "sharded_dion",
        matrices,
        others,
        functools.partial(adamw, "sharded_dion", learning_rate, 0.9, 0.95, 1e-8, mu_dtype=mu_dtype),
        labels=labels,
        weight_dimension_numbers=weight_dimension_numbers,
        mask=mask,
        axis_name=axis_name,
    )


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
    """Says how the state of an optimizer with sharded Dion in it is sharded, for the specs of `jax.shard_map`.

    Momenta of data-parallel workers differ where only factors are averaged, and lie one after another along their first
    axis, which is so many times longer in the whole state. After `sync_momentum` these parts are equal. All else is
    shaped as for whole parameters.

    Args:
        tx: the optimizer.
        params: whole parameters, or `jax.ShapeDtypeStruct` in their place.
        specs: how they are sharded, as in `scale_by_sharded_dion`.
        weight_dimension_numbers: as given to `tx`.
        axis_name: as given to `tx`.
        fsdp_axis: as given to `tx`.
        tp_axis: as given to `tx`.

    Returns:
        A tree of `jax.sharding.PartitionSpec` structured like the state.

    Example:
        >>> import optkit
        >>> from jax.sharding import PartitionSpec as P
        >>> axes = {"axis_name": "data", "fsdp_axis": "fsdp", "tp_axis": "tensor"}
        >>> tx = optkit.scale_by_sharded_dion(P("tensor", "fsdp"), **axes)
        >>> optkit.sharded_dion_specs(tx, jnp.ones((8, 4)), P("tensor", "fsdp"), **axes)
        ScaleByDionState(momentum=P(('data', 'tensor'), 'fsdp'), basis=P('fsdp', 'tensor'))
    """
    everywhere = jax.tree.map(lambda _: 0, params, is_leaf=lambda node: node is None)
    specs = jax.tree.broadcast(specs, everywhere, is_leaf=_is_spec)
    workers = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    named = {axis for spec in jax.tree.leaves(specs, is_leaf=_is_spec) for axes in _axes_of(spec) for axis in axes}
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
            or not _sends_factors(basis.shape[-1], view.row_count, view.column_count)
        ):
            return jax.tree.map(lambda _: spec, momentum)
        first, *rest = [*_axes_of(spec), ()][: len(view.shape)]
        return PartitionSpec((*workers, *first) or None, *(axes or None for axes in rest))

    def of_basis(spec, view, basis):
        if view is None:
            return basis
        axes = [*_axes_of(spec), *[()] * len(view.shape)]
        sides = {axis for dim in (*view.rows, *view.columns) for axis in axes[dim]}
        spread = [axis if axis in sides else None for axis in (fsdp_axis, tp_axis)]
        return jax.tree.map(lambda _: PartitionSpec(*(axes[dim] or None for dim in view.batch), *spread), basis)

    def of_node(node):
        if not isinstance(node, ScaleByDionState):
            return node.sharding.spec
        return ScaleByDionState(
            momentum=jax.tree.map(of_momentum, specs, views, node.basis, node.momentum, is_leaf=_is_spec),
            basis=jax.tree.map(of_basis, specs, views, node.basis, is_leaf=_is_spec),
        )

    views = matrix_views(params, _kernels if weight_dimension_numbers is None else weight_dimension_numbers)
    state = abstract_state(init_on_one_device, jax.tree.map(placed, specs, params, is_leaf=_is_spec))
    return jax.tree.map(of_node, state, is_leaf=lambda node: isinstance(node, ScaleByDionState))


def _step(
    gradient: jax.Array,
    momentum: jax.Array,
    basis: jax.Array,
    layout: _Layout,
    *,
    decay: jax.typing.ArrayLike,
    iterations: int,
    eps: jax.typing.ArrayLike,
    axis_name: AxisName | tuple[str, ...] | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step of stacked shards: the update, the momentum and the basis."""
    gradient, momentum, basis = widen((gradient, momentum, basis))
    matrix = "mn" if layout.first else "nm"
    fewer = layout.sends_factors
    workers = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    averaged = workers if fewer else ()

    def whole(x, axes):
        return _sum(x, (*axes, *averaged)) / jax.lax.axis_size(averaged)

    buffer = momentum + (gradient if fewer else collectives.pmean(gradient, axis_name))  # B_t = M_{t-1} + G_t
    adjoint = buffer.conj()
    # The columns of the basis are spread over the devices that share its rows.
    start = jax.lax.all_gather(basis, layout.along, axis=basis.ndim - 1, tiled=True) if layout.along else basis

    def iterate(right):
        product = whole(jnp.einsum(f"...{matrix},...nr->...mr", buffer, right), layout.across)
        left = cholesky_qr(product, axis_name=layout.along)  # P_t = orth(B_t Q_{t-1})
        return left, whole(jnp.einsum(f"...{matrix},...mr->...nr", adjoint, left), layout.along)  # R_t = B_t^T P_t

    left, right = iterate(start)
    for _ in range(iterations - 1):
        left, right = iterate(right)

    some = jnp.any(right, axis=(-2, -1), keepdims=True).astype(right.dtype)
    # Zero for a momentum of zeros, on all devices or on none.
    nothing = _sum(some, layout.across) == 0
    left, right = jnp.where(nothing, 0, left), jnp.where(nothing, start, right)
    new_momentum = buffer - (1 - decay) * jnp.einsum(f"...mr,...nr->...{matrix}", left, right.conj())  # M_t
    norms = jnp.sqrt(_sum(jnp.sum(jnp.real(right * right.conj()), axis=-2, keepdims=True), layout.across))
    new_basis = right / (norms + eps)  # Q_t
    direction = layout.scale * jnp.einsum(f"...mr,...nr->...{matrix}", left, new_basis.conj())  # P_t Q_t^T
    return direction, new_momentum, _own_part(new_basis, [()] * (basis.ndim - 1) + [layout.along])


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x


def _draw_basis(key: jax.Array, x: jax.Array, view: MatrixView, layout: _Layout) -> jax.Array:
    """Draws the first basis of whole matrices, as `scale_by_dion` does, and takes this device's part of it."""
    draw = jax.random.normal(key, (layout.length, layout.rank), x.dtype)
    own = _own_part(draw, [layout.across, layout.along])
    return jnp.broadcast_to(own, (*(view.shape[dim] for dim in view.batch), *own.shape))


def _own_part(x: jax.Array, axes: list[tuple[str, ...]]) -> jax.Array:
    """Takes what is this device's where each axis of an array is spread over mesh axes."""
    for dim, names in enumerate(axes):
        if names:
            size = x.shape[dim] // jax.lax.axis_size(names)
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * size, size, dim)
    return x


def _layout(
    view: MatrixView,
    spec: PartitionSpec,
    *,
    fsdp_axis: str | None,
    tp_axis: str | None,
    rank_of: Callable[[int], int],
) -> _Layout:
    """Finds how one leaf lies on the mesh, from its shards."""
    axes = [*_axes_of(spec), *[()] * (len(view.shape) - len(spec))]

    def side(dims):
        found = tuple(axis for dim in dims for axis in axes[dim])
        if found and (len(dims) > 1 or found not in ((fsdp_axis,), (tp_axis,))):
            raise ValueError(
                "a side of a matrix may be sharded if it is one axis, over fsdp_axis or tp_axis; got shards of shape "
                f"{view.shape} whose axes {dims} are over {found}, with fsdp_axis={fsdp_axis!r} and tp_axis={tp_axis!r}"
            )
        return found

    rows, columns = side(view.rows), side(view.columns)
    row_count = view.row_count * jax.lax.axis_size(rows)
    column_count = view.column_count * jax.lax.axis_size(columns)
    along_rows = tp_axis in rows or fsdp_axis in columns if rows or columns else row_count >= column_count
    along, across = (rows, columns) if along_rows else (columns, rows)
    rank, devices = rank_of(min(row_count, column_count)), jax.lax.axis_size(along)
    if rank % devices:
        raise ValueError(
            f"the rank must be a multiple of the {devices} devices of tp_axis, got {rank} for matrices of {row_count} "
            f"rows and {column_count} columns: set rank or rank_multiple_of"
        )
    return _Layout(
        first=view.rows_first == along_rows,
        along=along,
        across=across,
        batch=tuple(axes[dim] for dim in view.batch),
        length=column_count if along_rows else row_count,
        rank=rank,
        sends_factors=_sends_factors(rank, row_count, column_count),
        scale=math.sqrt(row_count / column_count),
    )


def _kernels(tree: Any) -> Any:
    return jax.tree.map(lambda x: DENSE_KERNELS if x.ndim > 1 else None, tree)


def _sends_factors(rank: int, rows: int, columns: int) -> bool:
    """Says whether two factors have fewer numbers than their matrix."""
    return rank * (rows + columns) < rows * columns


def _axes_of(spec: PartitionSpec) -> list[tuple[str, ...]]:
    return [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)
