"""IGT: gradient descent on a transported average of gradients, plain or with momentum.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. For gradient descent the authors' code (igt.pth) adds weight decay at the shifted
point, and so does this module.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import Mask
from optkit.method import Method
from optkit.variance_reduction._implicit_transport import IGT, Averaging, igt_eval_params, transport

__all__ = ["igt"]


def igt(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    averaging: Averaging = "full",
    delta: jax.typing.ArrayLike = 1.0,
    interval: jax.typing.ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent on a transported average of gradients: plain, with heavy-ball or with Nesterov momentum.

    The update rule, where x are the shifted parameters at which g is taken, y the true parameters, and n = 0, 1, ...
    counts the updates. For the default averaging r(n) = n / delta::

        a = a + (g + wd * x - a) / (1 + r(n))
        m = momentum * m + a
        y = y - lr * m
        x = y - r(n + 1) * lr * m

    The training loop holds the shifted parameters x; `igt_eval_params` returns y, the parameters to evaluate.

    Use it in place of SGD when gradients are noisy and the curvature changes little along the path. Avoid the full
    average when the curvature changes or the learning rate decays much, as explained in `implicit_gradient_transport`.
    It keeps two numbers per parameter more than SGD.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use one that suits gradient descent.
        momentum: Decay rate of the momentum, in [0, 1). None disables it. Default: 0.9.
        nesterov: Whether the momentum is Nesterov's. Default: False.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. Its gradient is taken at the shifted
            parameters too.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        averaging: See `implicit_gradient_transport`. Default: `"full"`.
        delta: See `implicit_gradient_transport`. Default: 1.
        interval: See `implicit_gradient_transport`. Default: 2.

    Returns:
        An optimizer. Its state holds three numbers per parameter, or two without momentum.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.igt(0.1, averaging="ata")
        >>> shifted = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(shifted, tx.init(shifted), shifted)
        >>> shifted = optax.apply_updates(shifted, updates)
        >>> optkit.igt_eval_params(state, shifted)
        Array([ 2.7, -3.6], dtype=float32)

    Reference:
        arXiv:1906.03532
    """
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("weight_decay", weight_decay, 0.0)
    refuse_arrays(mask=mask)
    inner = optax.sgd(learning_rate, momentum, nesterov)
    transported = transport("igt", inner, averaging, delta, interval)
    return in_float32(optax.chain(add_decay("igt", weight_decay, mask), transported))


METHODS = (
    Method(
        name="igt",
        factory=igt,
        kind="optimizer",
        summary="Momentum SGD on an average of past gradients, each of which is taken ahead of the parameters.",
        paper=IGT,
        also_known_as=("implicit gradient transport", "Heavyball-IGT", "ITA", "anytime tail averaging"),
        example={"learning_rate": 1e-3, "averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
)
