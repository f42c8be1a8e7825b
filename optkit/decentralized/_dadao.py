"""DADAO in rounds: all workers take a gradient at once, then neighbours exchange in pairs at random times.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779. The
flow, the jumps and their constants are the paper's. The rounds are not: in the paper each worker takes gradients at
random times of its own, as in `dadao_events`. The paper's rates are proved for these; for rounds they are measured.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core import keys
from optkit.core.checks import check_integer, check_option
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.types import AxisName, Key
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized._dadao_flow import (
    X_TILDE,
    Y_TILDE,
    Z_TILDE,
    DadaoConstants,
    X,
    Y,
    Z,
    dadao_constants,
    make_change,
)
from optkit.decentralized._gossip_rates import DADAO, GossipRates, uniform_rates
from optkit.decentralized._mixing import pack
from optkit.decentralized.topology import ring
from optkit.method import Method

__all__ = ["dadao"]

Wait = Literal["exponential", "one"]
# On which variables the change of each one depends, in the order X, X~, Y, Y~, Z, Z~.
_ALL = (X, X_TILDE, Y, Y_TILDE, Z, Z_TILDE)
_DEPENDS_ON = ((X, X_TILDE), (X, X_TILDE), _ALL, _ALL, (Z, Z_TILDE), (Z, Z_TILDE))


class DadaoState(NamedTuple):
    """State of `dadao`; trees have the shapes of the parameters, which are X, and are in float32 at least.

    Attributes:
        x_tilde: X~, which X follows. Like the next four, each worker has its own.
        y: Y, which follows Y~. At the optimum of all workers both are the worker's own gradient minus `nu * X`.
        y_tilde: Y~, see `y`.
        z: Z, which follows Z~. At the optimum of all workers both are the worker's own gradient with its sign changed.
            They always sum to zero over the workers.
        z_tilde: Z~, see `z`.
        key: Raw data of the key for the next random draw. It is equal on all workers.
    """

    x_tilde: Any
    y: Any
    y_tilde: Any
    z: Any
    z_tilde: Any
    key: jax.Array


class Variables(NamedTuple):
    """One worker's variables: six trees like the parameters, which are `x`."""

    x: Any
    x_tilde: Any
    y: Any
    y_tilde: Any
    z: Any
    z_tilde: Any


def dadao(
    mu: float | jax.Array,
    L: float | jax.Array,
    rates: GossipRates,
    *,
    axis_name: AxisName,
    key: Key = 0,
    slots: int | None = None,
    wait: Wait = "exponential",
) -> optax.GradientTransformationExtraArgs:
    """DADAO in rounds: accelerated decentralized optimization, where neighbours exchange in pairs at random times.

    A round, with the constants of `DadaoConstants`, where X are the parameters and i and j are neighbours::

        h = g - nu * X - Y~                                             # all workers
        X, X~, Y~ = X - gamma * h, X~ - gamma_tilde * h, Y~ + (delta + delta_tilde) * h
        slots times:
            X, X~, Y, Y~, Z, Z~ follow a linear flow, for wait / slots
            e = Y_i + Z_i - Y_j - Z_j                                   # some pairs of the next matching
            Z_i, Z~_i = Z_i - beta * e, Z~_i - beta_tilde * e           # and j the opposite

    The edges of the graph are divided into matchings, in which no worker occurs twice and which take turns. A pair
    exchanges with probability `rate * wait * matchings / slots`. Wait is the time from one gradient to the next.

    These are the flow and the jumps of DADAO with its Poisson exchanges gathered in rounds. The paper's rates are
    proved for independent Poisson clocks; for these rounds they are measured: on linear regression they needed as many
    gradients as the simulator, `dadao_events`, within a few percent, and these grew with the root of the condition
    number. What is lost is that no worker waits for another: here all go in step.

    Give each worker its own gradients, not averaged, which may be clipped before, but not preconditioned: the constants
    are those of plain gradients. Workers minimize the sum of their functions. In a chain it must be the last
    transformation, because it overwrites the parameters. They do not depend on the exchanges of the same round, so that
    these can run while the next gradient is computed.

    Use it when functions are strongly convex with known `mu` and `L`, and their mean is ill-conditioned: from condition
    numbers of about 100 on it needed fewer gradients than `gradient_tracking`, and the larger they are the fewer. Avoid
    it when only the workers' own functions are ill-conditioned and their mean is not, because it cannot make use of
    that, for neural networks, which are not convex, and when memory is short. Stochastic gradients leave an error in
    proportion to their noise.

    Args:
        mu: Strong convexity of every worker's function, above 0.
        L: Smoothness of every worker's function, at least `mu`.
        rates: How often neighbours exchange values, see `optimal_rates` and `uniform_rates`.
        axis_name: Name of the axis over workers.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        slots: Number of times in a round at which neighbours can exchange: a multiple of the number of matchings
            (`rates.matchings`), and so large that no probability exceeds 1 if wait is 1. Default: None, so many that
            none then exceeds 1/2, because a fixed order of exchanges may diverge, or 1/4 if waits are exponential,
            because in a long wait probabilities stop at 1, and exchanges are lost.
        wait: With "exponential", the wait is drawn anew in each round, equal on all workers, with mean 1. With "one" it
            is 1 in all rounds; both needed about as many gradients. Default: "exponential".

    Returns:
        An optimizer whose state is five numbers per parameter. A worker that exchanges sends as many numbers as there
        are parameters, in float32 at least. Times at which no pair exchanges send nothing.

    Raises:
        ValueError: If `mu` or `L` is out of its range, the rates are too small (`chi1 * chi2 > 1/2`), `slots` is no
            multiple of the number of matchings or too small, `wait` is unknown, or `axis_name` is not one name. From
            `update` if the axis and the rates have different numbers of workers.
        TypeError: If `rates` is not a `GossipRates`, or `slots` is an array.

    Example:
        Each of four workers pulls towards its own target; all reach the mean of the targets.

        >>> import jax
        >>> import optkit
        >>> rates = optkit.uniform_rates(optkit.topology.ring(4))
        >>> tx = optkit.dadao(1.0, 1.0, rates, axis_name="workers")
        >>> def train(target):
        ...     def step(carry, _):
        ...         params, state = carry
        ...         updates, state = tx.update(params - target, state, params)
        ...         return (optax.apply_updates(params, updates), state), None
        ...     params = jnp.zeros([])
        ...     return jax.lax.scan(step, (params, tx.init(params)), length=400)[0][0]
        >>> jax.vmap(train, axis_name="workers")(jnp.array([0.0, 1.0, 2.0, 5.0])).round(3)
        Array([2., 2., 2., 2.], dtype=float32)

    Reference:
        arXiv:2208.00779.
    """
    refuse_arrays(slots=slots)
    check_axis_name(axis_name)
    check_option("wait", wait, Wait)
    if not isinstance(rates, GossipRates):
        raise TypeError(
            f"rates must be GossipRates, for example uniform_rates(optkit.topology.ring(8)), got {type(rates).__name__}"
        )
    constants = dadao_constants(mu, L, rates.chi1, rates.chi2)
    visits = count_visits(rates, slots, wait)
    exchange_and_flow = make_rounds(constants, rates, rates.matchings, axis_name)

    def init_fn(params):
        return DadaoState(*(optax.tree.zeros_like(params) for _ in range(5)), key=keys.key_data(key))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "dadao")
        _require_size(rates, axis_name)
        data, fresh = keys.split(state.key, key)
        time, active = draw(fresh, rates, visits, wait, scalar_dtype(params))
        variables = jump(Variables(params, *state[:-1]), updates, constants)
        variables = exchange_and_flow(variables, time, active)
        return overwrite(variables.x, params), DadaoState(*variables[1:], key=data)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def draw(key: jax.Array, rates: GossipRates, visits: int, wait: Wait, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Draws the wait of a round, and which edges are active in it, of shape (visits, edges)."""
    wait_key, active_key = jax.random.split(key)
    time = jax.random.exponential(wait_key, dtype=dtype) if wait == "exponential" else jnp.ones([], dtype)
    uniform = jax.random.uniform(active_key, (visits, len(rates.edges)), dtype)
    return time, uniform < (jnp.asarray(rates.rates, dtype) * time / visits)[None]


def jump(variables: Variables, grads: Any, constants: DadaoConstants) -> Variables:
    """Changes a worker's variables at its gradient, which was taken at `variables.x`."""
    nu, drift = constants.nu, constants.delta + constants.delta_tilde
    h = jax.tree.map(lambda g, x, y: g - jnp.asarray(nu, x.dtype) * x - y, grads, variables.x, variables.y_tilde)
    return variables._replace(
        x=_moved(variables.x, -constants.gamma, h),
        x_tilde=_moved(variables.x_tilde, -constants.gamma_tilde, h),
        y_tilde=_moved(variables.y_tilde, drift, h),
    )


def make_rounds(
    constants: DadaoConstants, rates: GossipRates, matchings: Sequence[np.ndarray], axis_name: AxisName
) -> Callable[[Variables, jax.Array, jax.Array], Variables]:
    """Makes the rest of a round after the jump.

    Args:
        constants: Those of the method.
        rates: How often neighbours exchange values.
        matchings: The edges by their indices, in groups that take turns.
        axis_name: Name of the axis over workers.

    Returns:
        A function of a worker's variables, of the wait, and of which edges are active at each visit of their matching,
        of shape (visits, edges). It returns the worker's variables at the end of the round.
    """
    change = make_change(constants)
    exchanges = [_make_exchange(constants, rates, matching, axis_name) for matching in matchings]

    def rest_of_round(variables, wait, active):
        visits = len(active)
        if not exchanges:
            return _flow(variables, change(wait))
        by = change(wait / (visits * len(exchanges)))

        def visit(variables, active):
            for exchange in exchanges:
                variables = exchange(_flow(variables, by), active)
            return variables, None

        # What has been exchanged varies between workers, and the state before the first round may not.
        stay = [(worker, worker) for worker in range(rates.size)]
        like = jax.eval_shape(functools.partial(_send, axis_name, stay), variables)
        return jax.lax.scan(visit, collectives.vary_like(variables, like), active)[0]

    return rest_of_round


def _make_exchange(
    constants: DadaoConstants, rates: GossipRates, matching: np.ndarray, axis_name: AxisName
) -> Callable[[Variables, jax.Array], Variables]:
    """Makes the exchange of one matching: a function of a worker's variables and of which edges are active."""
    partner, edge = np.arange(rates.size), np.full(rates.size, -1)
    for index in matching:
        one, other = rates.edges[index]
        partner[one], partner[other], edge[one], edge[other] = other, one, index, index
    involved = np.isin(np.arange(len(rates.edges)), matching)
    pairs = list(zip(partner.tolist(), range(rates.size), strict=True))

    def exchange(variables, active):
        own = jnp.asarray(edge)[jax.lax.axis_index(axis_name)]
        taking_part = (own >= 0) & active[own]

        def meet(z, z_tilde):
            sent = optax.tree.add(variables.y, z)
            messages, unpack = pack(sent)
            received = unpack(_send(axis_name, pairs, messages))
            # The message of who does not take part may be NaN.
            e = jax.tree.map(lambda x, y: jnp.where(taking_part, x - y, 0), sent, received)
            return _moved(z, -constants.beta, e), _moved(z_tilde, -constants.beta_tilde, e)

        z, z_tilde = collectives.cond(jnp.any(active & involved), meet, lambda *z: z, variables.z, variables.z_tilde)
        return variables._replace(z=z, z_tilde=z_tilde)

    return exchange


def _send(axis_name: AxisName, pairs: list[tuple[int, int]], tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, pairs), tree)


def _flow(variables: Variables, change: jax.Array) -> Variables:
    """Lets a worker's variables change by the product with a matrix, see `make_change`."""

    def changed(index):
        def sum_up(*leaves):
            x = leaves[index]
            return x + sum(change[index, other].astype(x.dtype) * leaves[other] for other in _DEPENDS_ON[index])

        return jax.tree.map(sum_up, *variables)

    return Variables(*map(changed, _ALL))


def _moved(tree: Any, step: Any, direction: Any) -> Any:
    return jax.tree.map(lambda x, d: x + jnp.asarray(step, x.dtype) * d, tree, direction)


def count_visits(rates: GossipRates, slots: int | None, wait: Wait) -> int:
    """Returns how often each matching has its turn in a round, and checks `slots`.

    Raises:
        ValueError: If they cannot be divided evenly among matchings, or are too few for the rates.
    """
    matchings, largest = max(len(rates.matchings), 1), float(rates.rates.max(initial=0.0))
    least = max(math.ceil(largest * (1 - 1e-9)), 1)
    if slots is None:
        return (4 if wait == "exponential" else 2) * least
    check_integer("slots", slots)
    if slots % matchings:
        raise ValueError(f"slots must be a multiple of {matchings}, the number of matchings of the edges, got {slots}")
    if slots < matchings * least:
        raise ValueError(
            f"slots must be at least {matchings * least}, {least} for each of {matchings} matchings, because the"
            f" largest rate is {largest:.6g}, got {slots}"
        )
    return slots // matchings


def _require_size(rates: GossipRates, axis_name: AxisName) -> None:
    workers = jax.lax.axis_size(axis_name)
    if workers != rates.size:
        raise ValueError(f"the rates are those of {rates.size} workers, but the axis {axis_name!r} has {workers}")


METHODS = (
    Method(
        name="dadao",
        factory=dadao,
        kind="optimizer",
        summary="Accelerated decentralized optimization, where neighbours exchange in pairs at random times.",
        paper=DADAO,
        also_known_as=(
            "decoupled accelerated decentralized asynchronous optimization",
            "DADAO in rounds",
            "accelerated gossip",
        ),
        parts=(DadaoConstants, dadao_constants),
        example={"mu": 0.4, "L": 1500.0, "rates": uniform_rates(ring(8)), "slots": 4, "axis_name": "workers"},
        grid=100.0,
        tuned="L",
        needs=("axis_name",),
        golden="dadao_in_rounds",
    ),
)
