"""VR-Momentum: momentum of gradients that `scale_by_gradient_snr` scales.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.method import Method
from optkit.variance_reduction._gradient_snr import GSNR, gradient_snr

__all__ = ["vr_momentum"]


def vr_momentum(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float | jax.Array = 0.9,
    gamma: jax.typing.ArrayLike = 0.1,
    *,
    nesterov: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-Momentum: `optax.sgd` with momentum after `scale_by_gradient_snr`.

    The update rule, where u comes from `scale_by_gradient_snr`::

        m = momentum * m + u
        x = x - lr * m

    Use it in place of momentum SGD for very large batches. Avoid it with the learning rate of SGD, because most
    coordinates of a noisy leaf move less. Communication is twice that of plain data parallel training. Its `update`
    takes one gradient for each part of the batch, as that of `scale_by_gradient_snr` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        momentum: Decay rate of the momentum, in [0, 1]. Default: 0.9.
        gamma: See `scale_by_gradient_snr`. Default: 0.1.
        nesterov: Whether the momentum is Nesterov's. Default: False.
        axis_name: Name of the axis over workers. None (the default): gradients have a leading axis, one row per
            microbatch or sample.

    Returns:
        An optimizer. Its state holds one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `update`, if there is only one part of the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_momentum(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        arXiv:2309.13681
    """
    check_range("momentum", momentum, 0.0, 1.0)
    ratio = gradient_snr("vr_momentum", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, optax.sgd(learning_rate, momentum, nesterov)))


METHODS = (
    Method(
        name="vr_momentum",
        factory=vr_momentum,
        kind="optimizer",
        summary="Momentum SGD on gradients whose coordinates are weighted by their signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-Momentum", "VRGD"),
        example={"learning_rate": 2e-3},
        grid=0.1,
        tunable={"gamma": (0.01, 1.0, "log")},
        stacked="microbatches",
    ),
)
