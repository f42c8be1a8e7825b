"""A simulator of asynchronous local SGD: workers that train at their own pace, and a server that waits for nobody.

Liu et al., "Asynchronous Local-SGD Training for Language Modeling", 2024, arXiv:2401.09135. The clock is simulated: an
XLA program runs all its devices in step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core import keys
from optkit.core.checks import check_integer, check_range
from optkit.local_training._delayed_nesterov import ASYNCHRONOUS
from optkit.method import Method

__all__ = ["AsynchronousArrivals", "AsynchronousSimulator", "AsynchronousState", "asynchronous_local_sgd"]


class AsynchronousState(NamedTuple):
    """State of `asynchronous_local_sgd`, for the server and all workers.

    Attributes:
        params: The server's parameters.
        outer: State of the server's optimizer.
        count: Number of arrivals so far.
        starts: The parameters from which each worker has started, with a leading axis over workers.
        inner: States of the workers' optimizers, with a leading axis over workers.
        issued_at: Number of arrivals when each worker started, shape (workers,).
        time: Time of the last arrival.
    """

    params: Any
    outer: Any
    count: jax.Array
    starts: Any
    inner: Any
    issued_at: jax.Array
    time: jax.Array


class AsynchronousArrivals(NamedTuple):
    """Arrivals of workers at the server, in the order of time.

    Attributes:
        time: Time of the arrival, shape (arrivals,).
        worker: The worker, shape (arrivals,).
        key: JAX keys for stochastic gradients, shape (arrivals,).
    """

    time: jax.Array
    worker: jax.Array
    key: jax.Array


class AsynchronousSimulator(NamedTuple):
    """The pure functions that `asynchronous_local_sgd` makes; `init` and `run` can be compiled by `jax.jit`.

    Attributes:
        init: Returns the state at time zero from the parameters, at which all workers start.
        arrivals: Returns the first arrivals: `arrivals(key, count)` returns `count` of them. The key is an integer or a
            JAX key.
        run: Lets workers arrive: `run(state, arrivals)` returns the state after them.
    """

    init: Callable[[Any], AsynchronousState]
    arrivals: Callable[[int | jax.Array, int], AsynchronousArrivals]
    run: Callable[[AsynchronousState, AsynchronousArrivals], AsynchronousState]


def asynchronous_local_sgd(
    grad_fn: Callable[[Any, jax.Array, jax.Array], Any],
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    step_times: Any,
    local_steps: Any,
) -> AsynchronousSimulator:
    """Simulates a server and workers that train at their own pace, with a simulated clock.

    A worker takes some steps of `inner` from the server's parameters x, and arrives. The rule then, where x' are the
    server's parameters from which it has started, and y those at which it has arrived::

        x = x + outer(x' - y)

    The worker goes on from the new x at once, with the state of `inner` that it has. Workers that arrive at the same
    time arrive in their order.

    Use it to study servers such as `delayed_nesterov` with workers of different speeds, and `dynamic_local_steps`.
    Avoid it for training, because it runs one worker after the other.

    Args:
        grad_fn: A function `grad_fn(params, worker, key)` of the gradient of one worker. `worker` is an integer, and
            `key` a new JAX key for stochastic gradients.
        inner: Optimizer of the workers.
        outer: Optimizer of the server. It gets the extra argument `issued_at`, the number of arrivals when the worker
            started.
        step_times: The time of one local step, one positive number for each worker.
        local_steps: Number of local steps from start to arrival, at least 1: an integer for each worker, or one for
            all.

    Returns:
        Pure functions, see `AsynchronousSimulator`. To follow a run, call `run` on one piece of the arrivals after
        another.

    Raises:
        ValueError: If `step_times` or `local_steps` is out of its range, or not one number for each worker.

    Example:
        Worker 1 needs twice the time. Each of its arrivals is the second one since it started.

        >>> import optkit
        >>> grad_fn = lambda params, worker, key: params - jnp.array([1.0, 3.0])[worker]
        >>> outer = optkit.delayed_nesterov(0.5, every=2)
        >>> simulator = optkit.asynchronous_local_sgd(grad_fn, optax.sgd(0.1), outer, [1.0, 2.0], local_steps=5)
        >>> arrivals = simulator.arrivals(0, 6)
        >>> arrivals.worker.tolist(), arrivals.time.tolist()
        ([0, 0, 1, 0, 0, 1], [5.0, 10.0, 10.0, 15.0, 20.0, 20.0])
        >>> state = jax.jit(simulator.run)(simulator.init(jnp.zeros([])), arrivals)
        >>> state.issued_at.tolist()
        [5, 6]

    Reference:
        arXiv:2401.09135.
    """
    times = np.asarray(step_times, float)
    if times.ndim != 1 or not times.size:
        raise ValueError(f"step_times must be one number for each worker, got {step_times!r}")
    check_range("step_times", times, 0.0, low_open=True)
    steps = _local_steps(local_steps, times.size)
    inner, outer = map(optax.with_extra_args_support, (inner, outer))

    def init_fn(params):
        def of_each(x):
            return jnp.repeat(jnp.asarray(x)[None], times.size, axis=0)

        return AsynchronousState(
            params=params,
            outer=outer.init(params),
            count=jnp.zeros([], jnp.int32),
            starts=jax.tree.map(of_each, params),
            inner=jax.tree.map(of_each, inner.init(params)),
            issued_at=jnp.zeros(times.size, jnp.int32),
            time=jnp.zeros([], jnp.float32),
        )

    def arrivals_fn(key, count):
        check_integer("count", count)
        ends = (np.arange(count)[:, None] + 1) * (steps * times)
        workers = np.broadcast_to(np.arange(times.size), ends.shape)
        order = np.lexsort((workers.ravel(), ends.ravel()))[:count]
        return AsynchronousArrivals(
            time=jnp.asarray(ends.ravel()[order], jnp.float32),
            worker=jnp.asarray(workers.ravel()[order], jnp.int32),
            key=jax.random.split(keys.typed(key), count),
        )

    def train(start, inner_state, arrival):
        """Takes a worker's local steps."""

        def step(index, carry):
            params, state = carry
            gradient = grad_fn(params, arrival.worker, jax.random.fold_in(arrival.key, index))
            updates, state = inner.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, jnp.asarray(steps)[arrival.worker], step, (start, inner_state))

    def arrive(state, arrival):
        start, inner_state = jax.tree.map(lambda x: x[arrival.worker], (state.starts, state.inner))
        end, inner_state = train(start, inner_state, arrival)
        updates, outer_state = outer.update(
            optax.tree.sub(start, end), state.outer, state.params, issued_at=state.issued_at[arrival.worker]
        )
        params, count = optax.apply_updates(state.params, updates), state.count + 1

        def put(rows, x):
            return rows.at[arrival.worker].set(x)

        return AsynchronousState(
            params=params,
            outer=outer_state,
            count=count,
            starts=jax.tree.map(put, state.starts, params),
            inner=jax.tree.map(put, state.inner, inner_state),
            issued_at=put(state.issued_at, count),
            time=arrival.time,
        ), None

    def run_fn(state, arrivals):
        return jax.lax.scan(arrive, state, arrivals)[0]

    return AsynchronousSimulator(init_fn, arrivals_fn, run_fn)


def _local_steps(local_steps: Any, workers: int) -> np.ndarray:
    """Returns the number of local steps of each worker.

    Raises:
        ValueError: If they are no positive integers, or not as many as there are workers.
    """
    found = np.asarray(local_steps)
    if not np.issubdtype(found.dtype, np.integer) or found.shape not in {(), (workers,)} or np.any(found < 1):
        raise ValueError(
            f"local_steps must be a positive integer, or one for each of {workers} workers, got {local_steps!r}"
        )
    return np.broadcast_to(found, (workers,)).astype(np.int32)


METHODS = (
    Method(
        name="asynchronous_local_sgd",
        factory=asynchronous_local_sgd,
        kind="function",
        summary="Simulates a server and workers that train at their own pace, with a simulated clock.",
        paper=ASYNCHRONOUS,
        also_known_as=("Async Local-SGD", "asynchronous federated averaging", "straggler simulation"),
        parts=(AsynchronousArrivals, AsynchronousSimulator, AsynchronousState),
    ),
)
