"""Self-repellent walks: one copy of the parameters travels from worker to worker and avoids those it has often visited.

Hu, Doshi, Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random Walks", 2024,
arXiv:2401.09665 (SA-SRRW). The walk is that of Doshi, Hu, Eun, "Self-Repellent Random Walks on General Graphs", 2023,
arXiv:2305.05097. The path does not depend on the parameters: draw it first, and train along it with any optimizer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core import keys
from optkit.core.checks import check_integer, check_range
from optkit.core.types import Key
from optkit.decentralized._metropolis_walk import stationary_distribution
from optkit.method import Method, Paper

__all__ = [
    "self_repellent_kernel",
    "self_repellent_start",
    "self_repellent_step",
    "self_repellent_walk",
    "train_along_path",
]


class SelfRepellentWalkState(NamedTuple):
    """State of `self_repellent_step`.

    Attributes:
        count: Number of moves so far.
        node: Number of the worker that has the parameters.
        visits: Weighted frequency of the visits to each worker, positive and with sum one, shape (workers,).
    """

    count: jax.typing.ArrayLike
    node: jax.Array
    visits: jax.Array


def self_repellent_kernel(
    chain: jax.typing.ArrayLike,
    visits: jax.Array,
    alpha: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Makes transition probabilities that avoid workers which were visited more often than they should be.

    The rule, where each row is divided by its sum::

        K_ij ~ chain_ij * (visits_j / target_j)^(-alpha)

    Use it when you write a walk of your own. Otherwise use `self_repellent_walk`.

    Args:
        chain: Transition probabilities of the base walk, from the row to the column: a matrix of shape (workers,
            workers), or one row of it. The base walk must be reversible, as `metropolis_walk` is.
        visits: How often each worker was visited, positive numbers of shape (workers,).
        alpha: Strength of the repulsion, at least 0. With 0 the walk is the base walk.
        target: How often each worker should be visited. Default: None, equally often.

    Returns:
        Transition probabilities with the shape of `chain`, positive where `chain` is.

    Raises:
        ValueError: If `alpha` is negative.

    Example:
        >>> row = jnp.array([0.5, 0.25, 0.25])
        >>> self_repellent_kernel(row, jnp.array([0.5, 0.25, 0.25]), alpha=1.0).round(3)
        Array([0.333, 0.333, 0.333], dtype=float32)

    Reference:
        arXiv:2305.05097.
    """
    check_range("alpha", alpha, 0.0)
    chain = jnp.asarray(chain, visits.dtype)
    shares = jnp.log(visits) - (0.0 if target is None else jnp.log(jnp.asarray(target, visits.dtype)))
    # K_ij ~ P_ij (x_j / mu_j)^-alpha, by logarithms, since powers of small frequencies overflow.
    return jax.nn.softmax(jnp.where(chain > 0, jnp.log(jnp.where(chain > 0, chain, 1)) - alpha * shares, -jnp.inf))


def self_repellent_start(workers: int, node: int = 0) -> SelfRepellentWalkState:
    """Makes the state of a walk that begins at one worker, where all workers count as visited equally often.

    Use it when you call `self_repellent_step` in a loop of your own.

    Args:
        workers: Number of workers, at least 1.
        node: Number of the worker where the walk begins. Default: 0.

    Returns:
        The state, in JAX's default precision.

    Raises:
        ValueError: If `workers` is not a positive integer, or there is no worker of number `node`.

    Example:
        >>> self_repellent_start(4).visits
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    check_integer("workers", workers)
    if not 0 <= node < workers:
        raise ValueError(f"node must be in [0, {workers - 1}], got {node}")
    zero = jnp.zeros([], jnp.int32)
    return SelfRepellentWalkState(count=zero, node=zero + node, visits=jnp.full(workers, 1 / workers, float))


def self_repellent_step(
    draw: jax.Array,
    state: SelfRepellentWalkState,
    chain: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike | None = None,
    exponent: jax.typing.ArrayLike = 0.8,
) -> SelfRepellentWalkState:
    """Moves the walk once, to a worker that is given by a random number.

    The rule, where K is `self_repellent_kernel` and one_hot(j) is 1 at worker j and 0 elsewhere::

        j = worker drawn with the probabilities K_ij, for the present worker i
        visits = visits + (count + 2)^(-exponent) * (one_hot(j) - visits)

    Use it when you write a loop of your own. Otherwise use `self_repellent_walk`.

    Args:
        draw: The random number, uniform in [0, 1).
        state: The state before the move.
        chain: The base walk, see `self_repellent_kernel`.
        alpha: Strength of the repulsion, at least 0.
        target: How often each worker should be visited. Default: None, equally often.
        exponent: How fast the frequencies settle: their step is `(count + 2) ** -exponent`; in (0.5, 1]. Default: 0.8.

    Returns:
        The state after the move.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> state = self_repellent_step(jnp.array(0.9), self_repellent_start(2), [[0.5, 0.5], [0.5, 0.5]], alpha=5.0)
        >>> int(state.node)
        1

    Reference:
        arXiv:2401.09665.
    """
    check_range("exponent", exponent, 0.5, 1.0, low_open=True)
    row = jnp.asarray(chain, state.visits.dtype)[state.node]
    cumulative = jnp.cumsum(self_repellent_kernel(row, state.visits, alpha, target))  # X_{n+1} ~ K_{X_n}[x_n]
    # Against the last sum and not one, which rounding may have missed.
    node = jnp.argmax(cumulative > draw * cumulative[-1]).astype(jnp.int32)
    rate = (jnp.asarray(state.count, state.visits.dtype) + 2) ** jnp.negative(exponent)
    visits = state.visits + rate * (jax.nn.one_hot(node, state.visits.size, dtype=state.visits.dtype) - state.visits)
    return SelfRepellentWalkState(state.count + 1, node, visits)


def self_repellent_walk(
    key: Key,
    steps: int,
    chain: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike = 10.0,
    *,
    exponent: jax.typing.ArrayLike = 0.8,
    node: int = 0,
) -> jax.Array:
    """Draws a walk over workers that avoids those it has often visited.

    Each move is a `self_repellent_step`. Gradients along such a walk average out nearly as well as in a fixed order.
    Train along the walk with `train_along_path`, or in a loop of your own: in each step the worker of that number
    computes a gradient, updates the parameters and sends them to the next worker; nothing else is sent. Let the
    learning rate fall faster than the step of the frequencies, for example as `(count + 2) ** -0.9`: the variance of
    the result then falls as one over the square of `alpha`.

    Use it when only one worker computes at a time and each can send to its neighbours only. Avoid it when all workers
    can compute at once, because all but one then wait.

    Args:
        key: Seed of the random draws, an integer or a JAX key.
        steps: Number of moves, at least 1.
        chain: Transition probabilities of a base walk that is reversible, for example `metropolis_walk(graph)`. In the
            long run the walk visits workers as often as the base walk does.
        alpha: Strength of the repulsion, at least 0, usually from 5 to 20. With 0 the walk is the base walk. Default:
            10.
        exponent: How fast the frequencies of visits settle, in (0.5, 1]. Default: 0.8.
        node: Number of the worker where the walk begins; it is not part of the path. Default: 0.

    Returns:
        The numbers of the workers visited, shape (steps,).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import networkx
        >>> import optkit
        >>> path = self_repellent_walk(0, 400, optkit.metropolis_walk(networkx.cycle_graph(4)))
        >>> (jnp.bincount(path, length=4) / 400).round(2).tolist()
        [0.25, 0.25, 0.25, 0.25]

    Reference:
        arXiv:2401.09665.
    """
    check_integer("steps", steps)
    target = stationary_distribution(chain)
    start = self_repellent_start(len(target), node)
    draws = jax.random.uniform(keys.split(keys.key_data(key), key)[1], (steps,))

    def move(state, draw):
        state = self_repellent_step(draw, state, chain, alpha, target, exponent)
        return state, state.node

    return jax.lax.scan(move, start, draws)[1]


def train_along_path(
    path: jax.Array, tx: optax.GradientTransformation, grad_fn: Callable[[jax.Array, Any], Any], params: Any
) -> tuple[Any, optax.OptState]:
    """Trains one copy of the parameters that travels along a path of workers.

    The rule of a step, where i is the next worker of the path::

        x = x + tx(grad_fn(i, x))

    Use it when you simulate training along a walk on one device. Avoid it when workers are separate machines, because
    it computes everything in one program.

    Args:
        path: Numbers of workers, shape (steps,).
        tx: An optimizer. Its state travels with the parameters.
        grad_fn: A function `grad_fn(worker, params)` of the gradient at one worker, whose number is a traced integer.
        params: The first parameters.

    Returns:
        The parameters and the optimizer's state at the end.

    Example:
        >>> targets, path = jnp.array([0.0, 4.0]), jnp.array([1, 0, 1])
        >>> params, _ = train_along_path(path, optax.sgd(0.5), lambda i, x: x - targets[i], jnp.array(0.0))
        >>> params
        Array(2.5, dtype=float32)
    """

    def step(carry, worker):
        params, state = carry
        updates, state = tx.update(grad_fn(worker, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), path)[0]


METHODS = (
    Method(
        name="self_repellent_walk",
        factory=self_repellent_walk,
        kind="function",
        summary="Draws a walk over workers that avoids those it has often visited, to train one copy along it.",
        paper=Paper(
            "Accelerating Distributed Stochastic Optimization via Self-Repellent Random Walks",
            "Hu, Doshi, Eun",
            2024,
            "2401.09665",
        ),
        also_known_as=("SA-SRRW", "SRRW", "self-repellent random walk", "random-walk SGD", "token SGD"),
        parts=(
            SelfRepellentWalkState,
            self_repellent_kernel,
            self_repellent_start,
            self_repellent_step,
            train_along_path,
        ),
    ),
)
