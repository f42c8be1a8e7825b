"""M-FAC: natural gradients from a window of the last gradients, whole or compressed with error feedback.

Frantar, Kurtic, Alistarh, "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", 2021,
arXiv:2107.03356; compressed: Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023,
arXiv:2306.06098. Their code solves by recursions over the window; here one linear system of the window's size gives the
same result. Because the newest gradient is in the window, nothing is divided by the damping, a division that would lose
all digits in float32. The weight decay of their code does not depend on the learning rate (here it does, as in Optax),
or is added to the gradient after the inner products: for the latter, put
`optax.add_decayed_weights(weight_decay / damping)` after `scale_by_m_fac`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import cho_factor, cho_solve

from optkit.compressors import Compressor
from optkit.core.checks import check_count, check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.memory_efficient._gradient_window import (
    GradientWindow,
    ages,
    average_over,
    combine,
    empty_window,
    push,
    unless_bad,
)
from optkit.method import Method, Paper

__all__ = ["m_fac", "scale_by_m_fac"]

# A gradient is damped by at least so many units of rounding, times the root of the window, of its own square norm: with
# that, rounding changes the update of a singular window by about an eighth (measured for windows of up to 1024).
_RESOLUTION = 8


class ScaleByMFacState(NamedTuple):
    """State of `scale_by_m_fac`.

    Attributes:
        window: The last gradients and their inner products.
    """

    window: GradientWindow


def scale_by_m_fac(
    window: int | None = None, damping: jax.typing.ArrayLike = 1e-5, *, compressor: Compressor | None = None
) -> optax.GradientTransformationExtraArgs:
    """Multiplies gradients by the inverse of their damped second moment over a window: a natural gradient.

    The update rule, where all leaves together are one vector, and the rows of G are the gradients of the window, with
    the newest among them::

        u = (damping * I + G^T G / window)^-1 g

    Use it when a model is small enough that a window of gradients fits into memory, and its gradients are strongly
    correlated. Avoid it, without a compressor, when `window` gradients do not fit. The average divides by the whole
    window also while the window is filling, so that the first updates are large: warm the learning rate up. A linear
    system with `window` unknowns is solved in each step.

    Args:
        window: Number of gradients in the window, at least 1. Default: None, which stands for 1024.
        damping: Added to the second moment, above 0. Default: 1e-5. In float32 a gradient is damped by at least
            `1e-6 sqrt(window)` times its own squared norm, in float64 by at least `2e-15 sqrt(window)` times, because
            rounding hides less.
        compressor: Keeps the gradients of the window in compressed form. Default: None, whole gradients. With a
            compressor, put the transformation inside `error_feedback` with the same compressor.

    Returns:
        A transformation. Its state is `window` gradients (or their compressed form), and `window**2` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex; from `update`, if the compressed gradient is missing.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_m_fac(window=1, damping=1.0)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0, 2.0]), tx.init(jnp.zeros(3)))
        >>> bool(jnp.allclose(updates, jnp.array([0.1, 0.2, 0.2])))  # g / (1 + |g|^2)
        True

    Reference:
        arXiv:2107.03356
    """
    refuse_arrays(window=window)
    check_count("window", window)
    size = 1024 if window is None else window
    check_range("damping", damping, 0.0, low_open=True)

    def init_fn(params):
        return ScaleByMFacState(window=empty_window(params, size, compressor))

    def update_fn(updates, state, params=None, *, compressed=None, **extra_args):
        del params, extra_args
        last = push(state.window, updates, compressed, compressor, "scale_by_m_fac")
        weights = unless_bad(size * _column_of_inverse(last, damping), last)
        return combine(weights, last, updates, compressor), ScaleByMFacState(window=last)

    return only_real("scale_by_m_fac", optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _column_of_inverse(window: GradientWindow, damping: jax.typing.ArrayLike) -> jax.Array:
    """Returns the column of `(m damping I + G G^T)^-1` that belongs to the newest gradient.

    With it as weights, the rows sum to `(damping I + G^T G / m)^-1 g / m`, because g is a row of G.
    """
    size, norms = len(window.gram), jnp.diagonal(window.gram)
    least = _RESOLUTION * math.sqrt(size) * jnp.finfo(window.gram.dtype).eps * norms
    damped = window.gram + size * jnp.diag(jnp.maximum(damping, least).astype(norms.dtype))
    return cho_solve(cho_factor(damped), (ages(window) == 0).astype(norms.dtype))


def m_fac(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    damping: jax.typing.ArrayLike = 1e-5,
    momentum: jax.typing.ArrayLike | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Natural gradients from a window of the last gradients.

    The update rule, with u from `scale_by_m_fac`::

        m = momentum * m + u          (m = u if momentum is None)
        x = x - lr * (m + wd * x)

    Use it when a model is small enough that a window of gradients fits into memory, and its gradients are strongly
    correlated. Avoid it when `window` gradients do not fit: `sparse_m_fac` needs a fiftieth of that. The first updates
    are large, because the average divides by the whole window while it is filling: warm the learning rate up.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        window: See `scale_by_m_fac`. Default: None, which stands for 1024.
        damping: See `scale_by_m_fac`. Default: 1e-5.
        momentum: Decay rate of the sum of the updates, in [0, 1]. Default: None, without momentum.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The authors' strength is this one
            times the learning rate.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. A name, or a tuple of names, over which the gradients are averaged
            first. Default: None, for gradients that are already averaged.

    Returns:
        An optimizer. Its state is `window` gradients, `window**2` numbers, and the momentum.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.m_fac(0.1, window=4, damping=1.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> state[1].window.rows.shape
        (4, 2)

    Reference:
        arXiv:2107.03356
    """
    refuse_arrays(mask=mask)
    scale = scale_by_m_fac(window, damping)
    return m_fac_around("m_fac", learning_rate, scale, momentum, weight_decay, mask, axis_name)


def m_fac_around(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    scale: optax.GradientTransformation,
    momentum: jax.typing.ArrayLike | None,
    weight_decay: float | jax.Array,
    mask: Mask | None,
    axis_name: AxisName | tuple[str, ...] | None,
) -> optax.GradientTransformationExtraArgs:
    check_range("momentum", momentum, 0.0, 1.0)
    tx = optax.chain(
        average_over(axis_name),
        scale,
        optax.identity() if momentum is None else optax.trace(momentum),
        add_decay(method, weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return only_real(method, in_float32(tx))


METHODS = (
    Method(
        name="m_fac",
        factory=m_fac,
        kind="optimizer",
        summary="Natural gradients from a window of the last gradients.",
        paper=Paper(
            "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
            "Frantar, Kurtic, Alistarh",
            2021,
            "2107.03356",
        ),
        also_known_as=("M-FAC", "MFAC", "matrix-free approximate curvature"),
        parts=(scale_by_m_fac,),
        example={"learning_rate": 0.1, "window": 4, "damping": 1.0},
        grid=1e-2,
        golden="mfac",
    ),
)
