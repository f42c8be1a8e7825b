"""Subset-norm: one second moment for each subset of a matrix's entries, in AdaGrad, RMSProp and Adam forms.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`): a subset's second moment is the
sum, not the mean, of its squares; epsilon is added before the bias is corrected; decay comes after the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.adam import bias_factor
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.memory_efficient._matrices import chosen_leaves, leaf_views
from optkit.memory_efficient._subset_sums import SubsetSize, spread, subset_sum_of_squares
from optkit.method import Paper

__all__ = ["scale_by_subset_norm"]


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
    """Makes `scale_by_subset_norm` as a part of a method, whose name stands in its errors."""
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
            return (m * spread(scale / (jnp.sqrt(v) + eps), m, view)).astype(g.dtype)

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


LEAN_AND_MEAN = Paper(
    "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
    "Nguyen, Nguyen",
    2024,
    "2411.07120",
)
