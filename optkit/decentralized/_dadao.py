"""DADAO: gradients and exchanges at independent random times, each worker going at its own pace, accelerated in both.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779.
Constants as in the authors' code. This is a simulator of events in continuous time, and no gradient transformation:
at any moment one worker takes a gradient, or two exchange what they hold, while all others go on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core import keys
from optkit.core.checks import check_integer, check_range
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import Key
from optkit.decentralized._gossip_rates import DADAO, GossipRates
from optkit.method import Method

_X, _X_TILDE, _Y, _Y_TILDE, _Z, _Z_TILDE = range(6)


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


class DadaoConstants(NamedTuple):
    """Constants of the continuous flow and of the jumps at events, named as in the paper.

    Attributes:
        nu: half of the strong convexity.
        eta: rate at which X and X~ approach each other.
        alpha: rate at which Y approaches Y~, and Z approaches Z~.
        alpha_tilde: rate at which Z~ approaches Z.
        theta: rate of the drift of Y~.
        gamma: step of X at a gradient.
        gamma_tilde: step of X~ at a gradient.
        delta: step of Y~ at a gradient, with `delta_tilde`.
        delta_tilde: see `delta`.
        beta: step of Z at an exchange.
        beta_tilde: step of Z~ at an exchange.
    """

    nu: float
    eta: float
    alpha: float
    alpha_tilde: float
    theta: float
    gamma: float
    gamma_tilde: float
    delta: float
    delta_tilde: float
    beta: float
    beta_tilde: float


def dadao_constants(mu: float, L: float, chi1: float, chi2: float) -> DadaoConstants:
    """Gives the constants of `dadao`.

    Args:
        mu: strong convexity of every worker's function, positive.
        L: smoothness of every worker's function, at least `mu`.
        chi1: of the rates of exchanges, see `GossipRates.chi1`; at least 0.
        chi2: of the rates of exchanges, see `GossipRates.chi2`; at least 0, and `chi1 * chi2` at most 1/2.

    Returns:
        The constants.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> constants = dadao_constants(mu=2.0, L=4.0, chi1=0.5, chi2=1.0)
        >>> constants.nu, constants.beta_tilde, constants.gamma
        (1.0, 2.0, 0.0625)
    """
    check_range("mu", mu, 0.0, low_open=True, high_open=True)
    check_range("L", L, mu, high_open=True)
    check_range("chi1", chi1, 0.0, high_open=True)
    check_range("chi2", chi2, 0.0, high_open=True)
    if chi1 * chi2 > 0.5 * (1 + 1e-9):
        raise ValueError(
            f"chi1 * chi2 must be at most 1/2, got {chi1 * chi2:.6g}: make all exchanges"
            f" {np.sqrt(2 * chi1 * chi2):.6g} times as frequent"
        )
    nu = mu / 2
    q = float(np.sqrt(nu / L))
    return DadaoConstants(
        nu=nu,
        eta=q / 8,
        alpha=q / 4,
        alpha_tilde=q / 8,
        theta=1 / (2 * q),
        gamma=1 / (4 * L),
        gamma_tilde=1 / (4 * float(np.sqrt(L * nu))),
        delta=q / 4,
        delta_tilde=1.0,
        beta=0.5,
        beta_tilde=2 * chi1 / q,
    )


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
    flow = jax.vmap(_make_flow(constants))
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
        return jax.tree.map(lambda x: x[:, _X], flow(state.variables, state.elapsed))

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
        grads = grad_fn(jax.tree.map(lambda rows: rows[0, _X], pair), event.workers[0], event.key)

        def jump(rows, gradient):
            residual = gradient.astype(rows.dtype) - nu * rows[0, _X] - rows[0, _Y_TILDE]
            return rows - _outer(steps, residual)

        return jax.tree.map(jump, pair, grads)

    return gradient_event


def _make_exchange_event(constants: DadaoConstants) -> Callable[..., Any]:
    """Makes the jumps of two workers that exchange what they hold, of the variables of both and the event."""
    steps = np.array([0, 0, 0, 0, constants.beta, constants.beta_tilde])

    def exchange_event(pair, event):
        del event

        def jump(rows):
            sent = rows[:, _Y] + rows[:, _Z]
            change = _outer(steps, sent[0] - sent[1])
            return rows + jnp.stack([-change, change])

        return jax.tree.map(jump, pair)

    return exchange_event


def _make_flow(constants: DadaoConstants) -> Callable[[Any, jax.Array], Any]:
    """Makes the exact solution of the linear flow, of one worker's variables and a time.

    X~ - X and Z~ - Z decay exponentially. The two drive Y and Y~, which oscillate. So the matrix exponential is one
    constant matrix for each of these modes and one for all that stays, and what it adds to the variables is computed
    without cancellation at short times.
    """
    nu, eta, alpha, alpha_tilde, theta = constants[:5]

    def response(rate, force):
        """What Y and Y~ do under the force `exp(rate * time)` times this."""
        scale = -theta * force / (rate**2 + alpha * rate + alpha * theta)
        return scale * alpha, scale * (rate + alpha)

    x_rate, z_rate = -2 * eta, -(alpha + alpha_tilde)
    z_part, z_tilde_part = alpha / z_rate, -alpha_tilde / z_rate
    x_mode = np.outer([-1 / 2, 1 / 2, *response(x_rate, nu / 2), 0, 0], [-1, 1, 0, 0, 0, 0])
    z_mode = np.outer([0, 0, *response(z_rate, z_part), z_part, z_tilde_part], [0, 0, 0, 0, -1, 1])
    # What stays: the means of X and X~ and of Z and Z~, and the value of Y and Y~ at which they are in balance.
    x_mean, z_mean = np.array([1 / 2, 1 / 2, 0, 0, 0, 0]), np.array([0, 0, 0, 0, 1 + z_part, -z_part])
    rest = np.outer([1, 1, 0, 0, 0, 0], x_mean) + np.outer([0, 0, 0, 0, 1, 1], z_mean)
    rest -= np.outer([0, 0, 1, 1, 0, 0], nu * x_mean + z_mean)
    y_mode = np.eye(6) - rest - x_mode - z_mode
    frequency = np.sqrt(alpha * theta - alpha**2 / 4)
    y_derivative = np.zeros((6, 6))
    y_derivative[_Y] = alpha / 2 * y_mode[_Y] + alpha * (y_mode[_Y_TILDE] - y_mode[_Y])
    y_derivative[_Y_TILDE] = alpha / 2 * y_mode[_Y_TILDE] - theta * y_mode[_Y]

    def flow(variables, time):
        phase = frequency * time
        damping = jnp.expm1(-alpha * time / 2)
        cosine = damping * jnp.cos(phase) - 2 * jnp.sin(phase / 2) ** 2
        sine = (1 + damping) * jnp.sin(phase) / frequency
        scales = jnp.stack([jnp.expm1(x_rate * time), jnp.expm1(z_rate * time), cosine, sine])
        modes = jnp.asarray(np.stack([x_mode, z_mode, y_mode, y_derivative]), time.dtype)
        change = jnp.tensordot(scales, modes, 1, precision="highest")
        return jax.tree.map(lambda x: x + jnp.tensordot(change.astype(x.dtype), x, 1, precision="highest"), variables)

    return flow


def _outer(steps: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.tensordot(jnp.asarray(steps, x.dtype), x, 0)


METHODS = (
    Method(
        name="dadao",
        factory=dadao,
        kind="function",
        summary="Simulates asynchronous workers that minimize strongly convex functions, accelerated in every respect.",
        paper=DADAO,
        also_known_as=("decoupled accelerated decentralized asynchronous optimization", "asynchronous gossip"),
        parts=(DadaoConstants, DadaoEvents, DadaoSimulator, DadaoState, dadao_constants),
    ),
)
