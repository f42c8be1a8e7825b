"""Exponentiated AdamW: AdamW whose whole update is scaled at random.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742. The
authors' code (trainit) scales whatever the optimizer returns, weight decay included.
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
    """AdamW whose whole update, weight decay included, is scaled by an exponentially distributed number of mean one.

    It has nothing to do with exponentiated gradients, which multiply parameters. Do not take it where steps must not
    vary.

    Args:
        learning_rate: a positive number or a schedule; AdamW's.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.
        key: an integer or a JAX key, equal on all workers.

    Returns:
        An optimizer; its state is two numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.exponentiated_adamw(0.1, key=0)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -updates[0])
        True

    Reference:
        Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
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
        summary="AdamW whose whole update is scaled by an exponentially distributed number of mean one.",
        paper=RANDOM_SCALING,
        also_known_as=("randomly scaled AdamW",),
        example={"learning_rate": 1e-2, "key": 0},
        grid=3e-3,
        golden="random_scaling",
    ),
)
