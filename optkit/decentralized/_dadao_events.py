"""DADAO: gradients and exchanges at independent random times, where each worker goes at its own pace.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779. This is
a simulator of events in continuous time, not a gradient transformation: at any moment one worker takes a gradient, or
two workers exchange their values, while all others go on.
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

__all__ = ["DadaoEvents", "DadaoSimulator", "DadaoSimulatorState", "dadao_events"]


class DadaoSimulatorState(NamedTuple):
    """State of `dadao_events`, for all workers.

    Attributes:
        variables: A tree shaped like the parameters, with an axis of size 6 after the axis of workers, in float32 at
            least: X (the parameters), X~, Y, Y~, Z, Z~. Each worker's variables are those after its last event.
        elapsed: Time since each worker's last event, shape (workers,).
    """

    variables: Any
    elapsed: jax.Array


class DadaoEvents(NamedTuple):
    """Events in the order of time.

    Attributes:
        wait: Time since the event before, shape (events,).
        is_gradient: Whether a worker takes a gradient, shape (events,). Otherwise two workers exchange their values.
        workers: The two workers that exchange their values, shape (events, 2). At a gradient, the one worker twice.
        key: JAX keys for stochastic gradients, shape (events,).
    """

    wait: jax.Array
    is_gradient: jax.Array
    workers: jax.Array
    key: jax.Array


class DadaoSimulator(NamedTuple):
    """The pure functions that `dadao_events` makes.

    They can be compiled by `jax.jit` and mapped over keys by `jax.vmap`.

    Attributes:
        init: Returns the state at time zero from stacked parameters, one row for each worker.
        sample: Draws events: `sample(key, count)` returns `count` of them. The key is an integer or a JAX key.
        run: Lets events happen: `run(state, events)` returns the state after them.
        params: Returns the parameters of all workers at the time of the last event, stacked, in float32 at least.
    """

    init: Callable[[Any], DadaoSimulatorState]
    sample: Callable[[int | jax.Array, int], DadaoEvents]
    run: Callable[[DadaoSimulatorState, DadaoEvents], DadaoSimulatorState]
    params: Callable[[DadaoSimulatorState], Any]


def dadao_events(
    grad_fn: Callable[[Any, jax.Array, jax.Array], Any], rates: GossipRates, mu: float, L: float
) -> DadaoSimulator:
    """Simulates asynchronous, accelerated, decentralized optimization of strongly convex functions.

    In a unit of time each worker takes one gradient on average, and neighbours exchange values at the given rates, all
    at independent random times. The rules, with the constants of `DadaoConstants`::

        between events:        X, X~, Y, Y~, Z, Z~ follow a linear flow
        gradient at worker i:  h_i = grad_fn(X_i) - nu * X_i - Y~_i
                               X_i, X~_i, Y~_i = X_i - gamma * h_i, X~_i - gamma_tilde * h_i,
                                                 Y~_i + (delta + delta_tilde) * h_i
        exchange of i and j:   e = Y_i + Z_i - Y_j - Z_j
                               Z_i, Z~_i = Z_i - beta * e, Z~_i - beta_tilde * e
                               Z_j, Z~_j = Z_j + beta * e, Z~_j + beta_tilde * e

    Workers minimize the sum of their functions, and no worker waits for another. In an exchange each of the two sends
    as many numbers as there are parameters. The flow is computed exactly, for a worker at its next event.

    Use it when you want to study asynchronous training of strongly convex functions whose `mu` and `L` are known. Avoid
    it on devices that compute in step, because it simulates events and is not a gradient transformation: `dadao` is
    one. Avoid it for neural networks, which are not convex. Stochastic gradients leave an error in proportion to their
    noise.

    Args:
        grad_fn: A function `grad_fn(params, worker, key)` of the gradient of one worker's function at one worker's
            parameters. `worker` is an integer, and `key` a new JAX key for stochastic gradients.
        rates: How often neighbours exchange values, see `optimal_rates` and `uniform_rates`.
        mu: Strong convexity of every worker's function, above 0.
        L: Smoothness of every worker's function, at least `mu`.

    Returns:
        Pure functions, see `DadaoSimulator`. To follow a run, call `run` on one piece of the events after another.

    Raises:
        ValueError: If `mu` or `L` is out of its range, or the rates are too small (`chi1 * chi2 > 1/2`). From `init` if
            the parameters have no leading axis of as many workers as the rates.

    Example:
        Each of four workers pulls towards its own target; all reach the mean of the targets.

        >>> import jax
        >>> import optkit
        >>> targets = jnp.array([0.0, 1.0, 2.0, 5.0])
        >>> rates = optkit.uniform_rates(optkit.topology.ring(4))
        >>> simulator = optkit.dadao_events(lambda x, worker, key: x - targets[worker], rates, mu=1.0, L=1.0)
        >>> state = jax.jit(simulator.run)(simulator.init(jnp.zeros(4)), simulator.sample(0, 3000))
        >>> simulator.params(state).round(3)
        Array([2., 2., 2., 2.], dtype=float32)

    Reference:
        arXiv:2208.00779.
    """
    constants = dadao_constants(mu, L, rates.chi1, rates.chi2)
    flow = jax.vmap(make_flow(constants))
    gradient_event, exchange_event = _make_gradient_event(grad_fn, constants), _make_exchange_event(constants)

    def init_fn(params):
        shapes = [jnp.shape(x) for x in jax.tree.leaves(params)]
        if not shapes or any(shape[:1] != (rates.size,) for shape in shapes):
            raise ValueError(f"parameters need a leading axis of the {rates.size} workers, as in rates, got {shapes}")
        variables = jax.tree.map(lambda x: jnp.stack([x] + 5 * [jnp.zeros_like(x)], axis=1), widen(params))
        return DadaoSimulatorState(variables, elapsed=jnp.zeros(rates.size, scalar_dtype(params)))

    def step(state, event):
        elapsed = state.elapsed + event.wait.astype(state.elapsed.dtype)
        pair = flow(jax.tree.map(lambda x: x[event.workers], state.variables), elapsed[event.workers])
        pair = jax.lax.cond(event.is_gradient, gradient_event, exchange_event, pair, event)
        variables = jax.tree.map(lambda x, rows: x.at[event.workers].set(rows), state.variables, pair)
        return DadaoSimulatorState(variables, elapsed.at[event.workers].set(0)), None

    def run_fn(state, events):
        return jax.lax.scan(step, state, events)[0]

    def params_fn(state):
        return jax.tree.map(lambda x: x[:, X], flow(state.variables, state.elapsed))

    def sample_fn(key, count):
        return _sample(rates, key, count)

    return DadaoSimulator(init_fn, sample_fn, run_fn, params_fn)


def _sample(rates: GossipRates, key: Key, count: int) -> DadaoEvents:
    """Draws the first events of all Poisson processes together: workers' gradients, and exchanges along edges."""
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
    """Makes the jump at a worker's gradient, a function of its variables (twice, as a pair) and the event."""
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
    """Makes the jump of two workers that exchange their values, a function of the variables of both and the event."""
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
        name="dadao_events",
        factory=dadao_events,
        kind="function",
        summary="Simulates asynchronous, accelerated, decentralized optimization of strongly convex functions.",
        paper=DADAO,
        also_known_as=("simulator of DADAO", "asynchronous decentralized optimization"),
        parts=(DadaoEvents, DadaoSimulator, DadaoSimulatorState),
    ),
)
