"""IGT: gradient descent on a transported average of gradients, plain or with momentum.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. The authors' code (igt.pth) adds weight decay at the
shifted point for gradient descent, and so does this.
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

    The training loop holds shifted parameters; `igt_eval_params` gives those to evaluate. See
    `implicit_gradient_transport` for when not to take the full average.

    Args:
        learning_rate: a positive number or a schedule; that of gradient descent.
        momentum: decay of the momentum, in [0, 1); default 0.9; None for none.
        nesterov: whether the momentum is Nesterov's; off by default.
        weight_decay: strength of the L2 penalty, whose gradient is taken at the shifted parameters too, at least 0;
            default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        averaging: `"full"` (default) or `"ata"`, as in `implicit_gradient_transport`.
        delta: as in `implicit_gradient_transport`; default 1.
        interval: as in `implicit_gradient_transport`; default 2.

    Returns:
        An optimizer; its state is three numbers a parameter, two without momentum.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
        Arnold et al., "Reducing the variance in online optimization by transporting past gradients", 2019,
        arXiv:1906.03532.
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
        summary="Momentum on an average of past gradients, each taken ahead of the parameters so that it stays right.",
        paper=IGT,
        also_known_as=("implicit gradient transport", "Heavyball-IGT", "ITA", "anytime tail averaging"),
        example={"learning_rate": 1e-3, "averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
)
