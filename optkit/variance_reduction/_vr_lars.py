"""VR-LARS: LARS on gradients that `scale_by_gradient_snr` scales.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.trees import with_whole_tree
from optkit.core.types import AxisName, Mask
from optkit.method import Method
from optkit.variance_reduction._gradient_snr import GSNR, gradient_snr

__all__ = ["vr_lars"]


def vr_lars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    eps: jax.typing.ArrayLike = 0.0,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    trust_ratio_mask: Any | None = None,
    nesterov: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-LARS: `optax.lars` after `scale_by_gradient_snr`.

    The update rule, where p comes from `scale_by_gradient_snr` and norms are those of each leaf::

        u = p + wd * x
        m = momentum * m + lr * trust_coefficient * |x| / (|u| + eps) * u
        x = x - m

    Use it in place of LARS for very large batches. Avoid it when the size of the gradient must set the length of the
    step, because LARS divides by the norm of a leaf's gradient: only the relative weights of the coordinates matter.
    Communication is twice that of plain data parallel training. Its `update` takes one gradient for each part of the
    batch, as that of `scale_by_gradient_snr` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        momentum: Decay rate of the momentum, in [0, 1]. Default: 0.9.
        trust_coefficient: How far a leaf moves relative to its norm, above 0. Default: 0.001.
        eps: Added to the norm of the gradient, at least 0. Default: 0.
        gamma: See `scale_by_gradient_snr`. Default: 0.1.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        trust_ratio_mask: Which leaves have steps relative to their norm: a tree of booleans, or a function that makes
            it from the parameters. Default: all.
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
        >>> tx = optkit.vr_lars(1.0, trust_coefficient=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(2)
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        arXiv:2309.13681
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("trust_coefficient", trust_coefficient, 0.0, low_open=True)
    check_range("eps", eps, 0.0)
    check_range("weight_decay", weight_decay, 0.0)
    refuse_arrays(mask=mask, trust_ratio_mask=trust_ratio_mask)

    def trust(trust_ratio_mask):
        ratio = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps)
        return ratio if trust_ratio_mask is None else optax.masked(ratio, lambda _: trust_ratio_mask)

    base = optax.chain(
        add_decay("vr_lars", weight_decay, mask),
        with_whole_tree(trust, trust_ratio_mask=trust_ratio_mask),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum, nesterov),
    )
    ratio = gradient_snr("vr_lars", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, relative_to_params("vr_lars", base)))


def relative_to_params(method: str, tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Makes `update` of a transformation raise an error that names the whole method if it gets no parameters."""

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, method)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


METHODS = (
    Method(
        name="vr_lars",
        factory=vr_lars,
        kind="optimizer",
        summary="LARS on gradients whose coordinates are weighted by their signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-LARS", "VRGD"),
        example={"learning_rate": 1.0},
        grid=3.0,
        tunable={"gamma": (0.01, 1.0, "log")},
        stacked="microbatches",
    ),
)
