"""CVaR, the mean of the largest losses, minimized by stochastic prox-linear steps.

Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498. The closed form of the step
follows by duality from the definition of the step.
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
    """Minimizes the mean of the largest losses (CVaR) by steps that linearize the losses but keep the maximum.

    The update rule for one sample at step t, which counts from 0, where a is `alpha_learning_rate`::

        p, q = lr / loss_scale / sqrt(t + 1), a * loss_scale / sqrt(t + 1)
        eta = min(max((value - alpha + q) / (q + p * |g|^2), 0), 1 / (1 - beta))
        x = x - p * eta * g
        alpha = alpha - q * (1 - eta)

    With n samples each has its own eta, at most `1 / (1 - beta) / n`; the sums of `eta * g` and of eta take the places
    of these.

    It minimizes `alpha + E[max(loss - alpha, 0)] / (1 - beta)` over the parameters and `alpha`, which is the mean of
    the share `1 - beta` of largest losses. `update` needs the extra argument `value`, the loss at the parameters where
    the gradient was taken.

    Use it when the worst examples matter more than the mean. Its steps stay finite at learning rates at which those of
    `cvar_subgradient` diverge. The parameters move around the solution, so evaluate their average
    (`average_iterates(1.0)` from the second half on). Avoid it when the largest losses are wrong labels, because it
    trains on these. Do not pass the mean loss of a batch and its gradient if you can pass those of each sample: that is
    another objective, the mean of the largest batch means. Its price with several samples is their inner products: all
    gradients are gathered.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of the parameters.
        beta: Share of the losses that do not count, in [0, 1). Default: 0.9, the mean of the largest tenth.
        alpha_learning_rate: The learning rate of `alpha`, a positive number or a schedule. Default: `learning_rate`.
        loss_scale: The size of a loss, above 0. The learning rate of the parameters is divided by it and that of
            `alpha` is multiplied by it, so that the steps do not depend on the unit of the loss. The mean loss at the
            start is a good value. Default: 1.
        alpha0: Where `alpha` starts, in the unit of the loss. Default: 0.
        decay: `"sqrt"` divides both learning rates by `sqrt(t + 1)` at step t; `"constant"` does not. Default:
            `"sqrt"`.
        passes: For several samples, how often the multiplier eta of each is improved in turn, at least 1. For one
            sample a single pass is exact. Default: 10.
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
        >>> tx = optkit.cvar_prox_linear(1.0, beta=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 2.0]), tx.init(params), params, value=2.0)
        >>> updates, state.alpha  # the multiplier (2 - 0 + 1) / (1 + 5)
        (Array([-0.5, -1. ], dtype=float32), Array(-0.5, dtype=float32))

    Reference:
        arXiv:2305.17498
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
    `x_t` and `alpha_t`, each divided by twice its learning rate.

    Args:
        excesses: How far each sample's loss lies above `alpha_t`, `(samples,)`.
        gram: The inner products of the samples' gradients, `(samples, samples)`.
        rate: The learning rate of the parameters, at least 0.
        alpha_rate: The learning rate of `alpha`, at least 0.
        bound: The largest multiplier, `1 / (1 - beta)` over the number of samples.
        passes: How often each multiplier is improved in turn, starting from 0.

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
        # The curvature is 0 if both rates are 0, or one rate and the gradient; the multiplier then moves nothing.
        change = jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1), 0)
        return eta.at[i].set(jnp.clip(eta[i] + change, 0, bound).astype(eta.dtype))

    return jax.lax.fori_loop(0, passes * samples, improve, jnp.zeros_like(excesses))


def _products(gradient: Any, axis_name: AxisName) -> Any:
    """Returns the inner products of this sample's gradient with those of all samples, over all leaves."""
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
