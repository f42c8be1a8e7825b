"""Random scaling: the whole update of any optimizer times one random number of mean one.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
The rule is that of the authors' code (trainit, `wrap_random_scaling`), which scales whatever the optimizer returns,
weight decay included. Uniform scaling with its importance weight is in the code only.
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
        key: raw data of the key to draw the next scale with, equal on all workers.
    """

    key: jax.Array


class ScaledByDrawsState(NamedTuple):
    """State of `scaled_by_draws`.

    Attributes:
        weight: what the next gradient is multiplied by, float32 as the draws are, equal on all workers; None for
            exponential scaling, whose weight is always one.
        inner: state of the scaled optimizer.
    """

    weight: Any
    inner: Any


class RandomlyScaledState(NamedTuple):
    """State of `randomly_scaled`.

    Attributes:
        key: raw data of the key to draw the next scale with, equal on all workers.
        scaled: the weight of the next gradient and the state of the scaled optimizer.
    """

    key: jax.Array
    scaled: Any


def draw_scale(distribution: Distribution, key: jax.Array) -> jax.Array:
    """Draws a scale of mean one: from the exponential distribution or uniformly between 0 and 2."""
    if distribution == "exponential":
        return jax.random.exponential(key, dtype=jnp.float32)
    return jax.random.uniform(key, dtype=jnp.float32, maxval=2.0)


def scaled_by_draws(
    inner: optax.GradientTransformation, distribution: Distribution
) -> optax.GradientTransformationExtraArgs:
    """Builds `randomly_scaled` without a key: `update` takes the draw as its extra argument `scale`.

    So recorded runs can be replayed.

    Args:
        inner: any optimizer.
        distribution: that of the draws, which decides on the weight of the next gradient.

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
    """Multiplies the update of any optimizer by one random number of mean one, a fresh one each step.

    Along an exponentially scaled update `s * D` the mean decrease of any loss, smooth or not, is exactly that of its
    linearization where the gradient is taken: `E[F(x + s D) - F(x)] = E[<grad F(x + s D), D>]`. So any optimizer
    becomes an online learner of the direction `D`. Do not take it where steps must not vary: the longest of 1,000
    exponential draws is about 7, and the mean of their squares is 2, so the largest stable learning rate is smaller.

    The number is the same for all leaves and, drawn from a key that all workers share, on all workers.

    Args:
        inner: any optimizer. Its learning rate, schedule and weight decay are scaled with it.
        distribution: `"exponential"` (default), of mean one; or `"uniform"` between 0 and 2, for which the next
            gradient is multiplied by `2 - s` before it enters `inner`.
        key: an integer or a JAX key, equal on all workers.

    Returns:
        A transformation with the state of `inner`, a key and, for uniform scaling, a weight.

    Raises:
        ValueError: if `distribution` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.randomly_scaled(optax.sgd(0.1, momentum=0.9), key=0)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates[1] == -2 * updates[0])  # one number for all
        True

    Reference:
        Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
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
    """Multiplies the whole update by one exponentially distributed number of mean one, a fresh one each step.

    It stands last in a chain, after the learning rate; there it is `randomly_scaled` of what stands before it.

    Args:
        key: an integer or a JAX key, equal on all workers.

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
        Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
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
    """Multiplies by a number in the wider dtype of both, and keeps the leaves' own."""

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
        summary="Multiplies an optimizer's update by one random number of mean one.",
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
