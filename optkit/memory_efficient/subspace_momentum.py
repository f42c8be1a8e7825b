"""Subspace momentum: momentum in a subspace of each matrix's entries, the plain gradient in the rest.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`), but for the steps with a new
subspace: there the code applies the old subspace's momentum in the new one and forgets the step's gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import required
from optkit.core.precision import widen
from optkit.memory_efficient.along_projections import along_projections, in_and_outside
from optkit.memory_efficient.matrices import is_matrix
from optkit.memory_efficient.projector import Projector
from optkit.memory_efficient.subspaces import subspace_projector


class SubspaceMomentumState(NamedTuple):
    """State of `momentum_along_projections`.

    Attributes:
        count: number of updates so far, equal on all workers.
        momentum: exponential averages of the gradients' coordinates in the subspaces, in float32 at least.
    """

    count: jax.typing.ArrayLike
    momentum: Any


def momentum_along_projections(
    b1: jax.typing.ArrayLike, projector: Projector, *, debias: bool = False, stale_refresh: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Is `subspace_momentum` of projected leaves; `update` takes the extra arguments `projections` and `refreshed`.

    Args:
        b1: as in `subspace_momentum`, as are all others.
        projector: takes leaves down into their subspaces and up again.
        debias: as there.
        stale_refresh: as there.

    Returns:
        A transformation with a `SubspaceMomentumState`.
    """

    def init_fn(params):
        momentum = jax.tree.map(lambda p: projector.down(projector.start(p), jnp.zeros_like(p)), params)
        return SubspaceMomentumState(count=jnp.zeros([], jnp.int32), momentum=momentum)

    def update_fn(updates, state, params=None, *, projections=None, refreshed=None, **extra_args):
        del params, extra_args
        projections = required(projections, "projections", "momentum_along_projections", "projections=tree")
        refreshed = required(refreshed, "refreshed", "momentum_along_projections", "refreshed=True")
        count = optax.safe_increment(state.count)

        def restarted(momentum):
            return jax.tree.map(lambda m: jnp.where(refreshed & (state.count > 0), jnp.zeros_like(m), m), momentum)

        coordinates = jax.tree.map(lambda g, p: projector.down(p, g), updates, projections)
        last = state.momentum if stale_refresh else restarted(state.momentum)
        momentum = optax.tree.cast_like(optax.tree.update_moment(coordinates, last, b1, order=1), last)
        correction = 1 - b1**count if debias else 1.0

        def numerator(g, p, m, c):
            # What is not in the subspace stays as it is: up(m) + (g - up(c)).
            return ((widen(g) + projector.up(p, m - c, g)) / correction).astype(g.dtype)

        numerators = jax.tree.map(numerator, updates, projections, momentum, coordinates)
        kept = restarted(momentum) if stale_refresh else momentum
        return numerators, SubspaceMomentumState(count=count, momentum=kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def momentum_inside_and_outside(
    inside: optax.GradientTransformation, b1: jax.typing.ArrayLike, projector: Projector, leaves: Any, *, debias: bool
) -> optax.GradientTransformationExtraArgs:
    """Gives leaves that are not projected a plain momentum."""
    return in_and_outside(inside, optax.ema(b1, debias=debias), projector, leaves)


def subspace_momentum(
    b1: jax.typing.ArrayLike = 0.9,
    projector: Projector | None = None,
    update_gap: int = 200,
    *,
    leaves: Any = is_matrix,
    debias: bool = False,
    stale_refresh: bool = False,
    key: int | jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients in a subspace and leaves what is outside of it as it is; other leaves get a plain momentum.

    The part outside is not multiplied by `1 - b1`, and with `debias` the first gradients' part outside is enlarged up
    to `1 / (1 - b1)` times: warm up. Do not take it where momentum fits into memory.

    Args:
        b1: decay of the averages, in [0, 1); default 0.9.
        projector: chooses the subspaces; default `subspace_projector("svd", rank=128)`. The singular value
            decomposition of large matrices is slow; random or top rows cost next to nothing.
        update_gap: number of steps for which subspaces stay, at least 1; default 200. With new ones the momentum begins
            anew. The first ones stay for a step less, as in the authors' code.
        leaves: tree of booleans, or a function that makes it from the parameters: the leaves with a subspace. By
            default those with two axes or more.
        debias: divides by `1 - b1**t`, as Adam does. Off by default.
        stale_refresh: takes the average of the last subspace's coordinates for that in the new one, in its first step,
            and begins anew behind it: the published code's behaviour. Off by default.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.

    Returns:
        A transformation; for an m x n matrix in a subspace of r singular vectors its state is `r (m + n)` numbers.

    Raises:
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.subspace_momentum(0.5, optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.zeros((3, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 1.0], [4.0, 6.0], [0.0, 2.0]]), tx.init(params), params)
        >>> updates.tolist()
        [[1.0, 1.0], [2.0, 3.0], [0.0, 2.0]]

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    projector = subspace_projector("svd", rank=128) if projector is None else projector
    along = momentum_along_projections(b1, projector, debias=debias, stale_refresh=stale_refresh)
    inside = along_projections(along, projector, update_gap, key=key, short_first_period=True)
    return momentum_inside_and_outside(inside, b1, projector, leaves, debias=debias)
