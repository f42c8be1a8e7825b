"""Deep Gradient Compression: workers send few entries of an accumulated momentum, and keep the others for later.

Lin, Han, Mao, Wang, Dally, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training",
2017, arXiv:1712.01887. The rule is that of the authors' code (synxlin/deep-gradient-compression), which clips each leaf
by its own norm, and gives weight decay a momentum of its own. The largest entries are found exactly; the code guesses
their threshold from a sample.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.communication._senders import count_missing, nan_without_senders
from optkit.compressors._leafwise import Entries
from optkit.compressors._top_k import top_k_rule
from optkit.core.checks import check_integer, check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import all_finite, choose
from optkit.core.precision import in_float32, widen
from optkit.core.top_k import add, take
from optkit.core.trees import mask_tree, resolve, unmask_tree
from optkit.core.types import AxisName, Mask
from optkit.core.workers import collectives
from optkit.core.workers.gathering import gather_together
from optkit.method import Method, Paper

__all__ = ["deep_gradient_compression", "scale_by_deep_gradient_compression"]

# Added to norms by the authors' code.
_EPS = 1e-6


class ScaleByDeepGradientCompressionState(NamedTuple):
    """State of `scale_by_deep_gradient_compression`.

    Attributes:
        count: Number of updates so far. It is equal on all workers.
        momentum: The momentum, at least in float32, with the shapes of the parameters. For compressed leaves each
            worker has its own; for all others it is equal on all workers.
        velocity: The sum of the momentum that was not sent so far, at least in float32; `optax.MaskedNode` for leaves
            that are not compressed. Each worker has its own.
        dropped: How many gradients were left out so far because they were not finite, counted over all workers. It is
            equal on all workers.
    """

    count: jax.typing.ArrayLike
    momentum: optax.Updates
    velocity: optax.Updates
    dropped: jax.Array

    # What the other workers count on, see `optkit.resize_workers`.
    owed = ("velocity",)


def scale_by_deep_gradient_compression(
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    axis_name: AxisName | None,
    density: float | None = None,
    nesterov: bool = False,
    momentum_masking: bool = True,
    clip_norm: jax.typing.ArrayLike | None = None,
    warmup_steps: jax.typing.ArrayLike | None = None,
    warmup_phases: int | None = None,
    compressed: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces each worker's gradient by the mean of the largest entries of the workers' accumulated momenta.

    The update rule, where a worker i adds its own gradient, and S_i are the places of the largest entries of v_i::

        u_i = momentum * u_i + clip(g_i)
        v_i = v_i + u_i
        u = mean over i of (v_i at S_i, else 0)
        v_i = 0 at S_i
        u_i = 0 at S_i                             # momentum_masking

    Leaves of less than two axes are not compressed: for them u is the momentum of the mean gradient, which is clipped.
    It takes the place of the mean over workers and of the momentum: give each worker its own gradients, not averaged,
    and put nothing but the learning rate after it. Updates are equal on all workers.

    Use it when workers are joined by a slow network and train by SGD with momentum. Avoid it without a warm-up, which
    the first steps of training need, and with many workers, because each of them receives the messages of all others.
    In Adam the entries that arrive late and together would count as large gradients; `error_feedback` has no momentum.

    Args:
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.9.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        density: Share of a leaf's entries that are sent, in (0, 1], rounded up. Default: None, which stands for 0.001.
            With 1 no leaf is compressed.
        nesterov: Whether the momentum is Nesterov's: `u_i = momentum * (u_i + g_i)` and `v_i = v_i + u_i + g_i`.
            Default: False.
        momentum_masking: Whether the momentum of an entry starts anew when it was sent, so that what arrives late does
            not push on ("momentum factor masking"). Default: True.
        clip_norm: The largest norm of the gradient of a leaf, above 0; larger ones are scaled down. Workers clip their
            own gradients, so the paper divides the norm of ordinary training by the square root of the number of
            workers. Default: None, without clipping.
        warmup_steps: Number of steps in which the density falls from phase to phase, at least 0. Default: None, without
            a warm-up.
        warmup_phases: Number of phases of the warm-up, at least 1; phase p of n, from 1 on, has the density
            `density^(p / (n + 1))`. Default: None, which stands for 4: with a density of 0.001 these are 25 %, 6.3 %,
            1.6 % and 0.4 %. The selection and the message of each phase are compiled, as branches of a `switch`, so
            that each phase sends its own number of bytes.
        compressed: Which leaves are compressed: a tree of booleans, or a function that makes it from the parameters.
            Default: those of two axes or more.

    Returns:
        A transformation. Its state is two numbers per parameter, and one for leaves that are not compressed. A worker
        sends 8 bytes for each entry of a compressed leaf, its value and its place, and one word more, in a single
        `all-gather`; other leaves are summed in float32 at least. A worker whose gradient is not finite sends nothing,
        keeps its momentum as it is, and is counted in the state; without any other worker the updates are NaN.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_deep_gradient_compression(axis_name="workers", density=0.25)
        >>> step = lambda gradients: tx.update(gradients, tx.init(gradients))[0]
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([[[3.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [-2.0, 0.0]]]))[0].tolist()
        [[1.5, 0.0], [-1.0, 0.0]]

    Reference:
        arXiv:1712.01887
    """
    refuse_arrays(axis_name=axis_name, density=density, warmup_phases=warmup_phases, compressed=compressed)
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("density", density, 0.0, 1.0, low_open=True)
    check_range("clip_norm", clip_norm, 0.0, low_open=True)
    check_range("warmup_steps", warmup_steps, 0.0)
    share, phases = 0.001 if density is None else density, 4 if warmup_phases is None else warmup_phases
    check_integer("warmup_phases", phases)
    densities = densities_of_phases(share, 0 if warmup_steps is None else phases)

    def leaves(tree, *, sparse):
        """Returns the leaves that are compressed, or all others."""
        chosen = jax.tree.map(lambda x: x.ndim > 1, tree) if compressed is None else compressed
        chosen = resolve("compressed", chosen, tree)
        return mask_tree(jax.tree.map(lambda choice: (choice and share < 1) == sparse, chosen), tree)

    def clip(g):
        return g if clip_norm is None else _clip(g, jnp.asarray(clip_norm, g.dtype))

    def accumulate(gradients, buffers):
        """Returns the momentum and the step of an optimizer with it."""

        def new_buffer(u, g):
            factor = jnp.asarray(momentum, u.dtype)
            return factor * (u + g) if nesterov else factor * u + g

        buffers = jax.tree.map(new_buffer, buffers, gradients)
        return buffers, optax.tree.add(buffers, gradients) if nesterov else buffers

    def exchange(density):
        rule = top_k_rule(density, round_up=True)

        def branch(buffers, velocity, sends):
            message = jax.tree.map(lambda v: rule.encode(jnp.where(sends, v, 0).ravel(), None), velocity)
            rows, senders = gather_together((message, sends), axis_name)
            total = jax.tree.map(_sum_rows, velocity, rows)
            velocity = jax.tree.map(_clear, velocity, message)
            buffers = jax.tree.map(_clear, buffers, message) if momentum_masking else buffers
            return total, buffers, velocity, senders

        return branch

    def init_fn(params):
        zeros = optax.tree.zeros_like(widen(params))
        return ScaleByDeepGradientCompressionState(
            count=jnp.zeros([], jnp.int32),
            momentum=zeros,
            velocity=leaves(zeros, sparse=True),
            dropped=jnp.zeros([], jnp.int32),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        gradients = widen(updates)
        dense, old = leaves(gradients, sparse=False), leaves(state.momentum, sparse=True)
        buffers, step = accumulate(jax.tree.map(clip, leaves(gradients, sparse=True)), old)
        velocity = optax.tree.add(state.velocity, step)
        sends = all_finite((velocity, dense))

        phase = _phase(state.count, warmup_steps, len(densities) - 1)
        total, kept, left, senders = collectives.switch(phase, list(map(exchange, densities)), buffers, velocity, sends)
        count = jnp.maximum(jnp.sum(senders), 1)
        sparse_step = jax.tree.map(lambda x: x / count.astype(x.dtype), total)

        sums = _sum(jax.tree.map(lambda g: jnp.where(sends, g, 0), dense), axis_name)
        means = jax.tree.map(lambda x: clip(x / count.astype(x.dtype)), sums)
        dense_old = leaves(state.momentum, sparse=False)
        dense_buffers, dense_step = accumulate(means, dense_old)

        new_state = ScaleByDeepGradientCompressionState(
            count=optax.safe_increment(state.count),
            momentum=unmask_tree(choose(sends, kept, old), choose(jnp.any(senders), dense_buffers, dense_old)),
            velocity=choose(sends, left, state.velocity),
            dropped=count_missing(state.dropped, senders),
        )
        steps = optax.tree.cast_like(unmask_tree(sparse_step, dense_step), updates)
        return nan_without_senders(senders, steps), new_state

    return only_real("scale_by_deep_gradient_compression", optax.GradientTransformationExtraArgs(init_fn, update_fn))


def deep_gradient_compression(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array | None = None,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    density: float | None = None,
    nesterov: bool = False,
    momentum_masking: bool = True,
    clip_norm: jax.typing.ArrayLike | None = None,
    warmup_steps: jax.typing.ArrayLike | None = None,
    warmup_phases: int | None = None,
    compressed: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Deep Gradient Compression: SGD with momentum whose workers send the largest entries of what they have to send.

    The update rule, where u comes from `scale_by_deep_gradient_compression`::

        w = momentum * w + wd * x
        x = x - lr * (u + w)

    Give each worker its own gradients, not averaged. Parameters stay equal on all workers. Weight decay is an L2
    penalty with a momentum w of its own, because it is known to all workers and need not be sent.

    Use it in place of SGD with momentum when workers are joined by a slow network: at the default density a worker
    sends 8 bytes for each 1000 entries of a matrix, where float32 gradients take 4000. Avoid it on fast networks, where
    the mean of all gradients costs little, and with many workers, because each of them receives the messages of all
    others. The learning rate is that of SGD; use a warm-up, and clip gradients where SGD does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.9.
        weight_decay: Strength of the L2 penalty, at least 0. Default: None, without decay and its momentum.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        density: See `scale_by_deep_gradient_compression`. Default: None, which stands for 0.001.
        nesterov: See `scale_by_deep_gradient_compression`. Default: False.
        momentum_masking: See `scale_by_deep_gradient_compression`. Default: True.
        clip_norm: See `scale_by_deep_gradient_compression`. Default: None, without clipping.
        warmup_steps: See `scale_by_deep_gradient_compression`. Default: None, without a warm-up.
        warmup_phases: See `scale_by_deep_gradient_compression`. Default: None, which stands for 4.
        compressed: See `scale_by_deep_gradient_compression`. Default: leaves of two axes or more.

    Returns:
        An optimizer. Its state is two numbers per parameter, and a third one with weight decay. See
        `scale_by_deep_gradient_compression` for what is sent, and for gradients that are not finite.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.deep_gradient_compression(0.5, axis_name="workers", density=0.5)
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros((2, 1, 2)), jnp.array([[[4.0, 1.0]], [[0.0, 8.0]]])).tolist()
        [[[1.0, 2.0]], [[1.0, 2.0]]]

    Reference:
        arXiv:1712.01887
    """
    refuse_arrays(mask=mask)
    direction = scale_by_deep_gradient_compression(
        momentum,
        axis_name=axis_name,
        density=density,
        nesterov=nesterov,
        momentum_masking=momentum_masking,
        clip_norm=clip_norm,
        warmup_steps=warmup_steps,
        warmup_phases=warmup_phases,
        compressed=compressed,
    )
    return only_real(
        "deep_gradient_compression",
        in_float32(
            optax.chain(
                direction,
                _add_decay_with_momentum(weight_decay, mask, momentum, nesterov=nesterov),
                optax.scale_by_learning_rate(learning_rate),
            )
        ),
    )


def densities_of_phases(density: float, phases: int) -> Sequence[float]:
    """Returns the densities of the phases of a warm-up, and that of all steps after it.

    Args:
        density: The density after the warm-up.
        phases: Number of phases.

    Returns:
        One density more than there are phases.

    Example:
        >>> [round(density, 4) for density in densities_of_phases(0.001, 4)]
        [0.2512, 0.0631, 0.0158, 0.004, 0.001]
    """
    return [max(density ** (phase / (phases + 1)), density) for phase in range(1, phases + 1)] + [density]


def _phase(count: jax.Array, steps: jax.typing.ArrayLike | None, phases: int) -> jax.typing.ArrayLike:
    """Returns the index of a step's density, which is the last one after the warm-up."""
    if steps is None:
        return 0
    steps = jnp.asarray(steps).astype(count.dtype)
    return jnp.where(count < steps, jnp.minimum(count, steps) * phases // jnp.maximum(steps, 1), phases)


def _add_decay_with_momentum(
    weight_decay: float | jax.Array | None, mask: Mask | None, momentum: jax.typing.ArrayLike, *, nesterov: bool
) -> optax.GradientTransformationExtraArgs:
    """Adds the momentum of an L2 penalty to the updates."""
    if weight_decay is None:
        return optax.with_extra_args_support(optax.identity())
    decay = add_decay("deep_gradient_compression", weight_decay, mask)
    decay = optax.with_extra_args_support(optax.chain(decay, optax.trace(momentum, nesterov)))

    def update_fn(updates, state, params=None, **extra_args):
        penalty, state = decay.update(optax.tree.zeros_like(updates), state, params, **extra_args)
        return optax.tree.add(updates, penalty), state

    return optax.GradientTransformationExtraArgs(decay.init, update_fn)


def _clip(x: jax.Array, norm: jax.Array) -> jax.Array:
    """Returns `x * min(1, norm / (|x| + eps))`, computed without squares that overflow."""
    scale = jnp.where(jnp.max(jnp.abs(x), initial=0) > 2.0**60, jnp.asarray(2.0**-100, x.dtype), 1)
    scaled = scale * x
    return scaled * jnp.minimum(1 / scale, norm / (jnp.linalg.norm(scaled.ravel()) + scale * _EPS))


def _sum(tree: Any, axis_name: AxisName | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _sum_rows(like: jax.Array, rows: Entries) -> jax.Array:
    """Adds the entries of all workers, one worker after the other, so that all devices add in the same order."""

    def add_row(total, row):
        return add(total, row.places, row.values), None

    return jax.lax.scan(add_row, jnp.zeros([like.size], rows.values.dtype), rows)[0].reshape(like.shape)


def _clear(x: jax.Array, entries: Entries) -> jax.Array:
    """Sets entries to zero."""
    flat = x.ravel()
    return add(flat, entries.places, -take(flat, entries.places)).reshape(x.shape)


METHODS = (
    Method(
        name="deep_gradient_compression",
        factory=deep_gradient_compression,
        kind="optimizer",
        summary="SGD with momentum whose workers send the largest entries of what they have to send.",
        paper=Paper(
            "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training",
            "Lin, Han, Mao, Wang, Dally",
            2017,
            "1712.01887",
        ),
        also_known_as=("DGC", "momentum correction", "momentum factor masking"),
        parts=(scale_by_deep_gradient_compression,),
        example={"learning_rate": 2e-4, "axis_name": "workers", "density": 0.5},
        grid=1e-2,
        needs=("axis_name",),
        golden="dgc",
    ),
)
