"""The online-to-nonconvex conversion: an online learner chooses the updates for a loss that is not smooth.

Cutkosky, Mehta, Orabona, "Optimal Stochastic Non-smooth Non-convex Optimization through Online-to-Non-convex
Conversion", 2023, arXiv:2302.03775. The order of steps is that of the code (trainit) by the authors of
arXiv:2405.09742. Their method, random scaling, is `randomly_scaled` around the same learner.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import required
from optkit.core.keys import key_data, split
from optkit.core.types import Key
from optkit.method import Method, Paper
from optkit.random_scaling._iterate_average import average_iterates, averaged_params
from optkit.random_scaling._online_gradient_descent import online_gradient_descent
from optkit.random_scaling._random_scaling import scale_leaves

__all__ = ["online_to_nonconvex"]


class ConvertedByDrawsState(NamedTuple):
    """State of `converted_by_draws`.

    Attributes:
        offset: The end of the learner's last step minus the parameters of the training loop; shaped and sharded like
            the parameters.
        learner: State of the learner.
    """

    offset: optax.Updates
    learner: Any


class OnlineToNonconvexState(NamedTuple):
    """State of `online_to_nonconvex`.

    Attributes:
        key: Raw data of the key that draws the next point; equal on all workers.
        converted: The offset and the state of the learner.
    """

    key: jax.Array
    converted: Any


def converted_by_draws(learner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Builds `online_to_nonconvex` without a key: `update` takes the random number as the extra argument `fraction`.

    Args:
        learner: See `online_to_nonconvex`.

    Returns:
        A transformation with a `ConvertedByDrawsState`.
    """
    learner = optax.with_extra_args_support(learner)

    def init_fn(params):
        return ConvertedByDrawsState(offset=optax.tree.zeros_like(params), learner=learner.init(params))

    def update_fn(updates, state, params=None, *, fraction=None, **extra_args):
        fraction = required(fraction, "fraction", "converted_by_draws", "fraction=draw")
        delta, learner_state = learner.update(updates, state.learner, params, **extra_args)
        # From w_{n-1} to w_n = x_{n-1} + u_n D_n with x_{n-1} = w_{n-1} + offset; the next offset is x_n - w_n.
        step = optax.tree.cast_like(optax.tree.add(state.offset, scale_leaves(delta, fraction)), delta)
        offset = optax.tree.cast_like(scale_leaves(delta, 1 - fraction), state.offset)
        return step, ConvertedByDrawsState(offset=offset, learner=learner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def online_to_nonconvex(learner: optax.GradientTransformation, *, key: Key) -> optax.GradientTransformationExtraArgs:
    """Takes each gradient at a random point of the step that an online learner makes.

    The update rule, where D is the update of the learner and y, which starts at x, is the end of its steps::

        D = learner(g)
        s = a draw from the uniform distribution on [0, 1]
        x = y + s * D
        y = y + D

    So the mean of `<grad F(x), D>` at the new x is exactly the change of F from one y to the next, for any loss F, and
    the regret of the learner bounds the gradients. One number s is drawn for all parameters.

    Use it when the loss is neither convex nor smooth. The theory bounds gradients at the averaged x, so chain
    `average_iterates` after it and evaluate the average. Avoid it when the loss is smooth, because there it is the
    learner with more noise. Its price is one number per parameter for `y - x`; `randomly_scaled` around the same
    learner needs no such memory.

    Args:
        learner: A transformation whose update is the next D, with learning rate and sign: `online_gradient_descent` or
            any optimizer.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        A transformation. Its state is that of the learner, one number per parameter and a key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> learner = optkit.online_gradient_descent(0.1, beta=0.9, mu=0.0)
        >>> tx = optax.chain(optkit.online_to_nonconvex(learner, key=0), optkit.average_iterates(0.9))
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -2 * updates[0])  # one number for all
        True

    Reference:
        arXiv:2302.03775
    """
    converted = converted_by_draws(learner)

    def init_fn(params):
        return OnlineToNonconvexState(key=key_data(key), converted=converted.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        data, fresh = split(state.key, key)
        fraction = jax.random.uniform(fresh, dtype=jnp.float32)
        updates, converted_state = converted.update(updates, state.converted, params, fraction=fraction, **extra_args)
        return updates, OnlineToNonconvexState(key=data, converted=converted_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _averaged(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(build(online_gradient_descent(learning_rate)), average_iterates(0.9))


METHODS = (
    Method(
        name="online_to_nonconvex",
        factory=online_to_nonconvex,
        kind="wrapper",
        summary="Takes each gradient at a random point of the step that an online learner makes.",
        paper=Paper(
            "Optimal Stochastic Non-smooth Non-convex Optimization through Online-to-Non-convex Conversion",
            "Cutkosky, Mehta, Orabona",
            2023,
            "2302.03775",
        ),
        also_known_as=("O2NC", "online-to-non-convex conversion"),
        example={"key": 0},
        grid=0.1,
        eval_params=averaged_params,
        compose=_averaged,
        learning_rate=2e-4,
    ),
)
