"""The gradient noise scale: the batch size at which a gradient is as much signal as noise.

McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162. Appendix A.1.
The two estimates of the paper are written here with the spread of the rows around their mean, which is the difference
of its two norms without the cancellation. Both estimates are averaged over the steps before one is divided by the
other, because their ratio in a single step is biased. The bias of the averages from their start is always corrected, so
that they can be read at any time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.core.workers.rows import count_rows, mean_over_rows, over_rows, require_reduced, require_rows
from optkit.method import Method, Paper

__all__ = ["NoiseScale", "gradient_noise_scale", "read_noise_scale"]


class NoiseScale(NamedTuple):
    """Running estimates, equal on all workers.

    Attributes:
        count: Number of estimates that were averaged, a scalar.
        squared_norm: Squared norm of the gradient over all data, a scalar. It can be negative by chance if noise
            prevails.
        noise_trace: Trace of the covariance of one sample's gradient, a scalar.
    """

    count: jax.Array
    squared_norm: jax.Array
    noise_trace: jax.Array


def init_noise_scale(params: Any) -> NoiseScale:
    dtype = scalar_dtype(params)
    return NoiseScale(
        count=jnp.zeros([], jnp.int32), squared_norm=jnp.zeros([], dtype), noise_trace=jnp.zeros([], dtype)
    )


def average_estimates(
    state: NoiseScale,
    squared_norm_of_mean: jax.Array,
    spread: jax.Array,
    rows: int | jax.Array,
    batch_size: jax.typing.ArrayLike,
    decay: jax.typing.ArrayLike,
) -> NoiseScale:
    """Adds one estimate, from `rows` gradients over `batch_size` samples each and their mean squared deviation."""
    dtype = state.noise_trace.dtype
    number = jnp.asarray(rows, dtype)
    others = jnp.maximum(number - 1, 1)
    squared_norm = squared_norm_of_mean - spread / others  # |G|^2
    noise_trace = number / others * batch_size * spread  # tr(Sigma)
    count = jnp.asarray(optax.safe_increment(state.count))
    # Weight of the newest estimate in an exponential average without bias.
    weight = (1 - decay) / (1 - decay ** count.astype(dtype))

    def average(old, new):
        return (old + weight * (new - old)).astype(dtype)

    return NoiseScale(count, average(state.squared_norm, squared_norm), average(state.noise_trace, noise_trace))


def gradient_noise_scale(
    batch_size_small: jax.typing.ArrayLike, decay: jax.typing.ArrayLike = 0.99, *, axis_name: AxisName | None = None
) -> optax.GradientTransformation:
    """Averages gradients and measures their noise, which `read_noise_scale` reads.

    The update rule, where mean is the mean of n rows of gradients, and spread the mean squared distance of a row from
    it. S and G2 are averaged over the steps::

        u = mean
        S  = n / (n - 1) * batch_size_small * spread        # trace of the covariance of one sample's gradient
        G2 = |mean|**2 - spread / (n - 1)                   # squared norm of the gradient over all data
        noise scale = average(S) / average(G2)

    Use it to choose the batch size of a later run, with the gradients of at least two equal parts of the batch. Avoid
    it as a guide for runs with a large learning rate or with Adam, because it measures the noise in the Euclidean norm
    and Adam's steps depend on another norm. It sends one number more than the average of the gradients and keeps three
    numbers in all.

    **Do not average or clip the gradients before it**: with `axis_name`, `update` takes each worker's own gradient and
    averages it itself. They must be gradients of mean losses, not of sums.

    Args:
        batch_size_small: Number of samples in each part of the batch, at least 1.
        decay: Decay rate of the averages over the steps, in [0, 1). Default: 0.99.
        axis_name: Name of the axis over workers. None (the default): each leaf of the gradients has a leading axis, one
            row per microbatch or sample, which `update` removes.

    Returns:
        A transformation to the mean gradient, with a `NoiseScale` as its state: three numbers in all.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `update`, if there is only one part of the batch.

    Example:
        >>> import jax
        >>> import optax, optkit
        >>> tx = optax.chain(optkit.gradient_noise_scale(batch_size_small=1), optax.sgd(0.1))
        >>> params = jax.numpy.zeros(1000)
        >>> gradients = 0.1 + jax.random.normal(jax.random.key(0), (64, 1000))  # of 64 samples
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> round(float(optkit.read_noise_scale(state)), -1)  # 1000 * 1 / (1000 * 0.1**2), up to chance
        100.0

    Reference:
        arXiv:1812.06162
    """
    check_range("batch_size_small", batch_size_small, 1)
    check_range("decay", decay, 0.0, 1.0, high_open=True)

    def mean_and_noise(row, state, *, axis_name):
        rows = count_rows(row, axis_name, "gradient_noise_scale")
        mean = mean_over_rows(row, axis_name)
        spread = mean_over_rows(optax.tree.norm(optax.tree.sub(row, mean), squared=True), axis_name)
        return mean, average_estimates(
            state, optax.tree.norm(mean, squared=True), spread, rows, batch_size_small, decay
        )

    def update_fn(updates, state, params=None):
        if axis_name is None:
            require_rows(updates, "gradient_noise_scale")
        mean, state = over_rows(mean_and_noise, axis_name)(widen(updates), state)
        require_reduced(mean, params, "gradient_noise_scale")
        return optax.tree.cast_like(mean, updates), state

    return optax.GradientTransformation(init_noise_scale, update_fn)


def read_noise_scale(state: Any) -> jax.Array:
    """Reads the gradient noise scale: the batch size at which a gradient is as much signal as noise.

    Use it to choose a batch size near the noise scale. Well below this size, twice the batch still saves almost half of
    the steps; well above it, almost none. To reach the same loss in S steps with E samples,
    `(S / S_min - 1) * (E / E_min - 1) = 1`, where S_min is the smallest number of steps and E_min the smallest number
    of samples that can reach it.

    Args:
        state: The state of `gradient_noise_scale` or `gradient_noise_scale_over_steps`, or of a chain that contains one
            of them.

    Returns:
        A number of samples, at least 0 and finite. It is 0 before the first estimate. It is the largest number of its
        dtype if the estimate of the gradient's squared norm is not positive, because then everything is noise. It is
        NaN after a gradient that was not finite.

    Raises:
        ValueError: If the state contains no such estimates, or several.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.gradient_noise_scale(batch_size_small=8)
        >>> float(optkit.read_noise_scale(tx.init(jnp.zeros(3))))
        0.0
    """

    def is_noise_scale(x):
        return isinstance(x, NoiseScale)

    found = [x for x in jax.tree.leaves(state, is_leaf=is_noise_scale) if is_noise_scale(x)]
    if len(found) != 1:
        raise ValueError(f"state must contain that of one gradient_noise_scale, got {len(found)} of them")
    noise_trace, squared_norm = jnp.maximum(found[0].noise_trace, 0), jnp.maximum(found[0].squared_norm, 0)
    limits = jnp.finfo(noise_trace.dtype)
    return jnp.where(noise_trace == 0, 0, jnp.minimum(noise_trace / squared_norm, limits.max))


NOISE_SCALE = Paper(
    "An Empirical Model of Large-Batch Training", "McCandlish, Kaplan, Amodei et al.", 2018, "1812.06162"
)

METHODS = (
    Method(
        name="gradient_noise_scale",
        factory=gradient_noise_scale,
        kind="transformation",
        summary="Averages microbatches or workers and measures the batch size at which signal equals noise.",
        paper=NOISE_SCALE,
        also_known_as=("GNS", "simple noise scale", "B_simple", "critical batch size"),
        parts=(read_noise_scale, NoiseScale),
        example={"batch_size_small": 32},
        grid=0.1,
        stacked="microbatches",
    ),
)
