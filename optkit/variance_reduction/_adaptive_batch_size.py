"""Computes the size of the next batch, as a test of the gradient's noise asks for it.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215. The
tests are in `_batch_size_tests.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.rows import count_rows, mean_over_rows, over_rows, psum, require_reduced, require_rows
from optkit.method import Method
from optkit.variance_reduction._batch_size_tests import ADADAGRAD, BatchSizeTest, GradientSamples, norm_test

__all__ = ["AdaptiveBatchSizeState", "adaptive_batch_size", "round_up_batch_size"]

LARGEST = 2**30


class AdaptiveBatchSizeState(NamedTuple):
    """State of `adaptive_batch_size`.

    Attributes:
        count: Number of steps so far, a scalar, equal on all workers.
        next_batch: Number of samples that the next batch should have, over all workers, a scalar of int32, equal on all
            workers.
    """

    count: jax.Array
    next_batch: jax.Array


def adaptive_batch_size(
    test: BatchSizeTest,
    initial_batch_size: int | jax.Array,
    max_batch_size: int | jax.Array,
    *,
    interval: int | jax.Array = 1,
    per_sample: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients and computes in its state how many samples the next batch should have.

    The update rule, where test(g) is the batch size that the test asks for::

        u = mean(g)
        next_batch = min(max(next_batch, ceil(test(g))), max_batch_size)     # in every interval-th step

    Use it to let the batch grow as the gradient becomes small against its noise. Avoid it when the training loop cannot
    change the batch size, because it only reports: the loop must read `next_batch` and draw that many samples. The
    number never falls. A new batch size compiles the step again. To prevent this, pad the batch to the largest one and
    pass `sample_counts` with zeros for the rows beyond it, or allow few sizes only (see `round_up_batch_size`).

    It needs the gradients of at least two samples. They may also be means over parts of the batch, the more parts the
    better; then pass the number of samples of each mean: `update(gradients, state, params, sample_counts=counts)`. **Do
    not average or clip them before**: with `axis_name`, `update` takes each worker's own gradient and averages it
    itself. They must be gradients of mean losses, not of sums.

    Args:
        test: The test that a batch must pass: `norm_test`, `inner_product_test`, `orthogonality_test`,
            `augmented_inner_product_test`, or `coordinate_test`.
        initial_batch_size: Start value of `next_batch`, at least 1.
        max_batch_size: Largest value of `next_batch`, at least `initial_batch_size` and at most 2**30.
        interval: Number of steps from one test to the next, at least 1. Default: 1. The first step tests.
        per_sample: Whether each part of the batch gives the gradients of its samples, with a leading axis over them,
            instead of their mean. Variances are then added up within and between the parts, as the authors do when they
            accumulate gradients; the variance between parts counts slightly too much. Default: False.
        axis_name: Name of the axis over workers. None (the default): each leaf of the gradients has a leading axis, one
            row per sample or per part of the batch, which `update` removes.

    Returns:
        A transformation to the mean gradient with an `AdaptiveBatchSizeState`. Its `update` takes the optional extra
        argument `sample_counts`, which cannot be combined with `per_sample`. It is a vector with the number of samples
        in each row, or with `axis_name` this worker's own number. The default is 1. With 0 the gradient does not count.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `update`, if there is only one gradient, or if
            `sample_counts` is passed with `per_sample`.
        TypeError: From `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> test = optkit.norm_test(eta=0.5)
        >>> tx = optax.chain(optkit.adaptive_batch_size(test, 2, max_batch_size=1024), optax.sgd(0.1))
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[3.0, 4.0], [-1.0, 0.0]])  # of two samples, with a variance of 8 + 8
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> updates, int(state[0].next_batch)  # (8 + 8) / (0.5**2 * (1 + 4)), rounded up
        (Array([-0.1, -0.2], dtype=float32), 13)

    Reference:
        arXiv:2402.11215
    """
    refuse_arrays(test=test, axis_name=axis_name)
    check_range("initial_batch_size", initial_batch_size, 1)
    least = 1 if isinstance(initial_batch_size, jax.Array) else initial_batch_size
    check_range("max_batch_size", max_batch_size, least, LARGEST)
    check_range("interval", interval, 1)

    def init_fn(params):
        refuse_complex(params, "adaptive_batch_size", functions=True)
        return AdaptiveBatchSizeState(jnp.zeros([], jnp.int32), jnp.asarray(initial_batch_size, jnp.int32))

    def mean_and_next_batch(row, state, *, axis_name):
        gradient, sample_count = row
        samples = (_samples_in_parts if per_sample else _samples_in_rows)(gradient, sample_count, axis_name)

        def ask(next_batch):
            value = jnp.nan_to_num(jnp.ceil(test(samples)), nan=0.0, posinf=LARGEST)
            value = jnp.minimum(value, LARGEST).astype(jnp.int32)
            return jnp.minimum(jnp.maximum(next_batch, value), max_batch_size)

        due = state.count % interval == 0
        next_batch = collectives.cond(due, ask, lambda next_batch: next_batch, state.next_batch)
        return samples.mean, AdaptiveBatchSizeState(jnp.asarray(optax.safe_increment(state.count)), next_batch)

    def update_fn(updates, state, params=None, *, sample_counts=None, **extra_args):
        del extra_args
        if axis_name is None:
            require_rows(updates, "adaptive_batch_size")
        mean, state = over_rows(mean_and_next_batch, axis_name)((widen(updates), sample_counts), state)
        require_reduced(mean, params, "adaptive_batch_size")
        return optax.tree.cast_like(mean, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def round_up_batch_size(
    batch_size: jax.typing.ArrayLike, multiple: int = 1, *, power_of_two: bool = False
) -> int | jax.Array:
    """Rounds a batch size up to a multiple, or to one of few sizes, each of which is compiled once.

    Use it on the `next_batch` of `adaptive_batch_size`.

    Args:
        batch_size: A number or an array of integers, at least 1 and at most 2**30.
        multiple: The result is a multiple of it, at least 1. Default: 1. Choose for example workers times microbatches.
        power_of_two: Whether the result is `multiple` times a power of two. Default: False.

    Returns:
        A Python integer for a concrete batch size, or an array of int32 inside `jit`.

    Raises:
        ValueError: If `multiple` is out of its range.

    Example:
        >>> round_up_batch_size(158, multiple=8), round_up_batch_size(158, multiple=8, power_of_two=True)
        (160, 256)
    """
    check_range("multiple", multiple, 1)
    size = jnp.asarray(batch_size, jnp.int32)
    parts = -(-size // multiple)
    if power_of_two:
        parts = 1 << (32 - jax.lax.clz(parts - 1))
    rounded = parts * multiple
    return rounded if isinstance(rounded, Tracer) or np.ndim(rounded) else int(rounded)


def _samples_in_rows(row: Any, sample_count: Any, axis_name: AxisName) -> GradientSamples:
    """Describes samples if each row holds one of them, or the mean of several."""
    count_rows(row, axis_name, "adaptive_batch_size")
    dtype = scalar_dtype(row)
    count = jnp.asarray(1 if sample_count is None else sample_count, dtype)
    all_samples, rows = psum((count, (count > 0).astype(dtype)), axis_name)
    row = jax.tree.map(lambda g: jnp.where(count > 0, g, 0), row)
    mean = jax.tree.map(lambda total: total / all_samples, psum(optax.tree.scale(count, row), axis_name))

    def squared_deviations(function):
        return jax.tree.map(lambda x, m: count * (x - m) ** 2, function(row), function(mean))

    def to_variance(squares):
        return jax.tree.map(lambda total: total / (rows - 1), psum(squares, axis_name))

    return _gradient_samples(mean, squared_deviations, to_variance)


def _samples_in_parts(row: Any, sample_count: Any, axis_name: AxisName) -> GradientSamples:
    """Describes samples whose gradients are stacked in each row, one row per part of the batch."""
    if sample_count is not None:
        raise ValueError("adaptive_batch_size with per_sample gets one gradient per sample and takes no sample_counts")
    for samples in {len(x) for x in jax.tree.leaves(row)}:
        if samples < 2:
            raise ValueError(
                f"adaptive_batch_size with per_sample needs at least 2 samples in each part, got {samples}"
            )
    mean_of_part = jax.tree.map(lambda x: jnp.mean(x, axis=0), row)
    mean = mean_over_rows(mean_of_part, axis_name)

    def squared_deviations(function):
        def within_and_between(x, part, whole):
            return jnp.var(x, axis=0, ddof=1) + (part - whole) ** 2  # the law of total variance

        return jax.tree.map(within_and_between, jax.vmap(function)(row), function(mean_of_part), function(mean))

    return _gradient_samples(mean, squared_deviations, lambda squares: mean_over_rows(squares, axis_name))


def _gradient_samples(mean: Any, squared_deviations: Any, to_variance: Any) -> GradientSamples:
    return GradientSamples(
        mean=mean,
        variances=lambda function: to_variance(squared_deviations(function)),
        total_variance=lambda function: to_variance(jnp.asarray(optax.tree.sum(squared_deviations(function)))),
    )


METHODS = (
    Method(
        name="adaptive_batch_size",
        factory=adaptive_batch_size,
        kind="transformation",
        summary="Averages gradients and computes how large the next batch must be to pass a test of its noise.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad", "AdAdaGrad-Norm", "adaptive batch size scheme"),
        parts=(round_up_batch_size, AdaptiveBatchSizeState),
        example={"test": norm_test(0.1), "initial_batch_size": 8, "max_batch_size": 4096},
        grid=0.1,
        stacked="microbatches",
        golden="batch_size_tests",
    ),
)
