"""Sparse M-FAC: natural gradients from a window of the last gradients' largest entries, with error feedback.

Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098. The docstring of
`_m_fac.py` lists where their code differs from this code.
"""

import jax
import optax

from optkit.compressors import global_top_k
from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName, DTypeLike, Mask
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._m_fac import m_fac_around, scale_by_m_fac
from optkit.method import Method, Paper

__all__ = ["sparse_m_fac"]


def sparse_m_fac(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    damping: jax.typing.ArrayLike = 1e-5,
    density: float | None = None,
    momentum: jax.typing.ArrayLike | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    window_dtype: DTypeLike | None = None,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """M-FAC on a window of sparse gradients: their largest entries, with error feedback for the others.

    The update rule, where e is the error of the compression and top_k keeps the `density` largest entries of all
    leaves::

        a = e + g
        e = a - top_k(a)
        m = momentum * m + u          (u from `scale_by_m_fac`, for the gradient top_k(a); m = u if momentum is None)
        x = x - lr * (m + wd * x)

    Use it when natural gradients suit the problem but `window` whole gradients do not fit into memory: with the
    defaults it needs a fiftieth of that. Avoid it when all parameters must move in every step, because u is zero for
    the parameters without an entry in the window. If mesh axes are explicit, avoid it when a whole gradient does not
    fit into the memory of one device, because each device gathers it to find the largest entries.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        window: Number m of gradients in the window, at least 1. Default: None, which stands for 1024.
        damping: See `scale_by_m_fac`. Default: 1e-5.
        density: Share of the entries of all leaves together that is kept of a gradient, in (0, 1]. Default: None, which
            stands for 0.01. Their number k is rounded down.
        momentum: Decay rate of the sum of the updates, in [0, 1]. Default: None, without momentum.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The authors' strength is this one
            times the learning rate.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        window_dtype: Dtype of the window's entries. Default: that of the parameters, but at least float32.
            `jnp.bfloat16` saves a third of the window; the error feedback keeps what is rounded off.
        axis_name: Name of the axis over workers. A name, or a tuple of names, over which the gradients are averaged
            first. Default: None, for gradients that are already averaged.

    Returns:
        An optimizer. Its state is one number per parameter, `m k` entries with their places, `m**2` numbers, and the
        momentum.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.sparse_m_fac(1.0, window=4, damping=1.0, density=0.5)
        >>> params = jnp.array([1.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, jnp.array([0.0, -0.8])))  # 4 / (1 + 4**2 / 4)
        True

    Reference:
        arXiv:2306.06098
    """
    refuse_arrays(density=density, mask=mask, window_dtype=window_dtype)
    compressor = global_top_k(density, dtype=window_dtype)
    scale = error_feedback(scale_by_m_fac(window, damping, compressor=compressor), compressor)
    return m_fac_around("sparse_m_fac", learning_rate, scale, momentum, weight_decay, mask, axis_name)


EFCP = Paper("Error Feedback Can Accurately Compress Preconditioners", "Modoranu et al.", 2023, "2306.06098")


METHODS = (
    Method(
        name="sparse_m_fac",
        factory=sparse_m_fac,
        kind="optimizer",
        summary="Natural gradients from a window of the last gradients' largest entries, with error feedback.",
        paper=EFCP,
        also_known_as=("EFCP", "S-M-FAC", "sparse M-FAC", "SparseGradientMFAC"),
        example={"learning_rate": 0.1, "window": 4, "damping": 1.0, "density": 0.25},
        grid=1e-2,
        golden="efcp_mfac",
    ),
)
