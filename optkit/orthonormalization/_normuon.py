"""NorMuon: Muon whose updates have rows of equal size, by a second moment for each neuron.

Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491. The rule is that
of microsoft/dion, whose momentum is a sum and whose update gets back the Frobenius norm that it had. In the paper the
momentum is an average, and the update gets the root mean square of AdamW's updates (`ema=True, scale="paper_rms"`).
Norms and means are those of whole matrices, however they are sharded.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import from_matrices, require_views, to_matrices
from optkit.core.linalg.newton_schulz import polar_express
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes, unzip
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper, Variant
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._row_normalization import (
    columns_axis,
    divide_by_row_sizes,
    frobenius_norm,
    with_norm,
    zero_second_moments,
)
from optkit.orthonormalization._update_scale import SCALES, Scale

__all__ = ["normuon", "scale_by_normuon"]

NormuonScale = Literal[Scale, "paper_rms"]


class ScaleByNormuonState(NamedTuple):
    """State of `scale_by_normuon`.

    Attributes:
        momentum: An `optax.TraceState` with the sum of the gradients, shaped and sharded like the parameters, in
            `mu_dtype`. Equal on all workers.
        second_moment: Averages of the mean squares of an update's rows: one number per row, after the axes over
            separate matrices, in at least float32; None for leaves without entries. Equal on all workers.
    """

    momentum: optax.OptState
    second_moment: Any


class _Result(NamedTuple):
    direction: jax.Array
    second_moment: jax.Array


def scale_by_normuon(
    momentum: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    *,
    nesterov: bool = False,
    ema: bool = False,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    scale: NormuonScale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by its orthogonalized momentum, with rows divided by their usual size.

    The update rule with the default arguments, where `|.|` is the Frobenius norm; m and v, one number per row, start at
    zero::

        m = momentum * m + g
        o = orthogonalize(m)
        v = b2 * v + (1 - b2) * mean over each row of o^2
        w = o / (sqrt(v) + eps)
        u = sqrt(fan_out / fan_in) * w * |o| / max(|w|, eps)

    The singular values of o are about 1, but the sizes of its rows, one for each neuron, differ. They are made equal,
    and the whole is scaled back to the norm of o.

    Use it like `scale_by_muon` when neurons should move equally far. It costs one more number per neuron. Avoid it for
    sharded matrices: as in `scale_by_muon` they are gathered along one side.

    Args:
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.95.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.95. There is one second moment per row. Its bias is
            not corrected, because it is a common factor of the whole matrix, which the scaling cancels.
        nesterov: Whether the gradient is added once more, as by Nesterov. Default: False.
        ema: Whether the momentum is an exponential average, as in the paper, or with False a sum. Both give the same
            direction, except for the epsilon in `orthogonalize`. Default: False.
        orthogonalize: A function that moves the singular values of stacked matrices towards 1. Default:
            `polar_express`.
        eps: Added to the square root of the second moment, above 0. Default: 1e-8. It is also the smallest norm that is
            divided by.
        scale: `"spectral"`, `"rms"`, `"jordan"` or None, see `scale_by_muon`. `"paper_rms"` gives all updates a root
            mean square of 0.2 instead. Default: `"spectral"`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByNormuonState`. All leaves must be matrices, except that leaves without entries
        pass unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, or a leaf is not a matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_normuon(scale="paper_rms")
        >>> params = jnp.zeros((2, 3))
        >>> gradient = jnp.array([[3.0, 1.0, 1.0], [0.0, 1.0, -1.0]])
        >>> updates, state = tx.update(gradient, tx.init(params), params)
        >>> jnp.linalg.norm(updates, axis=0).round(2)
        Array([0.28, 0.28, 0.28], dtype=float32)

    Reference:
        arXiv:2510.05491
    """
    refuse_arrays(weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    orthogonalize = polar_express if orthogonalize is None else orthogonalize
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0, low_open=True)
    check_option("scale", scale, NormuonScale, or_none=True)
    trace = optax.trace(momentum, nesterov, mu_dtype)
    step = functools.partial(_step, b2=b2, orthogonalize=orthogonalize, eps=eps, scale=scale)

    def init_fn(params):
        views = require_views(params, weight_dimension_numbers, "scale_by_normuon")
        return ScaleByNormuonState(trace.init(params), jax.tree.map(zero_second_moments, params, views))

    def update_fn(updates, state, params=None):
        views = require_views(updates, weight_dimension_numbers, "scale_by_normuon")
        buffer, momentum_state = trace.update(updates, state.momentum, params)

        buffer = optax.tree.scale(1 - momentum, buffer) if ema else buffer
        buffer = jax.tree.map(to_matrices, buffer, views)
        results = map_equal_shapes(step, buffer, state.second_moment, jax.tree.map(columns_axis, views))
        directions, second_moments = unzip(buffer, results, 2)
        second_moments = optax.tree.cast_like(second_moments, state.second_moment)
        return jax.tree.map(from_matrices, updates, views, directions), ScaleByNormuonState(
            momentum_state, second_moments
        )

    return optax.GradientTransformation(init_fn, update_fn)


def normuon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    nesterov: bool = False,
    ema: bool = False,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: NormuonScale | None = "spectral",
    cautious_decay: bool = False,
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """NorMuon on hidden matrices, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_normuon`::

        x = x - lr * (u + wd * x)

    Use it like Muon, when all neurons should have updates of equal size. It costs one more number per neuron. Avoid it
    for embeddings, because their rows are seldom updated, and for the last layer: label these "other" in `labels`. One
    gradient with NaN stays in the momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For networks about 0.02; with the scales
            `"rms"` and `"paper_rms"` take AdamW's.
        momentum: See `scale_by_normuon`. Default: 0.95.
        b2: See `scale_by_normuon`. Default: 0.95.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.01. Only the matrices decay.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        labels: Which leaves are matrices: a tree of "matrix" and "other", or a function that makes it from the
            parameters. The tree may be a prefix of the parameters. A leaf with more than two axes that is labelled
            "matrix" and has no `weight_dimension_numbers` is a stack of matrices along its leading axes. Default: the
            leaves with exactly two axes, or those that have `weight_dimension_numbers`.
        others: The optimizer of all other parameters. It keeps its own learning rate, weight decay and mask, and runs
            in at least float32; `optax.partition` makes one of several. Default: AdamW with `learning_rate`, decay
            rates 0.9 and 0.95, epsilon 1e-8 and no weight decay, as in the authors' code. Their configurations use
            AdamW or Lion at the same learning rate, but for the last layer they divide it by the square root of its
            number of inputs.
        nesterov: See `scale_by_normuon`. Default: False.
        ema: See `scale_by_normuon`. Default: False.
        orthogonalize: See `scale_by_normuon`. Default: `polar_express`.
        scale: See `scale_by_normuon`. Default: `"spectral"`.
        cautious_decay: Whether only the matrix entries that the update moves towards zero decay. Default: False.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer. Its state is one number per entry and one per row of a matrix, and the state of `others`; AdamW's
        is two numbers per parameter.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.normuon(1.0, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0.93,  0.93], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        arXiv:2510.05491
    """

    def direction(numbers):
        return scale_by_normuon(
            momentum,
            b2,
            nesterov=nesterov,
            ema=ema,
            orthogonalize=orthogonalize,
            scale=scale,
            weight_dimension_numbers=numbers,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "normuon",
        learning_rate,
        direction,
        labels=labels,
        others=others,
        weight_decay=weight_decay,
        mask=mask,
        cautious_decay=cautious_decay,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )


def _step(
    buffer: jax.Array,
    second_moment: jax.Array,
    axis: int,
    *,
    b2: jax.typing.ArrayLike,
    orthogonalize: Callable[[jax.Array], jax.Array],
    eps: jax.typing.ArrayLike,
    scale: NormuonScale | None,
) -> _Result:
    """One step on stacked matrices, whose columns are counted by `axis`."""
    orthogonal = orthogonalize(widen(buffer))
    even, second_moment = divide_by_row_sizes(orthogonal, second_moment, axis, b2=b2, eps=eps)
    rows, columns = buffer.shape[-3 - axis], buffer.shape[axis]
    if scale == "paper_rms":
        return _Result(with_norm(even, 0.2 * math.sqrt(rows * columns), eps), second_moment)
    return _Result(with_norm(even, SCALES[scale](rows, columns) * frobenius_norm(orthogonal), eps), second_moment)


METHODS = (
    Method(
        name="normuon",
        factory=normuon,
        kind="optimizer",
        summary="Muon whose updates have rows of equal size; AdamW on other parameters.",
        paper=Paper("NorMuon: Making Muon more efficient and scalable", "Li et al.", 2025, "2510.05491"),
        also_known_as=("neuron-wise normalized Muon",),
        parts=(scale_by_normuon,),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=2e-2,
        variants={"paper": Variant({"ema": True, "scale": "paper_rms"}, grid=3e-3)},
    ),
)
