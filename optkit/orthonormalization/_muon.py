"""Muon: the update is the momentum, orthogonalized by a few Newton-Schulz steps.

Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein, "Muon: An optimizer for hidden layers in neural networks", 2024.
The rule is that of the author's code (KellerJordan/Muon). The forms of Liu et al., "Muon is Scalable for LLM Training",
2025, arXiv:2502.16982, and of microsoft/dion differ in the scale, in what epsilon is compared with, and in how matrices
are split. `optax.contrib.muon` corrects the bias of its Nesterov average, uses NAdam for other parameters, and so
differs from both.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import from_matrices, require_views, to_matrices
from optkit.core.linalg.newton_schulz import gram_newton_schulz, polar_express
from optkit.core.stacking import map_equal_shapes
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper, Variant
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._update_scale import SCALES, Scale

__all__ = ["muon", "scale_by_muon"]


def scale_by_muon(
    momentum: jax.typing.ArrayLike = 0.95,
    *,
    nesterov: bool = True,
    ema: bool = True,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: Scale | None = "jordan",
    scale_by_last_axes: bool = False,
    row_blocks: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by its momentum, orthogonalized by a few Newton-Schulz steps.

    The update rule with the default arguments, where m is the sum of the gradients and starts at zero::

        m = momentum * m + g
        c = (1 - momentum) * (g + momentum * m)
        u = sqrt(max(1, fan_out / fan_in)) * orthogonalize(c)

    `orthogonalize` moves all singular values to about 1, so those of the update are about the scale.

    Use it for hidden matrices, and `muon` for whole models. Avoid it for sharded matrices: Newton-Schulz multiplies
    whole matrices, which are gathered along one side in every step. `scale_by_dion` sends less.

    Args:
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.95.
        nesterov: Whether the gradient is added once more, as by Nesterov. Default: True.
        ema: Whether the momentum is an exponential average (Jordan et al.) or, with False, a sum (Liu et al. and
            microsoft/dion). Both give the same direction, except for the epsilon in `orthogonalize`. Default: True.
        orthogonalize: A function that moves the singular values of stacked matrices towards 1. Others are
            `polar_express` and `functools.partial(gram_newton_schulz, coefficients=...)`. Default:
            `gram_newton_schulz`, which computes the same as `newton_schulz` with fewer operations.
        scale: The factor on the orthogonalized momentum: `"jordan"` is `sqrt(max(1, fan_out / fan_in))`, `"spectral"`
            is `sqrt(fan_out / fan_in)`, `"rms"` is `0.2 * sqrt(max(fan_out, fan_in))`, which gives the size of AdamW's
            updates, and None is 1. Default: `"jordan"`.
        scale_by_last_axes: Whether the scale takes the last two axes of a leaf for its fan-out and fan-in, whatever
            they are, as the author's code does for PyTorch's convolutions. Default: False.
        row_blocks: The sizes of blocks into which the rows, that is the outputs, are split. Each block is
            orthogonalized and scaled by itself, for example the heads or the three parts of a fused attention. A tuple
            of sizes, or a tree of tuples that is a prefix of the parameters, with None for whole matrices. Default:
            None, all matrices are whole.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. `flax_dimension_numbers` makes it for Flax
            models. For weights that are stored as in PyTorch it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`. Default: each leaf is the kernel of
            a dense layer in Flax, inputs first.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with an `optax.TraceState`, whose `trace` is the sum of the gradients, also with `ema`. All
        leaves must be matrices, except that leaves without entries pass unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, or a leaf is not a matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_muon()
        >>> params = jnp.zeros((2, 2))
        >>> tx.update(jnp.array([[3.0, 0.0], [0.0, -2.0]]), tx.init(params), params)[0].round(2)
        Array([[ 1.12,  0.  ],
               [ 0.  , -0.68]], dtype=float32)

    Reference:
        Jordan et al., 2024 (no arXiv number).
    """
    refuse_arrays(row_blocks=row_blocks, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    orthogonalize = gram_newton_schulz if orthogonalize is None else orthogonalize
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_option("scale", scale, Scale, or_none=True)

    def blocks_of(view, sizes):
        """Returns the sizes of a leaf's blocks of rows."""
        if sizes is not None and sum(sizes) != view.row_count:
            raise ValueError(f"row_blocks must sum to the {view.row_count} rows of a matrix, got {sizes}")
        return (view.row_count,) if sizes is None else sizes

    def split_rows(x, view, sizes):
        if view is None:
            return None
        axis = -2 if view.rows_first else -1
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes) - 1)]
        return jnp.split(to_matrices(x, view), ends, axis=axis)

    def join_rows(x, view, sizes, blocks):
        if view is None:
            return x
        axis = -2 if view.rows_first else -1

        def scaled(block, rows):
            shape = view.shape[-2:] if scale_by_last_axes else (rows, view.column_count)
            return SCALES[scale](*shape) * block

        joined = [scaled(block, rows) for block, rows in zip(blocks, sizes, strict=True)]
        return from_matrices(x, view, joined[0] if len(joined) == 1 else jnp.concatenate(joined, axis))

    def update_fn(updates, params=None):
        del params
        views = require_views(updates, weight_dimension_numbers, "scale_by_muon")
        sizes = jax.tree.map(
            lambda sizes, part: jax.tree.map(lambda view: blocks_of(view, sizes), part),
            row_blocks,
            views,
            is_leaf=lambda node: node is None or _is_sizes(node),
        )
        averaged = jax.tree.map(lambda u: (1 - momentum) * u if ema else u, updates)
        blocks = jax.tree.map(split_rows, averaged, views, sizes)
        return jax.tree.map(join_rows, updates, views, sizes, map_equal_shapes(orthogonalize, blocks))

    return optax.chain(optax.trace(momentum, nesterov, mu_dtype), optax.stateless(update_fn))


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    nesterov: bool = True,
    ema: bool = True,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: Scale | None = "jordan",
    cautious_decay: bool = False,
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon on hidden matrices, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_muon`::

        x = x - lr * (u + wd * x)

    Use it for the hidden matrices of networks. It keeps one number per entry, half of AdamW's. Avoid it for embeddings,
    because their rows are seldom updated, and for the last layer: label these "other" in `labels`. Avoid it for sharded
    matrices, because they are gathered along one side: see `dion`.

    Unlike `optax.contrib.muon` it does not correct the bias of the momentum, runs on parameters that are sharded over
    explicit mesh axes, and computes leaves of one shape in one stack, in at least float32. Heads and fused layers may
    be matrices of their own, with `row_blocks` of `scale_by_muon`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The author's default is 0.02.
        momentum: See `scale_by_muon`. Default: 0.95.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. Only the matrices decay.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        labels: Which leaves are matrices: a tree of "matrix" and "other", or a function that makes it from the
            parameters. The tree may be a prefix of the parameters. A leaf with more than two axes that is labelled
            "matrix" and has no `weight_dimension_numbers` is a stack of matrices along its leading axes. Default: the
            leaves with exactly two axes, or those that have `weight_dimension_numbers`.
        others: The optimizer of all other parameters. It keeps its own learning rate, weight decay and mask, and runs
            in at least float32; `optax.partition` makes one of several. Default: AdamW with `learning_rate`, decay
            rates 0.9 and 0.95, epsilon 1e-10 and no weight decay, as in the authors' code. Their configurations use a
            learning rate of 3e-4 here and 0.02 for the matrices.
        nesterov: See `scale_by_muon`. Default: True.
        ema: See `scale_by_muon`. Default: True.
        orthogonalize: See `scale_by_muon`. Default: `gram_newton_schulz`.
        scale: See `scale_by_muon`; `"rms"` is Moonlight's. Default: `"jordan"`.
        cautious_decay: Whether only the matrix entries that the update moves towards zero decay. Default: False.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer. Its state is one number per entry of a matrix, and the state of `others`; AdamW's is two numbers
        per parameter.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.muon(1.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-1.12,  0.68], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Jordan et al., 2024 (no arXiv number).
        arXiv:2502.16982 (for the scale `"rms"`)
    """

    def direction(numbers):
        return scale_by_muon(
            momentum,
            nesterov=nesterov,
            ema=ema,
            orthogonalize=orthogonalize,
            scale=scale,
            weight_dimension_numbers=numbers,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "muon",
        learning_rate,
        direction,
        labels=labels,
        others=others,
        weight_decay=weight_decay,
        mask=mask,
        cautious_decay=cautious_decay,
        eps_of_others=1e-10,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )


def _is_sizes(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


METHODS = (
    Method(
        name="muon",
        factory=muon,
        kind="optimizer",
        summary="Moves matrices by the momentum, orthogonalized by Newton-Schulz steps; AdamW on other parameters.",
        paper=Paper("Muon: An optimizer for hidden layers in neural networks", "Jordan et al.", 2024),
        also_known_as=(
            "MomentUm Orthogonalized by Newton-Schulz",
            "SingleDeviceMuon",
            "MuonWithAuxAdam",
            "Moonlight",
            "Muon is Scalable for LLM Training, arXiv:2502.16982",
        ),
        parts=(scale_by_muon,),
        example={"learning_rate": 1e-2},
        grid=2e-2,
        variants={
            "moonlight": Variant({"scale": "rms", "ema": False, "learning_rate": 1e-2}, grid=3e-3),
            "polar_express": Variant({"orthogonalize": polar_express, "scale": "spectral"}, grid=2e-2),
        },
    ),
)
