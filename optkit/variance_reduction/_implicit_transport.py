"""Implicit gradient transport: an average of all past gradients, of which each was taken further along the path.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. Algorithm 1, with any optimizer in place of the heavy ball, counted as in the
authors' code (igt.pth), from 0. That code's weight of tail averaging is negative in the first steps of intervals above
2, where here it is 0.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype
from optkit.core.trees import copy, unmask_tree
from optkit.method import Method, Paper

__all__ = ["igt_eval_params", "implicit_gradient_transport"]

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
    return transport("implicit_gradient_transport", inner, averaging, delta, interval)


def transport(
    method: str,
    inner: optax.GradientTransformation,
    averaging: Averaging,
    delta: jax.typing.ArrayLike,
    interval: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """The rule, for `implicit_gradient_transport` and for the named optimizers, which errors call by `method`."""
    refuse_arrays(averaging=averaging)
    check_range("delta", delta, 0.0, low_open=True)
    check_range("interval", interval, 1.0)
    check_option("averaging", averaging, Averaging)

    def full(count):
        return count.astype(float) / delta

    def ata(count):
        n = count.astype(float)
        root = jnp.sqrt((1 - 1 / interval) * n / (n + 1))
        ahead = jnp.maximum(n / interval - root, 0) / (1 + root)  # gamma_t / (1 - gamma_t) of tail averaging
        return jnp.where(count < 2, 0, ahead)

    return transported(method, inner, ata if averaging == "ata" else full)


def igt_eval_params(state: Any, params: optax.Params) -> optax.Params:
    """Returns the true parameters of a run with implicit gradient transport: those to evaluate and to keep.

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


def _is_transport(x: Any) -> bool:
    return isinstance(x, ImplicitTransportState)


IGT = Paper(
    "Reducing the variance in online optimization by transporting past gradients", "Arnold et al.", 2019, "1906.03532"
)


METHODS = (
    Method(
        name="implicit_gradient_transport",
        factory=implicit_gradient_transport,
        kind="wrapper",
        summary="Feeds any optimizer with an average of past gradients, each taken ahead of the parameters.",
        paper=IGT,
        also_known_as=("IGT", "ITA", "ATA", "anytime tail averaging"),
        parts=(igt_eval_params,),
        example={"averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
        golden="igt",
    ),
)
