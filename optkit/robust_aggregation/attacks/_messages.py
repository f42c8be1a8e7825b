"""The messages of attackers, as functions of what honest workers send.

Attackers know all honest rows, and all of them send the same. Little: Baruch, Baruch, Goldberg, "A Little Is Enough:
Circumventing Defenses For Distributed Learning", 2019, arXiv:1902.06156. Inner product: Xie, Koyejo, Gupta, "Fall of
Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation", 2019, arXiv:1903.03936. Mimic: Karimireddy, He,
Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", 2020, arXiv:2006.09365. The attack on
comparative gradient elimination is from public code.
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
    """Sends the negative mean of the honest rows.

    Use it as the simplest attack that points uphill.

    Args:
        honest: A tree of stacked rows.

    Returns:
        A tree shaped like a row.

    Example:
        >>> sign_flip(jnp.array([[1.0], [3.0]]))
        Array([-2.], dtype=float32)
    """
    return inner_product_manipulation(honest, 1.0)


def inner_product_manipulation(honest: Any, strength: jax.typing.ArrayLike = 0.1) -> Any:
    """Sends the negative mean of the honest rows, times a strength.

    Use it with a small strength, which is hard to tell from noise, to test rules that drop outliers, or with a large
    one to reverse the mean of all rows.

    Args:
        honest: A tree of stacked rows.
        strength: Factor of the negative mean. The number of honest workers divided by that of attackers makes the mean
            of all rows zero. The factor of "fall of empires" is one more than this strength. Default: 0.1.

    Returns:
        A tree shaped like a row.

    Example:
        >>> inner_product_manipulation(jnp.array([[1.0], [3.0]]), 0.5)
        Array([-1.], dtype=float32)
    """
    return jax.tree.map(lambda mean: -(strength * mean), mean_row(honest))


def a_little_is_enough(honest: Any, deviations: jax.typing.ArrayLike) -> Any:
    """Sends the mean of the honest rows minus some standard deviations, for each coordinate (ALIE).

    Use it to test rules that drop outliers: what it sends is closer to the mean than some honest rows are.

    Args:
        honest: A tree of stacked rows, at least 2.
        deviations: How many standard deviations, see `hidden_deviations`. Negative numbers shift to the other side.

    Returns:
        A tree shaped like a row.

    Example:
        >>> a_little_is_enough(jnp.array([[1.0], [3.0], [2.0]]), 2.0)
        Array([0.], dtype=float32)
    """
    return jax.tree.map(lambda x, mean: mean - deviations * jnp.std(x, axis=0, ddof=1), honest, mean_row(honest))


def hidden_deviations(workers: int, byzantine: int) -> float:
    """Returns the largest number of standard deviations at which attackers stay hidden among honest workers.

    At this distance from the mean, enough honest workers are further away than the attackers that both together are the
    majority. Use it as the strength of `a_little_is_enough`.

    Args:
        workers: Number of all workers.
        byzantine: Number of attackers, at least 1 and less than half of the workers.

    Returns:
        A number for `a_little_is_enough`.

    Raises:
        ValueError: If there are too many attackers, or none.

    Example:
        >>> round(hidden_deviations(11, 3), 4)
        0.3186
    """
    check_count("byzantine", byzantine)
    check_range("byzantine", byzantine, 1, workers / 2, high_open=True)
    supporters = workers // 2 + 1 - byzantine
    return statistics.NormalDist().inv_cdf((workers - byzantine - supporters) / (workers - byzantine))


def shifted_mean(honest: Any, shift: jax.typing.ArrayLike) -> Any:
    """Sends the mean of the honest rows with the same shift added to every coordinate.

    Use it to test rules that look at single coordinates: each shift is small, but together they are far from the mean.

    Args:
        honest: A tree of stacked rows.
        shift: The number that is added to every coordinate.

    Returns:
        A tree shaped like a row.

    Example:
        >>> shifted_mean(jnp.array([[1.0], [3.0]]), 0.5)
        Array([2.5], dtype=float32)
    """
    return jax.tree.map(lambda mean: mean + shift, mean_row(honest))


def mimic(honest: Any, worker: jax.typing.ArrayLike = 0) -> Any:
    """Sends the row of one honest worker, so that this worker counts too much.

    Use it to test training on workers whose data differ. Rules cannot detect it, because the row is an honest one.

    Args:
        honest: A tree of stacked rows.
        worker: Index of the row that is copied. `outlying_worker` finds the one that stands out most. Default: 0.

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
        honest: A tree of stacked rows.
        direction: A tree shaped like a row, for example the direction along which rows varied most in earlier steps.

    Returns:
        The index of the row whose inner product with `direction` has the largest absolute value.

    Example:
        >>> outlying_worker(jnp.array([[1.0, 0.0], [-3.0, 9.0]]), jnp.array([1.0, 0.0]))
        Array(1, dtype=int32)
    """
    return jnp.argmax(jnp.abs(jax.vmap(lambda row: optax.tree.vdot(row, direction))(honest)))


def send_nan(honest: Any) -> Any:
    """Sends NaN, like a worker whose computation failed.

    Use it to test whether training survives such a worker: the mean of all rows does not.

    Args:
        honest: A tree of stacked rows.

    Returns:
        A tree shaped like a row.

    Example:
        >>> send_nan(jnp.array([[1.0], [3.0]]))
        Array([nan], dtype=float32)
    """
    return jax.tree.map(lambda x: jnp.full_like(x[0], jnp.nan), honest)


def gaussian_noise(honest: Any, scale: jax.typing.ArrayLike, key: Key) -> Any:
    """Sends normally distributed noise with mean zero.

    Use it with a large scale as an attack that is easy to detect.

    Args:
        honest: A tree of stacked rows, of which only the shapes matter.
        scale: The standard deviation, at least 0.
        key: Seed of the random draws, an integer or a JAX key.

    Returns:
        A tree shaped like a row.

    Raises:
        ValueError: If `scale` is negative.

    Example:
        >>> gaussian_noise(jnp.array([[1.0], [3.0]]), 10.0, 0).shape
        (1,)
    """
    check_range("scale", scale, 0.0)
    row = jax.tree.map(lambda x: x[0], honest)
    return optax.tree.scale(scale, optax.tree.random_like(typed(key), row))


def long_among_kept(honest: Any, byzantine: int) -> Any:
    """Sends the negative sum of the honest rows that `cge` keeps, as long as it may be without being dropped.

    Its length is that of the shortest of the other honest rows, which `cge` then drops in its place. In the sum the
    shortest row counts twice, as in public code. Use it to test `cge`, the rule that it is made against.

    Args:
        honest: A tree of stacked rows.
        byzantine: Number of attackers that send it, at least 1 and less than the number of honest rows.

    Returns:
        A tree shaped like a row.

    Raises:
        ValueError: If there are too many attackers, or none.

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
    """Reverses the order of the classes: class c becomes `classes - 1 - c`.

    Use it on the data of some workers: these attackers are honest, except for the labels of their data.

    Args:
        labels: Integers from 0 to `classes - 1`.
        classes: Number of classes.

    Returns:
        The new labels: the last class for the first one, and so on.

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
        summary="Attackers send the negative mean of the honest workers.",
        also_known_as=("sign flipping",),
    ),
    Method(
        name="attacks.inner_product_manipulation",
        factory=inner_product_manipulation,
        kind="function",
        summary="Attackers send the negative mean of the honest workers, times a strength.",
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
        summary="Attackers send the honest workers' mean minus some standard deviations of each coordinate.",
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
        summary="Attackers send the honest workers' mean, with the same shift added to every coordinate.",
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
        summary="Attackers send NaN, like workers whose computation failed.",
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
        summary="Attackers send the negative sum of the rows that `cge` keeps, as long as it may be.",
        also_known_as=("anti-CGE",),
    ),
    Method(
        name="attacks.label_flip",
        factory=label_flip,
        kind="function",
        summary="Attackers reverse the order of the classes of their data.",
        also_known_as=("label flipping", "LF"),
    ),
)
