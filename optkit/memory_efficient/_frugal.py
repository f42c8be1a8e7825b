"""FRUGAL: an optimizer with state in a subspace of each matrix's entries, signs of the gradient outside it.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837. Algorithm 1; the rule is that of the authors' code (fzmushko/FRUGAL), in which the
inner optimizer counts its steps from zero again in each new subspace. If a matrix lies in its subspace, rounding leaves
a remainder in the authors' code, and the code takes its sign; here the remainder is set to zero.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, widen
from optkit.core.types import Key, Mask
from optkit.memory_efficient._frugal_rest import Rest, apply_rest, check_rest, only_rest
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subspace_optimizer import along_projections, in_and_outside
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Paper

__all__ = ["frugal"]

# If a matrix lies in its subspace, the part outside is less than 2.5 units of rounding of the largest entry, times the
# root of the shorter axis (measured for matrices up to 1024 x 4096, of full and low rank, with one or many scales).
_ROUNDING = 8


class FrugalAlongProjectionsState(NamedTuple):
    """State of `frugal_along_projections`.

    Attributes:
        inner: State of the inner transformation for the coordinates in the subspaces.
    """

    inner: optax.OptState


def _unless_rounding(left: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns the part of each matrix outside its subspace, or zero if that part is only rounding error."""
    largest, of_all = (jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0) for x in (left, matrix))
    rounding = _ROUNDING * math.sqrt(min(matrix.shape[-2:])) * jnp.finfo(left.dtype).eps * of_all
    return jnp.where(largest <= rounding, 0.0, left)


def frugal_along_projections(
    inner: optax.GradientTransformation,
    projector: Projector,
    *,
    rest: Rest | None = "sign",
    rest_scale: jax.typing.ArrayLike = 1.0,
    scale: jax.typing.ArrayLike = 1.0,
    reset: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Makes `frugal` for projected leaves; `update` takes the extra arguments `projections` and `refreshed`.

    Args:
        inner: See `frugal`.
        projector: Maps leaves to their coordinates in the subspaces, and back.
        rest: See `frugal`.
        rest_scale: See `frugal`.
        scale: See `frugal`.
        reset: See `frugal`.

    Returns:
        A transformation with a `FrugalAlongProjectionsState`.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        low = jax.tree.map(lambda p: projector.down(projector.start(p), p), params)
        return FrugalAlongProjectionsState(inner=inner.init(low))

    def update_fn(updates, state, params=None, *, projections=None, refreshed=None, **extra_args):
        projections = required(projections, "projections", "frugal_along_projections", "projections=tree")
        refreshed = required(refreshed, "refreshed", "frugal_along_projections", "refreshed=True")

        def down(tree):
            return jax.tree.map(lambda x, p: projector.down(p, x), tree, projections)

        low = down(updates)  # Alg. 1, the projected gradient
        low_params = None if params is None else down(params)
        inner_state = state.inner
        if reset:
            fresh = inner.init(optax.tree.zeros_like(low) if low_params is None else low_params)
            inner_state = jax.tree.map(lambda new, old: jnp.where(refreshed, new, old), fresh, inner_state)
        low_updates, inner_state = inner.update(low, inner_state, low_params, **extra_args)

        def together(g, p, coordinates, update):
            whole = projector.up(p, update, g)
            if rest is not None and not projector.is_whole(g.shape):
                residual = widen(g) - projector.up(p, coordinates, g)  # Alg. 1, the state-free part
                if rest == "sign" and projector.of_vectors:
                    residual = _unless_rounding(residual, widen(g))
                whole = whole + rest_scale * apply_rest(rest, residual)
            return (scale * whole).astype(g.dtype)

        directions = jax.tree.map(together, updates, projections, low, low_updates)
        return directions, FrugalAlongProjectionsState(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def frugal_named(
    method: str,
    inner: optax.GradientTransformation,
    projector: Projector | None,
    update_gap: int | jax.Array,
    *,
    rest: Rest | None,
    rest_scale: jax.typing.ArrayLike,
    scale: jax.typing.ArrayLike,
    reset: bool,
    leaves: Any | None,
    weight_dimension_numbers: Any | None,
    key: Key | None,
) -> optax.GradientTransformationExtraArgs:
    """Makes `frugal` as a part of a method; error messages contain the method's name."""
    refuse_arrays(projector=projector, leaves=leaves, weight_dimension_numbers=weight_dimension_numbers)
    check_rest(rest, rest_scale, scale)
    projector = subspace_projector("svd", density=0.25) if projector is None else projector
    along = frugal_along_projections(inner, projector, rest=rest, rest_scale=rest_scale, scale=scale, reset=reset)
    inside = along_projections(along, projector, update_gap, key=key)
    without_subspace = only_rest(rest, rest_scale, scale)
    tx = in_and_outside(method, inside, inner, projector, leaves, weight_dimension_numbers, without_subspace)
    return only_real(method, tx)


def frugal(
    inner: optax.GradientTransformation,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    *,
    rest: Rest | None = "sign",
    rest_scale: jax.typing.ArrayLike = 1.0,
    scale: jax.typing.ArrayLike = 1.0,
    reset: bool = True,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation with state in a subspace of each matrix, and signs of the gradient outside the subspace.

    The update rule, where down(g) are the gradient's coordinates in the subspace of its matrix, up is the way back, and
    inner is the update of the inner transformation::

        c = down(g)
        r = g - up(c)
        u = scale * (up(inner(c)) + rest_scale * sign(r))

    Every `update_gap` steps a new subspace is chosen from the gradient, and the state of `inner` begins anew. Leaves
    that are not projected are updated by `inner` alone, with a state of their own and without `scale`. A projected leaf
    whose subspace has dimension zero gets `scale * rest_scale * sign(g)`.

    Use it when the state of an optimizer does not fit into memory: only the coordinates in the subspaces have state.
    Wrap a direction such as `optax.scale_by_adam()`, and put weight decay and learning rate after it, because they
    apply to both parts. Avoid it when the state fits, because outside the subspace every coordinate moves by the
    learning rate, however small its gradient is. The default projector computes a singular value decomposition of every
    matrix for each new subspace.

    Args:
        inner: The transformation that is wrapped, a direction without a learning rate. It gets a tree of the gradients'
            coordinates in the subspaces, and of the parameters' coordinates if parameters are given.
        projector: How the subspaces are chosen, from `subspace_projector` or `block_projector`. Default: None,
            `subspace_projector("svd", density=0.25)`. Columns, rows and entries are kept as indices and cost next to
            nothing; `block_projector` chooses whole leaves.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200.
        rest: What happens outside the subspace: "sign", "sgd" or None. Default: "sign", the sign of the gradient's part
            outside, or zero if that part is only rounding error. "sgd" uses that part itself. None leaves that part in
            place. All are multiplied by the learning rate that follows.
        rest_scale: Factor of the update outside the subspace, at least 0. Default: 1. The authors use 1 for
            pre-training and 0.1 for fine-tuning.
        scale: Factor of all updates of projected leaves, at least 0. Default: 1.
        reset: Whether the state of `inner` begins anew with each new subspace. Default: True.
        leaves: Which leaves are projected: a tree of booleans, or a function that makes it from the parameters.
            Default: None, the leaves with dimension numbers; without any dimension numbers, the leaves of exactly two
            axes. The authors leave out embeddings and the last layer.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, or a function that makes it from
            the parameters, or one entry for all leaves; `flax_dimension_numbers` makes it for Flax models. Default:
            None, where the last axis is over outputs and the one before it over inputs, as in Flax. Weights stored as
            in PyTorch need `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions
            always need numbers. Axes that it does not name count matrices, each with its own subspace.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.

    Returns:
        A transformation. Its state is that of `inner` for the coordinates in the subspaces, and the projections.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If an argument is outside its range, or if `key` is missing for a projector with random draws.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal(optax.identity(), optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.zeros((3, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, -1.0], [4.0, 6.0], [0.0, 2.0]]), tx.init(params), params)
        >>> updates.tolist()
        [[1.0, -1.0], [4.0, 6.0], [0.0, 1.0]]

    Reference:
        arXiv:2411.07837
    """
    return frugal_named(
        "frugal",
        inner,
        projector,
        update_gap,
        rest=rest,
        rest_scale=rest_scale,
        scale=scale,
        reset=reset,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )


def frugal_optimizer(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation,
    weight_decay: float | jax.Array,
    mask: Mask | None,
    *,
    projector: Projector | None,
    update_gap: int | jax.Array,
    rest_scale: jax.typing.ArrayLike,
    leaves: Any | None,
    weight_dimension_numbers: Any | None,
    key: Key | None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer from `frugal`: `inner` in the subspaces, signs outside them, then decay and learning rate."""
    refuse_arrays(mask=mask)
    direction = frugal_named(
        method,
        inner,
        projector,
        update_gap,
        rest="sign",
        rest_scale=rest_scale,
        scale=1.0,
        reset=True,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )
    decay = add_decay(method, weight_decay, mask)
    return in_float32(optax.chain(direction, decay, optax.scale_by_learning_rate(learning_rate)))


FRUGAL = Paper(
    "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    "Zmushko, Beznosikov, Takáč, Horváth",
    2024,
    "2411.07837",
)

METHODS = (
    Method(
        name="frugal",
        factory=frugal,
        kind="wrapper",
        summary="Runs an optimizer with state in a subspace of each matrix's entries, and sign descent outside it.",
        paper=FRUGAL,
        example={"projector": subspace_projector("svd", density=0.5)},
        learning_rate=1e-3,
        grid=1e-3,
        golden="frugal_adamw",
        # The learning rate comes after it, because it applies outside the subspace too.
        compose=lambda build, learning_rate: optax.chain(
            build(optax.trace(0.9)), optax.scale_by_learning_rate(learning_rate)
        ),
    ),
)
