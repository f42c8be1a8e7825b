"""Sparse GGT: AdaGrad with a full matrix, from a window of the last gradients' largest entries, with error feedback.

Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098. The docstring of
`_ggt.py` lists where their code differs from the paper and from this code.
"""

import jax
import optax

from optkit.compressors import global_top_k
from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName, DTypeLike, Mask
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._ggt import ggt_around, scale_by_ggt
from optkit.memory_efficient._sparse_m_fac import EFCP
from optkit.method import Method

__all__ = ["sparse_ggt"]


def sparse_ggt(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    eps: jax.typing.ArrayLike = 1e-5,
    density: float | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    window_dtype: DTypeLike | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GGT on a window of sparse gradients: their largest entries, with error feedback for the others.

    The update rule, where e is the error of the compression and top_k keeps the `density` largest entries of all
    leaves::

        a = e + g + wd * x
        e = a - top_k(a)
        x = x - lr * u          (u from `scale_by_ggt`, for the gradient top_k(a))

    Use it when full-matrix AdaGrad suits the problem but `window` whole gradients do not fit into memory: with the
    defaults it needs a fiftieth of that. Avoid it when all parameters must move in every step, because a step moves
    only the parameters with an entry in the window. If mesh axes are explicit, avoid it when a whole gradient does not
    fit into the memory of one device, because each device gathers it to find the largest entries.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is the largest length of a step.
        window: Number m of gradients in the window, at least 1. Default: None, which stands for 100.
        eps: Added to the singular values, above 0. Default: 1e-5.
        density: Share of the entries of all leaves together that is kept of a gradient, in (0, 1]. Default: None, which
            stands for 0.01. Their number k is rounded down.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. It is added to the gradients before everything
            else, as in the published code.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        window_dtype: Dtype of the window's entries. Default: that of the parameters, but at least float32.
            `jnp.bfloat16` saves a third of the window; the error feedback keeps what is rounded off.
        axis_name: Name of the axis over workers. A name, or a tuple of names, over which the gradients are averaged
            first. Default: None, for gradients that are already averaged.

    Returns:
        An optimizer. Its state is one number per parameter, `m k` entries with their places, and `m**2` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.sparse_ggt(0.1, window=4, density=0.5)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, jnp.array([0.0, -0.1])))
        True

    Reference:
        arXiv:2306.06098
    """
    refuse_arrays(density=density, mask=mask, window_dtype=window_dtype)
    compressor = global_top_k(density, dtype=window_dtype)
    scale = error_feedback(scale_by_ggt(window, None, 1.0, eps, compressor=compressor), compressor)
    return ggt_around("sparse_ggt", learning_rate, scale, weight_decay, mask, axis_name)


METHODS = (
    Method(
        name="sparse_ggt",
        factory=sparse_ggt,
        kind="optimizer",
        summary="Full-matrix AdaGrad from a window of the last gradients' largest entries, with error feedback.",
        paper=EFCP,
        also_known_as=("EFCP", "S-GGT", "sparse GGT", "SparseGGT"),
        example={"learning_rate": 0.1, "window": 4, "density": 0.25},
        grid=3e-2,
        golden="efcp_ggt",
    ),
)
