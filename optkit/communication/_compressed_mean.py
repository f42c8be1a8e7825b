"""The mean of gradients over workers, by compressed messages.

Rules of the feedback, and their papers, are in `feedback.py`. The slices of the two-phase layout are those of 1-bit
Adam: Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", 2021,
arXiv:2102.02888.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.communication._channels import Count, Layout, answered, direct, two_phase, uncompressed
from optkit.communication.feedback import Feedback, OwnMemory, SharedMemory, ef14, without
from optkit.compressors import Compressor, top_k
from optkit.core.checks import check_option
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import choose
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.aggregation import nan_unless
from optkit.core.workers.on_workers import check_axis_name
from optkit.method import Method, Paper

__all__ = ["compressed_mean"]


class CompressedMeanState(NamedTuple):
    """State of `compressed_mean`.

    Attributes:
        count: Number of steps, equal on all workers.
        own: What the worker remembers for itself.
        shared: What all workers remember alike.
        channel: State of the compressors.
        dropped: Number of messages that were left out so far, equal on all workers.
    """

    count: jax.typing.ArrayLike
    own: OwnMemory
    shared: SharedMemory
    channel: Any
    dropped: jax.Array


def compressed_mean(
    compressor: Compressor,
    feedback: Feedback | None = None,
    *,
    axis_name: AxisName | None,
    layout: Layout | None = None,
    count: Count = "workers",
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients over workers by compressed messages, in the place of `jax.lax.pmean`.

    The update rule, where C is the compressor, i one of n workers, and e_i is as in `feedback.ef14`, for example::

        u = mean_i C(g_i)          (without feedback)
        u = mean_i C(e_i + g_i)    (with feedback.ef14())

    Give each worker its own gradients, not averaged. All workers get the same mean. A worker whose gradients or message
    are not finite is left out of the step and of the mean, keeps what it remembers, and is counted in the state.

    Use it when the network is slower than the gradients that it must carry. Avoid biased compressors (`top_k`,
    `scaled_sign`) without feedback, because what they leave out is lost; avoid `layout="gather"` with many workers,
    because its bytes grow with their number.

    Args:
        compressor: Compresses the messages; see `optkit.compressors`.
        feedback: What a worker remembers of its messages, from `optkit.feedback`. Default: None, nothing.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        layout: How messages travel. With "gather", every worker receives all messages, n - 1 times the bytes of one.
            With "sum", the network adds them, for less than twice the bytes of one, where all workers scale or place
            numbers alike. With "two_phase", each worker averages a slice of all messages and sends it on, compressed
            again, for less than twice the bytes of one with any number of workers; the compressor then sees equal
            slices of all parameters in place of leaves. Default: None, "gather" or "sum", whichever sends less.
        count: What the mean divides by: with "workers" by the number of those that sent, with "senders" for each entry
            by the number of those whose message holds it, as in DeMo. Default: "workers".

    Returns:
        A transformation whose `update` takes the extra argument `weight`: this worker's share in the mean, 0 if it is
        absent. With the layout "sum" of integers it must be a boolean. The state is that of the feedback and of the
        compressor, and two counters. A step sends the messages and one number per worker.

    Raises:
        ValueError: If `layout` or `count` is unknown or does not go with the compressor or the feedback.
        TypeError: From `update`, if `count` is "senders" and messages do not name the entries that they hold.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> half = optkit.compressors.top_k(0.5)
        >>> mean = optkit.compressed_mean(half, optkit.feedback.ef14(), axis_name="workers")
        >>> tx = optax.chain(mean, optax.adam(0.1))
        >>> def step(params, gradient):
        ...     return tx.update(gradient, tx.init(params), params)[1][0].own.error
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros((2, 2)), jnp.array([[3.0, 2.0], [0.0, -1.0]])).tolist()
        [[0.0, 2.0], [0.0, 0.0]]

    Reference:
        arXiv:1901.09847, arXiv:2102.02888
    """
    refuse_arrays(compressor=compressor, feedback=feedback, layout=layout)
    if axis_name is not None:
        check_axis_name(axis_name)
    check_option("layout", layout, Layout, or_none=True)
    check_option("count", count, Count)
    rule = without() if feedback is None else feedback
    _check_together(rule, feedback, layout, count)
    if layout == "sum" and compressor.sums is None and axis_name is not None:
        raise ValueError(
            "layout='sum' needs a compressor whose numbers all workers scale and place alike, such as rand_k with"
            " shared draws, ternary with a shared scale or a sketch: use layout='gather'"
        )
    server = compressor if rule.server is None else rule.server
    if layout == "two_phase":
        channel = two_phase(compressor, server if rule.answers else None, axis_name)
    else:
        channel = direct(compressor, axis_name, layout, count)
        channel = answered(channel, server) if rule.answers else channel

    def init_fn(params):
        own, shared = rule.init(params)
        zero = jnp.zeros([], jnp.int32)
        return CompressedMeanState(zero, own, shared, channel.init(params), zero)

    def send(asked, weight, state):
        if not rule.starts_dense:
            return channel.send(asked, weight, state.channel)
        return collectives.cond(
            state.count == 0, uncompressed(axis_name).send, channel.send, asked, weight, state.channel
        )

    def update_fn(updates, state, params=None, *, weight=None, **extra_args):
        del params, extra_args
        gradient, weight = widen(updates), jnp.asarray(True if weight is None else weight)
        asked, own = rule.wanted(gradient, state.own, state.count == 0)
        sent, channel_state = send(asked, weight, state)
        mean, own, shared = rule.received(gradient, own, state.shared, sent)
        some = jnp.any(sent.weights > 0)
        state = CompressedMeanState(
            count=optax.safe_increment(state.count),
            own=choose(sent.kept, own, state.own),
            shared=choose(some, shared, state.shared),
            channel=channel_state,
            dropped=state.dropped + jnp.sum(sent.weights == 0, dtype=jnp.int32),
        )
        return optax.tree.cast_like(nan_unless(some, mean), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_together(rule: Feedback, feedback: Feedback | None, layout: Layout | None, count: Count) -> None:
    """Raises if arguments of `compressed_mean` do not go together.

    Raises:
        ValueError: If the mean would not be what the feedback relies on.
    """
    if layout == "two_phase" and feedback is not None and not rule.answers:
        raise ValueError(
            "layout='two_phase' compresses the mean, too; only optkit.feedback.double_ef() feeds back what that leaves"
            " out: other feedback needs layout='gather' or 'sum'"
        )
    if count == "senders" and (rule.estimates or layout in {"sum", "two_phase"}):
        raise ValueError(
            "count='senders' needs layout='gather', where all workers see who sent what, and a feedback without"
            " estimates: None, optkit.feedback.ef14() or double_ef()"
        )


METHODS = (
    Method(
        name="compressed_mean",
        factory=compressed_mean,
        kind="transformation",
        summary="Averages gradients over workers by compressed messages, in the place of pmean.",
        paper=Paper(
            "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed",
            "Tang et al.",
            2021,
            "2102.02888",
        ),
        also_known_as=("gradient compression", "communication compression", "1-bit Adam", "sparse all-reduce"),
        example={"compressor": top_k(0.25), "feedback": ef14(), "axis_name": "workers"},
        needs=("axis_name",),
        golden="ef14",
        learning_rate=5e-4,
    ),
)
