"""Subspace momentum: momentum in a subspace of each matrix's entries, the plain gradient outside it.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`), except in steps with a new
subspace: there the code applies the momentum of the old subspace in the new one and then discards it together with the
gradient of that step.
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
        count: Number of updates so far, equal on all workers.
        momentum: Exponential averages of the gradients' coordinates in the subspaces, at least in float32.
    """

    count: jax.typing.ArrayLike
    momentum: Any


def momentum_along_projections(
    b1: jax.typing.ArrayLike, projector: Projector, *, debias: bool = False, reset: Reset = "before"
) -> optax.GradientTransformationExtraArgs:
    """Makes `subspace_momentum` for projected leaves; `update` takes the extra arguments `projections` and `refreshed`.

    Args:
        b1: See `subspace_momentum`.
        projector: Maps leaves to their coordinates in the subspaces, and back.
        debias: See `subspace_momentum`.
        reset: See `subspace_momentum`.

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
    """Makes `subspace_momentum` as a part of a method; error messages contain the method's name."""
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
    """Averages the part of each gradient in a subspace, and leaves the part outside the subspace as it is.

    The update rule, where down(g) are the gradient's coordinates in the subspace of its matrix, and up is the way
    back::

        m = b1 * m + (1 - b1) * down(g)
        u = up(m) + (g - up(down(g)))

    With `debias`, u is divided by `1 - b1^t`, where t counts the steps from 1. Every `update_gap` steps a new subspace
    is chosen from the gradient, and its m begins at zero. Leaves without a subspace have a plain exponential average,
    `u = m = b1 * m + (1 - b1) * g`.

    Use it when a momentum of the size of the parameters does not fit into memory. Avoid it when it fits, because the
    part outside the subspace stays as noisy as the gradient; that part is not multiplied by `1 - b1` either. With
    `debias` the part outside is enlarged up to `1 / (1 - b1)` times in the first steps: warm the learning rate up.

    Args:
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9.
        projector: How the subspaces are chosen, from `subspace_projector`. Default: None,
            `subspace_projector("svd", rank=128)`. The singular value decomposition of large matrices is slow; random
            rows, or the rows of largest norm, cost next to nothing.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200. The momentum begins anew
            with each new subspace. The first subspace is kept for one step less, as in the authors' code.
        leaves: Which leaves have a subspace: a tree of booleans, or a function that makes it from the parameters.
            Default: None, the leaves with dimension numbers; without any dimension numbers, the leaves of exactly two
            axes. The authors leave out embeddings and the last layer.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, or a function that makes it from
            the parameters, or one entry for all leaves; `flax_dimension_numbers` makes it for Flax models. Default:
            None, where the last axis is over outputs and the one before it over inputs, as in Flax. Weights stored as
            in PyTorch need `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions
            always need numbers. Axes that it does not name count matrices, each with its own subspace.
        debias: Whether the update is divided by `1 - b1^t`, as in Adam. Default: False.
        reset: When the momentum begins anew for a new subspace: "before", "after" or "never". Default: "before", before
            the first step in the new subspace. "after" resets it after that step, as the published code does, so that
            this step uses the averages of the old subspace as if they were coordinates in the new one. "never" always
            keeps them in this way; it is the code's option `overlap_state`.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.

    Returns:
        A transformation. For an m x n matrix in a subspace of r singular vectors its state is `r (m + n)` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.subspace_momentum(0.5, optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.zeros((3, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 1.0], [4.0, 6.0], [0.0, 2.0]]), tx.init(params), params)
        >>> updates.tolist()
        [[1.0, 1.0], [2.0, 3.0], [0.0, 2.0]]

    Reference:
        arXiv:2411.07120
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
        summary="Averages the part of each gradient in a subspace, and leaves the part outside the subspace as it is.",
        paper=LEAN_AND_MEAN,
        also_known_as=("subspace-momentum", "SM"),
        example={"projector": subspace_projector("svd", rank=2)},
        grid=3e-2,
        golden="sgd_sm",
        # Plain gradient descent after it, because one momentum is enough.
        compose=lambda build, learning_rate: optax.chain(build(), optax.scale_by_learning_rate(learning_rate)),
    ),
)
