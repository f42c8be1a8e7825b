"""Signum: every parameter moves by the sign of its momentum.

Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems", 2018,
arXiv:1802.04434. Algorithm 2.
It is Lion with equal weights. `optax.signum` has no weight decay, does not support 16-bit parameters under an injected
learning rate, and keeps moving a parameter after one infinite gradient.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper
from optkit.sign_momentum._lion_kappa import scale_by_lion_kappa

__all__ = ["signum"]


def signum(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Moves every parameter by the learning rate, against the sign of its momentum.

    The update rule::

        m = b1 * m + (1 - b1) * g
        x = x - lr * (sign(m) + wd * x)

    The sign of a complex number is the number over its modulus.

    Use it when the state must be small (one number per parameter), or when gradients of different parameters differ
    much in size. Avoid it when gradients are mostly noise, because the sign of a small average moves a parameter as far
    as that of a large one.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is the length of the step in every
            coordinate.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9. With 0 it is signSGD.
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
        >>> tx = optkit.signum(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        arXiv:1802.04434
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    return in_float32(
        optax.chain(
            scale_by_lion_kappa(b1, b1, mu_dtype=mu_dtype),  # Alg. 2, the sign of the momentum
            add_decay("signum", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


METHODS = (
    Method(
        name="signum",
        factory=signum,
        kind="optimizer",
        summary="Moves every parameter by the learning rate, against the sign of its momentum.",
        paper=Paper(
            "signSGD: Compressed Optimisation for Non-Convex Problems",
            "Bernstein, Wang, Azizzadenesheli, Anandkumar",
            2018,
            "1802.04434",
        ),
        also_known_as=("signSGD", "signSGD with momentum"),
        example={"learning_rate": 1e-2},
        grid=1e-3,
    ),
)
