"""Adam's preconditioner, with either of the two placements of epsilon that authors use."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.precision import scalar_dtype
from optkit.core.types import DTypeLike

EpsPlacement = Literal["pre", "post"]


def bias_factor(decay: jax.typing.ArrayLike, count: jax.typing.ArrayLike, tree: Any) -> jax.Array:
    """Returns the factor by which an exponential average that started at zero is too small: `1 - decay**count`.

    `optax.tree.bias_correction` raises if JAX is set to promote no dtypes.

    Args:
        decay: Decay rate of the average.
        count: Number of values that it has averaged, at least 1.
        tree: Arrays. The factor is computed in their widest dtype, but at least in float32.

    Returns:
        A number.

    Example:
        >>> bias_factor(0.5, jnp.array(2), jnp.ones(3))
        Array(0.75, dtype=float32)
    """
    return 1 - jnp.power(decay, jnp.asarray(count, scalar_dtype(tree)))


def scale_by_adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    *,
    eps_placement: EpsPlacement,
    bias_correction: bool = True,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Rescales updates by Adam's moments, with epsilon added before or after the bias correction of the second moment.

    The rule, where t counts updates::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = sqrt(1 - b2**t) / (1 - b1**t) * m / (sqrt(v) + eps)                      (eps_placement="pre")
        u = m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps)                          (eps_placement="post")

    `optax.scale_by_adam` has "post" only; code derived from Hugging Face's AdamW has "pre".

    Args:
        b1: Decay rate of the first moment, in [0, 1).
        b2: Decay rate of the second moment, in [0, 1).
        eps: Added to the square root of the second moment, at least 0.
        eps_placement: With "pre", epsilon is added before the bias correction, so that in the first steps it counts
            `1 / sqrt(1 - b2**t)` times as much as with "post".
        bias_correction: Whether the zero start of both moments is corrected. Default: True.
        mu_dtype: Dtype of the first moment. Default: that of the parameters.

    Returns:
        A transformation with an `optax.ScaleByAdamState`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Reference:
        arXiv:1412.6980
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    check_option("eps_placement", eps_placement, EpsPlacement)

    def init_fn(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
        )

    def update_fn(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, order=1)  # Alg. 1, m_t
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, order=2)  # Alg. 1, v_t
        count = optax.safe_increment(state.count)
        correction1 = bias_factor(b1, count, updates) if bias_correction else 1.0
        correction2 = bias_factor(b2, count, updates) if bias_correction else 1.0
        eps_in_units_of_nu = eps if eps_placement == "pre" else eps * jnp.sqrt(correction2)
        step_size = jnp.sqrt(correction2) / correction1
        direction = jax.tree.map(lambda m, v: step_size * m / (jnp.sqrt(v) + eps_in_units_of_nu), mu, nu)
        new_state = optax.ScaleByAdamState(
            count=count, mu=optax.tree.cast_like(mu, state.mu), nu=optax.tree.cast_like(nu, state.nu)
        )
        return optax.tree.cast_like(direction, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)
