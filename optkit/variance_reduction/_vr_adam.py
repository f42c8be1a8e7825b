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
    """VR-Adam: `optax.adamw`, both moments of it, after `scale_by_gradient_snr` with weights averaged over the steps.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule; the paper scales Adam's with the root of the batch size.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        b3: decay of the average of the weights, in [0, 1); default 0.9; None for no average.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is three numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_adam(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.5, -0.5], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Section 4.2.
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
    """Raises if a hyperparameter of Adam is out of its range."""
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    check_range("weight_decay", weight_decay, 0.0)


METHODS = (
    Method(
        name="vr_adam",
        factory=vr_adam,
        kind="optimizer",
        summary="AdamW on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-Adam", "VRGD"),
        example={"learning_rate": 1e-2},
        grid=3e-3,
        stacked="microbatches",
    ),
)
