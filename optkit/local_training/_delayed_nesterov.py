"""Delayed Nesterov: a momentum for pseudo-gradients that arrive one by one from asynchronous workers.

Liu et al., "Asynchronous Local-SGD Training for Language Modeling", 2024, arXiv:2401.09135. Algorithm 3, and dynamic
local updates (DyLU).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.checks import check_integer, check_period, check_range
from optkit.core.precision import in_float32, scalar_dtype
from optkit.method import Method, Paper

__all__ = ["delayed_nesterov", "dynamic_local_steps", "scale_by_delayed_nesterov", "scale_by_staleness"]


class ScaleByDelayedNesterovState(NamedTuple):
    """State of `scale_by_delayed_nesterov`.

    Attributes:
        count: Number of gradients so far.
        momentum: Decaying sum of the means of `every` gradients, shaped and sharded like the parameters.
        total: Sum of the gradients since the momentum last changed.
    """

    count: jax.typing.ArrayLike
    momentum: optax.Updates
    total: optax.Updates


class ScaleByStalenessState(NamedTuple):
    """State of `scale_by_staleness`.

    Attributes:
        count: Number of gradients so far.
    """

    count: jax.typing.ArrayLike


def scale_by_delayed_nesterov(
    momentum: jax.typing.ArrayLike = 0.9, every: int | jax.Array = 4, c: jax.typing.ArrayLike = 0.0
) -> optax.GradientTransformation:
    """Follows each gradient as it arrives, and adds a momentum that changes only with every N-th gradient.

    The rule for the gradient g that arrives, where N is `every`, and m and the sum S start at zero::

        S = S + g
        u = g / N + c * momentum * m                                # between
        m = momentum * m + S / N;  S = 0                            # with every N-th gradient
        u = g / N + (1 - c * N + c) * momentum * m                  # and then

    The momentum of N gradients adds up to the same in any case: `c` says which part of it is spread over all of them.
    Give it pseudo-gradients: the parameters from which a worker started, less those at which it arrived. Put the
    learning rate after it. For N = 1 it is Nesterov's momentum.

    Use it on a server whose workers are asynchronous, where a momentum that changes with each late gradient makes
    training unstable. Avoid it where all workers arrive together: `optax.sgd(momentum=0.9, nesterov=True)` on the mean
    of their pseudo-gradients then is DiLoCo's outer step.

    Args:
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.9.
        every: N, the number of gradients from one change of the momentum to the next, an integer, at least 1. It is
            usually the number of workers. Default: 4.
        c: Weight of the momentum between its changes, in [0, 1/N]. Default: 0.

    Returns:
        A transformation. Its state is two numbers per parameter and a counter.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> tx = scale_by_delayed_nesterov(0.5, every=2)
        >>> state = tx.init(jnp.zeros([]))
        >>> first, state = tx.update(jnp.array(4.0), state)
        >>> second, state = tx.update(jnp.array(2.0), state)
        >>> first.tolist(), second.tolist(), state.momentum.tolist()
        (2.0, 2.5, 3.0)

    Reference:
        arXiv:2401.09135.
    """
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_period("every", every)
    check_range("c", c, 0.0, np.inf if isinstance(every, jax.Array) else 1 / every)

    def init_fn(params):
        momentum, total = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        return ScaleByDelayedNesterovState(jnp.zeros([], jnp.int32), momentum, total)

    def update_fn(updates, state, params=None):
        del params
        due = (state.count + 1) % jnp.asarray(every, state.count.dtype) == 0
        total = jax.tree.map(lambda s, g: s + g.astype(s.dtype), state.total, updates)
        changed = jax.tree.map(lambda m, s: (momentum * m + s / every).astype(m.dtype), state.momentum, total)
        new = optax.tree.where(due, changed, state.momentum)
        part = momentum * jnp.where(due, 1 - c * every + c, c)
        direction = jax.tree.map(lambda g, m: (g / every + part * m).astype(g.dtype), updates, new)
        total = optax.tree.where(due, optax.tree.zeros_like(total), total)
        return direction, ScaleByDelayedNesterovState(optax.safe_increment(state.count), new, total)

    return optax.GradientTransformation(init_fn, update_fn)


def scale_by_staleness(power: jax.typing.ArrayLike = 0.5) -> optax.GradientTransformationExtraArgs:
    """Makes a gradient smaller, the more others have arrived since the parameters of this one were read.

    The rule, where s is the number of gradients that have arrived in the meantime::

        u = g / (1 + s)^power

    Use it on a server whose workers are asynchronous, before the momentum and the learning rate. Avoid it where slow
    workers hold data that no others have, because these data then count less.

    Args:
        power: How fast weights fall with the staleness, at least 0. Default: 0.5.

    Returns:
        A transformation whose `update` takes the extra argument `issued_at`, an integer: the number of gradients that
        had arrived (`count` in its state) when the parameters were read. By default this is the present count, that is,
        no staleness. Its state is a counter.

    Raises:
        ValueError: If `power` is out of its range.

    Example:
        >>> tx = scale_by_staleness()
        >>> _, state = tx.update(jnp.array(6.0), tx.init(jnp.zeros([])), issued_at=0)
        >>> _, state = tx.update(jnp.array(6.0), state, issued_at=0)
        >>> tx.update(jnp.array(6.0), state, issued_at=-1)[0].tolist()
        3.0

    Reference:
        arXiv:2401.09135.
    """
    check_range("power", power, 0.0)

    def init_fn(params):
        del params
        return ScaleByStalenessState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, issued_at=None, **extra_args):
        del params, extra_args
        staleness = jnp.zeros_like(state.count) if issued_at is None else state.count - issued_at
        weight = 1 / (1 + staleness.astype(scalar_dtype(updates))) ** power
        scaled = jax.tree.map(lambda g: (weight * g).astype(g.dtype), updates)
        return scaled, ScaleByStalenessState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def delayed_nesterov(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    every: int | jax.Array = 4,
    c: jax.typing.ArrayLike = 0.0,
    *,
    staleness_power: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Delayed Nesterov: the server's optimizer of asynchronous local SGD.

    The update rule for the pseudo-gradient g that arrives, where N is `every`, s the number of gradients that have
    arrived since its parameters were read, and m and the sum S start at zero::

        g = g / (1 + s)^staleness_power
        S = S + g
        x = x - lr * (g / N + c * momentum * m)                     # between
        m = momentum * m + S / N;  S = 0                            # with every N-th gradient
        x = x - lr * (g / N + (1 - c * N + c) * momentum * m)       # and then

    A pseudo-gradient is the parameters from which a worker started, less those at which it arrived. Two other servers
    of the paper are parts of Optax: `optax.MultiSteps(optax.sgd(0.7, 0.9, nesterov=True), N)` waits for N gradients,
    and `optax.chain(scale_by_staleness(), optax.scale(N**-0.5), optax.sgd(0.07, 0.9, nesterov=True))` does not delay
    the momentum.

    Use it on a server that takes each worker's pseudo-gradient when it comes; `asynchronous_local_sgd` simulates one.
    Avoid it where all workers arrive together, which is DiLoCo, and momentum without delay is better.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The paper takes 0.7.
        momentum: See `scale_by_delayed_nesterov`. Default: 0.9.
        every: See `scale_by_delayed_nesterov`. Default: 4.
        c: See `scale_by_delayed_nesterov`. Default: 0.
        staleness_power: How fast the weights of gradients fall with their staleness, at least 0, see
            `scale_by_staleness`. Default: 0, all count alike.

    Returns:
        An optimizer whose `update` takes the extra argument `issued_at`, see `scale_by_staleness`. Its state is two
        numbers per parameter and two counters.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.delayed_nesterov(1.0, 0.5, every=2)
        >>> params = jnp.array(10.0)
        >>> state = tx.init(params)
        >>> for arrived in (6.0, 8.0):  # two workers started at 10
        ...     updates, state = tx.update(10.0 - jnp.array(arrived), state, params, issued_at=0)
        ...     params = optax.apply_updates(params, updates)
        >>> params.tolist()
        5.5

    Reference:
        arXiv:2401.09135.
    """
    check_range("staleness_power", staleness_power, 0.0)
    return in_float32(
        optax.chain(
            scale_by_staleness(staleness_power),
            scale_by_delayed_nesterov(momentum, every, c),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def dynamic_local_steps(speeds: jax.typing.ArrayLike, steps: int, least: int | None = None) -> jax.Array:
    """Gives each worker as many local steps as it takes in the time in which the fastest one takes all: DyLU.

    The rule, for the speed v_i of worker i::

        steps_i = max(floor(steps * v_i / max_j v_j), least)

    Use it with asynchronous local SGD, so that slow workers' pseudo-gradients are not staler than those of fast ones.
    Avoid it where slow workers hold data that no others have, because these data then count less.

    Args:
        speeds: Steps in a unit of time, one positive number per worker.
        steps: Number of local steps of the fastest worker, at least 1.
        least: The least number of local steps, at least 1. Default: None, which stands for 1; the authors' notebook
            has 5.

    Returns:
        One integer per worker.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> dynamic_local_steps([1.0, 2.0, 3.0], 50).tolist()
        [16, 33, 50]

    Reference:
        arXiv:2401.09135.
    """
    check_integer("steps", steps)
    fewest = 1 if least is None else least
    check_integer("least", fewest)
    if not isinstance(speeds, jax.Array):
        speeds = np.asarray(speeds, float)
        check_range("speeds", speeds, 0.0, low_open=True)
    fast = jnp.asarray(speeds) / jnp.max(jnp.asarray(speeds))
    # A whole number stays one although it was rounded.
    exact = steps * fast * (1 + 4 * jnp.finfo(fast.dtype).eps)
    return jnp.maximum(jnp.floor(exact), fewest).astype(jnp.int32)


ASYNCHRONOUS = Paper("Asynchronous Local-SGD Training for Language Modeling", "Liu et al.", 2024, "2401.09135")

METHODS = (
    Method(
        name="delayed_nesterov",
        factory=delayed_nesterov,
        kind="optimizer",
        summary="The server's optimizer of asynchronous local SGD: its momentum changes with every N-th gradient.",
        paper=ASYNCHRONOUS,
        also_known_as=("Delayed Nesterov", "DN", "Async Local-SGD", "asynchronous DiLoCo"),
        parts=(scale_by_delayed_nesterov, scale_by_staleness),
        example={"learning_rate": 2e-3},
        grid=1e-1,
        golden="async_local_sgd",
    ),
    Method(
        name="dynamic_local_steps",
        factory=dynamic_local_steps,
        kind="function",
        summary="Gives each worker as many local steps as it takes in the time in which the fastest one takes all.",
        paper=ASYNCHRONOUS,
        also_known_as=("DyLU", "dynamic local updates"),
    ),
)
