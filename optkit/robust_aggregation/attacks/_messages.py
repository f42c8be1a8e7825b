"""What attackers send, as functions of what honest workers send.

They know all honest rows, and all send the same. Little: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing
Defenses For Distributed Learning", 2019, arXiv:1902.06156. Inner product: Xie, Koyejo, Gupta, "Fall of Empires:
Breaking Byzantine-tolerant SGD by Inner Product Manipulation", 2019, arXiv:1903.03936. Mimic: Karimireddy, He, Jaggi,
"Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", 2020, arXiv:2006.09365. The attack on comparative
gradient elimination is from public code.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.keys import typed
from optkit.core.types import Key
from optkit.core.workers.aggregation import Total, mean_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._bucketing import HETEROGENEOUS
from optkit.robust_aggregation._distances import lengths
from optkit.robust_aggregation._order_statistics import smallest

__all__ = [
    "a_little_is_enough",
    "gaussian_noise",
    "hidden_deviations",
    "inner_product_manipulation",
    "label_flip",
    "long_among_kept",
    "mimic",
    "outlying_worker",
    "send_nan",
    "shifted_mean",
    "sign_flip",
]


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
    return jax.tree.map(lambda mean: -(strength * mean), mean_row(honest))


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
    return jax.tree.map(lambda x, mean: mean - deviations * jnp.std(x, axis=0, ddof=1), honest, mean_row(honest))


def hidden_deviations(workers: int, byzantine: int) -> float:
    """Returns the most standard deviations at which attackers are still nearer to the mean than enough honest workers.

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
    return jax.tree.map(lambda mean: mean + shift, mean_row(honest))


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


def mean_row(rows: Any) -> Any:
    """Averages stacked rows."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), rows)


METHODS = (
    Method(
        name="attacks.sign_flip",
        factory=sign_flip,
        kind="function",
        summary="Attackers send the honest workers' mean, reversed.",
        also_known_as=("sign flipping",),
    ),
    Method(
        name="attacks.inner_product_manipulation",
        factory=inner_product_manipulation,
        kind="function",
        summary="Attackers send the honest workers' mean, reversed and scaled.",
        paper=Paper(
            "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation",
            "Xie, Koyejo, Gupta",
            2019,
            "1903.03936",
        ),
        also_known_as=("IPM", "FoE", "Fall of Empires", "empire"),
    ),
    Method(
        name="attacks.a_little_is_enough",
        factory=a_little_is_enough,
        kind="function",
        summary="Attackers send the honest workers' mean less some standard deviations of each coordinate.",
        paper=Paper(
            "A Little Is Enough: Circumventing Defenses For Distributed Learning",
            "Baruch, Baruch, Goldberg",
            2019,
            "1902.06156",
        ),
        also_known_as=("ALIE", "LIE", "little"),
        parts=(hidden_deviations,),
    ),
    Method(
        name="attacks.shifted_mean",
        factory=shifted_mean,
        kind="function",
        summary="Attackers send the honest workers' mean, with every coordinate shifted by as much.",
        also_known_as=("bulyan attack",),
    ),
    Method(
        name="attacks.mimic",
        factory=mimic,
        kind="function",
        summary="Attackers send what one honest worker sends.",
        paper=HETEROGENEOUS,
        parts=(outlying_worker,),
    ),
    Method(
        name="attacks.send_nan",
        factory=send_nan,
        kind="function",
        summary="Attackers send NaN, as workers do whose computation failed.",
    ),
    Method(
        name="attacks.gaussian_noise",
        factory=gaussian_noise,
        kind="function",
        summary="Attackers send normally distributed noise around zero.",
        also_known_as=("Gaussian attack", "random noise"),
    ),
    Method(
        name="attacks.long_among_kept",
        factory=long_among_kept,
        kind="function",
        summary="Attackers send the reversed sum of the rows that `cge` keeps, as long as it may be.",
        also_known_as=("anti-CGE",),
    ),
    Method(
        name="attacks.label_flip",
        factory=label_flip,
        kind="function",
        summary="Attackers turn the classes of their data round, the last for the first.",
        also_known_as=("label flipping", "LF"),
    ),
)
