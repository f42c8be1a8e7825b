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
    """Runs a transformation on each of several stacked rows, with a state for each: simulates workers of a server.

    Over a named axis each worker runs `inner` itself.

    Args:
        inner: a transformation of one worker's gradients, for example `optax.ema(0.9, debias=False)`.
        rows: how many there are, at least 1.

    Returns:
        A transformation of gradients with a leading axis, which stays. Its state is that of `inner` with such an axis.

    Raises:
        ValueError: if `rows` is not a positive integer.

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
    """Descends along what an aggregator makes of the workers' gradients, or of their momenta.

    Momenta differ less between honest workers than gradients do, and attacks cannot hide in their noise for long: any
    median-like rule gains by them. Between trusted workers the mean has less noise.

    Args:
        learning_rate: a positive number or a schedule.
        aggregator: the rule, for example `centered_clip(radius)`; its `axis_name` says whether gradients have a leading
            axis, or each worker passes its own.
        b1: decay of the momentum that a worker sends in place of its gradient, in [0, 1); default none.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        summed: sends sums `m = b1 m + g`, as the authors' code, in place of averages `m = b1 m + (1 - b1) g` (default).
        workers: with `b1`, the number of rows where gradients are stacked; None (default) where each worker passes its
            own.

    Returns:
        An optimizer; its state is that of the aggregator and one number a parameter and worker with `b1`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.robust_sgd(0.5, optkit.trimmed_mean(1))
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0]])
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-1.5, -1. ], dtype=float32)

    Reference:
        Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", 2020, arXiv:2012.10333.
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
