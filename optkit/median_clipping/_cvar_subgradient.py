"""CVaR, the mean of the largest losses, minimized by stochastic subgradient steps.

Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498, which compares with it.
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
    """Minimizes the mean of the largest losses by stochastic subgradient steps.

    The objective is that of `cvar_prox_linear`, which is the better choice nearly everywhere: here every loss above
    `alpha` moves the parameters `1 / (1 - beta)` times as far as SGD would, and those below not at all.

    Args:
        learning_rate: a positive number or a schedule; of the parameters.
        beta: the share of losses that are not counted, in [0, 1); default 0.9, the mean of the largest tenth.
        alpha_learning_rate: as in `cvar_prox_linear`.
        loss_scale: the size of a loss, positive; default 1; see `cvar_prox_linear`.
        alpha0: where `alpha` starts, in units of the loss; default 0.
        decay: as in `cvar_prox_linear`, `"sqrt"` (default) or `"constant"`.
        per_sample: whether gradients and `value` have a leading axis, with one row for each sample of the batch.
        axis_name: the axis over workers, each of which has one sample.

    Returns:
        An optimizer; its state is two scalars.

    Raises:
        ValueError: if a hyperparameter is out of its range, or both `per_sample` and `axis_name` are given.
        TypeError: from `update`, without `value`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.cvar_subgradient(1.0, beta=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0]), tx.init(params), params, value=2.0)
        >>> updates, state.alpha
        (Array([-2., -4.], dtype=float32), Array(1., dtype=float32))

    Reference:
        Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498.
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
