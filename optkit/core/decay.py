"""Weight decay as a part of the step, or after the step, when the parameters have moved."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.trees import with_whole_tree
from optkit.core.types import Mask


class DecayAfterStepState(NamedTuple):
    """State of `proximal_decay` and `decay_after_step`.

    Attributes:
        count: Number of updates so far. It is equal on all workers.
    """

    count: jax.typing.ArrayLike


def add_decay(
    method: str, weight_decay: optax.ScalarOrSchedule, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the parameters times the strength of the decay to the update, as `optax.add_decayed_weights` does.

    It is used inside named optimizers. The rule is `u = u + weight_decay * x`. Without decay, or without leaves,
    updates need no parameters. The mask may be a function, or a tree that is callable itself.

    Args:
        method: The public name of the optimizer.
        weight_decay: Strength of the decoupled weight decay, at least 0, or a schedule of it.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.

    Returns:
        A transformation whose `update` needs `params` if there is decay.

    Raises:
        ValueError: If `weight_decay` is negative; from `update`, if there are no parameters.

    Example:
        >>> tx = add_decay("adamw", 0.5)
        >>> params = jnp.array([4.0])
        >>> tx.update(jnp.array([1.0]), tx.init(params), params)[0]
        Array([3.], dtype=float32)
    """
    check_range("weight_decay", weight_decay, 0.0)
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return optax.with_extra_args_support(optax.identity())

    def build(mask):
        return optax.add_decayed_weights(weight_decay, mask if mask is None else lambda _: mask)

    decay = with_whole_tree(build, mask=mask)

    def update_fn(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        require_params(params, method)
        return decay.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(decay.init, update_fn)


def add_cautious_decay(
    method: str, weight_decay: float | jax.Array, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds cautious decay inside a named optimizer, as `add_cautious_decayed_weights` does, and names it in errors.

    The rule is `u = u + weight_decay * x` where u and x have the same sign.

    Args:
        method: The public name of the optimizer.
        weight_decay: Strength of the decoupled weight decay, at least 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.

    Returns:
        A transformation without state whose `update` needs `params` if there is decay.

    Raises:
        ValueError: If `weight_decay` is out of its range; from `update`, if there are no parameters.
        TypeError: If `mask` is an array.

    Example:
        >>> tx = add_cautious_decay("muon", 0.5)
        >>> params = jnp.array([2.0, -2.0])
        >>> tx.update(jnp.ones(2), tx.init(params), params)[0]
        Array([2., 1.], dtype=float32)
    """
    refuse_arrays(mask=mask)
    check_range("weight_decay", weight_decay, 0.0)
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return optax.with_extra_args_support(optax.identity())

    def leaf(update, parameter):
        agreement = jnp.real(jnp.conj(jnp.sign(update)) * jnp.sign(parameter))
        return update + jnp.where(agreement > 0, weight_decay * parameter, 0).astype(update.dtype)

    def decay(updates, params):
        require_params(params, method)
        return jax.tree.map(leaf, updates, params)

    def build(mask):
        return optax.stateless(decay) if mask is None else optax.masked(optax.stateless(decay), lambda _: mask)

    return with_whole_tree(build, mask=mask)


def proximal_decay(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: jax.typing.ArrayLike,
    mask: Mask | None = None,
    *,
    method: str = "proximal_decay",
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the parameters after the step: they become `(params + updates) / (1 + learning_rate * weight_decay)`.

    It comes last in a chain, after `optax.scale_by_learning_rate` with the same learning rate.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        weight_decay: Strength of the decay, at least 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        method: The public name of the optimizer, for messages. Default: "proximal_decay".

    Returns:
        A transformation whose `update` needs `params` if there is decay.

    Example:
        >>> tx = optax.chain(optax.sgd(0.5), proximal_decay(0.5, weight_decay=2.0))
        >>> params = jnp.array([4.0])
        >>> tx.update(jnp.array([2.0]), tx.init(params), params)[0]  # (4 - 0.5 * 2) / (1 + 0.5 * 2) - 4
        Array([-2.5], dtype=float32)
    """

    def shrink(u, p, shrinkage):
        return (u - shrinkage * p) / (1 + shrinkage)

    return _decay(method, shrink, learning_rate, weight_decay, mask)


def decay_after_step(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: jax.typing.ArrayLike,
    mask: Mask | None = None,
    *,
    method: str = "decay_after_step",
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the parameters after the step: they become `(params + updates) * (1 - learning_rate * weight_decay)`.

    It comes last in a chain, after `optax.scale_by_learning_rate` with the same learning rate. Optimizers derived from
    Hugging Face's AdamW decay in this way.

    Args:
        learning_rate: See `proximal_decay`.
        weight_decay: See `proximal_decay`.
        mask: See `proximal_decay`. Default: all.
        method: See `proximal_decay`. Default: "decay_after_step".

    Returns:
        A transformation whose `update` needs `params` if there is decay.

    Example:
        >>> tx = optax.chain(optax.sgd(0.5), decay_after_step(0.5, weight_decay=0.5))
        >>> params = jnp.array([4.0])
        >>> tx.update(jnp.array([4.0]), tx.init(params), params)[0]  # (4 - 0.5 * 4) * (1 - 0.5 * 0.5) - 4
        Array([-2.5], dtype=float32)
    """

    def shrink(u, p, shrinkage):
        return u - shrinkage * (p + u)

    return _decay(method, shrink, learning_rate, weight_decay, mask)


def decayed_after_step(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    direction: optax.GradientTransformation,
    weight_decay: float | jax.Array,
    mask: Mask | None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer from a direction, followed by the learning rate and `decay_after_step`, in at least float32.

    Args:
        method: The public name of the optimizer.
        learning_rate: The learning rate, a positive number or a schedule.
        direction: The direction against which the parameters move.
        weight_decay: See `decay_after_step`.
        mask: See `decay_after_step`.

    Returns:
        The optimizer.

    Raises:
        ValueError: If `weight_decay` is negative.
    """
    refuse_arrays(mask=mask)
    check_range("weight_decay", weight_decay, 0.0)
    scale = optax.scale_by_learning_rate(learning_rate)
    return in_float32(optax.chain(direction, scale, decay_after_step(learning_rate, weight_decay, mask, method=method)))


def _decay(
    method: str,
    shrink: Callable[..., jax.Array],
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: jax.typing.ArrayLike,
    mask: Mask | None,
) -> optax.GradientTransformationExtraArgs:
    """Makes a decay from a function of an update, a parameter, and the learning rate times the strength."""
    decays = not (isinstance(weight_decay, (int, float)) and weight_decay == 0)

    def init_fn(params):
        del params
        return DecayAfterStepState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        count = optax.safe_increment(state.count)
        if not decays:
            return updates, DecayAfterStepState(count=count)
        require_params(params, method)
        rate = value_at(learning_rate, state.count)
        shrinkage = rate * weight_decay
        shrunk = jax.tree.map(lambda u, p: shrink(u, p, shrinkage).astype(u.dtype), updates, params)
        return shrunk, DecayAfterStepState(count=count)

    def build(mask):
        decay = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return decay if mask is None else optax.masked(decay, lambda _: mask)

    return with_whole_tree(build, mask=mask)
