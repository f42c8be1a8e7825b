"""Cautious optimizers: only those coordinates move in which an optimizer's update descends along the gradient.

Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
The rules are those of the authors' code (C-Optim), in which AdamW and Lion rescale the mask in different ways. The text
of the paper describes the way of Lion; its Algorithm 1 describes that of AdamW, but adds an epsilon where the code has
a threshold.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import EpsPlacement, scale_by_adam
from optkit.core.checks import check_option, check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, DTypeLike, Mask
from optkit.core.workers import collectives
from optkit.method import Method, Paper
from optkit.sign_momentum._lion_kappa import scale_by_lion_kappa

__all__ = ["cautious", "cautious_adamw", "cautious_lion"]

Rescaling = Literal["mean_clamp", "numel_plus_one", "none"]


def _rescaling(
    mask: jax.Array, scale: Rescaling, threshold: jax.typing.ArrayLike, axis_name: AxisName | None
) -> jax.typing.ArrayLike:
    """Returns the factor that makes up for the stopped coordinates, those where `mask` is 0 instead of 1."""
    if scale == "none":
        return 1.0
    # Numbers, not booleans, which XLA for CPUs counts at half the speed.
    dtype = jnp.promote_types(mask.dtype, jnp.float32)
    moving_share = collectives.pmean(jnp.mean(mask, dtype=dtype), axis_name)
    if scale == "mean_clamp":
        return 1 / jnp.maximum(moving_share, threshold)
    # A float: the integer may not fit into 32 bits.
    size = float(mask.size) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    return size / (moving_share * size + 1)


def cautious(
    inner: optax.GradientTransformation,
    *,
    scale: Rescaling = "mean_clamp",
    threshold: jax.typing.ArrayLike = 1e-3,
    before_learning_rate: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stops coordinates in which an optimizer's update does not descend along the gradient, and rescales the others.

    The update rule for each leaf, where u is the update of `inner` and g the gradient that enters the wrapper::

        c = 1 where u * g < 0, else 0
        u = u * c / max(mean(c), threshold)

    For complex numbers the real part of `conj(g) * u` takes the place of `u * g`.

    Use it when an optimizer with momentum should never move a parameter uphill along the current gradient. It costs no
    memory. Avoid it around an optimizer that decays weights, because the decay is then stopped and rescaled too: the
    authors keep weight decay outside, as `cautious_adamw` and `cautious_lion` do. Avoid it too when gradients are
    mostly noise, because noise then decides which coordinates stop.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. It may be any transformation; see
            `before_learning_rate`.
        scale: The factor on the coordinates that move, for each leaf: `"mean_clamp"` divides by the share of
            coordinates that move; `"numel_plus_one"` multiplies by the size of the leaf over one more than the number
            of coordinates that move; `"none"` leaves them as they are. Default: `"mean_clamp"`.
        threshold: The smallest share that `"mean_clamp"` divides by, in (0, 1]. Default: 1e-3.
        before_learning_rate: Whether the updates of `inner` still point along the gradient, as those of a
            `scale_by_adam` before `scale_by_learning_rate` do. Default: False, for a whole optimizer, whose updates
            point against the gradient.
        axis_name: Name of the axis over workers. Inside `jax.shard_map` each of them holds a shard of every leaf;
            shares and sizes are then those of whole leaves. None (the default): leaves are whole, or sharded by `jit`.

    Returns:
        A transformation with the state of `inner`.

    Raises:
        ValueError: If `scale` is unknown, or `threshold` is outside (0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious(optax.sgd(0.1, momentum=0.9))
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> _, state = tx.update(jnp.array([1.0, 1.0]), state, params)
        >>> updates, state = tx.update(jnp.array([1.0, -0.5]), state, params)  # the second gradient turned
        >>> updates
        Array([-0.38, -0.  ], dtype=float32)

    Reference:
        arXiv:2411.16085
    """
    check_range("threshold", threshold, 0.0, 1.0, low_open=True)
    check_option("scale", scale, Rescaling)
    inner = optax.with_extra_args_support(inner)
    direction = 1 if before_learning_rate else -1

    def stop_and_rescale(update, gradient):
        agreement = direction * jnp.real(jnp.conj(jnp.sign(gradient)) * update)
        mask = jnp.sign(jnp.maximum(agreement, 0))  # Alg. 1, m: 1 or 0, and NaN where the update or the gradient is NaN
        rescaling = _rescaling(mask, scale, threshold, axis_name)
        return (update * mask * rescaling).astype(update.dtype)  # Alg. 1, u * m / (m.mean() + eps)

    def update_fn(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(stop_and_rescale, inner_updates, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def cautious_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
    bias_correction: bool = True,
    eps_placement: EpsPlacement = "pre",
) -> optax.GradientTransformationExtraArgs:
    """AdamW that stops the coordinates in which its update and the gradient disagree.

    The update rule at step t, where m and v start at zero and the mean is taken over each leaf::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g^2
        u = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
        c = 1 where u * g > 0, else 0
        x = x - lr * (u * c / max(mean(c), 0.001) + wd * x)

    Weight decay is neither stopped nor rescaled.

    The authors' code has two paths, which place epsilon differently. The defaults here follow the loop over single
    parameters (`foreach=False`). `eps_placement="post"` follows the other path (`foreach=True`), which their
    constructor uses by default and which always corrects the bias.

    Use it in place of AdamW, with the same hyperparameters and the same memory. Avoid it when gradients are mostly
    noise, because the sign of one noisy gradient decides which coordinates move.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. AdamW's is a good start.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.
        bias_correction: Whether both moments are corrected for their start at zero. Default: True.
        eps_placement: `"pre"` adds epsilon before the bias correction, as in the authors' loop; `"post"` adds it after,
            as in their `foreach=True` and in `optax.adamw`. Default: `"pre"`.

    Returns:
        An optimizer. Its state is two numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious_adamw(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        arXiv:2411.16085
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    adam = scale_by_adam(b1, b2, eps, eps_placement=eps_placement, bias_correction=bias_correction, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            cautious(adam, before_learning_rate=True),
            add_decay("cautious_adamw", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def cautious_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.98,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion that stops the coordinates in which its update and the gradient disagree.

    The update rule, where n is the size of a leaf::

        u = sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        c = 1 where u * g > 0, else 0
        x = x - lr * (u * c * n / (sum(c) + 1) + wd * x)

    Weight decay is neither stopped nor rescaled.

    Use it in place of Lion, at the same price: one number per parameter. Avoid it when gradients are mostly noise,
    because the sign of one noisy gradient decides which coordinates move.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Lion's is a good start.
        b1: Weight of the momentum when it is averaged with the gradient, in [0, 1]. Default: 0.95.
        b2: Decay rate of the momentum, in [0, 1]. Default: 0.98.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state is one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious_lion(0.1)
        >>> params = jnp.array([3.0, -4.0, 5.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates  # all three move: the leaf's size over the number that moves plus one is 3/4
        Array([-0.075,  0.075, -0.075], dtype=float32)

    Reference:
        arXiv:2411.16085
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    lion = scale_by_lion_kappa(b1, b2, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            cautious(lion, scale="numel_plus_one", before_learning_rate=True),
            add_decay("cautious_lion", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


_CAUTIOUS = Paper(
    "Cautious Optimizers: Improving Training with One Line of Code", "Liang, Chen, Liu, Liu", 2024, "2411.16085"
)


METHODS = (
    Method(
        name="cautious",
        factory=cautious,
        kind="wrapper",
        summary="Stops the coordinates in which an optimizer's update and the gradient disagree in sign.",
        paper=_CAUTIOUS,
        also_known_as=("cautious optimizers", "C-Optim"),
        grid=0.1,
        golden="c_adamw",
    ),
    Method(
        name="cautious_adamw",
        factory=cautious_adamw,
        kind="optimizer",
        summary="AdamW that stops the coordinates in which its update and the gradient disagree.",
        paper=_CAUTIOUS,
        also_known_as=("C-AdamW", "C-Adam"),
        example={"learning_rate": 1e-2},
        grid=3e-3,
        golden="c_adamw",
    ),
    Method(
        name="cautious_lion",
        factory=cautious_lion,
        kind="optimizer",
        summary="Lion that stops the coordinates in which its update and the gradient disagree.",
        paper=_CAUTIOUS,
        also_known_as=("C-Lion",),
        example={"learning_rate": 1e-2},
        grid=1e-3,
        golden="c_lion",
    ),
)
