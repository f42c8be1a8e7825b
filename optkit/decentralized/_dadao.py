"""DADAO: gradients and exchanges at independent random times, each worker going at its own pace, accelerated in both.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779.
This is a simulator of events in continuous time, not a gradient transformation: at any moment one worker takes a
gradient, or two exchange what they hold, while all others go on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core import keys
from optkit.core.checks import check_integer
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import Key
from optkit.decentralized._dadao_flow import Y_TILDE, DadaoConstants, X, Y, Z, dadao_constants, make_flow
from optkit.decentralized._gossip_rates import DADAO, GossipRates
from optkit.method import Method

__all__ = ["DadaoEvents", "DadaoSimulator", "DadaoState", "dadao"]


class DadaoState(NamedTuple):
    """State of `dadao`, of all workers.

    Attributes:
        variables: shaped like the parameters, with an axis of 6 behind that of the workers, in float32 at least:
            X (the parameters), X~, Y, Y~, Z, Z~, each worker's own, as of its last event.
        elapsed: shape (workers,), the time since each worker's last event.
    """

    variables: Any
    elapsed: jax.Array


class DadaoEvents(NamedTuple):
    """Events in the order of time.

    Attributes:
        wait: shape (events,), the time since the event before.
        is_gradient: shape (events,), whether a worker takes a gradient; otherwise two exchange what they hold.
        workers: shape (events, 2), the workers that exchange; the one that takes a gradient, twice.
        key: shape (events,), JAX keys for stochastic gradients.
    """

    wait: jax.Array
    is_gradient: jax.Array
    workers: jax.Array
    key: jax.Array


class DadaoSimulator(NamedTuple):
    """What `dadao` makes: pure functions, to be compiled by `jax.jit` and mapped over keys by `jax.vmap`.

    Attributes:
        init: gives the state at time zero from stacked parameters, one row a worker.
        sample: `sample(key, count)` draws events: a key or an integer, and how many.
        run: `run(state, events)` gives the state after the events.
        params: gives the parameters of all workers at the time of the last event, stacked, in float32 at least.
    """

    init: Callable[[Any], DadaoState]
    sample: Callable[[int | jax.Array, int], DadaoEvents]
    run: Callable[[DadaoState, DadaoEvents], DadaoState]
    params: Callable[[DadaoState], Any]


def dadao(
    grad_fn: Callable[[Any, jax.Array, jax.Array], Any], rates: GossipRates, mu: float, L: float
) -> DadaoSimulator:
    """Simulates asynchronous, accelerated, decentralized optimization of strongly convex functions.

    Workers minimize the sum of their functions. In a unit of time each takes one gradient on average, at random times
    of its own, and neighbours exchange at the given rates, at random times too; nobody waits for anybody. An exchange
    sends the parameters' number of floats each way. Between events variables follow a linear flow, computed exactly
    when a worker has its next event.

    It needs `mu` and `L`, and is a simulator of events, not a gradient transformation: for neural networks, or on
    devices that go in step, take `gradient_tracking`. Stochastic gradients leave an error in the size of their noise.

    Args:
        grad_fn: `grad_fn(params, worker, key)` gives the gradient of one worker's function at one worker's parameters;
            `worker` is an integer and `key` a fresh JAX key, for stochastic gradients.
        rates: how often which workers talk, see `optimal_rates` and `uniform_rates`.
        mu: strong convexity of every worker's function, positive.
        L: smoothness of every worker's function, at least `mu`.

    Returns:
        Pure functions, see `DadaoSimulator`. To follow a run, call `run` on one piece of the events after the other.

    Raises:
        ValueError: if `mu` or `L` is out of its range, if the rates are too small (`chi1 * chi2 > 1/2`), and, from
            `init`, if the parameters have no axis of as many workers as the rates.

    Example:
        Each of four workers pulls towards its own target; all reach the mean of the targets.

        >>> import jax
        >>> import optkit
        >>> targets = jnp.array([0.0, 1.0, 2.0, 5.0])
        >>> rates = optkit.uniform_rates(optkit.topology.ring(4))
        >>> simulator = optkit.dadao(lambda x, worker, key: x - targets[worker], rates, mu=1.0, L=1.0)
        >>> state = jax.jit(simulator.run)(simulator.init(jnp.zeros(4)), simulator.sample(0, 3000))
        >>> simulator.params(state).round(3)
        Array([2., 2., 2., 2.], dtype=float32)

    Reference:
        Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779.
    """
    constants = dadao_constants(mu, L, rates.chi1, rates.chi2)
    flow = jax.vmap(make_flow(constants))
    gradient_event, exchange_event = _make_gradient_event(grad_fn, constants), _make_exchange_event(constants)

    def init_fn(params):
        shapes = [jnp.shape(x) for x in jax.tree.leaves(params)]
        if not shapes or any(shape[:1] != (rates.size,) for shape in shapes):
            raise ValueError(f"parameters need a leading axis of the {rates.size} workers of the rates, got {shapes}")
        variables = jax.tree.map(lambda x: jnp.stack([x] + 5 * [jnp.zeros_like(x)], axis=1), widen(params))
        return DadaoState(variables, elapsed=jnp.zeros(rates.size, scalar_dtype(params)))

    def step(state, event):
        elapsed = state.elapsed + event.wait.astype(state.elapsed.dtype)
        pair = flow(jax.tree.map(lambda x: x[event.workers], state.variables), elapsed[event.workers])
        pair = jax.lax.cond(event.is_gradient, gradient_event, exchange_event, pair, event)
        variables = jax.tree.map(lambda x, rows: x.at[event.workers].set(rows), state.variables, pair)
        return DadaoState(variables, elapsed.at[event.workers].set(0)), None

    def run_fn(state, events):
        return jax.lax.scan(step, state, events)[0]

    def params_fn(state):
        return jax.tree.map(lambda x: x[:, X], flow(state.variables, state.elapsed))

    def sample_fn(key, count):
        return _sample(rates, key, count)

    return DadaoSimulator(init_fn, sample_fn, run_fn, params_fn)


def _sample(rates: GossipRates, key: Key, count: int) -> DadaoEvents:
    """Draws the first events of all Poisson processes together: those of workers' gradients, and those of edges."""
    check_integer("count", count)
    wait_key, process_key, noise_key = jax.random.split(keys.typed(key), 3)
    rate = np.concatenate([np.ones(rates.size), rates.rates])
    workers = np.concatenate([np.tile(np.arange(rates.size, dtype=np.int32)[:, None], 2), rates.edges])
    process = jax.random.choice(process_key, len(rate), (count,), p=jnp.asarray(rate / rate.sum()))
    return DadaoEvents(
        wait=jax.random.exponential(wait_key, (count,)) / rate.sum(),
        is_gradient=process < rates.size,
        workers=jnp.asarray(workers)[process],
        key=jax.random.split(noise_key, count),
    )


def _make_gradient_event(grad_fn: Callable[..., Any], constants: DadaoConstants) -> Callable[..., Any]:
    """Makes the jump of a worker that takes a gradient, of its variables, which come twice, and the event."""
    nu, drift = constants.nu, constants.delta + constants.delta_tilde
    steps = np.array([constants.gamma, constants.gamma_tilde, 0, -drift, 0, 0])

    def gradient_event(pair, event):
        grads = grad_fn(jax.tree.map(lambda rows: rows[0, X], pair), event.workers[0], event.key)

        def jump(rows, gradient):
            residual = gradient.astype(rows.dtype) - nu * rows[0, X] - rows[0, Y_TILDE]
            return rows - _outer(steps, residual)

        return jax.tree.map(jump, pair, grads)

    return gradient_event


def _make_exchange_event(constants: DadaoConstants) -> Callable[..., Any]:
    """Makes the jumps of two workers that exchange what they hold, of the variables of both and the event."""
    steps = np.array([0, 0, 0, 0, constants.beta, constants.beta_tilde])

    def exchange_event(pair, event):
        del event

        def jump(rows):
            sent = rows[:, Y] + rows[:, Z]
            change = _outer(steps, sent[0] - sent[1])
            return rows + jnp.stack([-change, change])

        return jax.tree.map(jump, pair)

    return exchange_event


def _outer(steps: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.tensordot(jnp.asarray(steps, x.dtype), x, 0)


METHODS = (
    Method(
        name="dadao",
        factory=dadao,
        kind="function",
        summary="Simulates workers that take gradients and exchange at random times of their own, accelerated in both.",
        paper=DADAO,
        also_known_as=("decoupled accelerated decentralized asynchronous optimization",),
        parts=(DadaoConstants, DadaoEvents, DadaoSimulator, DadaoState, dadao_constants),
    ),
)
