"""VRGD: multiplies each coordinate of the mean gradient by its signal-to-noise ratio over workers or microbatches.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681. The authors published no code. The ratio is that of the paper's Algorithm 1, where a layer of the
paper is a leaf here. The paper's VR-Adam and VR-LAMB smooth the ratio; the bias correction of that average is inferred
from the hat in the paper's notation.

The paper's ratio is infinite if all rows agree. Here a variance below the rounding error of the gradient counts as that
error, so that all noise-free coordinates get the same weight, and nothing overflows or underflows at any scale.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers.rows import count_rows, mean_over_rows, over_rows, require_reduced, require_rows
from optkit.method import Method, Paper

__all__ = ["scale_by_gradient_snr"]


def _mean_and_noise(row: Any, *, axis_name: AxisName, method: str) -> tuple[Any, Any]:
    """Returns the mean over rows, and each coordinate's variance over rows in units of its squared mean."""
    count_rows(row, axis_name, method)
    mean = mean_over_rows(row, axis_name)

    def squared_deviation(g, m):
        return jnp.where(m == 0, jnp.inf, (g - m) / jnp.where(m == 0, 1, m)) ** 2

    # Deviations from the mean, not the mean of squares less the square of the mean: small variances stay exact.
    return mean, mean_over_rows(jax.tree.map(squared_deviation, row, mean), axis_name)


def _clipped_ratio(noise: jax.Array, gamma: jax.typing.ArrayLike) -> jax.Array:
    """Returns the weights of a leaf's coordinates, in [gamma, 1], from their variance over their squared mean."""
    ratio = 1 / (noise + jnp.finfo(noise.dtype).eps ** 2)  # the ratio r of squared mean and variance
    layer_mean = jnp.mean(ratio)
    ratio = jnp.where(layer_mean > 0, ratio / layer_mean, 1)  # r with a mean of 1 over the layer
    return jnp.clip(ratio, gamma, 1)  # r clipped to [gamma, 1]


def scale_by_gradient_snr(
    gamma: jax.typing.ArrayLike = 0.1,
    b3: float | jax.Array | None = None,
    *,
    debias: bool = True,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformation:
    """Averages gradients and slows down the coordinates in which they disagree.

    The update rule, where mean and var are taken over the workers or microbatches, for each coordinate::

        r = mean(g)**2 / var(g)
        r = clip(r / average of r over the leaf, gamma, 1)
        u = r * mean(g)

    With `b3` the ratio r is replaced by its exponential average over the steps.

    Use it for very large batches, with at least two equal parts of the batch; the paper uses 8 or more parts of 8 to 64
    samples each. Avoid it when a coordinate has no noise, for example when only an L2 penalty acts on it, because it
    then takes all the weight of its leaf: keep penalties out of these gradients. Communication is twice that of plain
    data parallel training. Most coordinates of a noisy leaf end at `gamma`, so the steps are 2 to 10 times shorter:
    raise the learning rate. Scalars are only averaged.

    **Do not average the gradients before it**: with `axis_name`, `update` takes each worker's own gradient and averages
    it itself.

    Args:
        gamma: Smallest weight of a coordinate relative to the best one of its leaf, in [0, 1]. Default: 0.1. With 1
            gradients are only averaged.
        b3: Decay rate of an average of the weights over the steps, in [0, 1). Default: None, no such average and no
            state.
        debias: Whether the bias of that average, which starts at zero, is corrected. Default: True.
        axis_name: Name of the axis over workers. None (the default): each leaf of the gradients has a leading axis, one
            row per microbatch or sample, which `update` removes.

    Returns:
        A transformation. Its state is empty, or with `b3` an `optax.EmaState`: one number per parameter, in float32 at
        least, equal on all workers.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `update`, if there is only one part of the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_gradient_snr(gamma=0.1)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 6.0], [1.2, -4.0]])  # two microbatches, which disagree in the second one
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([1.1, 0.1], dtype=float32)

    Reference:
        arXiv:2309.13681
    """
    return gradient_snr("scale_by_gradient_snr", gamma, b3, debias=debias, axis_name=axis_name)


def gradient_snr(
    method: str,
    gamma: jax.typing.ArrayLike,
    b3: float | jax.Array | None = None,
    *,
    debias: bool = True,
    axis_name: AxisName | None,
) -> optax.GradientTransformation:
    """Builds the rule for `scale_by_gradient_snr` and for the named optimizers; errors call it `method`."""
    refuse_arrays(axis_name=axis_name)
    check_range("gamma", gamma, 0.0, 1.0)
    check_range("b3", b3, 0.0, 1.0, high_open=True)
    smoothing = optax.identity() if b3 is None else optax.ema(b3, debias)
    noise_of_rows = over_rows(functools.partial(_mean_and_noise, method=method), axis_name)

    def init_fn(params):
        refuse_complex(params, method)
        return smoothing.init(widen(params))

    def update_fn(updates, state, params=None):
        if axis_name is None:
            require_rows(updates, method)
        mean, noise = noise_of_rows(widen(updates))
        require_reduced(mean, params, method)
        ratio = jax.tree.map(functools.partial(_clipped_ratio, gamma=gamma), noise)
        ratio, new_state = smoothing.update(ratio, state)  # p and its correction, VR-Adam and VR-LAMB
        scaled = optax.tree.cast_like(optax.tree.mul(ratio, mean), updates)
        return scaled, optax.tree.cast_like(new_state, state)

    return optax.GradientTransformation(init_fn, update_fn)


GSNR = Paper(
    "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)",
    "Jiang, Liu, Ding, Guo, Lin",
    2023,
    "2309.13681",
)


METHODS = (
    Method(
        name="scale_by_gradient_snr",
        factory=scale_by_gradient_snr,
        kind="transformation",
        summary="Averages microbatches or workers and scales each coordinate by its signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VRGD", "GSNR", "gradient signal-to-noise ratio", "variance reduced gradient descent"),
        grid=0.1,
        stacked="microbatches",
        golden="vr_momentum",
    ),
)
