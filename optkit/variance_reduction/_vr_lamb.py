"""VR-LAMB: LAMB on gradients that `scale_by_gradient_snr` scales, with weights averaged over the steps.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681. Section 4.2.
"""

import jax
import optax

from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.method import Method
from optkit.variance_reduction._gradient_snr import GSNR, gradient_snr
from optkit.variance_reduction._vr_adam import check_adam
from optkit.variance_reduction._vr_lars import relative_to_params

__all__ = ["vr_lamb"]


def vr_lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: float | jax.Array | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-LAMB: `optax.lamb` after `scale_by_gradient_snr` with weights averaged over the steps.

    The update rule, where p comes from `scale_by_gradient_snr`, t counts the steps from 1, and norms are those of each
    leaf; both moments see p::

        m = b1 * m + (1 - b1) * p
        v = b2 * v + (1 - b2) * p**2
        u = (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps) + wd * x
        x = x - lr * |x| / |u| * u

    Use it in place of LAMB for very large batches. Avoid it when the batch cannot be split into several parts, because
    the ratio comes from their differences. Communication is twice that of plain data parallel training, and it keeps
    one number per parameter more than LAMB. Its `update` takes one gradient for each part of the batch, as that of
    `scale_by_gradient_snr` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        b3: Decay rate of the average of the weights, in [0, 1). None disables the average. Default: 0.9.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6.
        gamma: See `scale_by_gradient_snr`. Default: 0.1.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. It acts inside the trust ratio.
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
        >>> tx = optkit.vr_lamb(0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.354, -0.354], dtype=float32)

    Reference:
        arXiv:2309.13681, Section 4.2
    """
    refuse_arrays(mask=mask)
    check_adam(b1, b2, eps, weight_decay)
    base = optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        add_decay("vr_lamb", weight_decay, mask),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(learning_rate),
    )
    ratio = gradient_snr("vr_lamb", gamma, b3, axis_name=axis_name)
    return in_float32(optax.chain(ratio, relative_to_params("vr_lamb", base)))


METHODS = (
    Method(
        name="vr_lamb",
        factory=vr_lamb,
        kind="optimizer",
        summary="LAMB on gradients whose coordinates are weighted by their smoothed signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-LAMB", "VRGD"),
        example={"learning_rate": 1e-2},
        grid=1e-2,
        tunable={"gamma": (0.01, 1.0, "log")},
        stacked="microbatches",
    ),
)
