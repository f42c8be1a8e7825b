"""Dion: the update is the orthonormalized low-rank part of the momentum, and the rest is kept for later steps.

Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan, Langford, "Dion: Distributed Orthonormalized Updates", 2025,
arXiv:2504.05295. The rule is that of the authors' code (microsoft/dion), which orthonormalizes along the longer side of
a matrix and adds epsilon to the norms of columns. In that code a worker whose own momentum is zero skips the update, so
that the parameters of the workers drift apart; here the sum over the workers decides. The updates do not depend on
which orthonormal basis is computed.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.linalg.factors import draw_basis
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
from optkit.orthonormalization._power_iteration import Step, orthonormal_sides, power_iteration

__all__ = ["dion", "scale_by_dion", "sync_momentum"]


class ScaleByDionState(NamedTuple):
    """State of `scale_by_dion`.

    Attributes:
        momentum: Sum of the gradients minus what the updates took out of it, shaped and sharded like the parameters, in
            `mu_dtype`. With `axis_name` each worker has its own where only factors are averaged; see `sync_momentum`.
        basis: Where the next power iteration begins: after the axes over separate matrices, the length of the
            parameter's shorter side (or the side that `transpose` chooses) times the rank. Equal on all workers.
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
    """Replaces the gradient of a matrix by the orthonormalized low-rank part of its momentum.

    The update rule for a matrix with at least as many outputs (rows) as inputs; otherwise rows and columns swap::

        B = m + g
        P = an orthonormal basis of the columns of B Q
        R = B^T P
        m = B - (1 - momentum) * P R^T
        Q = R with each column divided by its norm plus eps
        u = sqrt(fan_out / fan_in) * P Q^T

    Q begins at random. One power iteration, which continues where the last step ended, approximates the momentum by P
    R^T. The update takes this part out of the momentum; the rest stays whole for later steps (error feedback). Leaves
    of one shape are computed in a stack. On automatic mesh axes, where JAX does not say how they are sharded, shard
    them alike.

    Use it for large or sharded matrices: it multiplies only by factors with few columns, so that sharded matrices stay
    sharded, and it costs less than `scale_by_muon`. Its price is one number per entry of a matrix, and the shorter side
    times the rank. Avoid a small rank when updates of full rank are affordable, because one step then moves the
    parameters only in few directions.

    With `axis_name`, pass each worker's own gradients. Workers then average the two factors, `(rows + columns) * rank`
    numbers, wherever that is fewer than the `rows * columns` numbers of the gradient. The parameters are those of
    averaged gradients, except for rounding. The momenta of the workers drift apart: the difference from their mean is
    the sum of the differences of the gradients, which nothing damps. It grows like the square root of the number of
    steps if the data of the workers are equally distributed, and in proportion to it if they are not. So keep the
    momenta in float32, and call `sync_momentum` now and then.

    Args:
        rank_fraction: The rank divided by the shorter side of a matrix, in (0, 1], rounded up. The authors' code uses
            1, and recommends 0.25 to 0.5. Default: 0.25.
        momentum: Share of what an update takes that stays in the momentum, in [0, 1]. Default: 0.95.
        rank: The rank itself, in place of `rank_fraction`. It is at most the shorter side. Default: None, for
            `rank_fraction`.
        rank_multiple_of: Ranks from `rank_fraction` are rounded up to a multiple of this, at least 1. Default: 1.
        power_iterations: The number of power iterations per step, at least 1. Default: 1.
        transpose: Along which side columns are orthonormalized: False for the outputs (rows), True for the inputs
            (columns), or a tree of booleans that is a prefix of the parameters. Default: the longer side.
        orthonormalize: A function that returns an orthonormal basis of the columns of stacked matrices. See also
            `householder_qr` and `randomized_cholesky_qr`. Default: `cholesky_qr`, which leaves sharded rows where they
            are.
        eps: Added to the norms of the columns, at least 0. Default: 1e-8.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. `flax_dimension_numbers` makes it for Flax
            models. For weights that are stored as in PyTorch it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`. Default: each leaf is the kernel of
            a dense layer in Flax, inputs first.
        axis_name: Name of the axis over workers. It may be a tuple of names. The workers are data-parallel, and each
            passes its own gradients, not averaged ones. None (the default): gradients are averaged already.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws the first `basis`. Must be equal on
            all workers.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByDionState`. All leaves must be matrices, except that leaves without entries pass
        unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, or a leaf is not a matrix.

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
        arXiv:2504.05295
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

        # Elementwise operations run leaf by leaf, because they would take long to compile on a stack of all leaves.
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
            kept = buffer - (1 - momentum) * step.approximation  # M_t, error feedback
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
    """Dion on hidden matrices, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_dion`::

        x = x - lr * (u + wd * x)

    Use it for large or sharded models: updates are orthonormalized like Muon's at a fraction of the cost, by products
    with factors of few columns, and sharded matrices stay sharded. One learning rate holds for layers of any width.
    Avoid it for embeddings, because their rows are seldom updated, and for the last layer: label these "other" in
    `labels`. One gradient with NaN stays in the momentum for ever: see `optax.apply_if_finite`.

    With `axis_name` it takes each worker's own gradients, and workers send factors in place of matrices, see
    `scale_by_dion`; then call `sync_momentum` before checkpoints. `scale_by_dion` has further arguments, such as more
    power iterations.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For networks 0.005 to 0.05.
        rank_fraction: See `scale_by_dion`. Default: 0.25.
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
            root of its number of inputs.
        rank: See `scale_by_dion`. Default: None, for `rank_fraction`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_dion`.
        axis_name: Name of the axis over workers. It may be a tuple of names. The workers are data-parallel, and each
            passes its own gradients, not averaged ones. None (the default): gradients are averaged already. The
            gradients of the other parameters are averaged before `others` sees them.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws where the first power iteration
            begins. Must be equal on all workers.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer. For each matrix its state is one number per entry, and the shorter side times the rank. To this
        comes the state of `others`; AdamW's is two numbers per parameter.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.dion(0.1, rank=1, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[0.0, 3.0], [0.0, 4.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates["kernel"][:, 1].round(2), updates["bias"].round(1)
        (Array([-0.06, -0.08], dtype=float32), Array([-0.1], dtype=float32))

    Reference:
        arXiv:2504.05295
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
    """Averages Dion's momenta over the workers; the parameters continue as they would have.

    Use it before checkpoints, and now and then if momenta drift apart, see `scale_by_dion`. It sends one momentum per
    matrix.

    Args:
        state: The state of an optimizer with Dion in it, on one worker.
        axis_name: Name of the axis over workers. It may be a tuple of names.

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
    """Adds the gradient of a leaf to its momentum, as matrices; averages it where workers do not send factors."""
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
        summary="Moves matrices by the orthonormalized low-rank part of the momentum; AdamW on other parameters.",
        paper=DION,
        also_known_as=("Distributed Orthonormalized Updates",),
        parts=(scale_by_dion, sync_momentum),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
        variants={"full_rank": Variant({"rank_fraction": 1.0}, grid=1e-2)},
    ),
)
