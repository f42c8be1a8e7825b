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
    """VR-Momentum: `optax.sgd` with momentum, after `scale_by_gradient_snr`.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule.
        momentum: decay of the momentum, in [0, 1]; default 0.9.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        nesterov: whether the momentum is Nesterov's.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_momentum(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    ratio = gradient_snr("vr_momentum", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, optax.sgd(learning_rate, momentum, nesterov)))


METHODS = (
    Method(
        name="vr_momentum",
        factory=vr_momentum,
        kind="optimizer",
        summary="Momentum on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-Momentum", "VRGD"),
        example={"learning_rate": 2e-3},
        grid=0.1,
        stacked="microbatches",
    ),
)
