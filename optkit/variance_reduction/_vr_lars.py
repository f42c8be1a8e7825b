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

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch. LARS divides by the
    norm of a leaf's gradient, so only the relative weights of the coordinates matter.

    Args:
        learning_rate: a positive number or a schedule.
        momentum: decay of the momentum, in [0, 1]; default 0.9.
        trust_coefficient: how far a leaf moves relative to its norm, positive; default 0.001.
        eps: added to the norm of the gradient, at least 0; default 0.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decay, which is added to the gradient, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        trust_ratio_mask: the same for the leaves whose steps are relative to their norm. All by default.
        nesterov: whether the momentum is Nesterov's.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_lars(1.0, trust_coefficient=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(2)
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681.
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
    """Makes a transformation raise, by the name of the whole method, if `update` gets no parameters."""

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, method)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


METHODS = (
    Method(
        name="vr_lars",
        factory=vr_lars,
        kind="optimizer",
        summary="LARS on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=GSNR,
        also_known_as=("VR-LARS", "VRGD"),
        example={"learning_rate": 1.0},
        grid=3.0,
        stacked="microbatches",
    ),
)
