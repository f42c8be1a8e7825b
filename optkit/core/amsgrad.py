"""Adam's preconditioner with the largest second moment so far, whose bias is corrected after the maximum is taken."""

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import bias_factor
from optkit.core.checks import check_range
from optkit.core.types import DTypeLike


def scale_by_amsgrad(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, *, mu_dtype: DTypeLike | None = None
) -> optax.GradientTransformation:
    """Rescales updates by Adam's moments, but divides by the largest second moment so far: PyTorch's AMSGrad.

    The rule, where t counts updates::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        v_max = max(v_max, v)
        u = m / (1 - b1**t) / (sqrt(v_max / (1 - b2**t)) + eps)

    `optax.scale_by_amsgrad` either corrects the bias before it takes the maximum, so that the first gradients, which
    the correction enlarges most, count forever; or it does not correct the bias.

    Args:
        b1: Decay rate of the first moment, in [0, 1).
        b2: Decay rate of the second moment, in [0, 1).
        eps: Added to the square root of the corrected maximum, at least 0.
        mu_dtype: Dtype of the first moment. Default: that of the parameters.

    Returns:
        A transformation with an `optax.ScaleByAmsgradState`, which has three numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Reference:
        arXiv:1904.09237
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)

    def init_fn(params):
        return optax.ScaleByAmsgradState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
            nu_max=optax.tree.zeros_like(params),
        )

    def update_fn(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, order=1)  # Alg. 2, m_t
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, order=2)  # Alg. 2, v_t
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)  # Alg. 2, the maximum of v_t
        count = optax.safe_increment(state.count)
        correction1, correction2 = (bias_factor(decay, count, updates) for decay in (b1, b2))

        def of_leaf(m, v):
            m_hat, v_hat = m / correction1.astype(m.dtype), v / correction2.astype(v.dtype)
            return m_hat / (jnp.sqrt(v_hat) + eps)

        direction = jax.tree.map(of_leaf, mu, nu_max)
        new_state = optax.ScaleByAmsgradState(
            count=count,
            mu=optax.tree.cast_like(mu, state.mu),
            nu=optax.tree.cast_like(nu, state.nu),
            nu_max=optax.tree.cast_like(nu_max, state.nu_max),
        )
        return optax.tree.cast_like(direction, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)
