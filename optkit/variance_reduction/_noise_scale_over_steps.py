"""The gradient noise scale from consecutive steps, for one worker whose batches are not split.

McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162. Appendix A.1,
with the gradients of consecutive steps in place of the parts of a batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.precision import scalar_dtype, widen
from optkit.method import Method
from optkit.variance_reduction._noise_scale import NOISE_SCALE, NoiseScale, average_estimates, init_noise_scale

__all__ = ["gradient_noise_scale_over_steps"]


class GradientNoiseScaleOverStepsState(NamedTuple):
    """State of `gradient_noise_scale_over_steps`.

    Attributes:
        step: Number of gradients of the present window so far, a scalar, equal on all workers.
        gradient_sum: Sum of these gradients, shaped and sharded like the parameters, in float32 at least.
        squared_norm_sum: Sum of their squared norms, a scalar, equal on all workers.
        noise_scale: The running estimates, a `NoiseScale`.
    """

    step: jax.Array
    gradient_sum: optax.Updates
    squared_norm_sum: jax.Array
    noise_scale: NoiseScale


def gradient_noise_scale_over_steps(
    batch_size: jax.typing.ArrayLike, window: int | jax.Array = 10, decay: jax.typing.ArrayLike = 0.99
) -> optax.GradientTransformation:
    """Measures the noise of gradients that come one at a time, by comparing those of consecutive steps.

    The update rule, where mean is the mean of the gradients of a window, and spread the mean squared distance of a
    gradient from it. At the end of each window S and G2 are averaged over the windows::

        u = g
        S  = window / (window - 1) * batch_size * spread    # trace of the covariance of one sample's gradient
        G2 = |mean|**2 - spread / (window - 1)              # squared norm of the gradient over all data

    Use it on one worker whose batches are not split; `read_noise_scale` reads the result. Avoid it when there are parts
    of a batch, because the parameters move within a window, so the gradients differ by more than noise: use
    `gradient_noise_scale` there. It keeps one number per parameter.

    The gradients pass unchanged. They must be gradients of mean losses, neither summed nor clipped before.

    Args:
        batch_size: Number of samples in the batch of each step, at least 1. If gradients were averaged over workers
            before, count the samples of all workers.
        window: Number of consecutive gradients that are compared, at least 2. Default: 10. An estimate is made at its
            end.
        decay: Decay rate of the averages over the windows, in [0, 1). Default: 0.99.

    Returns:
        A transformation with a `GradientNoiseScaleOverStepsState`: one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.gradient_noise_scale_over_steps(batch_size=1, window=64)
        >>> params = jax.numpy.zeros(1000)
        >>> gradients = 0.1 + jax.random.normal(jax.random.key(0), (64, 1000))  # of 64 steps
        >>> step = lambda state, gradient: (tx.update(gradient, state, params)[1], None)
        >>> state, _ = jax.lax.scan(step, tx.init(params), gradients)
        >>> round(float(optkit.read_noise_scale(state)), -1)
        100.0

    Reference:
        arXiv:1812.06162
    """
    check_range("batch_size", batch_size, 1)
    check_range("window", window, 2)
    check_count("window", window)
    check_range("decay", decay, 0.0, 1.0, high_open=True)

    def init_fn(params):
        return GradientNoiseScaleOverStepsState(
            step=jnp.zeros([], jnp.int32),
            gradient_sum=optax.tree.zeros_like(widen(params)),
            squared_norm_sum=jnp.zeros([], scalar_dtype(params)),
            noise_scale=init_noise_scale(params),
        )

    def finish_window(state):
        number = jnp.asarray(window, state.squared_norm_sum.dtype)
        squared_norm_of_mean = optax.tree.norm(state.gradient_sum, squared=True) / number**2
        spread = state.squared_norm_sum / number - squared_norm_of_mean
        noise_scale = average_estimates(state.noise_scale, squared_norm_of_mean, spread, window, batch_size, decay)
        return optax.tree.zeros_like(state)._replace(noise_scale=noise_scale)

    def update_fn(updates, state, params=None):
        del params
        gradient = optax.tree.cast_like(updates, state.gradient_sum)
        squared_norm = optax.tree.norm(gradient, squared=True).astype(state.squared_norm_sum.dtype)
        state = GradientNoiseScaleOverStepsState(
            step=state.step + 1,
            gradient_sum=optax.tree.add(state.gradient_sum, gradient),
            squared_norm_sum=state.squared_norm_sum + squared_norm,
            noise_scale=state.noise_scale,
        )
        return updates, jax.lax.cond(state.step == window, finish_window, lambda state: state, state)

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="gradient_noise_scale_over_steps",
        factory=gradient_noise_scale_over_steps,
        kind="transformation",
        summary="Measures the batch size at which signal equals noise from consecutive gradients of one worker.",
        paper=NOISE_SCALE,
        also_known_as=("GNS", "simple noise scale", "critical batch size"),
        example={"batch_size": 32, "window": 2},
        grid=0.1,
    ),
)
