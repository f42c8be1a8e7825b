"""Low-rank M-FAC: natural gradients from a window of the last gradients' low-rank parts, with error feedback.

Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098; the rule is that of
the authors' code (`LowRankAggregateMFAC`). There the first factor is the parameter's product with a random one, which
is zero for ever where a parameter begins at zero, so that it never moves; here it is the random factor itself. Their
momentum is an average here, and a sum in `sparse_m_fac`.
"""

from typing import Any

import jax
import optax

from optkit.compressors import low_rank
from optkit.core.checks import check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Key, Mask
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._gradient_window import average_over
from optkit.memory_efficient._m_fac import scale_by_m_fac
from optkit.memory_efficient._sparse_m_fac import EFCP
from optkit.method import Method

__all__ = ["low_rank_m_fac"]


def low_rank_m_fac(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    damping: jax.typing.ArrayLike = 1e-5,
    rank: int | None = None,
    momentum: jax.typing.ArrayLike | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    weight_dimension_numbers: Any | None = None,
    key: Key = 0,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """M-FAC on a window of low-rank gradients, with error feedback for what their factors leave out.

    The update rule, where e is the error of the compression, and C is `optkit.compressors.low_rank`, which sends leaves
    that are no matrices whole::

        a = e + g + wd * x
        e = a - C(a)
        m = momentum * m + (1 - momentum) * u   (u from `scale_by_m_fac`, for C(a); m = u if momentum is None)
        x = x - lr * m

    Use it when natural gradients suit the problem but `window` whole gradients do not fit into memory: a matrix takes
    `rank * (rows + columns)` numbers of the window in place of `rows * columns`. Avoid it when `m_fac` fits, because a
    small rank costs accuracy: on a small network rank 1 ended at three times the loss of the whole window. Tune the
    learning rate anew; errors make what is compressed larger, and with its square the updates smaller.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        window: See `scale_by_m_fac`. Default: None, which stands for 1024.
        damping: See `scale_by_m_fac`. Default: 1e-5.
        rank: Number of columns of the factors, at least 1. Default: None, which stands for 1. A matrix whose shorter
            side is not longer is kept whole.
        momentum: Decay rate of the average of the updates, in [0, 1]. Default: None, without momentum.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. It is added to the gradient before the
            compression.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: all leaves of two axes are matrices, and all others are kept
            whole.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws the first factors. Must be equal on
            all workers.
        axis_name: Name of the axis over workers. A name, or a tuple of names, over which the gradients are averaged
            first. Default: None, for gradients that are already averaged.

    Returns:
        An optimizer. Its state is one number per parameter, one factor for each matrix, a window of both factors of
        each matrix and of all other leaves, `window**2` numbers, and the momentum.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range. From `init`: if dimension numbers are given and no leaf is
            a matrix; or if none are given and a leaf called `bias` or `scale` has two axes or more.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.low_rank_m_fac(1.0, window=4, damping=1.0)
        >>> params = jnp.array([[1.0, 1.0], [1.0, 1.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, -0.5))  # 1 / (1 + 4 / 4)
        True

    Reference:
        arXiv:2306.06098
    """
    refuse_arrays(rank=rank, mask=mask)
    check_range("momentum", momentum, 0.0, 1.0)
    compressor = low_rank(1 if rank is None else rank, weight_dimension_numbers=weight_dimension_numbers, key=key)
    tx = optax.chain(
        average_over(axis_name),
        add_decay("low_rank_m_fac", weight_decay, mask),
        error_feedback(scale_by_m_fac(window, damping, compressor=compressor), compressor),
        optax.identity() if momentum is None else optax.ema(momentum, debias=False),
        optax.scale_by_learning_rate(learning_rate),
    )
    return only_real("low_rank_m_fac", in_float32(tx))


METHODS = (
    Method(
        name="low_rank_m_fac",
        factory=low_rank_m_fac,
        kind="optimizer",
        summary="Natural gradients from a window of the last gradients' low-rank parts, with error feedback.",
        paper=EFCP,
        also_known_as=("low-rank EFCP", "LowRankMFAC", "LowRankAggregateMFAC"),
        example={"learning_rate": 0.1, "window": 4, "damping": 1.0},
        grid=1e-2,
        golden="efcp_lowrank_mfac",
    ),
)
