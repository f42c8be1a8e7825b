"""Simulations of attackers: the last workers attack, before an aggregator or in gossip."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import typed
from optkit.core.types import AxisName, Key
from optkit.core.workers.aggregation import gather_rows
from optkit.decentralized._mixing import Mixing
from optkit.method import Method
from optkit.robust_aggregation.attacks._protocols import Attack, AttackByNumber

__all__ = ["attacked_mix", "under_attack"]


class UnderAttackState(NamedTuple):
    """State of `under_attack`.

    Attributes:
        count: Number of updates so far. It is equal on all workers.
    """

    count: jax.typing.ArrayLike


def under_attack(
    attack: Attack | AttackByNumber,
    byzantine: int,
    *,
    axis_name: AxisName | None = None,
    key: Key | None = None,
) -> optax.GradientTransformation:
    """Replaces the rows of the last workers by an attack, to simulate attackers before an aggregator in a chain.

    The rule, for n rows g_i of which the last `byzantine` are replaced::

        g_i = attack(g_1, ..., g_(n - byzantine))        for i > n - byzantine

    Use it to test an aggregator. Avoid it in training, because with an axis name every worker gathers all rows.

    Args:
        attack: A function of the other workers' rows, for example `sign_flip`.
        byzantine: How many workers attack, at least 1.
        axis_name: Name of the axis over workers. Each worker then passes its own row. None (the default): rows are
            stacked along a leading axis.
        key: Seed of the random draws, an integer or a JAX key. The attack is then called as `attack(honest, key)`, with
            a new key in each step. Default: None, for attacks that draw nothing.

    Returns:
        A transformation with an `UnderAttackState`.

    Raises:
        ValueError: If `byzantine` is not a positive integer; from `update`, if no honest worker is left.

    Example:
        >>> import optkit
        >>> tx = optax.chain(optkit.attacks.under_attack(optkit.attacks.sign_flip, 1), optkit.trimmed_mean(1))
        >>> gradients = jnp.array([[1.0], [2.0], [3.0], [2.0]])
        >>> tx.update(gradients, tx.init(jnp.zeros(1)))[0]
        Array([1.5], dtype=float32)
    """
    refuse_arrays(attack=attack, byzantine=byzantine, axis_name=axis_name)
    check_count("byzantine", byzantine)

    def init_fn(params):
        del params
        return UnderAttackState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        sent = _attacked(updates, _drawing(attack, key, state.count), byzantine, axis_name)
        return sent, UnderAttackState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)


def attacked_mix(mixing: Mixing, attack: Attack | AttackByNumber, byzantine: int, *, key: Key | None = None) -> Mixing:
    """Replaces the values that the last workers send and mix in gossip by an attack.

    The rule, for the values x_i of n workers::

        x_i = attack(x_1, ..., x_(n - byzantine))        for i > n - byzantine
        x = mixing(x)

    Use it to simulate attackers in gossip. Avoid it in training, because every worker gathers all values.

    Args:
        mixing: The mixing that is under attack, for example `robust_mix(trimmed_mean(1))`.
        attack: A function of the other workers' values, for example `sign_flip`.
        byzantine: How many workers attack, at least 1.
        key: Seed of the random draws, an integer or a JAX key. The attack is then called as `attack(honest, key)`, with
            a new key in each step. Default: None, for attacks that draw nothing.

    Returns:
        A mixing.

    Raises:
        ValueError: If `byzantine` is not a positive integer; from the mixing, if no honest worker is left.

    Example:
        >>> import optkit
        >>> robust = optkit.robust_mix(optkit.coordinate_median(nan_policy="omit"))
        >>> mixing = optkit.attacks.attacked_mix(robust, optkit.attacks.send_nan, 1)
        >>> over_workers = jax.vmap(lambda x: mixing(x, optkit.topology.complete(3), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([1.0, 2.0, 9.0]))
        Array([1.5, 1.5, 1.5], dtype=float32)
    """
    check_count("byzantine", byzantine)

    def under(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        sent = _attacked(tree, _drawing(attack, key, step), byzantine, axis_name)
        return mixing(sent, topology, axis_name, step=step, links=links)

    return under


def _drawing(attack: Any, key: Key | None, count: jax.typing.ArrayLike) -> Attack:
    """Makes an attack without further arguments from one that draws with this step's key."""
    if key is None:
        return attack
    return lambda honest: attack(honest, jax.random.fold_in(typed(key), count))


def _attacked(tree: Any, attack: Attack, byzantine: int, axis_name: AxisName | None) -> Any:
    """Replaces the last rows by what an attack makes from the others."""
    if not jax.tree.leaves(tree):
        return tree
    rows = tree if axis_name is None else gather_rows(tree, axis_name)
    workers = len(jax.tree.leaves(rows)[0])
    check_range("byzantine", byzantine, 1, workers - 1)
    sent = attack(jax.tree.map(lambda x: x[: workers - byzantine], rows))
    if axis_name is not None:
        attacks = jax.lax.axis_index(axis_name) >= workers - byzantine
        return jax.tree.map(lambda own, row: jnp.where(attacks, row, own).astype(own.dtype), tree, sent)

    def replace(x, row):
        return jnp.concatenate([x[: workers - byzantine], jnp.stack([row.astype(x.dtype)] * byzantine)])

    return jax.tree.map(replace, rows, sent)


METHODS = (
    Method(
        name="attacks.under_attack",
        factory=under_attack,
        kind="function",
        summary="Replaces the rows of the last workers by an attack, before an aggregator in a chain.",
    ),
    Method(
        name="attacks.attacked_mix",
        factory=attacked_mix,
        kind="function",
        summary="Wraps a mixing for gossip so that the last workers attack.",
    ),
)
