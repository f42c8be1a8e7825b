"""The strength of an attack that moves a robust aggregate furthest, by a line search from public code."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count
from optkit.method import Method
from optkit.robust_aggregation.attacks._messages import mean_row
from optkit.robust_aggregation.attacks._protocols import AttackByNumber

__all__ = ["strongest"]


class Search(NamedTuple):
    """A line search: the best strength and its value, the last one probed, the step, and whether steps still grow."""

    best: jax.Array
    value: jax.Array
    probe: jax.Array
    step: jax.Array
    expanding: jax.Array


def strongest(
    attack: AttackByNumber, honest: Any, byzantine: int, aggregator: aggregating.Aggregator, evaluations: int = 16
) -> jax.Array:
    """Searches for the strength at which an attack moves an aggregate furthest from the mean of the honest rows.

    The search starts at zero with a step of 1. It doubles the step as long as the damage grows, then shrinks it by a
    factor of 0.8 in each evaluation.

    Use it to test a rule against an attacker who knows it. Avoid it in every step of a long training, because it calls
    the aggregator `evaluations` times.

    Args:
        attack: Called as `attack(honest, strength)`.
        honest: A tree of stacked rows.
        byzantine: How many rows the attackers add, at least 1.
        aggregator: The rule under attack, for stacked rows and without state.
        evaluations: How many strengths are tried, at least 1. Default: 16.

    Returns:
        The best strength found, at least 0.

    Raises:
        ValueError: If a count is not a positive integer.

    Example:
        >>> import optkit
        >>> honest = jnp.array([[1.0], [2.0], [3.0], [4.0]])
        >>> strongest(optkit.attacks.a_little_is_enough, honest, 1, optkit.trimmed_mean(1)) > 1
        Array(True, dtype=bool)
    """
    check_count("byzantine", byzantine)
    check_count("evaluations", evaluations)
    mean = mean_row(honest)

    def damage(strength):
        sent = attack(honest, strength)
        rows = jax.tree.map(lambda x, row: jnp.concatenate([x, jnp.stack([row] * byzantine)]), honest, sent)
        aggregate = aggregator.update(rows, aggregator.init(mean))[0]
        return optax.tree.norm(optax.tree.sub(aggregate, mean))

    def next_probe(state):
        below = state.probe - state.step
        below = jax.lax.while_loop(lambda p: p < 0, lambda p: (p + state.probe) / 2, below)
        contracted = jnp.where(state.probe < state.best, state.probe + state.step, below)
        return jnp.where(state.expanding, state.best + state.step, contracted)

    def evaluate(_, state):
        probe = next_probe(state)
        value = damage(probe)
        better = value > state.value
        grows = state.expanding & better
        return Search(
            best=jnp.where(better, probe, state.best),
            value=jnp.where(better, value, state.value),
            probe=probe,
            step=jnp.where(grows, 2.0, 0.8) * state.step,
            expanding=grows,
        )

    zero = jnp.zeros_like(damage(0.0))
    start = Search(best=zero, value=damage(zero), probe=zero, step=zero + 1, expanding=jnp.array(True))
    return jax.lax.fori_loop(0, evaluations - 1, evaluate, start).best


METHODS = (
    Method(
        name="attacks.strongest",
        factory=strongest,
        kind="function",
        summary="Searches for the strength at which an attack moves an aggregate furthest from the honest mean.",
        also_known_as=("LineMaximize", "adaptive attack"),
    ),
)
