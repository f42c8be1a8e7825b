"""Subset-norm: one second moment for each subset of a matrix's entries, in the forms of AdaGrad, RMSProp and Adam.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120. The rule is that of the authors' code (sn-sm, `GenericOptim`): the second moment of a subset is
the sum, not the mean, of its squares; epsilon is added before the bias correction; the decay is applied after the step.
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
        count: Number of updates so far, equal on all workers; None without bias correction.
        nu: Second moments of the subsets, at least in float32. With `subset_size="heuristics"`, a matrix has one for
            each index of its longer axis, and its other axes have length one. With a number as `subset_size`, it is a
            vector with one entry for each block, after the axes that count matrices. If every entry has a second moment
            of its own, it has the shape and sharding of the parameter.
        momentum: State of the transformation that makes the numerator; `optax.EmptyState` if the numerator is the
            gradient.
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
    """Makes `scale_by_subset_norm` as a part of a method; error messages contain the method's name."""
    refuse_arrays(
        subset_size=subset_size, subset_leaves=subset_leaves, weight_dimension_numbers=weight_dimension_numbers
    )
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    if subset_size != "heuristics":
        _check_subset_size(subset_size)
    if bias_correction and b2 is None:
        raise ValueError("bias_correction must be False for sums of squares, which have no bias, got b2=None")
    numerator = optax.with_extra_args_support(optax.identity() if momentum is None else momentum)

    one_for_all = weight_dimension_numbers is None or isinstance(weight_dimension_numbers, MuonDimensionNumbers)

    def views(tree):
        # The authors divide any leaf as a whole into blocks, convolutions too.
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
    """Divides each gradient entry by the square root of a second moment that a subset of entries shares.

    The update rule, where the sum is over the entry's subset: by default the weights of one output (a row), or of one
    input if the matrix has more inputs than outputs (a column)::

        v = b2 * v + (1 - b2) * sum(g^2)          (v = v + sum(g^2) if b2 is None)
        u = g / (sqrt(v) + eps)

    With `bias_correction`, u is multiplied by `sqrt(1 - b2^t)`, where t counts the steps from 1. With `momentum`, the
    numerator is what that transformation makes of the gradient.

    Use it when the second moments of RMSProp, AdaGrad or Adam do not fit into memory: a matrix needs one number per row
    or column instead of one per entry. Avoid it for leaves whose entries differ much in scale inside a subset (for
    example embeddings, if rare and frequent words share a subset), because the largest entries determine the step of
    all.

    Args:
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999. None sums the squares instead, as AdaGrad does.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6. It is added before the bias
            correction.
        subset_size: How a leaf is divided into subsets: "heuristics" or an integer other than 0. Default: "heuristics",
            one subset for each row of a matrix, or for each column if it has more columns than rows; leaves that are
            not matrices have one second moment for each entry. A positive number divides the flattened leaf into blocks
            of equal size, the largest size up to this number that divides the leaf. A negative number -j makes blocks
            of about `sqrt(size) / j` entries. If `weight_dimension_numbers` is a tree or a function, each matrix of a
            leaf is divided into blocks of its own. Blocks are gathered if mesh axes are explicit.
        subset_leaves: Which leaves have subsets: a tree of booleans, or a function that makes it from the parameters.
            The other leaves have one second moment for each entry. Default: None, the leaves with dimension numbers;
            without any dimension numbers, the leaves of exactly two axes. The authors leave out embeddings and the last
            layer.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, or a function that makes it from
            the parameters, or one entry for all leaves; `flax_dimension_numbers` makes it for Flax models. Default:
            None, where the last axis is over outputs and the one before it over inputs, as in Flax. Weights stored as
            in PyTorch need `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`, and convolutions
            always need numbers. Axes that it does not name count matrices, each with its own subsets.
        momentum: The transformation that makes the numerator from the gradient, for example `optax.ema`. Default: None,
            where the numerator is the gradient itself. The second moments are always those of the gradient.
        bias_correction: Whether the bias of the second moments, which start at zero, is corrected. Default: False.

    Returns:
        A transformation. Its state is one number for each subset and the state of `momentum`.

    Raises:
        ValueError: If a hyperparameter is outside its range, or if `bias_correction` is True and `b2` is None.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_subset_norm(b2=None)
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[3.0, 0.0], [4.0, 2.0]]), tx.init(params), params)
        >>> updates.round(3).tolist(), state.nu.tolist()
        ([[0.6000000238418579, 0.0], [0.800000011920929, 1.0]], [[25.0, 4.0]])

    Reference:
        arXiv:2411.07120
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
