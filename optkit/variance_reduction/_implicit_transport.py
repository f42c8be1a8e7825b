"""Implicit gradient transport: an average of all past gradients, each of which was taken further along the path.

Arnold, Manzagol, Babanezhad, Mitliagkas, Le Roux, "Reducing the variance in online optimization by transporting past
gradients", 2019, arXiv:1906.03532. Algorithm 1, with any optimizer in place of the heavy ball. Steps are counted from
0, as in the authors' code (igt.pth). In that code the weight of tail averaging is negative in the first steps for
intervals above 2; here it is 0.
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
from optkit.core.reported import reported_params
from optkit.core.trees import copy
from optkit.method import Method, Paper

__all__ = ["igt_eval_params", "implicit_gradient_transport"]

Averaging = Literal["full", "ata"]
Extrapolation = Callable[[Any], Any]


class ImplicitTransportState(NamedTuple):
    """State of `implicit_gradient_transport`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        average: The average of the gradients, shaped and sharded like the parameters.
        params: The true parameters, which the inner optimizer moves, shaped and sharded like those of the training
            loop.
        inner_state: State of the inner optimizer.
    """

    count: jax.typing.ArrayLike
    average: optax.Updates
    params: optax.Params
    inner_state: optax.OptState


def transported(
    method: str, inner: optax.GradientTransformation, extrapolation: Extrapolation
) -> optax.GradientTransformationExtraArgs:
    """Passes to an optimizer an average of gradients that are taken ahead of its parameters.

    Args:
        method: The public name of the method, for error messages.
        inner: A whole optimizer, with its learning rate.
        extrapolation: A function of the step `n` that returns how many updates ahead the gradient is taken. For the
            result `r` the past has the weight `r / (1 + r)` in the average, so that the average is that of the true
            parameters if the loss is quadratic.

    Returns:
        A transformation. The training loop holds the shifted parameters; `igt_eval_params` returns the true ones.
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
    """Passes to an optimizer an average of all past gradients that is exact if the loss is quadratic.

    The update rule, where g is taken at the shifted parameters x, y are the true parameters, n = 0, 1, ... counts the
    updates, and u is the update of `inner`, which sees a as the gradient and y as the parameters::

        a = a + (g - a) / (1 + r(n))     # r(n) = n / delta
        y = y + u
        x = y + r(n + 1) * u             # where the next gradient is taken

    The training loop holds the shifted parameters x; `igt_eval_params` returns y, the parameters to evaluate and to
    keep.

    Use it when gradients are noisy and the curvature changes little along the path. Avoid the full average when the
    curvature changes or the learning rate decays much, because the shift grows with the number of steps and gradients
    are taken far from the parameters. Tail averaging (`averaging="ata"`) is meant for that case; its shift is half as
    long with the default `interval` but grows too. It keeps two numbers per parameter in addition to the state of
    `inner`.

    It comes last in a chain: put the learning rate, clipping and decoupled weight decay inside `inner`.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. It sees the average and the true parameters.
        averaging: `"full"` averages all gradients, with the default `delta` equally weighted. `"ata"`, anytime tail
            averaging (ITA), averages about the last `1 / interval` of them. Default: `"full"`.
        delta: How much new gradients count in the full average, above 0. After `n` updates, a new gradient has the
            weight `delta / (n + delta)` and the past `n / (n + delta)`; only 1 weighs all gradients equally. Default:
            1.
        interval: One over the share of past gradients in the tail, at least 1. Default: 2.

    Returns:
        A transformation. Its state holds two numbers per parameter and the state of `inner`.

    Raises:
        ValueError: If an argument is out of its range.

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
        arXiv:1906.03532
    """
    return transport("implicit_gradient_transport", inner, averaging, delta, interval)


def transport(
    method: str,
    inner: optax.GradientTransformation,
    averaging: Averaging,
    delta: jax.typing.ArrayLike,
    interval: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Builds the rule for `implicit_gradient_transport` and for named optimizers; errors call it `method`."""
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
    """Returns the true parameters of a run with implicit gradient transport, which are those to evaluate and to keep.

    Use it with `implicit_gradient_transport`, `igt`, `igt_adam`, `nigt` and `discover_igt`.

    Args:
        state: The state of the optimizer. The method may be chained with or wrapped in other transformations.
        params: The parameters of the training loop.

    Returns:
        A tree like `params`. Leaves that a mask keeps from the method are those of the training loop.

    Raises:
        ValueError: If the optimizer contains none of these methods.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> params = jnp.array([3.0])
        >>> optkit.igt_eval_params(optkit.igt(0.1).init(params), params)
        Array([3.], dtype=float32)
    """
    return reported_params(state, params, ImplicitTransportState, "params", "igt_eval_params")


IGT = Paper(
    "Reducing the variance in online optimization by transporting past gradients", "Arnold et al.", 2019, "1906.03532"
)


METHODS = (
    Method(
        name="implicit_gradient_transport",
        factory=implicit_gradient_transport,
        kind="wrapper",
        summary="Passes to any optimizer an average of past gradients, each of which is taken ahead of the parameters.",
        paper=IGT,
        also_known_as=("IGT", "ITA", "ATA", "anytime tail averaging"),
        parts=(igt_eval_params,),
        example={"averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
        golden="igt",
    ),
)
