"""Random scaling: the whole update of an optimizer is multiplied by one random number with mean 1.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742. The rule
is that of the authors' code (trainit, `wrap_random_scaling`), which scales whatever the optimizer returns, including
weight decay. Uniform scaling with its importance weight is only in the code, not in the paper.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.types import Key
from optkit.method import Method, Paper, Variant

__all__ = ["randomly_scaled", "scale_by_exponential"]

Distribution = Literal["exponential", "uniform"]


class ScaleByExponentialState(NamedTuple):
    """State of `scale_by_exponential`.

    Attributes:
        key: Raw data of the key that draws the next scale; equal on all workers.
    """

    key: jax.Array


class ScaledByDrawsState(NamedTuple):
    """State of `scaled_by_draws`.

    Attributes:
        weight: The factor on the next gradient, in float32 like the draws; equal on all workers. None for exponential
            scaling, whose weight is always 1.
        inner: State of the wrapped optimizer.
    """

    weight: Any
    inner: Any


class RandomlyScaledState(NamedTuple):
    """State of `randomly_scaled`.

    Attributes:
        key: Raw data of the key that draws the next scale; equal on all workers.
        scaled: The weight of the next gradient and the state of the wrapped optimizer.
    """

    key: jax.Array
    scaled: Any


def draw_scale(distribution: Distribution, key: jax.Array) -> jax.Array:
    """Draws a scale with mean 1, from the exponential distribution or uniformly between 0 and 2."""
    if distribution == "exponential":
        return jax.random.exponential(key, dtype=jnp.float32)
    return jax.random.uniform(key, dtype=jnp.float32, maxval=2.0)


def scaled_by_draws(
    inner: optax.GradientTransformation, distribution: Distribution
) -> optax.GradientTransformationExtraArgs:
    """Builds `randomly_scaled` without a key: `update` takes the random number as the extra argument `scale`.

    So recorded runs can be replayed.

    Args:
        inner: The optimizer that is wrapped, with its learning rate.
        distribution: The distribution of the draws, which decides the weight of the next gradient.

    Returns:
        A transformation with a `ScaledByDrawsState`.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        weight = None if distribution == "exponential" else jnp.ones([], jnp.float32)
        return ScaledByDrawsState(weight=weight, inner=inner.init(params))

    def update_fn(updates, state, params=None, *, scale=None, **extra_args):
        scale = required(scale, "scale", "scaled_by_draws", "scale=draw")
        gradients = updates if state.weight is None else scale_leaves(updates, state.weight)
        step, inner_state = inner.update(gradients, state.inner, params, **extra_args)
        # P(S > s) over the density at s: 1 for the exponential distribution, 2 - s for the uniform one.
        weight = None if state.weight is None else 2.0 - scale
        return scale_leaves(step, scale), ScaledByDrawsState(weight=weight, inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def randomly_scaled(
    inner: optax.GradientTransformation,
    distribution: Distribution = "exponential",
    *,
    key: Key,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the update of any optimizer by one random number with mean 1, a new one at each step.

    The update rule, where u is the update of `inner`::

        s = a draw from the exponential distribution with mean 1
        x = x + s * u

    With this scaling the mean change of any loss F, smooth or not, is exactly that of its linearization at the point
    where the next gradient is taken: `E[F(x + s u) - F(x)] = E[<grad F(x + s u), u>]`. So any optimizer becomes an
    online learner of the direction u. The number is the same for all parameters, and on all workers if they share the
    key.

    Use it around an optimizer with momentum when the loss is neither convex nor smooth. It costs no memory for
    `"exponential"`. Avoid it when steps must not vary: the longest of 1,000 exponential draws is about 7, and the mean
    of their squares is 2, so the largest stable learning rate is smaller.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Learning rate, schedule and weight decay are
            scaled too.
        distribution: `"exponential"` draws s with mean 1; `"uniform"` draws it between 0 and 2, and multiplies the next
            gradient by `2 - s` before it enters `inner`. Default: `"exponential"`.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        A transformation. Its state is that of `inner`, a key and, for uniform scaling, a weight.

    Raises:
        ValueError: If `distribution` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.randomly_scaled(optax.sgd(0.1, momentum=0.9), key=0)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -2 * updates[0])  # one number for all
        True

    Reference:
        arXiv:2405.09742
    """
    refuse_arrays(distribution=distribution)
    check_option("distribution", distribution, Distribution)
    scaled = scaled_by_draws(inner, distribution)

    def init_fn(params):
        return RandomlyScaledState(key=key_data(key), scaled=scaled.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        data, fresh = split(state.key, key)
        scale = draw_scale(distribution, fresh)
        updates, scaled_state = scaled.update(updates, state.scaled, params, scale=scale, **extra_args)
        return updates, RandomlyScaledState(key=data, scaled=scaled_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_exponential(key: Key) -> optax.GradientTransformation:
    """Multiplies the whole update by one exponentially distributed random number with mean 1, a new one at each step.

    The update rule, where u is the update that enters::

        u = s * u,  with s drawn from the exponential distribution with mean 1

    Use it last in a chain, after the learning rate; there it is `randomly_scaled` around everything before it. Avoid it
    when steps must not vary, see `randomly_scaled`.

    Args:
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        A transformation whose state is a key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optax.chain(optax.sgd(0.1), optkit.scale_by_exponential(key=0))
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -2 * updates[0])  # one number for all
        True

    Reference:
        arXiv:2405.09742
    """

    def init_fn(params):
        del params
        return ScaleByExponentialState(key=key_data(key))

    def update_fn(updates, state, params=None):
        del params
        data, fresh = split(state.key, key)
        return scale_leaves(updates, draw_scale("exponential", fresh)), ScaleByExponentialState(key=data)

    return optax.GradientTransformation(init_fn, update_fn)


def scale_leaves(tree: Any, scale: jax.typing.ArrayLike) -> Any:
    """Multiplies leaves by a number in the wider of the two dtypes, and returns them in their own dtypes."""

    def leaf(x):
        wide = jnp.result_type(scale, x)
        return (jnp.asarray(scale, wide) * x.astype(wide)).astype(x.dtype)

    return jax.tree.map(leaf, tree)


RANDOM_SCALING = Paper(
    "Random Scaling and Momentum for Non-smooth Non-convex Optimization", "Zhang, Cutkosky", 2024, "2405.09742"
)

METHODS = (
    Method(
        name="randomly_scaled",
        factory=randomly_scaled,
        kind="wrapper",
        summary="Multiplies an optimizer's update by one random number with mean 1.",
        paper=RANDOM_SCALING,
        also_known_as=("random scaling", "exponential scaling", "wrap_random_scaling", "Exponentiated O2NC"),
        parts=(scale_by_exponential,),
        example={"key": 0},
        grid=0.1,
        variants={"uniform": Variant({"distribution": "uniform"}, grid=0.1)},
        golden="random_scaling",
        learning_rate=2e-4,
    ),
)
