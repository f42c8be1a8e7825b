"""Proximal steps towards generalised medians: the part of a difference that an estimate of the median takes over.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828. A median of random vectors `g` minimises the mean of `D(m - g)`. Its stochastic proximal point step,
with `d = g - m`, is `argmin_p D(p - d) + |p|^2 / (2 tau)`, in closed form below. The closed forms were derived again
from this and compared with numerical minimisers; no code of the authors is public.

Where `D` is a norm, the step is the projection of `d` on the ball of radius `tau` of its dual norm (Moreau). So a
projection `(tree, radius) -> tree` onto such a ball, Optax's for example, is the step of any further norm.

All trees are seen as one vector. Under `jit` leaves may be sharded, inside `shard_map` they may not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.proximal import MedianStep
from optkit.median_clipping._papers import MEDIAN
from optkit.method import Method


def _divide_by_norm(tree: Any, length: Callable[[jax.Array], jax.typing.ArrayLike]) -> Any:
    """Scales a tree to the length that its l2 norm is mapped to; zero stays zero."""
    norm = optax.tree.norm(tree)
    return optax.tree.scale(length(norm) / jnp.where(norm > 0, norm, 1), tree)


def l2() -> MedianStep:
    """The l2 norm, whose median is the geometric one: the difference is clipped by its global norm.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> l2()(jnp.array([3.0, 4.0]), 2.5)
        Array([1.5, 2. ], dtype=float32)
    """
    return MedianStep("median_step.l2", optax.projections.projection_l2_ball)


def l1() -> MedianStep:
    """The l1 norm, whose median is that of each coordinate: each coordinate of the difference is clipped.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> l1()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1. , -0.5], dtype=float32)
    """
    return MedianStep("median_step.l1", optax.projections.projection_linf_ball)


def linf() -> MedianStep:
    """The linf norm: the difference is projected on an l1 ball, a step of few coordinates.

    It sorts all coordinates of all leaves; sharded leaves are gathered on every device.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> linf()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1., -0.], dtype=float32)
    """

    def step(difference, tau):
        leaves = jax.tree.leaves(difference)
        if not any(leaf.size for leaf in leaves):
            return difference
        radius = jnp.asarray(tau, jnp.result_type(*leaves))
        projected = optax.projections.projection_l1_ball(jax.tree.map(replicate, difference), radius)
        return jax.tree.map(shard_like, projected, difference)

    return MedianStep("median_step.linf", step)


def half_squared_l2() -> MedianStep:
    """Half the squared l2 norm, whose median is the mean: an exponential average with decay `1 / (1 + tau)`.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> half_squared_l2()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1.5 , -0.25], dtype=float32)
    """
    return MedianStep(
        "median_step.half_squared_l2", lambda difference, tau: optax.tree.scale(tau / (1 + tau), difference)
    )


def huber_l2(threshold: float) -> MedianStep:
    """The Huber function of the l2 norm: an exponential average of what is near, clipping of what is far.

    Args:
        threshold: the norm of `m - g` where the square passes into the norm, above 0.

    Returns:
        The map from difference and tau to the step.

    Raises:
        ValueError: if `threshold` is not positive.

    Example:
        >>> huber_l2(5.0)(jnp.array([30.0, 40.0]), 1.0)
        Array([3., 4.], dtype=float32)
    """
    check_range("threshold", threshold, 0.0, low_open=True)
    return MedianStep(
        "median_step.huber_l2",
        lambda difference, tau: optax.projections.projection_l2_ball(
            optax.tree.scale(tau / (1 + tau), difference), tau * threshold
        ),
    )


def huber(threshold: float) -> MedianStep:
    """The Huber function of each coordinate: an exponential average of what is near, clipping of what is far.

    Args:
        threshold: the coordinate of `m - g` where the square passes into the absolute value, above 0.

    Returns:
        The map from difference and tau to the step.

    Raises:
        ValueError: if `threshold` is not positive.

    Example:
        >>> huber(1.0)(jnp.array([30.0, 0.5]), 1.0)
        Array([1.  , 0.25], dtype=float32)
    """
    check_range("threshold", threshold, 0.0, low_open=True)
    return MedianStep(
        "median_step.huber",
        lambda difference, tau: optax.projections.projection_linf_ball(
            optax.tree.scale(tau / (1 + tau), difference), tau * threshold
        ),
    )


def elastic_net(l1: float) -> MedianStep:
    """Half the squared l2 norm plus a multiple of the l1 norm, between the mean and the coordinates' medians.

    Args:
        l1: weight of the l1 norm, at least 0; with 0 it is `median_step.half_squared_l2`.

    Returns:
        The map from difference and tau to the step.

    Raises:
        ValueError: if `l1` is negative.

    Example:
        >>> elastic_net(1.0)(jnp.array([3.0, -0.5]), 1.0)
        Array([ 2. , -0.5], dtype=float32)
    """
    check_range("l1", l1, 0.0)

    def step(difference, tau):
        def leaf_step(d):
            return d - jnp.sign(d) * jnp.maximum(jnp.abs(d) - tau * l1, 0) / (1 + tau)

        return jax.tree.map(leaf_step, difference)

    return MedianStep("median_step.elastic_net", step)


def quantile(quantile: float) -> MedianStep:
    """The check function of each coordinate, whose median is that quantile of each coordinate.

    Args:
        quantile: in (0, 1); 0.5 is `median_step.l1` with half the tau.

    Returns:
        The map from difference and tau to the step.

    Raises:
        ValueError: if `quantile` is out of its range.

    Example:
        >>> quantile(0.75)(jnp.array([3.0, -3.0]), 1.0)
        Array([ 0.75, -0.25], dtype=float32)
    """
    check_range("quantile", quantile, 0.0, 1.0, low_open=True, high_open=True)
    return MedianStep(
        "median_step.quantile",
        lambda difference, tau: jax.tree.map(lambda d: jnp.clip(d, -tau * (1 - quantile), tau * quantile), difference),
    )


def insensitive_l2(epsilon: float) -> MedianStep:
    """The l2 norm beyond a dead zone, `max(0, |.| - epsilon)`: small differences move nothing.

    Args:
        epsilon: radius of the dead zone, at least 0; with 0 it is `median_step.l2`.

    Returns:
        The map from difference and tau to the step.

    Raises:
        ValueError: if `epsilon` is negative.

    Example:
        >>> insensitive_l2(2.5)(jnp.array([3.0, 4.0]), 5.0)
        Array([1.5, 2. ], dtype=float32)
    """
    check_range("epsilon", epsilon, 0.0)
    return MedianStep(
        "median_step.insensitive_l2",
        lambda difference, tau: _divide_by_norm(
            difference, lambda norm: jnp.minimum(tau, jnp.maximum(norm - epsilon, 0))
        ),
    )


def subgradient_l1() -> MedianStep:
    """A subgradient step for the l1 norm, not a proximal one: tau in the direction of the sign, even past the target.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> subgradient_l1()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1., -1.], dtype=float32)
    """
    return MedianStep(
        "median_step.subgradient_l1", lambda difference, tau: jax.tree.map(lambda d: tau * jnp.sign(d), difference)
    )


def subgradient_l2() -> MedianStep:
    """A subgradient step for the l2 norm, not a proximal one: of length tau, even past the target; zero at zero.

    Returns:
        The map from difference and tau to the step.

    Example:
        >>> subgradient_l2()(jnp.array([3.0, 4.0]), 10.0)
        Array([6., 8.], dtype=float32)
    """
    return MedianStep("median_step.subgradient_l2", lambda difference, tau: _divide_by_norm(difference, lambda _: tau))


METHODS = (
    Method(
        name="median_step.l2",
        factory=l2,
        kind="function",
        summary="The step towards the geometric median: the difference, clipped by its global norm.",
        paper=MEDIAN,
        also_known_as=("clip_by_global_norm",),
    ),
    Method(
        name="median_step.l1",
        factory=l1,
        kind="function",
        summary="The step towards the coordinate-wise median: the difference, with each coordinate clipped.",
        paper=MEDIAN,
        also_known_as=("clip by value",),
    ),
    Method(
        name="median_step.linf",
        factory=linf,
        kind="function",
        summary="The step towards the median of the linf norm: the difference, projected on an l1 ball.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.half_squared_l2",
        factory=half_squared_l2,
        kind="function",
        summary="The step towards the mean: a fixed share of the difference, an exponential average.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.huber_l2",
        factory=huber_l2,
        kind="function",
        summary="The step of the Huber function of the l2 norm: an average of what is near, clipping of what is far.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.huber",
        factory=huber,
        kind="function",
        summary="The step of each coordinate's Huber function: an average of what is near, clipping of what is far.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.elastic_net",
        factory=elastic_net,
        kind="function",
        summary="The step of the elastic net, between the mean and the coordinate-wise median.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.quantile",
        factory=quantile,
        kind="function",
        summary="The step towards a quantile of each coordinate.",
        paper=MEDIAN,
        also_known_as=("pinball loss", "check function"),
    ),
    Method(
        name="median_step.insensitive_l2",
        factory=insensitive_l2,
        kind="function",
        summary="The step of the l2 norm with a dead zone, in which differences move nothing.",
        paper=MEDIAN,
        also_known_as=("epsilon-insensitive",),
    ),
    Method(
        name="median_step.subgradient_l1",
        factory=subgradient_l1,
        kind="function",
        summary="A subgradient step of the l1 norm: tau in the direction of the difference's sign.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.subgradient_l2",
        factory=subgradient_l2,
        kind="function",
        summary="A subgradient step of the l2 norm: of length tau along the difference.",
        paper=MEDIAN,
    ),
)
