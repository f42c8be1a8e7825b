"""Weight decay: as a part of the step, or after it (parameters move first, and where they arrive is shrunk)."""

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
        count: number of updates so far, equal on all workers.
    """

    count: jax.typing.ArrayLike


def add_decay(
    method: str, weight_decay: optax.ScalarOrSchedule, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the parameters times the strength of the decay, as `optax.add_decayed_weights`, inside a named optimizer.

    Without decay, or without leaves, updates need no parameters. A mask may be a function or a tree that is callable
    itself.

    Args:
        method: the public name of the optimizer.
        weight_decay: strength of the decay, at least 0, or a schedule of it.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.

    Returns:
        A transformation whose `update` needs `params` if there is decay.

    Raises:
        ValueError: if `weight_decay` is negative; from `update`, without parameters.

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

    Args:
        method: the public name of the optimizer.
        weight_decay: strength of the decay, at least 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.

    Returns:
        A transformation without state whose `update` needs `params` if there is decay.

    Raises:
        ValueError: if `weight_decay` is out of its range; from `update`, without parameters.
        TypeError: if `mask` is an array.

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
    """Shrinks the parameters after the step, `(params + updates) / (1 + learning_rate * weight_decay)`.

    It comes last in a chain, after `optax.scale_by_learning_rate` with the same learning rate.

    Args:
        learning_rate: a positive number or a schedule.
        weight_decay: strength of the decay, at least 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        method: the public name of the optimizer, for messages.

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
    """Shrinks the parameters after the step, `(params + updates) * (1 - learning_rate * weight_decay)`.

    It comes last in a chain, after `optax.scale_by_learning_rate` with the same learning rate. Optimizers derived from
    Hugging Face's AdamW decay so.

    Args:
        learning_rate: as in `proximal_decay`.
        weight_decay: as in `proximal_decay`.
        mask: as in `proximal_decay`.
        method: as in `proximal_decay`.

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
    """Makes an optimizer of a direction: then the learning rate and `decay_after_step`, all in float32 at least.

    Args:
        method: the public name of the optimizer.
        learning_rate: a positive number or a schedule.
        direction: what the parameters move against.
        weight_decay: as in `decay_after_step`.
        mask: as in `decay_after_step`.

    Returns:
        The optimizer.

    Raises:
        ValueError: if `weight_decay` is negative.
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
    """Makes a decay of what it does to an update, a parameter, and the rate times the strength."""
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
