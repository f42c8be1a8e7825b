"""Subspace momentum: momentum in a subspace of each matrix's entries, the plain gradient in the rest.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`), but for the steps with a new
subspace: there the code applies the old subspace's momentum in the new one and forgets the step's gradient.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import bias_factor
from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import only_real
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import Key
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN
from optkit.memory_efficient._subspace_optimizer import along_projections, in_and_outside
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method

__all__ = ["subspace_momentum"]

Reset = Literal["before", "after", "never"]


class SubspaceMomentumState(NamedTuple):
    """State of `momentum_along_projections`.

    Attributes:
        count: number of updates so far, equal on all workers.
        momentum: exponential averages of the gradients' coordinates in the subspaces, in float32 at least.
    """

    count: jax.typing.ArrayLike
    momentum: Any


def momentum_along_projections(
    b1: jax.typing.ArrayLike, projector: Projector, *, debias: bool = False, reset: Reset = "before"
) -> optax.GradientTransformationExtraArgs:
    """Makes `subspace_momentum` of projected leaves; `update` takes the extra arguments `projections` and `refreshed`.

    Args:
        b1: as in `subspace_momentum`.
        projector: takes leaves down into their subspaces and up again.
        debias: as in `subspace_momentum`.
        reset: as in `subspace_momentum`.

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

        def unless_refreshed(momentum):
            return jax.tree.map(lambda m: jnp.where(refreshed & (state.count > 0), jnp.zeros_like(m), m), momentum)

        coordinates = jax.tree.map(lambda g, p: projector.down(p, g), updates, projections)
        last = unless_refreshed(state.momentum) if reset == "before" else state.momentum
        momentum = optax.tree.cast_like(optax.tree.update_moment(coordinates, last, b1, order=1), last)
        correction = bias_factor(b1, count, updates) if debias else 1.0

        def numerator(g, p, m, c):
            # What is not in the subspace stays as it is: up(m) + (g - up(c)).
            return ((widen(g) + projector.up(p, m - c, g)) / correction).astype(g.dtype)

        numerators = jax.tree.map(numerator, updates, projections, momentum, coordinates)
        kept = unless_refreshed(momentum) if reset == "after" else momentum
        return numerators, SubspaceMomentumState(count=count, momentum=kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def subspace_momentum_named(
    method: str,
    b1: jax.typing.ArrayLike,
    projector: Projector | None,
    update_gap: int | jax.Array,
    *,
    leaves: Any | None,
    weight_dimension_numbers: Any | None,
    debias: bool,
    reset: Reset,
    key: Key | None,
) -> optax.GradientTransformationExtraArgs:
    """Makes `subspace_momentum` as a part of a method, whose name stands in its errors."""
    refuse_arrays(projector=projector, leaves=leaves, weight_dimension_numbers=weight_dimension_numbers)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    projector = subspace_projector("svd", rank=128) if projector is None else projector
    check_option("reset", reset, Reset)
    along = momentum_along_projections(b1, projector, debias=debias, reset=reset)
    inside = along_projections(along, projector, update_gap, key=key, short_first_period=True)
    outside = optax.ema(b1, debias=debias)
    return only_real(method, in_and_outside(method, inside, outside, projector, leaves, weight_dimension_numbers))


def subspace_momentum(
    b1: jax.typing.ArrayLike = 0.9,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    *,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    debias: bool = False,
    reset: Reset = "before",
    key: Key | None = None,
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
            default those with dimension numbers, and without any numbers those of exactly two axes; the authors leave
            out embeddings and the last layer.
        weight_dimension_numbers: which axes of these leaves are a layer's inputs and outputs, as Optax's Muon takes
            it, with None for leaves that are no matrices. By default the last axis is over outputs and the one before
            over inputs, as in Flax; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions need numbers. Axes
            that it does not name count matrices, each with a subspace of its own.
        debias: divides by `1 - b1**t`, as Adam does. Off by default.
        reset: when averages begin anew for a new subspace: `"before"` (default), before its first step; `"after"`,
            behind it, as the published code does, which takes the last subspace's averages for those in the new one in
            that step; or `"never"`, the code's option `overlap_state`, which always takes them so.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.

    Returns:
        A transformation; for an m x n matrix in a subspace of r singular vectors its state is `r (m + n)` numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
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
    return subspace_momentum_named(
        "subspace_momentum",
        b1,
        projector,
        update_gap,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        debias=debias,
        reset=reset,
        key=key,
    )


METHODS = (
    Method(
        name="subspace_momentum",
        factory=subspace_momentum,
        kind="transformation",
        summary="Averages gradients in a subspace of each matrix's entries, and leaves what is outside of it as it is.",
        paper=LEAN_AND_MEAN,
        also_known_as=("subspace-momentum", "SM"),
        example={"projector": subspace_projector("svd", rank=2)},
        grid=3e-2,
        golden="sgd_sm",
        # Plain gradient descent behind it, since one momentum is enough.
        compose=lambda build, learning_rate: optax.chain(build(), optax.scale_by_learning_rate(learning_rate)),
    ),
)
