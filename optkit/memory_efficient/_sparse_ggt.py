"""Sparse GGT: AdaGrad with a full matrix, from a window of the last gradients' largest entries, with error feedback.

Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098. What parts
code and paper, `_ggt.py` says.
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
    """GGT on a window of sparse gradients: their largest entries, the others added to the next by error feedback.

    A step moves only parameters with an entry in the window. Where mesh axes are explicit each device gathers a whole
    gradient to find its largest entries: do not take it where that does not fit into memory.

    Args:
        learning_rate: a positive number or a schedule: the length of a step, at most.
        window: number of gradients m, at least 1; None: 100.
        eps: added to the singular values, positive; default 1e-5.
        density: share of the entries of all leaves together that are kept of a gradient, in (0, 1]; None: 0.01. Their
            number k is rounded down.
        weight_decay: times the parameters it is added to the gradients, before all else, as in the published code; at
            least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        window_dtype: dtype of the window's entries, `jnp.bfloat16` to save a third of it (what is rounded off goes to
            the error feedback); default the parameters', but at least float32.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged: they are
            first.

    Returns:
        An optimizer; its state is one number a parameter, `m k` entries with their places, and `m**2` numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.sparse_ggt(0.1, window=4, density=0.5)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, jnp.array([0.0, -0.1])))
        True

    Reference:
        Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098.
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
        summary="AdaGrad with a full matrix from a window of the last gradients' largest entries, with error feedback.",
        paper=EFCP,
        also_known_as=("EFCP", "S-GGT", "sparse GGT", "SparseGGT"),
        example={"learning_rate": 0.1, "window": 4, "density": 0.25},
        grid=3e-2,
        golden="efcp_ggt",
    ),
)
