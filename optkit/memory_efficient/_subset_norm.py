"""Subset-norm: one second moment for each subset of a matrix's entries, in AdaGrad, RMSProp and Adam forms.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`): a subset's second moment is the
sum, not the mean, of its squares; epsilon is added before the bias is corrected; decay comes after the step.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.adam import bias_factor
from optkit.core.checks import check_range
from optkit.core.decay import decayed_after_step
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.linalg.matrix_view import MatrixView
from optkit.core.precision import widen
from optkit.core.types import DTypeLike, Mask
from optkit.memory_efficient._matrices import chosen_leaves, leaf_views
from optkit.method import Method, Paper, Variant

SubsetSize = int | Literal["heuristics"]


class ScaleBySubsetNormState(NamedTuple):
    """State of `scale_by_subset_norm`.

    Attributes:
        count: number of updates so far, equal on all workers; None without bias correction.
        nu: second moments of the subsets, in float32 at least: for a matrix by `"heuristics"` one for each index of its
            longer axis, with ones in the place of its other axes; by a number a vector of one for each block, behind
            the axes that count matrices; shaped and sharded like the parameter where every entry has its own.
        momentum: state of the transformation that gives the numerator; `optax.EmptyState` if that is the gradient.
    """

    count: Any
    nu: Any
    momentum: optax.OptState


def block_size(size: int, subset_size: int) -> int:
    """Gives the size of the blocks of a flattened leaf: the largest divisor of its size up to the one asked for.

    Args:
        size: of the leaf.
        subset_size: that of a block; `-j` stands for the root of `size` over `j`.

    Returns:
        A positive divisor of `size`.

    Example:
        >>> block_size(192, 5), block_size(192, -1), block_size(17, 4)
        (4, 12, 1)
    """
    wanted = subset_size if subset_size > 0 else int(math.sqrt(size) / -subset_size)
    return next(k for k in range(min(max(wanted, 1), max(size, 1)), 0, -1) if size % k == 0)


def subset_sum_of_squares(x: jax.Array, subset_size: SubsetSize, view: MatrixView | None = None) -> jax.Array:
    """Sums the squared magnitudes of each subset of a leaf, in float32 at least; a sum that overflows is NaN.

    Args:
        x: a leaf.
        subset_size: as in `scale_by_subset_norm`.
        view: how it is seen as matrices; None if it is no matrix.

    Returns:
        One number for each subset, shaped as `ScaleBySubsetNormState.nu` says.

    Example:
        >>> x = jnp.array([[1.0, 2.0], [2.0, 0.0], [0.0, 3.0]])
        >>> subset_sum_of_squares(x, "heuristics", leaf_views(x)).tolist()
        [[5.0], [4.0], [9.0]]
    """
    wide = widen(x)
    squares = wide.real**2 + wide.imag**2 if jnp.iscomplexobj(wide) else wide**2
    if subset_size == "heuristics":
        sums = squares
        if view is not None:
            shorter = view.columns if view.row_count >= view.column_count else view.rows
            sums = jnp.sum(squares, axis=shorter, keepdims=True)
    else:
        *batch, entries = _flat_shape(x.shape, view)
        size = block_size(entries, subset_size)
        sums = squares
        if size > 1:
            ordered = jnp.moveaxis(replicate(squares), () if view is None else view.batch, range(len(batch)))
            sums = jnp.sum(ordered.reshape(*batch, -1, size), axis=-1)
    # An infinite sum would stop its subset for ever and show nowhere.
    return jnp.where(jnp.isinf(sums), jnp.nan, sums)


def _flat_shape(shape: tuple[int, ...], view: MatrixView | None) -> tuple[int, ...]:
    """The axes that count separate matrices, and the number of entries of each."""
    batch = () if view is None else tuple(shape[axis] for axis in view.batch)
    return *batch, math.prod(shape[axis] for axis in range(len(shape)) if view is None or axis not in view.batch)


def _spread(values: jax.Array, like: jax.Array, view: MatrixView | None) -> jax.Array:
    """Brings one number for each subset to where it broadcasts over the leaf."""
    if values.ndim == like.ndim and all(
        size in (1, whole) for size, whole in zip(values.shape, like.shape, strict=True)
    ):
        return values
    *batch, entries = _flat_shape(like.shape, view)
    axes = () if view is None else view.batch
    blocks = jnp.broadcast_to(values[..., None], (*values.shape, entries // values.shape[-1]))
    rest = (size for axis, size in enumerate(like.shape) if axis not in axes)
    return shard_like(jnp.moveaxis(blocks.reshape(*batch, *rest), range(len(batch)), axes), like)


def scale_by_subset_norm_named(
    method: str,
    b2: jax.typing.ArrayLike | None,
    eps: jax.typing.ArrayLike,
    subset_size: SubsetSize,
    *,
    subset_leaves: Any | None,
    weight_dimension_numbers: Any | None,
    momentum: optax.GradientTransformation | None,
    bias_correction: bool,
) -> optax.GradientTransformationExtraArgs:
    """Makes `scale_by_subset_norm`, whose arguments all but one are, a part of the method that errors name."""
    refuse_arrays(
        subset_size=subset_size, subset_leaves=subset_leaves, weight_dimension_numbers=weight_dimension_numbers
    )
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    if subset_size != "heuristics":
        _check_subset_size(subset_size)
    if bias_correction and b2 is None:
        raise ValueError("bias_correction corrects averages and got b2=None, which makes sums: leave it out")
    numerator = optax.with_extra_args_support(optax.identity() if momentum is None else momentum)

    one_for_all = weight_dimension_numbers is None or isinstance(weight_dimension_numbers, MuonDimensionNumbers)

    def views(tree):
        # The authors' blocks are of the whole of any leaf, convolutions among them.
        if subset_size != "heuristics" and one_for_all:
            return jax.tree.map(lambda _: None, tree)
        return leaf_views(tree, weight_dimension_numbers)

    def sums_of_squares(tree):
        chosen = chosen_leaves(method, "subset_leaves", subset_leaves, tree, weight_dimension_numbers)
        sizes = jax.tree.map(lambda has_subsets: subset_size if has_subsets else 1, chosen)
        return jax.tree.map(subset_sum_of_squares, tree, sizes, views(tree))

    def init_fn(params):
        count = jnp.zeros([], jnp.int32) if bias_correction else None
        momentum = numerator.init(params)
        nu = sums_of_squares(optax.tree.zeros_like(params))
        return ScaleBySubsetNormState(count=count, nu=nu, momentum=momentum)

    def update_fn(updates, state, params=None, **extra_args):
        numerators, momentum_state = numerator.update(updates, state.momentum, params, **extra_args)
        sums = sums_of_squares(updates)
        count = optax.safe_increment(state.count) if bias_correction else None
        if b2 is None:
            nu, scale = optax.tree.add(state.nu, sums), 1.0
        else:
            nu = optax.tree.cast_like(optax.tree.update_moment(sums, state.nu, b2, order=1), state.nu)
            scale = 1.0 if count is None else jnp.sqrt(bias_factor(b2, count, updates))

        def direction(m, v, g, view):
            return (m * _spread(scale / (jnp.sqrt(v) + eps), m, view)).astype(g.dtype)

        directions = jax.tree.map(direction, numerators, nu, updates, views(updates))
        return directions, ScaleBySubsetNormState(count=count, nu=nu, momentum=momentum_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_subset_norm(
    b2: jax.typing.ArrayLike | None = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    subset_size: SubsetSize = "heuristics",
    *,
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    momentum: optax.GradientTransformation | None = None,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by the root of the second moment of their subset: RMSProp and AdaGrad with little state.

    Do not take it for leaves whose entries differ much in scale inside a subset (embeddings of rare and frequent words
    whose rows share one): the largest sets the step of all.

    Args:
        b2: decay of the second moments, in [0, 1); default 0.999. None sums them up instead, as AdaGrad does.
        eps: added to the root of the second moments, at least 0; default 1e-6.
        subset_size: `"heuristics"` (default) has one subset for each row of a matrix, or for each column of a wide one;
            what is no matrix has no subsets. A positive number has blocks of at most so many neighbours of the
            flattened leaf, of equal size, or of each of the matrices that numbers of its own say it holds; `-j` blocks
            of about the root of that size over `j`. Blocks are gathered where mesh axes are explicit.
        subset_leaves: tree of booleans, or a function that makes it from the parameters: the leaves with subsets; the
            others have one second moment for each entry. By default those with dimension numbers, and without any
            numbers those of exactly two axes; the authors leave out embeddings and the last layer.
        weight_dimension_numbers: which axes of these leaves are a layer's inputs and outputs, as Optax's Muon takes
            it, with None for leaves that are no matrices. By default the last axis is over outputs and the one before
            over inputs, as in Flax; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions need numbers. Axes
            that it does not name count matrices, each with subsets of its own.
        momentum: gives the numerator from the gradient, such as `optax.ema`; default the gradient itself. The second
            moments are always those of the gradient.
        bias_correction: corrects the zero start of the second moments, behind epsilon. Off by default.

    Returns:
        A transformation; its state is one number for each subset and that of `momentum`.

    Raises:
        ValueError: if a hyperparameter is out of its range, or `bias_correction` is asked for without `b2`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_subset_norm(b2=None)
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[3.0, 0.0], [4.0, 2.0]]), tx.init(params), params)
        >>> updates.round(3).tolist(), state.nu.tolist()
        ([[0.6000000238418579, 0.0], [0.800000011920929, 1.0]], [[25.0, 4.0]])

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    return scale_by_subset_norm_named(
        "scale_by_subset_norm",
        b2,
        eps,
        subset_size,
        subset_leaves=subset_leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=momentum,
        bias_correction=bias_correction,
    )


def _check_subset_size(subset_size: Any) -> None:
    if not isinstance(subset_size, int) or subset_size == 0:
        raise ValueError(f"subset_size must be 'heuristics' or an integer other than 0, got {subset_size!r}")


def adam_sn(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    bias_correction: bool = True,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with one second moment for each row or column of a matrix: half of Adam's state.

    The learning rate is about 10 times Adam's, since a second moment is a sum over a subset. Do not take it where rows
    or columns that share a second moment differ much in scale.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moments, in [0, 1); default 0.999.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.
        bias_correction: corrects the zero start of both moments. On by default.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter and one a subset.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adam_sn(10.0)
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[ -6.,  -0.],
               [ -8., -10.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    momentum = optax.ema(b1, debias=bias_correction, accumulator_dtype=mu_dtype)
    return decayed_after_step(
        "adam_sn",
        learning_rate,
        scale_by_subset_norm_named(
            "adam_sn",
            b2,
            eps,
            subset_size,
            subset_leaves=subset_leaves,
            weight_dimension_numbers=weight_dimension_numbers,
            momentum=momentum,
            bias_correction=bias_correction,
        ),
        weight_decay,
        mask,
    )


def rmsprop_sn(
    learning_rate: optax.ScalarOrSchedule,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp with one second moment for each row or column of a matrix: hardly any state.

    The zero start of the second moments is not corrected: the first steps are up to `1 / sqrt(1 - b2)` times as long as
    later ones, so warm up.

    Args:
        learning_rate: a positive number or a schedule.
        b2: decay of the second moments, in [0, 1); default 0.999.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.

    Returns:
        An optimizer; its state is one number a subset.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.rmsprop_sn(10.0, b2=0.75)
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[-12.,  -0.],
               [-16., -20.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    transformation = scale_by_subset_norm_named(
        "rmsprop_sn",
        b2,
        eps,
        subset_size,
        subset_leaves=subset_leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=None,
        bias_correction=False,
    )
    return decayed_after_step("rmsprop_sn", learning_rate, transformation, weight_decay, mask)


def adagrad_sn(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad with one sum of squares for each row or column of a matrix, and a momentum.

    Args:
        learning_rate: a positive number or a schedule; the authors' are about 1.
        b1: decay of the momentum, whose zero start is not corrected, in [0, 1); default 0.9. None keeps none.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.
        mu_dtype: dtype of the momentum; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter and one a subset, the latter alone without momentum.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adagrad_sn(10.0, b1=None)
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[ -6.,  -0.],
               [ -8., -10.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    momentum = None if b1 is None else optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)
    transformation = scale_by_subset_norm_named(
        "adagrad_sn",
        None,
        eps,
        subset_size,
        subset_leaves=subset_leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=momentum,
        bias_correction=False,
    )
    return decayed_after_step("adagrad_sn", learning_rate, transformation, weight_decay, mask)


LEAN_AND_MEAN = Paper(
    "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
    "Nguyen, Nguyen",
    2024,
    "2411.07120",
)

METHODS = (
    Method(
        name="adam_sn",
        factory=adam_sn,
        kind="optimizer",
        summary="Adam with one second moment for each row or column of a matrix.",
        paper=LEAN_AND_MEAN,
        example={"learning_rate": 1e-2},
        grid=3e-2,
        variants={"blocks": Variant({"subset_size": -1}, grid=3e-2)},
    ),
    Method(
        name="rmsprop_sn",
        factory=rmsprop_sn,
        kind="optimizer",
        summary="RMSProp with one second moment for each row or column of a matrix, and no momentum.",
        paper=LEAN_AND_MEAN,
        example={"learning_rate": 1e-2},
        grid=1e-2,
    ),
    Method(
        name="adagrad_sn",
        factory=adagrad_sn,
        kind="optimizer",
        summary="AdaGrad with one sum of squares for each row or column of a matrix, and a momentum.",
        paper=LEAN_AND_MEAN,
        example={"learning_rate": 1.0},
        grid=0.3,
    ),
)
