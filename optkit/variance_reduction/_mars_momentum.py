"""The momentum of MARS-corrected gradients with a single buffer.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. The rule is that of the authors' memory-efficient code.
"""

from typing import NamedTuple

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import DTypeLike
from optkit.method import Method
from optkit.variance_reduction._mars import MARS
from optkit.variance_reduction._recursion import descent

__all__ = ["scale_by_mars_momentum"]


class ScaleByMarsMomentumState(NamedTuple):
    """State of `scale_by_mars_momentum`.

    Attributes:
        mu: Exponential average of the uncorrected gradients, times `1 - gamma`. Shaped and sharded like the parameters,
            in `mu_dtype`. Equal on all workers if the gradients are.
    """

    mu: optax.Updates


def scale_by_mars_momentum(
    b1: jax.typing.ArrayLike = 0.95, gamma: float | None = None, *, mu_dtype: DTypeLike | None = None
) -> optax.GradientTransformation:
    """Replaces the gradient by the momentum of its MARS correction, with a single buffer.

    The update rule, where n is the only state::

        n = b1 * n + (1 - b1) * (1 - gamma) * g
        u = n + gamma * g

    The result equals that of `optax.ema(b1, debias=False)` after `reduce_variance(gamma, b1)` without clipping. The two
    buffers of that chain only appear in one combination, which is n. The form with one buffer is that of the authors'
    memory-efficient code.

    Use it before a function of the momentum alone, such as a sign or an orthogonalization, to keep one number per
    parameter instead of two. Avoid it before Adam, because Adam's second moment needs the corrected gradient itself. It
    supports neither a schedule for `gamma`, nor the exact form, nor clipping.

    Args:
        b1: Decay rate of the momentum, in [0, 1). Default: 0.95.
        gamma: Strength of the correction, at least 0. It must be a constant number: neither a schedule nor a value held
            by `optax.inject_hyperparams`. Default: 0.025.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByMarsMomentumState`: one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: If `gamma` is a schedule or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_mars_momentum(b1=0.5, gamma=0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([4.0, 8.0]), tx.init(params), params)[0]
        Array([3., 6.], dtype=float32)

    Reference:
        arXiv:2411.10438
    """
    refuse_arrays(gamma=gamma, mu_dtype=mu_dtype)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("gamma", gamma, 0.0)
    if callable(gamma):
        raise TypeError(
            "scale_by_mars_momentum needs a constant gamma; for a schedule use reduce_variance and optax.ema"
        )
    strength = 0.025 if gamma is None else gamma

    def init_fn(params):
        return ScaleByMarsMomentumState(mu=optax.tree.zeros_like(params, dtype=mu_dtype))

    def update_fn(updates, state, params=None):
        del params
        mu = jax.tree.map(
            lambda g, n: b1 * n + (1 - b1) * (1 - strength) * g, widen(updates), state.mu
        )  # n_t = m_t - gamma g_t
        momentum = jax.tree.map(lambda g, n: strength * g + n, widen(updates), mu)  # m_t
        new_state = ScaleByMarsMomentumState(mu=optax.tree.cast_like(mu, state.mu))
        return optax.tree.cast_like(momentum, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="scale_by_mars_momentum",
        factory=scale_by_mars_momentum,
        kind="transformation",
        compose=descent,
        summary="The momentum of unclipped MARS-corrected gradients, with one buffer instead of two.",
        paper=MARS,
        also_known_as=("memory-efficient MARS", "mars_m_efficient"),
        grid=0.1,
        golden="mars_m",
    ),
)
