"""IGT-Adam: Adam on a transported average of gradients.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. For Adam the authors' code (igt.pth) adds weight decay at the true point, and
epsilon before the bias correction, and so does this module.
"""

import jax
import optax

from optkit.core.adam import scale_by_adam
from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import Mask
from optkit.method import Method
from optkit.variance_reduction._implicit_transport import IGT, Averaging, igt_eval_params, transport

__all__ = ["igt_adam"]


def igt_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    averaging: Averaging = "full",
    delta: jax.typing.ArrayLike = 1.0,
    interval: jax.typing.ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam on a transported average of gradients.

    The update rule, where x are the shifted parameters at which g is taken, y the true parameters, n = 0, 1, ... counts
    the updates and t = n + 1. For the default averaging r(n) = n / delta::

        a = a + (g - a) / (1 + r(n))
        p = a + wd * y
        m = b1 * m + (1 - b1) * p
        v = b2 * v + (1 - b2) * p**2
        u = sqrt(1 - b2**t) / (1 - b1**t) * m / (sqrt(v) + eps)
        y = y - lr * u
        x = y - r(n + 1) * lr * u

    The training loop holds the shifted parameters x; `igt_eval_params` returns y, the parameters to evaluate.

    Use it in place of Adam when gradients are noisy. Avoid the full average with a constant learning rate, because the
    steps of Adam do not shrink with the gradient and the shift grows without end: decay the learning rate, or use
    `averaging="ata"`. It keeps two numbers per parameter more than Adam.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use one that suits Adam.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8. It is added before the bias
            correction.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. Its gradient is taken at the true parameters.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        averaging: See `implicit_gradient_transport`. Default: `"full"`.
        delta: See `implicit_gradient_transport`. Default: 1.
        interval: See `implicit_gradient_transport`. Default: 2.

    Returns:
        An optimizer. Its state holds four numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.igt_adam(0.5)
        >>> shifted = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(shifted, tx.init(shifted), shifted)
        >>> shifted = optax.apply_updates(shifted, updates)
        >>> optkit.igt_eval_params(state, shifted).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        arXiv:1906.03532
    """
    check_range("weight_decay", weight_decay, 0.0)
    refuse_arrays(mask=mask)
    inner = optax.chain(
        add_decay("igt_adam", weight_decay, mask),
        scale_by_adam(b1, b2, eps, eps_placement="pre"),
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(transport("igt_adam", inner, averaging, delta, interval))


METHODS = (
    Method(
        name="igt_adam",
        factory=igt_adam,
        kind="optimizer",
        summary="Adam on an average of past gradients, each of which is taken ahead of the parameters.",
        paper=IGT,
        also_known_as=("Adam-IGT", "implicit gradient transport with Adam"),
        example={"learning_rate": 1e-3, "averaging": "ata", "interval": 10.0},
        grid=1e-3,
        eval_params=igt_eval_params,
        golden="igt",
    ),
)
