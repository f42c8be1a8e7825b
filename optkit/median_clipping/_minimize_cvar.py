"""The part that the methods for CVaR, the mean of the largest losses, have in common.

Meng, Gower, "A Model-Based Method for Minimizing CVaR and Beyond", 2023, arXiv:2305.17498. The authors have published
no code. The paper's own rule for adapting to the scale of the loss (its SPL+) could not be found; here `loss_scale`
makes the steps independent of the unit of the loss.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.core.workers.rows import over_rows, psum, require_reduced, require_rows

Decay = Literal["sqrt", "constant"]


class CvarState(NamedTuple):
    """State of `cvar_prox_linear` and `cvar_subgradient`.

    Attributes:
        count: Number of updates so far; equal on all workers.
        alpha: Estimate of the quantile of the losses, a scalar in the dtype of the parameters, but at least float32;
            equal on all workers.
    """

    count: jax.typing.ArrayLike
    alpha: jax.Array


def minimize_cvar(
    multipliers: Callable[..., jax.Array],
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike,
    alpha_learning_rate: optax.ScalarOrSchedule | None,
    loss_scale: jax.typing.ArrayLike,
    alpha0: jax.typing.ArrayLike,
    decay: Decay,
    per_sample: bool,
    axis_name: AxisName | None,
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from a rule for the multiplier of one sample, that of a worker or of a row.

    See `cvar_prox_linear`.
    """
    refuse_arrays(decay=decay, per_sample=per_sample, axis_name=axis_name)
    check_range("beta", beta, 0.0, 1.0, high_open=True)
    check_range("loss_scale", loss_scale, 0.0, low_open=True)
    check_option("decay", decay, Decay)
    if per_sample and axis_name is not None:
        raise ValueError(
            f"per_sample and axis_name exclude each other: each worker has one sample; got {axis_name=} with per_sample"
        )
    alpha_learning_rate = learning_rate if alpha_learning_rate is None else alpha_learning_rate

    def rates(count, dtype):
        shared = jax.lax.rsqrt((count + 1).astype(dtype)) if decay == "sqrt" else 1.0
        rate, alpha_rate = (value_at(r, count) for r in (learning_rate, alpha_learning_rate))
        return shared * rate / loss_scale, shared * alpha_rate * loss_scale

    def weighted(sample, alpha, rate, alpha_rate, *, axis_name):
        gradient, value = sample
        bound = 1 / (1 - beta) / jax.lax.axis_size(axis_name)
        eta = multipliers(gradient, value - alpha, rate, alpha_rate, bound, axis_name)
        return psum((jax.tree.map(lambda g: eta * g, gradient), eta), axis_name)

    def init_fn(params):
        refuse_complex(params, name, functions=True)
        return CvarState(count=jnp.zeros([], jnp.int32), alpha=jnp.array(alpha0, scalar_dtype(params)))

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        value = jnp.asarray(required(value, "value", name, "value=loss"), state.alpha.dtype)
        sample = updates, value
        if per_sample:
            require_rows(sample, name)
        elif value.ndim:
            raise ValueError(f"{name} needs one loss as value, got shape {value.shape}: per_sample=True takes several")
        elif axis_name is None:
            sample = jax.tree.map(lambda x: x[None], sample)
        rate, alpha_rate = rates(state.count, state.alpha.dtype)
        direction, total = over_rows(weighted, axis_name)(sample, state.alpha, rate, alpha_rate)
        alpha = state.alpha - alpha_rate * (1 - total)  # the step of alpha
        require_reduced(direction, params, name)
        updates = jax.tree.map(lambda d: -rate * d, direction)  # the step of theta
        return updates, CvarState(count=optax.safe_increment(state.count), alpha=alpha.astype(state.alpha.dtype))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
