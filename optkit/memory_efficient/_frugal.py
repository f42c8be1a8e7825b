"""FRUGAL: an optimizer with state in a subspace of each matrix's entries, signs of the gradient in the rest.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837. Algorithm 1; the rule is that of the authors' code (fzmushko/FRUGAL), which counts
the inner optimizer's steps anew with each subspace. Where a matrix lies in its subspace, rounding leaves the code a
rest, whose sign it takes; here there is none.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, widen
from optkit.core.types import DTypeLike, Key, Mask
from optkit.memory_efficient._blocks import block_projector
from optkit.memory_efficient._frugal_rest import Rest, apply_rest, check_rest, only_rest
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subspace_optimizer import along_projections, in_and_outside
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Paper, Variant

# Projections leave of a matrix in its subspace less than 2.5 units of rounding of its largest entry, times the root
# of the shorter axis (measured for matrices up to 1024 x 4096, of full and of low rank, of one scale and of many).
_ROUNDING = 8


class FrugalAlongProjectionsState(NamedTuple):
    """State of `frugal_along_projections`.

    Attributes:
        inner: state of the inner transformation for the coordinates in the subspaces.
    """

    inner: optax.OptState


def _unless_rounding(left: jax.Array, matrix: jax.Array) -> jax.Array:
    """Gives what is left of each matrix outside its subspace, zero where that is nothing but rounding."""
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
    """Is `frugal` of projected leaves; `update` takes the extra arguments `projections` and `refreshed`.

    Args:
        inner: as in `frugal`, as are all others.
        projector: takes leaves down into their subspaces and up again.
        rest: as there.
        rest_scale: as there.
        scale: as there.
        reset: as there.

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
    projector: Projector,
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
    """Makes `frugal`, whose arguments all but one are, a part of the method that errors name."""
    refuse_arrays(projector=projector, leaves=leaves, weight_dimension_numbers=weight_dimension_numbers)
    check_rest(rest, rest_scale, scale)
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
    """Runs a transformation with state in a subspace of each matrix's entries, and one without state in the rest.

    Wrap a direction such as `optax.scale_by_adam()`; decay and learning rate, which hold for both parts, stand behind
    it. The rest moves at the learning rate in every coordinate. Do not take it where the state fits into memory.

    Args:
        inner: gets a tree of the gradients' coordinates in the subspaces, and the parameters' if there are any. Another
            one, with its own state, gets the leaves that are not projected.
        projector: chooses the subspaces; default `subspace_projector("svd", density=0.25)`. Columns, rows and entries
            keep indices only and cost next to nothing; `block_projector` takes whole leaves.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        rest: what is done outside the subspace, with the learning rate: `"sign"` (default), the sign of the gradient's
            part there, or nothing where that part is nothing but rounding; `"sgd"`, that part; or None, nothing.
        rest_scale: factor on what is done there, at least 0; default 1, the authors' for pre-training; 0.1 is theirs
            for fine-tuning.
        scale: factor on all updates of projected leaves, at least 0; default 1.
        reset: whether the state begins anew with each subspace. On by default.
        leaves: tree of booleans, or a function that makes it from the parameters: the leaves that are projected. By
            default those with dimension numbers, and without any numbers those of exactly two axes; the authors leave
            out embeddings and the last layer.
        weight_dimension_numbers: which axes of projected leaves are a layer's inputs and outputs, as Optax's Muon takes
            it, with None for leaves that are no matrices. By default the last axis is over outputs and the one before
            over inputs, as in Flax; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions need numbers. Axes
            that it does not name count matrices, each with a subspace of its own.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.

    Returns:
        A transformation; its state is that of `inner` for the subspaces alone, and the projections.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if an argument is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal(optax.identity(), optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.zeros((3, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, -1.0], [4.0, 6.0], [0.0, 2.0]]), tx.init(params), params)
        >>> updates.tolist()
        [[1.0, -1.0], [4.0, 6.0], [0.0, 1.0]]

    Reference:
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
    """
    return frugal_named(
        "frugal",
        inner,
        subspace_projector("svd", density=0.25) if projector is None else projector,
        update_gap,
        rest=rest,
        rest_scale=rest_scale,
        scale=scale,
        reset=reset,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )


def frugal_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    rest: Rest | None = "sign",
    rest_scale: jax.typing.ArrayLike = 1.0,
    scale: jax.typing.ArrayLike = 1.0,
    reset: bool = True,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.

    Do not take it where the state of Adam fits into memory.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces, as in `frugal`; default `subspace_projector("svd", density=0.25)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        rest: what is done outside the subspace, `"sign"` (default), `"sgd"` or None, as in `frugal`.
        rest_scale: factor on what is done there, at least 0; default 1.
        scale: factor on all updates of projected leaves, at least 0; default 1.
        reset: whether the state begins anew with each subspace. On by default.
        leaves: those that are projected, as in `frugal`. By default those with dimension numbers, and without any
            numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `frugal`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.

    Returns:
        An optimizer; for a projected matrix with a share `density` of all columns its state is twice that share of one
        number a parameter, and indices.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal_adamw(1.0, projector=optkit.subspace_projector("columns", density=0.5), key=0)
        >>> params = jnp.array([[3.0, -4.0], [0.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round(2)
        Array([[-1.,  1.],
               [-0., -1.]], dtype=float32)

    Reference:
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            frugal_named(
                "frugal_adamw",
                optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
                subspace_projector("svd", density=0.25) if projector is None else projector,
                update_gap,
                rest=rest,
                rest_scale=rest_scale,
                scale=scale,
                reset=reset,
                leaves=leaves,
                weight_dimension_numbers=weight_dimension_numbers,
                key=key,
            ),
            add_decay("frugal_adamw", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def _lion(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, mu_dtype: DTypeLike | None
) -> optax.GradientTransformation:
    """Is Lion without steps of full length for ever after one infinite gradient: it is NaN from then on."""
    lion = optax.scale_by_lion(b1, b2, mu_dtype)

    def update_fn(updates, state, params=None):
        return lion.update(jax.tree.map(lambda g: jnp.where(jnp.isinf(g), jnp.nan, g), updates), state, params)

    return optax.GradientTransformation(lion.init, update_fn)


def frugal_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    rest: Rest | None = "sign",
    rest_scale: jax.typing.ArrayLike = 1.0,
    scale: jax.typing.ArrayLike = 1.0,
    reset: bool = True,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion in a subspace of each matrix's entries, signs of the gradient in the rest.

    Do not take it where gradients are mostly noise: their signs move as far as those of clear ones.

    Args:
        learning_rate: a positive number or a schedule; 3 to 10 times smaller than AdamW's.
        b1: weight of the momentum in the interpolation with the gradient, in [0, 1]; default 0.9.
        b2: decay of the momentum, in [0, 1]; default 0.99.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces, as in `frugal`; default `subspace_projector("svd", density=0.25)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        rest: what is done outside the subspace, `"sign"` (default), `"sgd"` or None, as in `frugal`.
        rest_scale: factor on what is done there, at least 0; default 1.
        scale: factor on all updates of projected leaves, at least 0; default 1.
        reset: whether the state begins anew with each subspace. On by default.
        leaves: those that are projected, as in `frugal`. By default those with dimension numbers, and without any
            numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `frugal`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.
        mu_dtype: dtype of the momentum; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a coordinate in the subspaces, and the projections.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal_lion(1.0, projector=optkit.subspace_projector("columns", density=0.5), key=0)
        >>> params = jnp.array([[3.0, -4.0], [0.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round(2)
        Array([[-1.,  1.],
               [-0., -1.]], dtype=float32)

    Reference:
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            frugal_named(
                "frugal_lion",
                _lion(b1, b2, mu_dtype),
                subspace_projector("svd", density=0.25) if projector is None else projector,
                update_gap,
                rest=rest,
                rest_scale=rest_scale,
                scale=scale,
                reset=reset,
                leaves=leaves,
                weight_dimension_numbers=weight_dimension_numbers,
                key=key,
            ),
            add_decay("frugal_lion", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


_FRUGAL = Paper(
    "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    "Zmushko, Beznosikov, Takáč, Horváth",
    2024,
    "2411.07837",
)

METHODS = (
    Method(
        name="frugal_adamw",
        factory=frugal_adamw,
        kind="optimizer",
        summary="AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.",
        paper=_FRUGAL,
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", density=0.5)},
        grid=1e-3,
        variants={
            "columns": Variant({"projector": subspace_projector("columns", density=0.5), "key": 0}, grid=1e-3),
            "blocks": Variant({"projector": block_projector(0.5), "key": 0}, grid=1e-3),
        },
    ),
    Method(
        name="frugal_lion",
        factory=frugal_lion,
        kind="optimizer",
        summary="Lion in a subspace of each matrix's entries, signs of the gradient in the rest.",
        paper=_FRUGAL,
        example={"learning_rate": 1e-2, "projector": subspace_projector("randk", density=0.5), "key": 0},
        grid=3e-4,
    ),
)
