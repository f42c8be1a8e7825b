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
    """VR-LAMB: `optax.lamb`, both moments of it, after `scale_by_gradient_snr` with weights averaged over the steps.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        b3: decay of the average of the weights, as in `vr_adam`; default 0.9.
        eps: added to the root of the second moment, at least 0; default 1e-6.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decay, inside the trust ratio, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is three numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_lamb(0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.354, -0.354], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Section 4.2.
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
        summary="LAMB on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-LAMB", "VRGD"),
        example={"learning_rate": 1e-2},
        grid=1e-2,
        stacked="microbatches",
    ),
)
