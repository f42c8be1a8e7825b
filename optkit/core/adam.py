"""Adam's preconditioner with the two placements of epsilon that authors use."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.precision import scalar_dtype
from optkit.core.types import DTypeLike

EpsPlacement = Literal["pre", "post"]


def bias_factor(decay: jax.typing.ArrayLike, count: jax.typing.ArrayLike, tree: Any) -> jax.Array:
    """Gives the factor by which an exponential average that began with zero is too small.

    `optax.tree.bias_correction` raises where JAX is told to promote no dtypes.

    Args:
        decay: of the average.
        count: how many values it has seen, at least 1.
        tree: arrays whose widest dtype it is computed in, but at least in float32.

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
    """Rescales by Adam's moments, with epsilon added before or after the bias correction of the second one.

    `optax.scale_by_adam` has the second placement only; code derived from Hugging Face's AdamW has the first.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, at least 0.
        eps_placement: `"pre"` divides by `sqrt(nu) + eps` and corrects the bias of the quotient, so that in the first
            steps epsilon counts `1 / sqrt(1 - b2**t)` times as much; `"post"` divides by `sqrt(nu_hat) + eps`.
        bias_correction: whether the zero start of both moments is corrected.
        mu_dtype: dtype of the first moment, that of the parameters by default.

    Returns:
        A transformation with an `optax.ScaleByAdamState`.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Reference:
        Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980. Algorithm 1.
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
