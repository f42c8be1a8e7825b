"""Attacks: what workers send that want to spoil training, as functions of what honest workers send.

They know all honest rows, and all send the same. Little: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing
Defenses For Distributed Learning", 2019, arXiv:1902.06156. Inner product: Xie, Koyejo, Gupta, "Fall of Empires:
Breaking Byzantine-tolerant SGD by Inner Product Manipulation", 2019, arXiv:1903.03936. Mimic: Karimireddy, He, Jaggi,
"Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", 2020, arXiv:2006.09365. The adaptive strength and
the attack on comparative gradient elimination are from public code.
"""

import statistics
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import typed
from optkit.core.types import AxisName, Key
from optkit.core.workers.aggregation import Total, gather_rows, mean_of_rows
from optkit.decentralized._mixing import Mixing
from optkit.robust_aggregation._order_statistics import lengths, smallest


class Attack(Protocol):
    """What attackers send: a function of what the honest workers send."""

    def __call__(self, honest: Any, /) -> Any:
        """Makes a tree shaped like a row of a tree of stacked rows."""
        ...


class AttackByNumber(Protocol):
    """An attack with one more argument: its strength, or a key to draw with."""

    def __call__(self, honest: Any, number: jax.Array, /) -> Any:
        """Makes a tree shaped like a row of a tree of stacked rows."""
        ...


def sign_flip(honest: Any) -> Any:
    """Sends the honest rows' mean, reversed.

    Args:
        honest: a tree of stacked rows.

    Returns:
        A tree shaped like a row.

    Example:
        >>> sign_flip(jnp.array([[1.0], [3.0]]))
        Array([-2.], dtype=float32)
    """
    return inner_product_manipulation(honest, 1.0)


def inner_product_manipulation(honest: Any, strength: jax.typing.ArrayLike = 0.1) -> Any:
    """Sends the honest rows' mean, reversed and scaled: little is hard to tell from noise, much turns the mean round.

    Args:
        honest: a tree of stacked rows.
        strength: of the reversed mean; default 0.1. The number of honest workers over that of attackers makes the mean
            of all rows zero. The factor of "fall of empires" is one more.

    Returns:
        A tree shaped like a row.

    Example:
        >>> inner_product_manipulation(jnp.array([[1.0], [3.0]]), 0.5)
        Array([-1.], dtype=float32)
    """
    return jax.tree.map(lambda mean: -(strength * mean), _mean(honest))


def a_little_is_enough(honest: Any, deviations: jax.typing.ArrayLike) -> Any:
    """Sends the honest rows' mean less some standard deviations, coordinate by coordinate (ALIE).

    Args:
        honest: a tree of stacked rows, at least 2.
        deviations: how many, see `hidden_deviations`; negative to go to the other side.

    Returns:
        A tree shaped like a row.

    Example:
        >>> a_little_is_enough(jnp.array([[1.0], [3.0], [2.0]]), 2.0)
        Array([0.], dtype=float32)
    """
    return jax.tree.map(lambda x, mean: mean - deviations * jnp.std(x, axis=0, ddof=1), honest, _mean(honest))


def shifted_mean(honest: Any, shift: jax.typing.ArrayLike) -> Any:
    """Sends the honest rows' mean, with every coordinate shifted by as much: little each, but far together.

    Args:
        honest: a tree of stacked rows.
        shift: how far.

    Returns:
        A tree shaped like a row.

    Example:
        >>> shifted_mean(jnp.array([[1.0], [3.0]]), 0.5)
        Array([2.5], dtype=float32)
    """
    return jax.tree.map(lambda mean: mean + shift, _mean(honest))


def hidden_deviations(workers: int, byzantine: int) -> float:
    """Gives the most standard deviations at which attackers are still nearer to the mean than enough honest workers.

    Args:
        workers: the number of all workers.
        byzantine: the number of attackers, at least 1 and less than half of the workers.

    Returns:
        A number for `a_little_is_enough`.

    Raises:
        ValueError: if there are too many attackers, or none.

    Example:
        >>> round(hidden_deviations(11, 3), 4)
        0.3186
    """
    check_count("byzantine", byzantine)
    check_range("byzantine", byzantine, 1, workers / 2, high_open=True)
    supporters = workers // 2 + 1 - byzantine
    return statistics.NormalDist().inv_cdf((workers - byzantine - supporters) / (workers - byzantine))


def mimic(honest: Any, worker: jax.typing.ArrayLike = 0) -> Any:
    """Sends what one honest worker sends, so that this one counts too much: an attack where workers' data differ.

    Args:
        honest: a tree of stacked rows.
        worker: which; default 0. The one that stands out most is `outlying_worker`.

    Returns:
        A tree shaped like a row.

    Example:
        >>> mimic(jnp.array([[1.0], [3.0]]), 1)
        Array([3.], dtype=float32)
    """
    return jax.tree.map(lambda x: x[worker], honest)


def outlying_worker(honest: Any, direction: Any) -> jax.Array:
    """Finds the row that stands out most along a direction.

    Args:
        honest: a tree of stacked rows.
        direction: a tree shaped like a row, for example the one along which rows varied most in earlier steps.

    Returns:
        The number of the row with the largest inner product, of either sign.

    Example:
        >>> outlying_worker(jnp.array([[1.0, 0.0], [-3.0, 9.0]]), jnp.array([1.0, 0.0]))
        Array(1, dtype=int32)
    """
    return jnp.argmax(jnp.abs(jax.vmap(lambda row: optax.tree.vdot(row, direction))(honest)))


def send_nan(honest: Any) -> Any:
    """Sends NaN: a worker whose computation failed.

    Args:
        honest: a tree of stacked rows.

    Returns:
        A tree shaped like a row.

    Example:
        >>> send_nan(jnp.array([[1.0], [3.0]]))
        Array([nan], dtype=float32)
    """
    return jax.tree.map(lambda x: jnp.full_like(x[0], jnp.nan), honest)


def gaussian_noise(honest: Any, scale: jax.typing.ArrayLike, key: Key) -> Any:
    """Sends normally distributed noise around zero.

    Args:
        honest: a tree of stacked rows, for the shapes.
        scale: the standard deviation, at least 0.
        key: an integer or a JAX key.

    Returns:
        A tree shaped like a row.

    Raises:
        ValueError: if `scale` is negative.

    Example:
        >>> gaussian_noise(jnp.array([[1.0], [3.0]]), 10.0, 0).shape
        (1,)
    """
    check_range("scale", scale, 0.0)
    row = jax.tree.map(lambda x: x[0], honest)
    return optax.tree.scale(scale, optax.tree.random_like(typed(key), row))


def long_among_kept(honest: Any, byzantine: int) -> Any:
    """Sends the reversed sum of the honest rows that comparative gradient elimination keeps, as long as it can be.

    It is as long as the shortest of the other honest rows, which `cge` then drops in its place. The shortest row counts
    twice, as in public code.

    Args:
        honest: a tree of stacked rows.
        byzantine: how many attackers send it, at least 1 and less than the number of honest rows.

    Returns:
        A tree shaped like a row.

    Raises:
        ValueError: if there are too many attackers, or none.

    Example:
        >>> long_among_kept(jnp.array([[1.0], [2.0], [3.0]]), 1)
        Array([-3.], dtype=float32)
    """
    norms = lengths(honest, None, Total())
    check_count("byzantine", byzantine)
    check_range("byzantine", byzantine, 1, len(norms) - 1)
    weights = 1.0 * smallest(norms, len(norms) - byzantine) + smallest(norms, 1)
    reversed_sum = jax.tree.map(lambda mean: -mean, mean_of_rows(honest, weights))
    return optax.tree.scale(jnp.sort(norms)[len(norms) - byzantine] / optax.tree.norm(reversed_sum), reversed_sum)


def label_flip(labels: jax.Array, classes: int) -> jax.Array:
    """Turns the classes round: attackers that are honest but for the labels of their data.

    Args:
        labels: integers from 0 on.
        classes: how many there are.

    Returns:
        The last class for the first one, and so on.

    Example:
        >>> label_flip(jnp.array([0, 1, 9]), 10)
        Array([9, 8, 0], dtype=int32)
    """
    return classes - 1 - labels


def strongest(
    attack: AttackByNumber, honest: Any, byzantine: int, aggregator: aggregating.Aggregator, evaluations: int = 16
) -> jax.Array:
    """Searches the strength of an attack that moves an aggregate furthest from the honest rows' mean.

    Args:
        attack: called as `attack(honest, strength)`.
        honest: a tree of stacked rows.
        byzantine: how many rows the attackers add, at least 1.
        aggregator: the rule under attack, of stacked rows and without state.
        evaluations: how often it may be called, at least 1; default 16.

    Returns:
        The best strength found, at least 0.

    Raises:
        ValueError: if a count is no positive integer.

    Example:
        >>> import optkit
        >>> honest = jnp.array([[1.0], [2.0], [3.0], [4.0]])
        >>> strongest(a_little_is_enough, honest, 1, optkit.trimmed_mean(1)) > 1
        Array(True, dtype=bool)
    """
    check_count("byzantine", byzantine)
    check_count("evaluations", evaluations)
    mean = _mean(honest)

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
        return _Search(
            best=jnp.where(better, probe, state.best),
            value=jnp.where(better, value, state.value),
            probe=probe,
            step=jnp.where(grows, 2.0, 0.8) * state.step,
            expanding=grows,
        )

    zero = jnp.zeros_like(damage(0.0))
    start = _Search(best=zero, value=damage(zero), probe=zero, step=zero + 1, expanding=jnp.array(True))
    return jax.lax.fori_loop(0, evaluations - 1, evaluate, start).best


class _Search(NamedTuple):
    """A line search: the best strength and its value, the last one probed, the step, and whether steps still grow."""

    best: jax.Array
    value: jax.Array
    probe: jax.Array
    step: jax.Array
    expanding: jax.Array


class UnderAttackState(NamedTuple):
    """State of `under_attack`.

    Attributes:
        count: number of updates so far, equal on all workers.
    """

    count: jax.typing.ArrayLike


def under_attack(
    attack: Attack | AttackByNumber,
    byzantine: int,
    *,
    axis_name: AxisName | None = None,
    key: Key | None = None,
) -> optax.GradientTransformation:
    """Lets the last workers attack: simulates them before an aggregator, in a chain.

    Args:
        attack: a function of the other workers' rows, for example `sign_flip`.
        byzantine: how many workers attack, at least 1.
        axis_name: the axis over workers, each of which passes its own row; None (default) for stacked rows.
        key: for attacks that draw: they are called as `attack(honest, key)` with a fresh one each step.

    Returns:
        A transformation with an `UnderAttackState`. Over an axis every worker gathers all rows.

    Raises:
        ValueError: if `byzantine` is no positive integer; from `update`, if no worker is left.

    Example:
        >>> import optkit
        >>> tx = optax.chain(under_attack(sign_flip, 1), optkit.trimmed_mean(1))
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
    """Lets the last workers attack in gossip: what they mix, and send, is what the attack makes of the others' values.

    Args:
        mixing: for example `robust_mix(trimmed_mean(1))`.
        attack: a function of the other workers' values, for example `sign_flip`.
        byzantine: how many workers attack, at least 1.
        key: for attacks that draw: they are called as `attack(honest, key)` with a fresh one each step.

    Returns:
        A mixing. For simulations: every worker gathers all values.

    Raises:
        ValueError: if `byzantine` is no positive integer.

    Example:
        >>> import optkit
        >>> mixing = attacked_mix(optkit.robust_mix(optkit.coordinate_median(nan_policy="omit")), send_nan, 1)
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
    """Makes an attack without further arguments of one that draws with this step's key."""
    if key is None:
        return attack
    return lambda honest: attack(honest, jax.random.fold_in(typed(key), count))


def _attacked(tree: Any, attack: Attack, byzantine: int, axis_name: AxisName | None) -> Any:
    """Replaces the last rows by what an attack makes of the others."""
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


def _mean(rows: Any) -> Any:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), rows)
