"""Dion inside `jax.shard_map`, on shards of matrices over the data-parallel, FSDP and tensor axes of a mesh.

Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan, Langford, "Dion: Distributed Orthonormalized Updates", 2025,
arXiv:2504.05295. As in the authors' code (microsoft/dion), columns are orthonormalized along the tensor axis and the
basis is spread over both axes. The orthonormal factor is computed by Cholesky factorizations of summed products. The
results are those of `scale_by_dion` on averaged gradients of whole matrices, which `jax.jit` partitions without any of
this.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.linalg.matrix_view import MatrixView, from_matrices, require_views, to_matrices
from optkit.core.linalg.orthonormal import cholesky_qr
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes, unzip
from optkit.core.types import AxisName, DTypeLike, Key, Mask
from optkit.core.workers import collectives
from optkit.method import Method
from optkit.orthonormalization._dion import DION, ScaleByDionState
from optkit.orthonormalization._low_rank import rank_rule
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._sharded_dion_specs import sharded_dion_specs
from optkit.orthonormalization._sharded_layout import Layout, is_spec, layout_on_mesh, own_part

__all__ = ["scale_by_sharded_dion", "sharded_dion"]


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
    """Takes the steps of `scale_by_dion` on shards of parameters, inside `jax.shard_map`.

    The update rule for a matrix orthonormalized along its outputs (rows), with products of whole matrices::

        B = m + g
        P = an orthonormal basis of the columns of B Q
        R = B^T P
        m = B - (1 - momentum) * P R^T
        Q = R with each column divided by its norm plus eps
        u = sqrt(fan_out / fan_in) * P Q^T

    Both `init` and `update` get the shards of one device. `fsdp_axis` and `tp_axis` may each shard one side of a
    matrix, but not the same one. Columns are orthonormalized along the side over `tp_axis`; without it along the side
    that is not over `fsdp_axis`; and along the longer side if neither side is sharded.

    Use it when the training step is written for one device's shards. No device ever holds more of a matrix than its
    shard: what is sent are the two factors, each summed over one axis, the basis, and products of their columns. Avoid
    it when `jax.jit` partitions the step, because `scale_by_dion` keeps matrices sharded there too.

    With `axis_name`, pass each worker's own gradients. They are averaged as in `scale_by_dion`, whose docstring
    explains why momenta drift apart; call `sync_momentum` now and then. If `jax.shard_map` checks which values vary
    between devices, it averages gradients by itself: then differentiate with respect to
    `jax.lax.pcast(params, axis_name, to="varying")`, or use `check_vma=False`.

    Args:
        specs: How each leaf is sharded: a tree of `jax.sharding.PartitionSpec` that is a prefix of the parameters, as
            `jax.shard_map` takes it. Axes that count matrices may be sharded over any mesh axis.
        rank_fraction: The rank divided by the shorter side of a whole matrix, in (0, 1], rounded up. Default: 0.25.
        momentum: See `scale_by_dion`. Default: 0.95.
        rank: The rank itself, in place of `rank_fraction`. It is at most the shorter side. Default: None, for
            `rank_fraction`.
        rank_multiple_of: Ranks from `rank_fraction` are rounded up to a multiple of this, at least 1. Default: 1; for
            matrices over `tp_axis` the number of its devices, of which their ranks must be multiples.
        power_iterations: See `scale_by_dion`. Default: 1.
        eps: Added to the norms of the columns, at least 0. Default: 1e-8.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. If several axes make up one side of a matrix,
            none of them may be sharded. Default: see `scale_by_dion`.
        axis_name: Name of the axis over workers. It may be a tuple of names. The workers are data-parallel, and each
            passes its own gradients, not averaged ones. None (the default): gradients are averaged already.
        fsdp_axis: Name of the axis over which parameters are sharded to save memory. Default: None, there is no such
            axis.
        tp_axis: Name of the axis over which layers are computed in parts. Default: None, there is no such axis.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws the first basis. Must be equal on
            all workers.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByDionState`. Momenta are sharded like the parameters, and the basis over
        `fsdp_axis` and `tp_axis`; `sharded_dion_specs` returns the specs for `jax.shard_map`. All leaves must be
        matrices, except that leaves without entries pass unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, a leaf is not a matrix, or it is sharded in another way.

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
        arXiv:2504.05295
    """
    refuse_arrays(
        rank_fraction=rank_fraction,
        rank=rank,
        rank_multiple_of=rank_multiple_of,
        power_iterations=power_iterations,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )
    rank_of = rank_rule(rank_fraction, rank, rank_multiple_of)
    power_iterations = 1 if power_iterations is None else power_iterations
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_count("power_iterations", power_iterations)
    if fsdp_axis is not None and fsdp_axis == tp_axis:
        raise ValueError(f"fsdp_axis and tp_axis must be different mesh axes, got {fsdp_axis!r} for both")

    def views_and_layouts(tree):
        views = require_views(tree, weight_dimension_numbers, "scale_by_sharded_dion")
        layout = functools.partial(layout_on_mesh, fsdp_axis=fsdp_axis, tp_axis=tp_axis, rank_of=rank_of)
        full_specs = jax.tree.broadcast(specs, views, is_leaf=is_spec)
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
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    fsdp_axis: str | None = None,
    tp_axis: str | None = None,
    key: Key = 0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion on shards of hidden matrices inside `jax.shard_map`, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_sharded_dion`::

        x = x - lr * (u + wd * x)

    Use it when the training step is written for one device's shards; see `scale_by_sharded_dion` for how matrices may
    be sharded and what is averaged over `axis_name`. Avoid it when the step is written for whole arrays, under
    `jax.jit`, because `dion` sends as little there.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For networks 0.005 to 0.05.
        specs: See `scale_by_sharded_dion`.
        rank_fraction: The rank divided by the shorter side of a matrix, in (0, 1]. For matrices over `tp_axis` it is
            rounded up to a multiple of its devices. `scale_by_sharded_dion` also takes the rank itself. Default: 0.25.
        momentum: See `scale_by_dion`. Default: 0.95.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.01. Only the matrices decay.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        labels: Which leaves are matrices: a tree of "matrix" and "other", or a function that makes it from the
            parameters. The tree may be a prefix of the parameters. A leaf with more than two axes that is labelled
            "matrix" and has no `weight_dimension_numbers` is a stack of matrices along its leading axes. Default: the
            leaves with exactly two axes, or those that have `weight_dimension_numbers`.
        others: The optimizer of all other parameters. It keeps its own learning rate, weight decay and mask, and runs
            in at least float32; `optax.partition` makes one of several. Default: AdamW with `learning_rate`, decay
            rates 0.9 and 0.95, epsilon 1e-8 and no weight decay, as in the authors' code. Their configurations use
            AdamW or Lion (0.9 and 0.95) at the same learning rate, but for the last layer they divide it by the square
            root of its number of inputs. The optimizer gets gradients averaged over `axis_name`, and must treat each
            entry by itself, as AdamW does.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_dion`.
        axis_name: Name of the axis over workers. It may be a tuple of names. The workers are data-parallel, and each
            passes its own gradients, not averaged ones. None (the default): gradients are averaged already.
        fsdp_axis: See `scale_by_sharded_dion`. Default: None, there is no such axis.
        tp_axis: See `scale_by_sharded_dion`. Default: None, there is no such axis.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws where the first power iteration
            begins. Must be equal on all workers.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer for the shards of one device.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> from jax.sharding import AxisType, PartitionSpec as P
        >>> mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        >>> params = {"kernel": jnp.array([[3.0, 6.0], [4.0, 8.0]]), "bias": jnp.array([2.0])}
        >>> specs = {"kernel": P("fsdp", "tensor"), "bias": P()}
        >>> axes = {"axis_name": "data", "fsdp_axis": "fsdp", "tp_axis": "tensor"}
        >>> tx = optkit.sharded_dion(0.1, specs, 0.5, weight_decay=0.0, **axes)
        >>> states = optkit.sharded_dion_specs(tx, params, specs, **axes)
        >>> shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
        >>> state = jax.jit(shard_map(tx.init, in_specs=(specs,), out_specs=states))(params)
        >>> step = jax.jit(shard_map(tx.update, in_specs=(specs, states, specs), out_specs=(specs, states)))
        >>> updates, state = step(params, state, params)
        >>> updates["kernel"].round(2), updates["bias"].round(1)
        (Array([[-0.03, -0.05],
               [-0.04, -0.07]], dtype=float32), Array([-0.1], dtype=float32))

    Reference:
        arXiv:2504.05295
    """

    def direction(numbers):
        return scale_by_sharded_dion(
            specs,
            rank_fraction,
            momentum,
            weight_dimension_numbers=numbers,
            axis_name=axis_name,
            fsdp_axis=fsdp_axis,
            tp_axis=tp_axis,
            key=key,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "sharded_dion",
        learning_rate,
        direction,
        labels=labels,
        others=others,
        weight_decay=weight_decay,
        mask=mask,
        weight_dimension_numbers=weight_dimension_numbers,
        axis_name=axis_name,
        mu_dtype=mu_dtype,
    )


def _step(
    gradient: jax.Array,
    momentum: jax.Array,
    basis: jax.Array,
    layout: Layout,
    *,
    decay: jax.typing.ArrayLike,
    iterations: int,
    eps: jax.typing.ArrayLike,
    axis_name: AxisName | tuple[str, ...] | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step on stacked shards. It returns the update, the momentum and the basis."""
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
    # A momentum of zeros gives zeros, on all devices or on none.
    nothing = _sum(some, layout.across) == 0
    left, right = jnp.where(nothing, 0, left), jnp.where(nothing, start, right)
    new_momentum = buffer - (1 - decay) * jnp.einsum(f"...mr,...nr->...{matrix}", left, right.conj())  # M_t
    norms = jnp.sqrt(_sum(jnp.sum(jnp.real(right * right.conj()), axis=-2, keepdims=True), layout.across))
    new_basis = right / (norms + eps)  # Q_t
    direction = layout.scale * jnp.einsum(f"...mr,...nr->...{matrix}", left, new_basis.conj())  # P_t Q_t^T
    return direction, new_momentum, own_part(new_basis, [()] * (basis.ndim - 1) + [layout.along])


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x


def _draw_basis(key: jax.Array, x: jax.Array, view: MatrixView, layout: Layout) -> jax.Array:
    """Draws the first basis of whole matrices, as `scale_by_dion` does, and returns this device's part of it."""
    draw = jax.random.normal(key, (layout.length, layout.rank), x.dtype)
    own = own_part(draw, [layout.across, layout.along])
    return jnp.broadcast_to(own, (*(view.shape[dim] for dim in view.batch), *own.shape))


METHODS = (
    Method(
        name="sharded_dion",
        factory=sharded_dion,
        kind="function",
        summary="Dion on shards of matrices inside `jax.shard_map`, over the FSDP and tensor axes of a mesh.",
        paper=DION,
        also_known_as=("distributed Dion",),
        parts=(scale_by_sharded_dion, sharded_dion_specs),
    ),
)
