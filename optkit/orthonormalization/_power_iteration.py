"""Dion's power iteration on whole matrices, which JAX may have sharded: one step of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.orthonormal import Orthonormalize
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.orthonormalization._low_rank import sends_factors


class Step(NamedTuple):
    """The result of one step on stacked matrices.

    Attributes:
        direction: `P Q^T`, the update.
        approximation: `P R^T`, what the update takes out of the momentum.
        basis: `Q`, where the next step begins.
    """

    direction: jax.Array
    approximation: jax.Array
    basis: jax.Array


def orthonormal_sides(views: Any, transpose: Any) -> Any:
    """Returns, for each leaf, whether columns are orthonormalized along the first axis of its matrices."""

    def first(view, transposed):
        transposed = view.row_count < view.column_count if transposed is None else transposed
        return view.rows_first != transposed

    if transpose is None:
        return jax.tree.map(lambda view: first(view, None), views)
    return jax.tree.map(
        lambda transposed, part: jax.tree.map(lambda view: first(view, transposed), part), transpose, views
    )


def power_iteration(
    buffer: jax.Array,
    basis: jax.Array,
    first: bool,
    *,
    iterations: int,
    orthonormalize: Orthonormalize,
    eps: jax.typing.ArrayLike,
    axis_name: AxisName | tuple[str, ...] | None,
) -> Step:
    """Approximates stacked momenta by the product of an orthonormal factor and another one.

    Args:
        buffer: The momenta plus the gradients, as matrices along leading axes.
        basis: Where the iteration begins.
        first: Whether columns are orthonormalized along the first axis of a matrix, instead of the second.
        iterations: How many iterations are done, at least 1.
        orthonormalize: A function that returns an orthonormal basis of the columns of stacked matrices.
        eps: Added to the norms of the columns.
        axis_name: Name of the axis over workers. It may be a tuple of names. The workers average the factors where
            these are fewer numbers than the matrix.

    Returns:
        The update, what it took out of the momentum, and the next basis.
    """
    basis = widen(basis)
    matrix = "mn" if first else "nm"
    axis_name = axis_name if sends_factors(basis.shape[-1], *buffer.shape[-2:]) else None
    adjoint = buffer.conj()

    def iterate(right):
        product = collectives.pmean(einsum(f"...{matrix},...nr->...mr", buffer, right), axis_name)
        left = orthonormalize(product)  # P_t = orth(B_t Q_{t-1})
        return left, collectives.pmean(einsum(f"...{matrix},...mr->...nr", adjoint, left), axis_name)  # R_t = B_t^T P_t

    left, right = iterate(basis)
    for _ in range(iterations - 1):
        left, right = iterate(right)
    # A momentum of zeros gives zeros, on all workers or on none.
    nothing = ~jnp.any(right, axis=(-2, -1), keepdims=True)
    left, right = jnp.where(nothing, 0, left), jnp.where(nothing, basis, right)
    new_basis = right / (jnp.linalg.norm(right, axis=-2, keepdims=True) + eps)  # Q_t
    return Step(
        direction=einsum(f"...mr,...nr->...{matrix}", left, new_basis.conj()),  # P_t Q_t^T
        approximation=einsum(f"...mr,...nr->...{matrix}", left, right.conj()),  # P_t R_t^T
        basis=new_basis,
    )
