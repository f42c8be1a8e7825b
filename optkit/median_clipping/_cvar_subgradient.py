"""CVaR, the mean of the largest losses, minimized by stochastic subgradient steps.

Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498, which compares its method
with this one.
"""

import jax
import jax.numpy as jnp
import optax

from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.median_clipping._minimize_cvar import Decay, minimize_cvar
from optkit.median_clipping._papers import CVAR
from optkit.method import Method

__all__ = ["cvar_subgradient"]


def cvar_subgradient(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.9,
    *,
    alpha_learning_rate: optax.ScalarOrSchedule | None = None,
    loss_scale: jax.typing.ArrayLike = 1.0,
    alpha0: jax.typing.ArrayLike = 0.0,
    decay: Decay = "sqrt",
    per_sample: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Minimizes the mean of the largest losses (CVaR) by stochastic subgradient steps.

    The update rule for one sample at step t, which counts from 0, where a is `alpha_learning_rate`::

        p, q = lr / loss_scale / sqrt(t + 1), a * loss_scale / sqrt(t + 1)
        eta = 1 / (1 - beta) if value > alpha, else 0
        x = x - p * eta * g
        alpha = alpha - q * (1 - eta)

    With n samples each has its own eta, `1 / (1 - beta) / n` or 0; the sums of `eta * g` and of eta take the places of
    these.

    The objective is that of `cvar_prox_linear`. `update` needs the extra argument `value`, the loss at the parameters
    where the gradient was taken.

    Use it as a baseline, or when the gradients of several workers are too large to be gathered, which
    `cvar_prox_linear` does. Avoid it otherwise: every loss above `alpha` moves the parameters `1 / (1 - beta)` times as
    far as SGD would, and losses below it do not move them, so `cvar_prox_linear` is the better choice nearly
    everywhere.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of the parameters.
        beta: See `cvar_prox_linear`. Default: 0.9.
        alpha_learning_rate: See `cvar_prox_linear`. Default: `learning_rate`.
        loss_scale: See `cvar_prox_linear`. Default: 1.
        alpha0: See `cvar_prox_linear`. Default: 0.
        decay: See `cvar_prox_linear`. Default: `"sqrt"`.
        per_sample: Whether gradients and `value` have a leading axis, one row per sample of the batch. Default: False.
        axis_name: Name of the axis over workers. Each worker has one sample. None (the default): `update` gets one
            sample, or one row per sample with `per_sample`.

    Returns:
        An optimizer. Its state is two scalars.

    Raises:
        ValueError: If a hyperparameter is out of its range, or both `per_sample` and `axis_name` are given.
        TypeError: From `update`: if `value` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.cvar_subgradient(1.0, beta=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0]), tx.init(params), params, value=2.0)
        >>> updates, state.alpha
        (Array([-2., -4.], dtype=float32), Array(1., dtype=float32))

    Reference:
        arXiv:2305.17498
    """

    def multipliers(gradient, excess, rate, alpha_rate, bound, axis):
        del gradient, rate, alpha_rate, axis
        return jnp.where(jnp.isnan(excess), jnp.nan, jnp.where(excess > 0, bound, 0))

    tx = minimize_cvar(
        multipliers, "cvar_subgradient", learning_rate, beta, alpha_learning_rate, loss_scale, alpha0, decay,
        per_sample, axis_name,
    )  # fmt: skip
    return in_float32(tx)


METHODS = (
    Method(
        name="cvar_subgradient",
        factory=cvar_subgradient,
        kind="optimizer",
        summary="Minimizes the mean of the largest losses (CVaR) by stochastic subgradient steps.",
        paper=CVAR,
        also_known_as=("SGM", "stochastic subgradient method", "conditional value-at-risk"),
        example={"learning_rate": 1e-3, "beta": 0.5, "decay": "constant"},
        grid=1e-2,
        needs=("value",),
        golden="cvar",
    ),
)
