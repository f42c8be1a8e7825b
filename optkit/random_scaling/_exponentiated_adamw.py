"""Exponentiated AdamW: AdamW whose whole update is multiplied by a random number.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742. As in the
authors' code (trainit), the whole update of the optimizer is scaled, including weight decay.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import DTypeLike, Key, Mask
from optkit.method import Method
from optkit.random_scaling._random_scaling import RANDOM_SCALING, randomly_scaled

__all__ = ["exponentiated_adamw"]


def exponentiated_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
    key: Key,
) -> optax.GradientTransformationExtraArgs:
    """AdamW whose whole update is multiplied by an exponentially distributed random number with mean 1.

    The update rule at step t, where m and v start at zero and s is one random number for all parameters::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g^2
        s = a draw from the exponential distribution with mean 1
        x = x - s * lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd * x)

    It is not related to exponentiated gradients, which multiply the parameters.

    Use it when the loss is neither convex nor smooth, in place of AdamW and with the same memory. Avoid it when steps
    must not vary: the longest of 1,000 draws is about 7, and the mean of their squares is 2, so the largest stable
    learning rate is smaller than AdamW's.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. AdamW's is a good start.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is scaled too.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        An optimizer. Its state is two numbers per parameter and a key.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.exponentiated_adamw(0.1, key=0)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -updates[0])
        True

    Reference:
        arXiv:2405.09742
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    adamw = optax.chain(
        optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
        add_decay("exponentiated_adamw", weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(randomly_scaled(adamw, key=key))


METHODS = (
    Method(
        name="exponentiated_adamw",
        factory=exponentiated_adamw,
        kind="optimizer",
        summary="AdamW whose whole update is multiplied by an exponentially distributed random number.",
        paper=RANDOM_SCALING,
        also_known_as=("randomly scaled AdamW",),
        example={"learning_rate": 1e-2, "key": 0},
        grid=3e-3,
        golden="random_scaling",
    ),
)
