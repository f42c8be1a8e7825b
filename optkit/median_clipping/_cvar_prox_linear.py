"""CVaR, the mean of the largest losses, minimized by stochastic prox-linear steps.

Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498. The closed form of the step
follows from the step's definition by duality.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.median_clipping._minimize_cvar import Decay, minimize_cvar
from optkit.median_clipping._papers import CVAR
from optkit.method import Method

__all__ = ["cvar_prox_linear"]


def cvar_prox_linear(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.9,
    *,
    alpha_learning_rate: optax.ScalarOrSchedule | None = None,
    loss_scale: jax.typing.ArrayLike = 1.0,
    alpha0: jax.typing.ArrayLike = 0.0,
    decay: Decay = "sqrt",
    passes: int | None = None,
    per_sample: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Minimizes the mean of the largest losses, by steps on a model that linearizes each loss but keeps the maximum.

    It minimizes `alpha + E[max(loss - alpha, 0)] / (1 - beta)` over parameters and `alpha`, which is the mean of the
    share `1 - beta` of largest losses. `update` needs the loss at the parameters where the gradient was taken, as
    `value`. The steps stay finite at learning rates at which those of `cvar_subgradient` diverge. The iterates move
    around the solution: report their average (`average_iterates(1.0)`, from the second half on).

    Do not pass the mean loss of a batch and its gradient if you can have those of each sample: that is another
    objective, the mean of the largest batch means. Do not take it where the largest losses are wrong labels.

    Args:
        learning_rate: a positive number or a schedule; of the parameters.
        beta: the share of losses that are not counted, in [0, 1); default 0.9, the mean of the largest tenth.
        alpha_learning_rate: of `alpha`; default the same.
        loss_scale: the size of a loss, positive; default 1. The learning rates are divided by it for the parameters
            and multiplied by it for `alpha`, so that the steps do not depend on the unit of the loss. The mean loss at
            the start is a good value.
        alpha0: where `alpha` starts, in units of the loss; default 0.
        decay: `"sqrt"` (default) divides both learning rates by `sqrt(t + 1)` at step t, `"constant"` does not.
        passes: how often the step's dual is improved in each sample's coordinate, at least 1. None: 10. For one
            sample once is exact.
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
        >>> tx = optkit.cvar_prox_linear(1.0, beta=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0]), tx.init(params), params, value=2.0)
        >>> updates, state.alpha  # the multiplier (2 - 0 + 1) / (1 + 5)
        (Array([-0.5, -1. ], dtype=float32), Array(-0.5, dtype=float32))

    Reference:
        Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498.
    """
    refuse_arrays(passes=passes)
    check_range("passes", passes, 1)
    several = 10 if passes is None else passes

    def multipliers(gradient, excess, rate, alpha_rate, bound, axis):
        excesses = jax.lax.all_gather(excess, axis)
        gram = jax.lax.all_gather(_products(gradient, axis), axis)
        needed = several if len(excesses) > 1 else 1
        return dual_coordinate_ascent(excesses, gram, rate, alpha_rate, bound, needed)[jax.lax.axis_index(axis)]

    tx = minimize_cvar(
        multipliers, "cvar_prox_linear", learning_rate, beta, alpha_learning_rate, loss_scale, alpha0, decay,
        per_sample, axis_name,
    )  # fmt: skip
    return in_float32(tx)


def dual_coordinate_ascent(
    excesses: jax.Array,
    gram: jax.Array,
    rate: jax.typing.ArrayLike,
    alpha_rate: jax.typing.ArrayLike,
    bound: jax.typing.ArrayLike,
    passes: int,
) -> jax.Array:
    """Finds the multipliers of the samples in the prox-linear step.

    The step minimizes `alpha + bound * sum_i max(l_i + <g_i, x - x_t> - alpha, 0)` plus the squared distances from
    `x_t` and `alpha_t` over twice the rates.

    Args:
        excesses: how far each sample's loss lies above `alpha_t`, `(samples,)`.
        gram: the inner products of the samples' gradients, `(samples, samples)`.
        rate: learning rate of the parameters, at least 0.
        alpha_rate: learning rate of `alpha`, at least 0.
        bound: the largest multiplier, `1 / (1 - beta)` over the number of samples.
        passes: how often each is improved, in turn, starting from 0.

    Returns:
        The multipliers `eta`, `(samples,)`: `x` moves by `-rate * sum_i eta_i g_i` and `alpha` by
        `-alpha_rate * (1 - sum_i eta_i)`.

    Example:
        >>> import jax.numpy as jnp
        >>> dual_coordinate_ascent(jnp.array([2.0]), jnp.array([[5.0]]), 1.0, 1.0, 2.0, passes=1)
        Array([0.5], dtype=float32)
    """
    samples = len(excesses)

    def improve(step, eta):
        i = step % samples
        slope = excesses[i] - rate * (gram[i] @ eta) + alpha_rate * (1 - jnp.sum(eta))
        curvature = alpha_rate + rate * gram[i, i]
        # Without curvature both rates or the gradient are 0, and the multiplier moves nothing.
        change = jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1), 0)
        return eta.at[i].set(jnp.clip(eta[i] + change, 0, bound).astype(eta.dtype))

    return jax.lax.fori_loop(0, passes * samples, improve, jnp.zeros_like(excesses))


def _products(gradient: Any, axis_name: AxisName) -> Any:
    """The inner products of this sample's gradient and those of all samples, over all leaves."""
    rows = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name), gradient)
    return jax.vmap(lambda row: optax.tree.sum(optax.tree.mul(row, gradient)), axis_size=jax.lax.axis_size(axis_name))(
        rows
    )


METHODS = (
    Method(
        name="cvar_prox_linear",
        factory=cvar_prox_linear,
        kind="optimizer",
        summary="Minimizes the mean of the largest losses (CVaR) by stochastic prox-linear steps.",
        paper=CVAR,
        also_known_as=("SPL", "SPL+", "conditional value-at-risk", "expected shortfall", "superquantile"),
        example={"learning_rate": 0.3},
        grid=0.1,
        needs=("value",),
        golden="cvar",
    ),
)
