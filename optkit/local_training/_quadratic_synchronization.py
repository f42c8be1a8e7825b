"""Quadratic synchronization: the smaller the learning rate, the longer workers train alone.

Gu, Lyu, Arora, Zhang, Huang, "A Quadratic Synchronization Rule for Distributed Deep Learning", 2023, arXiv:2310.14423.
What happens in the warm-up and at the end is as in the authors' code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_range
from optkit.method import Method, Paper

__all__ = ["quadratic_synchronization"]

# What a learning rate of zero would make infinite.
_MOST = 2**30


def quadratic_synchronization(
    learning_rate: optax.Schedule,
    alpha: float,
    base: int = 4,
    *,
    warmup_steps: int = 0,
    warmup: int | None = None,
    total_steps: int | None = None,
    power: float = 2.0,
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Makes the number of steps between two synchronizations from the learning rate, for `every` of `local_updates`.

    The rule, where t is the number of steps done when a round begins, and T the number of all steps::

        H = max(base, floor((alpha / lr(t))^power))
        H = min(H, T - t)

    Use it with a learning rate that decays: most synchronizations are saved late in training, where the paper finds
    that longer rounds find flatter minima. Avoid it with a constant rate, where it is a constant.

    Args:
        learning_rate: The schedule of the learning rate of the inner optimizer.
        alpha: The learning rate that would give rounds of one step, at least 0. The paper uses 0.0175 for AdamW with a
            peak of 0.008, and 0.2 to 0.25 for SGD with a peak of 0.8. With 0, all rounds have `warmup` steps.
        base: The smallest number of steps H, at least 1. Default: 4.
        warmup_steps: Number of steps in which the learning rate grows. Rounds that begin there have `warmup` steps.
            Default: 0.
        warmup: Number of steps of these rounds, at least 1. Default: None, what the rule gives at the end of the
            warm-up, and `base` if `alpha` is 0.
        total_steps: Number of all steps T, so that the last round ends with them. Default: None, unknown.
        power: The power. 2 is the paper's rule, and 1 and 3 are those that it compares with. Default: 2.

    Returns:
        A function from the number of steps done to the number of steps of the round that begins.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If `learning_rate` is not a schedule.

    Example:
        >>> import optkit
        >>> rate = optax.cosine_decay_schedule(0.1, decay_steps=100)
        >>> every = optkit.quadratic_synchronization(rate, alpha=0.2, base=2, total_steps=100)
        >>> [int(every(count)) for count in (0, 50, 80, 98)]
        [4, 16, 20, 2]

    Reference:
        arXiv:2310.14423
    """
    if not callable(learning_rate):
        raise TypeError(f"learning_rate must be a schedule, a function of the number of steps, got {learning_rate!r}")
    check_range("alpha", alpha, 0.0)
    check_integer("base", base)
    check_integer("warmup_steps", warmup_steps, least=0)
    check_range("power", power, 0.0, low_open=True)
    for name, value in (("warmup", warmup), ("total_steps", total_steps)):
        if value is not None:
            check_integer(name, value)

    def rule(count):
        asked = (alpha / learning_rate(count)) ** power
        return jnp.maximum(jnp.minimum(asked, _MOST).astype(jnp.int32), base)

    def every(count):
        at_peak = rule(warmup_steps) if warmup is None else jnp.asarray(warmup, jnp.int32)
        if alpha == 0:
            return at_peak
        left = _MOST if total_steps is None else jnp.maximum(total_steps - count, 1)
        return jnp.where(count < warmup_steps, at_peak, jnp.minimum(rule(count), left))

    return every


METHODS = (
    Method(
        name="quadratic_synchronization",
        factory=quadratic_synchronization,
        kind="function",
        summary="The number of local steps between two synchronizations, from the learning rate.",
        paper=Paper("A Quadratic Synchronization Rule for Distributed Deep Learning", "Gu et al.", 2023, "2310.14423"),
        also_known_as=("QSR", "quadratic synchronization rule", "adaptive communication period"),
    ),
)
