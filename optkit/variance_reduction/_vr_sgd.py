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

    Its paper wants it for very large batches. At equal learning rates it is slower than SGD, since no coordinate moves
    faster. See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule; 2 to 10 times SGD's where gradients are noisy.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer without state.

    Raises:
        ValueError: if `gamma` is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_sgd(0.5)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 6.0], [1.0, -4.0]])  # two microbatches, which disagree in the second one
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Algorithm 1.
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
        stacked="microbatches",
    ),
)
