"""Self-repellent walks: one copy of the parameters travels from worker to worker and shuns those it has seen often.

Hu, Doshi, Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random Walks", 2024,
arXiv:2401.09665 (SA-SRRW); the walk of Doshi, Hu, Eun, "Self-Repellent Random Walks on General Graphs", 2023,
arXiv:2305.05097. The path does not depend on the parameters: draw it, and train along it with any optimizer.
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
        count: number of moves so far.
        node: the worker that has the parameters.
        visits: weighted frequency with which each worker was visited, positive and summing to one, shape (workers,).
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
    """Makes transition probabilities that shun workers visited more often than they should be.

    Args:
        chain: transition probabilities of the base walk, from the row to the column, shape (workers, workers), or one
            row of them. It must be reversible, as `metropolis_walk` is.
        visits: how often each worker was visited, positive, shape (workers,).
        alpha: strength of the repulsion, at least 0; with 0 it is the base walk.
        target: how often each should be visited, by default equally often.

    Returns:
        Transition probabilities shaped like `chain`, positive where it is.

    Raises:
        ValueError: if `alpha` is negative.

    Example:
        >>> row = jnp.array([0.5, 0.25, 0.25])
        >>> self_repellent_kernel(row, jnp.array([0.5, 0.25, 0.25]), alpha=1.0).round(3)
        Array([0.333, 0.333, 0.333], dtype=float32)

    Reference:
        Doshi, Hu, Eun, "Self-Repellent Random Walks on General Graphs", 2023, arXiv:2305.05097.
    """
    check_range("alpha", alpha, 0.0)
    chain = jnp.asarray(chain, visits.dtype)
    shares = jnp.log(visits) - (0.0 if target is None else jnp.log(jnp.asarray(target, visits.dtype)))
    # K_ij ~ P_ij (x_j / mu_j)^-alpha, by logarithms, since powers of small frequencies overflow.
    return jax.nn.softmax(jnp.where(chain > 0, jnp.log(jnp.where(chain > 0, chain, 1)) - alpha * shares, -jnp.inf))


def self_repellent_start(workers: int, node: int = 0) -> SelfRepellentWalkState:
    """Gives the state of a walk that begins at a worker, with all visited equally often.

    Args:
        workers: how many there are, at least 1.
        node: where it begins; default worker 0.

    Returns:
        The state, in JAX's default precision.

    Raises:
        ValueError: if `workers` is no positive integer, or there is no such `node`.

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
    """Moves once, for a number that was drawn.

    Args:
        draw: uniform in [0, 1).
        state: before the move.
        chain: the base walk, see `self_repellent_kernel`.
        alpha: strength of the repulsion.
        target: how often each worker should be visited, by default equally often.
        exponent: the frequencies move by `(count + 2) ** -exponent`, in (0.5, 1]; default 0.8.

    Returns:
        The state after the move.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> state = self_repellent_step(jnp.array(0.9), self_repellent_start(2), [[0.5, 0.5], [0.5, 0.5]], alpha=5.0)
        >>> int(state.node)
        1

    Reference:
        Hu, Doshi, Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random Walks", 2024,
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
    """Draws a walk over workers that shuns those visited often: gradients along it are nearly those of a fixed order.

    Train along it with `train_along_path`, or in a loop of your own: in each step the worker of that number takes a
    gradient, updates the parameters, and hands them on, which is all that is sent. Let the learning rate fall faster
    than `exponent` says, for example as `(count + 2) ** -0.9`: then the variance of the result falls as one over the
    square of `alpha`. Do not take it where all workers can compute at once.

    Args:
        key: an integer or a JAX key.
        steps: how many moves.
        chain: a base walk that is reversible, for example `metropolis_walk(graph)`. Workers are visited as often in the
            long run as it visits them.
        alpha: strength of the repulsion, at least 0; default 10, usual from 5 to 20. With 0 it is the base walk.
        exponent: how fast the memory of visits settles, in (0.5, 1]; default 0.8.
        node: the worker where it begins; it is not part of the path. Default 0.

    Returns:
        The numbers of the workers visited, shape (steps,).

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import networkx
        >>> import optkit
        >>> path = self_repellent_walk(0, 400, optkit.metropolis_walk(networkx.cycle_graph(4)))
        >>> (jnp.bincount(path, length=4) / 400).round(2).tolist()
        [0.25, 0.25, 0.25, 0.25]

    Reference:
        Hu, Doshi, Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random Walks", 2024,
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

    Args:
        path: numbers of workers, shape (steps,).
        tx: an optimizer; its state travels with the parameters.
        grad_fn: called with a worker's number, an integer that is traced, and parameters; gives its gradient there.
        params: at the start.

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
        summary="A path over workers, for one copy of the parameters, that shuns those visited often.",
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
