"""Muon: the momentum, orthogonalized by a few Newton-Schulz steps.

Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein, "Muon: An optimizer for hidden layers in neural networks", 2024;
the rule is that of the author's code (KellerJordan/Muon). The forms of Liu et al., "Muon is Scalable for LLM Training",
2025, arXiv:2502.16982, and of microsoft/dion differ in the scale, in what epsilon counts beside, and in what is split.
`optax.contrib.muon` corrects the bias of its Nesterov average, takes NAdam for other parameters, and drifts from both.
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
    """Replaces the gradient of a matrix by its orthogonalized momentum.

    All singular values of an update are about the scale. Newton-Schulz multiplies whole matrices: sharded ones are
    gathered along one side in every step; see `scale_by_dion` for an update that sends less.

    Args:
        momentum: decay of the momentum, in [0, 1); default 0.95.
        nesterov: whether the gradient is added once more, as by Nesterov; on by default.
        ema: whether the momentum is an exponential average (default, Jordan et al.) or a sum (Liu et al. and
            microsoft/dion). They give the same directions but for the epsilon in `orthogonalize`.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `gram_newton_schulz`, which
            gives what `newton_schulz` does in fewer operations; `polar_express` and
            `functools.partial(gram_newton_schulz, coefficients=...)` are others.
        scale: `"jordan"` (default) multiplies by `sqrt(max(1, fan_out / fan_in))`, `"spectral"` by
            `sqrt(fan_out / fan_in)`, `"rms"` by `0.2 * sqrt(max(fan_out, fan_in))`, which has the size of AdamW's
            updates; None by nothing.
        scale_by_last_axes: takes the last two axes of a leaf for its fan-out and fan-in in the scale, whatever they
            are, as the author's code does for PyTorch's convolutions; off by default.
        row_blocks: splits rows, that is outputs, into blocks with a scale of their own, such as the heads or the three
            parts of a fused attention: a tuple of their sizes, or a tree of tuples, a prefix of the parameters, with
            None for matrices that are whole. None by default.
        weight_dimension_numbers: which axes are inputs and outputs, as Optax's Muon takes it. By default a leaf is the
            kernel of a dense layer in Flax, inputs first; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`; `flax_dimension_numbers` has those
            of Flax's layers. Other axes count matrices.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with an `optax.TraceState`, whose `trace` is the sum of gradients in both forms. All leaves
        must be matrices, but leaves without entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, or a leaf is no matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_muon()
        >>> params = jnp.zeros((2, 2))
        >>> tx.update(jnp.array([[3.0, 0.0], [0.0, -2.0]]), tx.init(params), params)[0].round(2)
        Array([[ 1.12,  0.  ],
               [ 0.  , -0.68]], dtype=float32)

    Reference:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    refuse_arrays(row_blocks=row_blocks, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    orthogonalize = gram_newton_schulz if orthogonalize is None else orthogonalize
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_option("scale", scale, Scale, or_none=True)

    def blocks_of(view, sizes):
        """The sizes of a leaf's blocks of rows."""
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
    """Muon on hidden matrices, AdamW or what `others` is on all other parameters.

    Unlike `optax.contrib.muon` it does not correct biases of the momentum, runs on parameters that are sharded over
    explicit mesh axes, and computes leaves of one shape in one stack, in float32 at least. Do not take Muon for
    embeddings, whose rows are seldom touched, nor for the last layer: name these in `labels`. Heads and fused layers
    may be matrices of their own by `row_blocks` of `scale_by_muon`.

    Args:
        learning_rate: a positive number or a schedule; the author's default is 0.02.
        momentum: decay of the momentum, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of Muon's matrices, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and epsilon 1e-10, without decay; their configurations take 3e-4 where the matrices take 0.02.
        nesterov: whether the gradient is added once more, as by Nesterov; on by default.
        ema: whether the momentum is an exponential average (default) or a sum, see `scale_by_muon`.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `gram_newton_schulz`.
        scale: `"jordan"` (default), `"spectral"`, `"rms"` (Moonlight) or None, see `scale_by_muon`.
        cautious_decay: decays only those of Muon's parameters that the update moves towards zero; off by default.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_muon`; a tree with None
            for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of two
            axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry of a matrix, and that of `others`: AdamW's is two for each of its
        parameters.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.muon(1.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-1.12,  0.68], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; for the scale "rms" Liu et al.,
        "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.
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
        summary="The momentum orthogonalized by Newton-Schulz steps, as published; AdamW on other parameters.",
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
