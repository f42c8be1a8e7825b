"""Grams: the size of an optimizer's update with the sign of the gradient.

Cao, Li, Song, "Grams: Gradient Descent with Adaptive Momentum Scaling", 2024, arXiv:2412.17107. The paper writes Adam
with epsilon after the bias correction. The authors' code adds it before, and so does `grams_adamw` by default.
"""

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import EpsPlacement, scale_by_adam
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper

__all__ = ["grams", "grams_adamw"]


def grams(
    inner: optax.GradientTransformation, *, before_learning_rate: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Gives every coordinate of an optimizer's update the sign that descends along the gradient.

    The update rule, where u is the update of `inner` and g the gradient that enters the wrapper::

        u = -sign(g) * abs(u)

    The sign of a complex number is the number over its modulus.

    Use it when momentum should set the length of a step but never its direction. It costs no memory. Avoid it around an
    optimizer that decays weights, because the sign of the decay is then lost: keep weight decay outside. Avoid it too
    when gradients are mostly noise or often exactly zero: the sign of one gradient decides the direction, and where a
    gradient is zero its parameter stands still, whatever the momentum.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. It may be any transformation; see
            `before_learning_rate`.
        before_learning_rate: Whether the updates of `inner` still point along the gradient, as those of a
            `scale_by_adam` before `scale_by_learning_rate` do. Default: False, for a whole optimizer, whose updates
            point against the gradient.

    Returns:
        A transformation with the state of `inner`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.grams(optax.sgd(0.1, momentum=0.9))
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> _, state = tx.update(jnp.array([1.0, 1.0]), state, params)
        >>> updates, state = tx.update(jnp.array([1.0, -0.5]), state, params)  # the second gradient turned
        >>> updates
        Array([-0.19,  0.04], dtype=float32)

    Reference:
        arXiv:2412.17107
    """
    inner = optax.with_extra_args_support(inner)
    direction = 1 if before_learning_rate else -1

    def update_fn(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)
        turned = jax.tree.map(
            lambda u, g: (direction * jnp.sign(g) * jnp.abs(u)).astype(u.dtype), inner_updates, updates
        )
        return turned, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def grams_adamw(
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
    """AdamW whose update has the sign of the gradient, the optimizer of the Grams paper.

    The update rule at step t, where m and v start at zero::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g^2
        u = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
        x = x - lr * (sign(g) * abs(u) + wd * x)

    Use it in place of AdamW, with the same hyperparameters and the same memory. Avoid it when gradients are mostly
    noise, because the sign of a single gradient decides the direction; momentum then does not average the noise. On
    digits a step on a batch of 4 lowered the loss of all data half as much as Adam's, on whole batches as much.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. AdamW's is a good start.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.
        bias_correction: Whether both moments are corrected for their start at zero. Default: True.
        eps_placement: `"pre"` adds epsilon before the bias correction, as in the authors' code; `"post"` adds it after,
            as in the paper. Default: `"pre"`.

    Returns:
        An optimizer. Its state is two numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.grams_adamw(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        arXiv:2412.17107
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    adam = scale_by_adam(b1, b2, eps, eps_placement=eps_placement, bias_correction=bias_correction, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            grams(adam, before_learning_rate=True),
            add_decay("grams_adamw", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


_GRAMS = Paper("Grams: Gradient Descent with Adaptive Momentum Scaling", "Cao, Li, Song", 2024, "2412.17107")

METHODS = (
    Method(
        name="grams",
        factory=grams,
        kind="wrapper",
        summary="Gives an optimizer's update the sign of the gradient.",
        paper=_GRAMS,
        also_known_as=("Gradient Descent with Adaptive Momentum Scaling",),
        grid=0.1,
    ),
    Method(
        name="grams_adamw",
        factory=grams_adamw,
        kind="optimizer",
        summary="AdamW whose update has the sign of the gradient.",
        paper=_GRAMS,
        also_known_as=("Grams",),
        example={"learning_rate": 1e-2},
        grid=3e-3,
        golden="grams",
    ),
)
