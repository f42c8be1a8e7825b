"""M-FAC: natural gradients from a window of the last gradients, whole or compressed with error feedback.

Frantar, Kurtic, Alistarh, "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", 2021,
arXiv:2107.03356; compressed: Modoranu et al., "Error Feedback Can Accurately Compress Preconditioners", 2023,
arXiv:2306.06098. Their code solves by recursions over the window; here one linear system of the window's size gives the
same. Since the newest gradient is in the window, nothing is divided by the damping, which loses all digits in float32.
The code's weight decay does not depend on the learning rate (here it does, as in Optax), or is added to the gradient
behind the inner products: that is `optax.add_decayed_weights(weight_decay / damping)` behind `scale_by_m_fac`.
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
        window: the last gradients and their inner products.
    """

    window: GradientWindow


def scale_by_m_fac(
    window: int | None = None, damping: jax.typing.ArrayLike = 1e-5, *, compressor: Compressor | None = None
) -> optax.GradientTransformationExtraArgs:
    """Multiplies gradients by the inverse of their damped second moment over a window: a natural gradient.

    With the window's gradients as the rows of G, the update u solves `(damping I + G^T G / window) u = g`. All leaves
    are one vector. The average is over the whole window also while it fills, so that the first updates are large. Do
    not take it, uncompressed, where `window` gradients do not fit into memory.

    Args:
        window: number of gradients m, at least 1; None: 1024.
        damping: added to the second moment, positive; default 1e-5. In float32 a gradient is damped by at least
            `1e-6 sqrt(window)` of its own square norm, in float64 by `2e-15 sqrt(window)`: less cannot be resolved.
        compressor: keeps the window in compressed form. The transformation then stands inside `error_feedback` with the
            same compressor.

    Returns:
        A transformation; its state is `window` gradients, or what the compressor makes of them, and `window**2`
        numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_m_fac(window=1, damping=1.0)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0, 2.0]), tx.init(jnp.zeros(3)))
        >>> bool(jnp.allclose(updates, jnp.array([0.1, 0.2, 0.2])))  # g / (1 + |g|^2)
        True

    Reference:
        Frantar, Kurtic, Alistarh, "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", 2021,
        arXiv:2107.03356.
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
    """The newest gradient's column of `(m damping I + G G^T)^-1`.

    With it as weights the rows sum to `(damping I + G^T G / m)^-1 g / m`, since g is a row of G.
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
    """M-FAC: natural gradients from a window of the last gradients.

    Do not take it where `window` gradients do not fit into memory: `sparse_m_fac` needs a fiftieth of it.

    Args:
        learning_rate: a positive number or a schedule.
        window: number of gradients, at least 1; None: 1024.
        damping: added to their second moment, positive; default 1e-5. See `scale_by_m_fac`.
        momentum: decay of the sum of the updates, in [0, 1]; default None for no momentum.
        weight_decay: strength of the decoupled decay, at least 0; default 0. The authors' is this times the learning
            rate.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged: they are
            first.

    Returns:
        An optimizer; its state is `window` gradients and `window**2` numbers, and the momentum.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.m_fac(0.1, window=4, damping=1.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> state[1].window.rows.shape
        (4, 2)

    Reference:
        Frantar, Kurtic, Alistarh, "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", 2021,
        arXiv:2107.03356.
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
