"""NorMuon: Muon whose updates have rows of equal size, by a second moment for each neuron.

Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491. The rule is that
of microsoft/dion, whose momentum is a sum and which gives the update the Frobenius norm that it had; the paper's is an
average, and gives it the root mean square of AdamW's updates (`ema=True, scale="paper_rms"`). Norms and means are those
of whole matrices, however they are sharded.
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
        momentum: an `optax.TraceState` with the sum of the gradients, shaped and sharded like the parameters, in
            `mu_dtype`. Equal on all workers.
        second_moment: averages of the mean squares of an update's rows, as many as a matrix has rows, after the axes
            over separate matrices, in float32 at least; None for leaves without entries. Equal on all workers.
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
    """Replaces the gradient of a matrix by its orthogonalized momentum with rows divided by their usual size.

    Singular values of an orthogonalized update are about one, but the sizes of its rows, one for each neuron, differ.
    They are evened out, and the whole is scaled to the Frobenius norm that it had. What `scale_by_muon` says of sharded
    matrices holds here too.

    Args:
        momentum: decay of the momentum, in [0, 1); default 0.95.
        b2: decay of the rows' second moments, in [0, 1); default 0.95. Their bias is not corrected: it is a factor of
            the whole matrix, which the scaling takes out.
        nesterov: whether the gradient is added once more, as by Nesterov; off by default.
        ema: whether the momentum is an exponential average (the paper) or a sum (default). They give the same
            directions but for the epsilon in `orthogonalize`.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        eps: added to the roots of second moments, and the least norm that is divided by; above 0, default 1e-8.
        scale: `"spectral"` (default), `"rms"`, `"jordan"` or None, as in `scale_by_muon`. `"paper_rms"` gives all
            updates a root mean square of 0.2 instead.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_muon`.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByNormuonState`. All leaves must be matrices, but leaves without entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, or a leaf is no matrix.

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
        Li et al., "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.
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
    """NorMuon on hidden matrices, AdamW or what `others` is on all other parameters.

    Muon with updates of equal size for all neurons, which costs one number a neuron. Do not take it for embeddings,
    whose rows are seldom touched, nor for the last layer: name these in `labels`. One NaN gradient stays in the
    momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: a positive number or a schedule; about 0.02 for networks, and AdamW's with the scales `"rms"` and
            `"paper_rms"`.
        momentum: decay of the momentum, in [0, 1); default 0.95.
        b2: decay of the rows' second moments, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of NorMuon's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and epsilon 1e-8, without decay; their configurations take AdamW or Lion at the same rate, but
            that over the root of the inputs for the last layer.
        nesterov: whether the gradient is added once more, as by Nesterov; off by default.
        ema: whether the momentum is an exponential average or a sum (default), see `scale_by_normuon`.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        scale: `"spectral"` (default), `"rms"`, `"jordan"`, `"paper_rms"` or None, see `scale_by_normuon`.
        cautious_decay: decays only those of NorMuon's parameters that the update moves towards zero; off by default.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_normuon`; a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry and one a row of a matrix, and that of `others`: AdamW's is two
        for each of its parameters.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.normuon(1.0, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0.93,  0.93], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Li et al., "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.
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
    """One step of stacked matrices, whose columns are counted by `axis`."""
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
