"""VR-Adam: AdamW on gradients that `scale_by_gradient_snr` scales, with weights averaged over the steps.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681. Section 4.2.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.method import Method
from optkit.variance_reduction._gradient_snr import GSNR, gradient_snr

__all__ = ["vr_adam"]


def vr_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: float | jax.Array | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-Adam: `optax.adamw` after `scale_by_gradient_snr` with weights averaged over the steps.

    The update rule, where p comes from `scale_by_gradient_snr` and t counts the steps from 1; both moments see p::

        m = b1 * m + (1 - b1) * p
        v = b2 * v + (1 - b2) * p**2
        u = (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)
        x = x - lr * (u + wd * x)

    Use it in place of AdamW for very large batches. Avoid it when the batch cannot be split into several parts, because
    the ratio comes from their differences. Communication is twice that of plain data parallel training, and it keeps
    one number per parameter more than AdamW. Its `update` takes one gradient for each part of the batch, as that of
    `scale_by_gradient_snr` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The paper scales that of Adam with the square
            root of the batch size.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        b3: Decay rate of the average of the weights, in [0, 1). None disables the average. Default: 0.9.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
        gamma: See `scale_by_gradient_snr`. Default: 0.1.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None (the default): gradients have a leading axis, one row per
            microbatch or sample.

    Returns:
        An optimizer. Its state holds three numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `update`, if there is only one part of the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_adam(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.5, -0.5], dtype=float32)

    Reference:
        arXiv:2309.13681, Section 4.2
    """
    refuse_arrays(mask=mask)
    check_adam(b1, b2, eps, weight_decay)
    return in_float32(
        optax.chain(
            gradient_snr("vr_adam", gamma, b3, axis_name=axis_name),
            optax.scale_by_adam(b1, b2, eps),
            add_decay("vr_adam", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def check_adam(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, weight_decay: float | jax.Array
) -> None:
    """Raises an error if a hyperparameter of Adam is out of its range."""
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    check_range("weight_decay", weight_decay, 0.0)


METHODS = (
    Method(
        name="vr_adam",
        factory=vr_adam,
        kind="optimizer",
        summary="AdamW on gradients whose coordinates are weighted by their smoothed signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-Adam", "VRGD"),
        example={"learning_rate": 1e-2},
        grid=3e-3,
        tunable={"gamma": (0.01, 1.0, "log")},
        stacked="microbatches",
    ),
)
