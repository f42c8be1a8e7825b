"""SGD along a robust aggregate of the workers' momenta.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", 2020, arXiv:2012.10333: workers send
averages of their gradients over time. The authors' code sends sums, which are 1 / (1 - b1) times as long.
"""

import jax
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import Mask
from optkit.method import Method
from optkit.robust_aggregation._centered_clip import HISTORY
from optkit.robust_aggregation._trimmed_mean import trimmed_mean

__all__ = ["per_row", "robust_sgd"]


def per_row(inner: optax.GradientTransformation, rows: int) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation on each of several stacked rows, with a separate state for each.

    The rule, for each row i with its state s_i::

        u_i, s_i = inner(g_i, s_i)

    Use it when one process simulates the workers of a server, as rows of a leading axis. Avoid it when workers have a
    named axis, because each worker then runs `inner` itself. It keeps one state of `inner` per row.

    Args:
        inner: A transformation of one worker's gradients, for example `optax.ema(0.9, debias=False)`.
        rows: Number of rows, at least 1.

    Returns:
        A transformation of gradients with a leading axis, which the updates have too. Its state is that of `inner` with
        a leading axis.

    Raises:
        ValueError: If `rows` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.per_row(optax.trace(0.9), rows=2)
        >>> gradients, params = jnp.array([[1.0], [2.0]]), jnp.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     momenta, state = tx.update(gradients, state, params)
        >>> momenta.ravel()
        Array([1.9, 3.8], dtype=float32)
    """
    refuse_arrays(inner=inner, rows=rows)
    check_count("rows", rows)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return jax.vmap(lambda _: inner.init(params), axis_size=rows)(None)

    def update_fn(updates, state, params=None, **extra_args):
        return jax.vmap(lambda g, s: inner.update(g, s, params, **extra_args), axis_size=rows)(updates, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def robust_sgd(
    learning_rate: optax.ScalarOrSchedule,
    aggregator: aggregating.Aggregator,
    b1: jax.typing.ArrayLike | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    summed: bool = False,
    workers: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD along a robust aggregate of the workers' gradients, or of their momenta.

    The update rule, for the gradients g_1, ..., g_n of n workers::

        m_i = b1 * m_i + (1 - b1) * g_i          (with `b1`; otherwise m_i = g_i)
        u = aggregator(m_1, ..., m_n)
        x = x - lr * (u + wd * x)

    Use it with `b1` when some workers may attack: momenta of honest workers differ less than their gradients do, so
    that attacks cannot hide in the noise for long, and any rule that resembles a median profits. Avoid it when all
    workers are trusted, because their mean has less noise. With `b1` it keeps one number per parameter on each worker.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        aggregator: The aggregation rule, for example `centered_clip(radius)`. Its `axis_name` says whether gradients
            have a leading axis, or each worker passes its own.
        b1: Decay rate of the momentum, in [0, 1). A worker sends its momentum in place of its gradient. Default: None,
            which sends gradients.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        summed: Whether the momentum is the sum `m = b1 * m + g`, as in the authors' code, and not the average
            `m = b1 * m + (1 - b1) * g`. Default: False.
        workers: With `b1`, the number of rows if gradients have a leading axis. None (the default): each worker passes
            its own gradient.

    Returns:
        An optimizer. Its state is that of the aggregator and, with `b1`, one number per parameter and worker.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.robust_sgd(0.5, optkit.trimmed_mean(1))
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0]])
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-1.5, -1. ], dtype=float32)

    Reference:
        arXiv:2012.10333
    """
    refuse_arrays(aggregator=aggregator, mask=mask, summed=summed, workers=workers)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_count("workers", workers)
    momentum = optax.identity()
    if b1 is not None:
        momentum = optax.trace(b1) if summed else optax.ema(b1, debias=False)
        momentum = momentum if workers is None else per_row(momentum, workers)
    decay = add_decay("robust_sgd", weight_decay, mask)
    return in_float32(optax.chain(momentum, aggregator, decay, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="robust_sgd",
        factory=robust_sgd,
        kind="optimizer",
        summary="SGD along a robust aggregate of the workers' gradients, or of their momenta.",
        paper=HISTORY,
        also_known_as=("RESAM", "Robust D-SHB", "worker momentum"),
        parts=(per_row,),
        example={"learning_rate": 2e-3, "aggregator": trimmed_mean(1), "b1": 0.9, "workers": 4},
        grid=1.0,
        stacked="microbatches",
        golden="centered_clipping",
    ),
)
