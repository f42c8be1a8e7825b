"""IGT-Adam: Adam on a transported average of gradients.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. The authors' code (igt.pth) adds weight decay at the
true point for Adam, and epsilon before the bias correction, and so does this.
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

    The training loop holds shifted parameters; `igt_eval_params` gives those to evaluate. Adam's steps do not shrink
    with the gradient, so the shift of the full average grows without end: decay the learning rate, or take `"ata"`.

    Args:
        learning_rate: a positive number or a schedule; Adam's.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment before the bias correction, at least 0; default 1e-8.
        weight_decay: strength of the L2 penalty, whose gradient is taken at the true parameters, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        averaging: `"full"` (default) or `"ata"`, as in `implicit_gradient_transport`.
        delta: as in `implicit_gradient_transport`; default 1.
        interval: as in `implicit_gradient_transport`; default 2.

    Returns:
        An optimizer; its state is four numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
        Arnold et al., "Reducing the variance in online optimization by transporting past gradients", 2019,
        arXiv:1906.03532.
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
        summary="Adam on an average of past gradients, each taken ahead of the parameters.",
        paper=IGT,
        also_known_as=("Adam-IGT", "implicit gradient transport with Adam"),
        example={"learning_rate": 1e-3, "averaging": "ata", "interval": 10.0},
        grid=1e-3,
        eval_params=igt_eval_params,
        golden="igt",
    ),
)
