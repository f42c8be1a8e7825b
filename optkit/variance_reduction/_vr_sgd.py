"""VR-SGD: gradient descent along gradients that `scale_by_gradient_snr` scales.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681. Algorithm 1.
"""

import jax
import optax

from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.method import Method
from optkit.variance_reduction._gradient_snr import GSNR, gradient_snr

__all__ = ["vr_sgd"]


def vr_sgd(
    learning_rate: optax.ScalarOrSchedule, gamma: jax.typing.ArrayLike = 0.1, *, axis_name: AxisName | None = None
) -> optax.GradientTransformationExtraArgs:
    """VR-SGD: gradient descent that slows down the coordinates in which workers or microbatches disagree.

    The update rule, where u comes from `scale_by_gradient_snr`::

        x = x - lr * u

    Use it for very large batches, for which the paper proposes it. Avoid it with the learning rate of SGD, because it
    is then slower than SGD: no coordinate moves faster. Communication is twice that of plain data parallel training.
    Its `update` takes one gradient for each part of the batch, as that of `scale_by_gradient_snr` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use 2 to 10 times that of SGD if gradients
            are noisy.
        gamma: See `scale_by_gradient_snr`. Default: 0.1.
        axis_name: Name of the axis over workers. None (the default): gradients have a leading axis, one row per
            microbatch or sample.

    Returns:
        An optimizer without state.

    Raises:
        ValueError: If `gamma` is outside [0, 1]. From `update`, if there is only one part of the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_sgd(0.5)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 6.0], [1.0, -4.0]])  # two microbatches, which disagree in the second one
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        arXiv:2309.13681
    """
    ratio = gradient_snr("vr_sgd", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, optax.sgd(learning_rate)))


METHODS = (
    Method(
        name="vr_sgd",
        factory=vr_sgd,
        kind="optimizer",
        summary="SGD that slows down the coordinates in which workers or microbatches disagree.",
        paper=GSNR,
        also_known_as=("VR-SGD", "VRGD", "variance reduced gradient descent"),
        example={"learning_rate": 2e-3},
        grid=0.3,
        tunable={"gamma": (0.01, 1.0, "log")},
        stacked="microbatches",
    ),
)
