"""Signum: the sign of a momentum.

Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018, arXiv:1802.04434. Algorithm 2.
It is Lion with equal weights; `optax.signum` has neither decay nor 16-bit parameters under an injected learning rate,
and drifts for ever after one infinite gradient.
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
    """Moves every parameter by the learning rate, against the sign of the gradient's exponential average.

    The sign of a complex number is the number over its modulus. Do not take it where gradients are mostly noise: the
    sign of a small average moves as far as that of a large one.

    Args:
        learning_rate: a positive number or a schedule; the length of every coordinate's step.
        b1: decay of the average, in [0, 1); default 0.9; 0 is signSGD.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        mu_dtype: dtype of the average; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.signum(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018, arXiv:1802.04434.
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
        summary="The sign of the gradient's exponential average.",
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
