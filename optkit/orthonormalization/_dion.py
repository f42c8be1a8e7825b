"""Dion: the orthonormalized low-rank part of the momentum, whose rest is kept for later steps.

Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan, Langford, "Dion: Distributed Orthonormalized Updates", 2025,
arXiv:2504.05295. The rule is that of the authors' code (microsoft/dion), which orthonormalizes along a matrix's longer
side and adds epsilon to the norms of columns. A worker whose own momentum is zero skips the update there, and workers
part; here their sum counts. The numbers are the same for any orthonormal basis.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.linalg.matrix_view import MatrixView, from_matrices, require_views, to_matrices
from optkit.core.linalg.orthonormal import Orthonormalize, cholesky_qr
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import concrete
from optkit.core.types import AxisName, DTypeLike, Key, Mask
from optkit.core.workers import collectives
from optkit.method import Method, Paper, Variant
from optkit.orthonormalization._low_rank import rank_rule, sends_factors
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._power_iteration import Step, draw_basis, orthonormal_sides, power_iteration

__all__ = ["dion", "scale_by_dion", "sync_momentum"]


class ScaleByDionState(NamedTuple):
    """State of `scale_by_dion`.

    Attributes:
        momentum: sum of the gradients less what updates took out of it, shaped and sharded like the parameters, in
            `mu_dtype`. With `axis_name` each worker has its own where only factors are averaged; see `sync_momentum`.
        basis: where the next power iteration begins, of the size of the parameter's shorter side (or as `transpose`
            says) times the rank, after the axes over separate matrices. Equal on all workers.
    """

    momentum: optax.Updates
    basis: Any


def scale_by_dion(
    rank_fraction: float | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    *,
    rank: int | None = None,
    rank_multiple_of: int | None = None,
    power_iterations: int | None = None,
    transpose: Any | None = None,
    orthonormalize: Orthonormalize | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    key: Key = 0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by `sqrt(fan_out / fan_in)` times its momentum's orthonormalized low-rank part.

    One power iteration, begun where the last step's ended, approximates the momentum by `P R^T`, where the columns of
    `P` are orthonormal. The update is `P Q^T` with the columns of `R` divided by their norms; what the approximation
    took is damped in the momentum, its rest stays whole (error feedback). There are only products of matrices with
    factors of few columns, so that sharded matrices stay sharded. Leaves of one shape are computed in a stack: on
    automatic mesh axes, where JAX does not say how they are sharded, shard them alike.

    With `axis_name`, give each worker's own gradients: what is averaged is the two factors where that is fewer numbers,
    `(rows + columns) * rank` in place of `rows * columns`, and the gradient otherwise. Parameters are those of averaged
    gradients, but for rounding. The momenta of workers part: each is off their mean by the sum of what its gradients
    were off theirs, which nothing damps, and which grows like the root of the number of steps for equal data and in
    proportion to it for unequal data. Keep them in float32 and call `sync_momentum` now and then.

    Args:
        rank_fraction: rank over the shorter side of a matrix, in (0, 1], rounded up. None: 0.25. The authors' code has
            1, and 0.25 to 0.5 in its advice.
        momentum: how much stays of what an update took, in [0, 1]; default 0.95.
        rank: the rank itself, in place of `rank_fraction`; at most the shorter side.
        rank_multiple_of: ranks by `rank_fraction` are rounded up to a multiple of it, at least 1. None: 1.
        power_iterations: power iterations a step, at least 1. None: 1.
        transpose: whether columns are orthonormalized in place of rows: True, False, or a tree of booleans, a prefix of
            the parameters. By default those of the longer side are.
        orthonormalize: gives an orthonormal basis of the columns of stacked matrices. None: `cholesky_qr`, which leaves
            sharded rows where they are. See also `householder_qr` and `randomized_cholesky_qr`.
        eps: added to the norms of columns, at least 0; default 1e-8.
        weight_dimension_numbers: which axes are inputs and outputs, as Optax's Muon takes it. By default a leaf is the
            kernel of a dense layer in Flax, inputs first; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`. Other axes count matrices.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged.
        key: an integer seed or a JAX key, for the first `basis`; it must be equal on all workers.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByDionState`. All leaves must be matrices, but leaves without entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, or a leaf is no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_dion(rank=1)
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[0.0, 3.0], [0.0, 0.0]]), tx.init(params), params)
        >>> jnp.abs(updates).round(2)
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
        transpose=transpose,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )
    rank_of = rank_rule(rank_fraction, rank, rank_multiple_of)
    power_iterations = 1 if power_iterations is None else power_iterations
    orthonormalize = cholesky_qr if orthonormalize is None else orthonormalize
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_count("power_iterations", power_iterations)
    step = functools.partial(
        power_iteration, iterations=power_iterations, orthonormalize=orthonormalize, eps=eps, axis_name=axis_name
    )

    def draw(key, x, view, side):
        return draw_basis(key, x, view, side, rank_of(view.row_count, view.column_count))

    def init_fn(params):
        params = concrete(params)
        views = require_views(params, weight_dimension_numbers, "scale_by_dion")
        leaves, structure = jax.tree.flatten(params)
        data, bases = key_data(key), []
        for x, view, side in zip(
            leaves, *map(structure.flatten_up_to, (views, orthonormal_sides(views, transpose))), strict=True
        ):
            data, fresh = split(data, key)
            bases.append(None if view is None else draw(fresh, x, view, side))
        return ScaleByDionState(
            momentum=optax.tree.zeros_like(params, dtype=mu_dtype), basis=structure.unflatten(bases)
        )

    def update_fn(updates, state, params=None):
        del params
        views = require_views(updates, weight_dimension_numbers, "scale_by_dion")

        # What is done entry by entry is done leaf by leaf: a stack of all leaves in it would take long to compile.
        add = functools.partial(_add, axis_name=axis_name)
        buffers = jax.tree.map(add, updates, state.momentum, state.basis, views)  # B_t = M_{t-1} + G_t
        steps = map_equal_shapes(step, buffers, state.basis, orthonormal_sides(views, transpose))

        def direction(x, view, step):
            if view is None:
                return x
            scale = math.sqrt(view.row_count / view.column_count)
            return from_matrices(x, view, scale * step.direction)

        def rest(x, view, buffer, step):
            if view is None:
                return x
            kept = buffer - (1 - momentum) * step.approximation  # M_t, the error feedback
            return from_matrices(x, view, kept)

        bases = jax.tree.map(lambda step: step.basis, steps, is_leaf=lambda node: isinstance(node, Step))
        new_state = ScaleByDionState(
            momentum=jax.tree.map(rest, state.momentum, views, buffers, steps),
            basis=optax.tree.cast_like(bases, state.basis),
        )
        return jax.tree.map(direction, updates, views, steps), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def dion(
    learning_rate: optax.ScalarOrSchedule,
    rank_fraction: float | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    rank: int | None = None,
    weight_dimension_numbers: Any | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
    key: Key = 0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion on hidden matrices, AdamW or what `others` is on all other parameters.

    Its updates are orthonormalized like Muon's at a fraction of the cost, by products with factors of few columns that
    leave sharded matrices where they are. The learning rate holds for layers of any width. Do not take Dion for
    embeddings, whose rows are seldom touched, nor for the last layer: name these in `labels`. With `axis_name` it takes
    each worker's own gradients and sends factors in place of matrices, see `scale_by_dion`; call `sync_momentum` before
    checkpoints then. `scale_by_dion` has further arguments, such as more power iterations. One NaN gradient stays in
    the momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: a positive number or a schedule; 0.005 to 0.05 for networks.
        rank_fraction: rank over the shorter side of a matrix, in (0, 1]. None: 0.25.
        momentum: how much stays in the momentum of what an update took, in [0, 1]; default 0.95.
        weight_decay: strength of the decoupled decay of Dion's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and epsilon 1e-8, without decay; their configurations take AdamW or Lion (0.9 and 0.95) at the
            same rate, but that over the root of the inputs for the last layer.
        rank: the rank itself, in place of `rank_fraction`; at most the shorter side.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_dion`; a tree with None
            for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of two
            axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged. Those of the
            other parameters are averaged before `others` sees them.
        key: an integer seed or a JAX key for the first power iteration; it must be equal on all workers.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry of a matrix and its shorter side times the rank, and that of
        `others`: AdamW's is two for each of its parameters.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.dion(0.1, rank=1, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[0.0, 3.0], [0.0, 4.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates["kernel"][:, 1].round(2), updates["bias"].round(1)
        (Array([-0.06, -0.08], dtype=float32), Array([-0.1], dtype=float32))

    Reference:
        Ahn et al., "Dion: Distributed Orthonormalized Updates", 2025, arXiv:2504.05295.
    """

    def direction(numbers):
        return scale_by_dion(
            rank_fraction,
            momentum,
            rank=rank,
            weight_dimension_numbers=numbers,
            axis_name=axis_name,
            key=key,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "dion",
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


def sync_momentum(state: Any, axis_name: AxisName | tuple[str, ...]) -> Any:
    """Averages Dion's momenta over the workers; parameters go on as they would have.

    Call it inside the mapped step before a checkpoint of one worker's state and before the number of workers changes,
    and every few hundred steps where momenta are kept in 16 bits: see `scale_by_dion`.

    Args:
        state: an optimizer's state with `ScaleByDionState` anywhere in it, one worker's.
        axis_name: the axis over workers, or a tuple of axes.

    Returns:
        The state with momenta that are equal on all workers.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> state = jax.vmap(optkit.scale_by_dion().init)(jnp.ones((2, 3, 3)))
        >>> state = state._replace(momentum=state.momentum.at[0].set(1.0))
        >>> synced = jax.vmap(lambda state: optkit.sync_momentum(state, "workers"), axis_name="workers")(state)
        >>> synced.momentum[:, 0, 0]
        Array([0.5, 0.5], dtype=float32)
    """

    def sync(node):
        return node._replace(momentum=collectives.pmean(node.momentum, axis_name)) if _is_state(node) else node

    return jax.tree.map(sync, state, is_leaf=_is_state)


def _add(
    gradient: jax.Array,
    momentum: jax.Array,
    basis: jax.Array | None,
    view: MatrixView | None,
    *,
    axis_name: AxisName | tuple[str, ...] | None,
) -> jax.Array | None:
    """Adds a leaf's gradient to its momentum, as matrices; averaged over workers where that is what they send."""
    if view is None or basis is None:
        return None
    gradient, momentum = widen((to_matrices(gradient, view), to_matrices(momentum, view)))
    return momentum + collectives.pmean(
        gradient, None if sends_factors(basis.shape[-1], *gradient.shape[-2:]) else axis_name
    )


def _is_state(node: Any) -> bool:
    return isinstance(node, ScaleByDionState)


DION = Paper("Dion: Distributed Orthonormalized Updates", "Ahn et al.", 2025, "2504.05295")

METHODS = (
    Method(
        name="dion",
        factory=dion,
        kind="optimizer",
        summary="The orthonormalized low-rank part of the momentum, by power iteration; AdamW on other parameters.",
        paper=DION,
        also_known_as=("Distributed Orthonormalized Updates",),
        parts=(scale_by_dion, sync_momentum),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
        variants={"full_rank": Variant({"rank_fraction": 1.0}, grid=1e-2)},
    ),
)
