"""Implicit gradient transport: an average of all past gradients, of which each was taken further along the path.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. Algorithm 1, with any optimizer in place of the heavy ball, counted as in the
authors' code (igt.pth), from 0. That code adds weight decay at the shifted point for gradient descent and at the true
one for Adam; so do `igt` and `igt_adam`. Its weight of tail averaging is negative in the first steps of intervals above
2, where here it is 0.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import EpsPlacement, scale_by_adam
from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.trees import copy, unmask_tree
from optkit.core.types import Mask
from optkit.method import Method, Paper

Averaging = Literal["full", "ata"]
Extrapolation = Callable[[Any], Any]


class ImplicitTransportState(NamedTuple):
    """State of `implicit_gradient_transport`.

    Attributes:
        count: number of updates so far, equal on all workers.
        average: the average of the gradients, shaped and sharded like the parameters.
        params: the true parameters, which the inner optimizer moves, shaped and sharded like those of the loop.
        inner_state: state of the inner optimizer.
    """

    count: jax.typing.ArrayLike
    average: optax.Updates
    params: optax.Params
    inner_state: optax.OptState


def transported(
    method: str, inner: optax.GradientTransformation, extrapolation: Extrapolation
) -> optax.GradientTransformationExtraArgs:
    """Feeds an optimizer with an average of gradients that are taken ahead of its parameters.

    Args:
        method: the public name of the method, for messages.
        inner: a whole optimizer, learning rate included.
        extrapolation: gives for step `n` how many updates ahead the gradient is taken, `r` with weight `r / (1 + r)` of
            the past in the average, so that the average is that of the true parameters where the loss is quadratic.

    Returns:
        A transformation whose loop holds the shifted parameters; `igt_eval_params` gives the true ones.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ImplicitTransportState(
            count=jnp.zeros([], jnp.int32),
            average=optax.tree.zeros_like(params),
            params=copy(params),
            inner_state=inner.init(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, method)
        count = optax.safe_increment(state.count)
        dtype = scalar_dtype(state.average)
        newest = 1 / (1 + jnp.asarray(extrapolation(state.count), dtype))
        average = optax.incremental_update(updates, state.average, newest)  # Alg. 1, g_t
        average = optax.tree.cast_like(average, state.average)
        step, inner_state = inner.update(average, state.inner_state, state.params, **extra_args)  # Alg. 1, w_t
        true = optax.apply_updates(state.params, step)  # Alg. 1, theta_{t+1}
        ahead = jnp.asarray(extrapolation(count), dtype)
        shift = jax.tree.map(
            lambda x, u, z: (x + ahead * u - z).astype(z.dtype), true, step, params
        )  # Alg. 1, the point of the next gradient
        return shift, ImplicitTransportState(count, average, true, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def implicit_gradient_transport(
    inner: optax.GradientTransformation,
    averaging: Averaging = "full",
    delta: jax.typing.ArrayLike = 1.0,
    interval: jax.typing.ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Feeds an optimizer with an average of all past gradients that is exact where the loss is quadratic.

    The training loop holds shifted parameters, at which gradients are taken; `igt_eval_params` gives those to evaluate
    and to keep. It comes last in a chain: learning rate, clipping and decoupled decay stand inside `inner`. Do not take
    the full average where curvature changes along the path or the learning rate decays much: the shift grows with the
    number of steps and gradients are taken far from the parameters. Tail averaging is meant for that, but reaches half
    as far and grows too.

    Args:
        inner: a whole optimizer, learning rate included; it sees the average and the true parameters.
        averaging: `"full"` (default), all gradients with equal weight; or `"ata"`, anytime tail averaging (ITA), about
            the last `1 / interval` of them.
        delta: how slowly the full average forgets its first gradients, above 0: after `n` updates the past has the
            weight `n / (n + delta)`; default 1.
        interval: one over the share of past gradients in the tail, at least 1; default 2.

    Returns:
        A transformation; its state is two numbers a parameter and that of `inner`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.implicit_gradient_transport(optax.sgd(0.1))
        >>> shifted = jnp.array([3.0])
        >>> updates, state = tx.update(shifted, tx.init(shifted), shifted)
        >>> shifted = optax.apply_updates(shifted, updates)
        >>> optkit.igt_eval_params(state, shifted), shifted  # one step from 3 to 2.7, and one more ahead
        (Array([2.7], dtype=float32), Array([2.4], dtype=float32))

    Reference:
        Arnold et al., "Reducing the variance in online optimization by transporting past gradients", 2019,
        arXiv:1906.03532.
    """
    return _transport("implicit_gradient_transport", inner, averaging, delta, interval)


def _transport(
    method: str,
    inner: optax.GradientTransformation,
    averaging: Averaging,
    delta: jax.typing.ArrayLike,
    interval: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """The rule, for `implicit_gradient_transport` and the named optimizers."""
    refuse_arrays(averaging=averaging)
    check_range("delta", delta, 0.0, low_open=True)
    check_range("interval", interval, 1.0)
    if averaging not in ("full", "ata"):
        raise ValueError(f"averaging must be 'full' or 'ata', got {averaging!r}")

    def full(count):
        return count.astype(float) / delta

    def ata(count):
        n = count.astype(float)
        root = jnp.sqrt((1 - 1 / interval) * n / (n + 1))
        ahead = jnp.maximum(n / interval - root, 0) / (1 + root)  # gamma_t / (1 - gamma_t) of tail averaging
        return jnp.where(count < 2, 0, ahead)

    return transported(method, inner, ata if averaging == "ata" else full)


def igt_eval_params(state: Any, params: optax.Params) -> optax.Params:
    """Gives the true parameters of a run with implicit gradient transport: those to evaluate and to keep.

    Args:
        state: the optimizer's state, whatever `implicit_gradient_transport`, `igt`, `igt_adam`, `nigt` or
            `discover_igt` is chained with or wrapped in.
        params: the parameters of the training loop.

    Returns:
        A tree like `params`; leaves that a mask keeps from the method are those of the loop.

    Raises:
        ValueError: if no such method is in the optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> params = jnp.array([3.0])
        >>> optkit.igt_eval_params(optkit.igt(0.1).init(params), params)
        Array([3.], dtype=float32)
    """
    states = [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_transport) if _is_transport(leaf)]
    if not states:
        raise ValueError("igt_eval_params found no state of implicit gradient transport in the state that it got")
    for found in states:
        params = optax.tree.cast_like(unmask_tree(found.params, params), params)
    return params


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
        delta: as there; default 1.
        interval: as there; default 2.

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
    transport = _transport("igt", inner, averaging, delta, interval)
    return in_float32(optax.chain(add_decay("igt", weight_decay, mask), transport))


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
    eps_placement: EpsPlacement = "pre",
) -> optax.GradientTransformationExtraArgs:
    """Adam on a transported average of gradients.

    The training loop holds shifted parameters; `igt_eval_params` gives those to evaluate. Adam's steps do not shrink
    with the gradient, so the shift of the full average grows without end: decay the learning rate, or take `"ata"`.

    Args:
        learning_rate: a positive number or a schedule; Adam's.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: strength of the L2 penalty, whose gradient is taken at the true parameters, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        averaging: `"full"` (default) or `"ata"`, as in `implicit_gradient_transport`.
        delta: as there; default 1.
        interval: as there; default 2.
        eps_placement: `"pre"` (default, the authors') adds epsilon before the bias correction, `"post"` after it, as
            `optax.adam` does.

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
    refuse_arrays(mask=mask, eps_placement=eps_placement)
    inner = optax.chain(
        add_decay("igt_adam", weight_decay, mask),
        scale_by_adam(b1, b2, eps, eps_placement=eps_placement),
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(_transport("igt_adam", inner, averaging, delta, interval))


def _is_transport(x: Any) -> bool:
    return isinstance(x, ImplicitTransportState)


_IGT = Paper(
    "Reducing the variance in online optimization by transporting past gradients", "Arnold et al.", 2019, "1906.03532"
)

METHODS = (
    Method(
        name="igt",
        factory=igt,
        kind="optimizer",
        summary="Momentum on an average of past gradients, each taken ahead of the parameters so that it stays right.",
        paper=_IGT,
        example={"learning_rate": 1e-3, "averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
    Method(
        name="igt_adam",
        factory=igt_adam,
        kind="optimizer",
        summary="Adam on an average of past gradients, each taken ahead of the parameters.",
        paper=_IGT,
        example={"learning_rate": 1e-3, "averaging": "ata", "interval": 10.0},
        grid=1e-3,
        eval_params=igt_eval_params,
        golden="igt",
    ),
)
