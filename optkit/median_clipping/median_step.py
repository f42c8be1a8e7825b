"""Proximal steps towards medians in different norms, as maps from a difference and tau to a step.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828. A median of random vectors `g` minimizes the mean of `D(m - g)`. The stochastic proximal point step of
an estimate m, with the difference `d = g - m`, is `argmin_p D(p - d) + |p|^2 / (2 tau)`. The functions below have it in
closed form. The closed forms were derived again from this definition and compared with numerical minimizers, because
the authors have published no code.

If `D` is a norm, the step is the projection of `d` onto the ball of radius `tau` of the dual norm (Moreau). So for any
other norm a projection `(tree, radius) -> tree` onto such a ball, for example one of Optax's, is the step.

All leaves together are one vector. Under `jit` leaves may be sharded, inside `shard_map` they may not.
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
    """Scales a tree to the length that `length` returns for its l2 norm; zero stays zero."""
    norm = optax.tree.norm(tree)
    return optax.tree.scale(length(norm) / jnp.where(norm > 0, norm, 1), tree)


def l2() -> MedianStep:
    """The step of the l2 norm, whose median is the geometric median: the difference, clipped by its global norm.

    The step for a difference d::

        d * min(1, tau / |d|)

    Use it when gradients as a whole have outliers. Avoid it when single coordinates have them, because these then
    shrink all others: see `median_step.l1`.

    Returns:
        The map from a difference and tau to a step.

    Example:
        >>> l2()(jnp.array([3.0, 4.0]), 2.5)
        Array([1.5, 2. ], dtype=float32)
    """
    return MedianStep("median_step.l2", optax.projections.projection_l2_ball)


def l1() -> MedianStep:
    """The step of the l1 norm, whose median is that of each coordinate: the difference with each coordinate clipped.

    The step for a difference d::

        min(max(d, -tau), tau)

    Use it when single coordinates have outliers. Avoid it when the direction of the gradient should be kept, because
    clipping coordinates changes it: see `median_step.l2`.

    Returns:
        The map from a difference and tau to a step.

    Example:
        >>> l1()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1. , -0.5], dtype=float32)
    """
    return MedianStep("median_step.l1", optax.projections.projection_linf_ball)


def linf() -> MedianStep:
    """The step of the linf norm: the difference projected onto an l1 ball, which moves few coordinates.

    The step for a difference d::

        the point p with sum |p| <= tau that is closest to d

    Use it when each gradient should move only its largest coordinates. Avoid it for large or sharded models, because it
    sorts all coordinates of all leaves and gathers sharded leaves on every device.

    Returns:
        The map from a difference and tau to a step.

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
    """The step of half the squared l2 norm, whose median is the mean; it makes an exponential average.

    The step for a difference d::

        tau / (1 + tau) * d

    The average has decay rate `1 / (1 + tau)`.

    Use it when noise is light-tailed. Avoid it when noise is heavy-tailed, because one gradient can move the estimate
    any distance.

    Returns:
        The map from a difference and tau to a step.

    Example:
        >>> half_squared_l2()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1.5 , -0.25], dtype=float32)
    """
    return MedianStep(
        "median_step.half_squared_l2", lambda difference, tau: optax.tree.scale(tau / (1 + tau), difference)
    )


def huber_l2(threshold: float) -> MedianStep:
    """The step of the Huber function of the l2 norm: it averages near gradients and clips far ones.

    The step for a difference d::

        p = tau / (1 + tau) * d
        p * min(1, tau * threshold / |p|)

    Use it when most gradients are to be averaged and only outliers clipped. Avoid it when you do not know the scale of
    the gradients, because `threshold` has their unit.

    Args:
        threshold: The norm of `m - g` at which the square passes into the norm, above 0.

    Returns:
        The map from a difference and tau to a step.

    Raises:
        ValueError: If `threshold` is not positive.

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
    """The step of the Huber function of each coordinate: it averages near values and clips far ones.

    The step for a difference d::

        min(max(tau / (1 + tau) * d, -tau * threshold), tau * threshold)

    Use it when most values are to be averaged and only outliers of single coordinates clipped. Avoid it when you do not
    know the scale of the gradients, because `threshold` has their unit.

    Args:
        threshold: The absolute value of a coordinate of `m - g` at which the square passes into the absolute value,
            above 0.

    Returns:
        The map from a difference and tau to a step.

    Raises:
        ValueError: If `threshold` is not positive.

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
    """The step of half the squared l2 norm plus a multiple of the l1 norm, between the mean and the median.

    The step for a difference d::

        d - sign(d) * max(|d| - tau * l1, 0) / (1 + tau)

    Use it when the median of each coordinate is too far from the mean. Avoid it when noise is heavy-tailed, because one
    gradient can move the estimate any distance.

    Args:
        l1: Weight of the l1 norm, at least 0. With 0 it is `median_step.half_squared_l2`.

    Returns:
        The map from a difference and tau to a step.

    Raises:
        ValueError: If `l1` is negative.

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
    """The step of the check function of each coordinate, whose median is a quantile of each coordinate.

    The step for a difference d::

        min(max(d, -tau * (1 - quantile)), tau * quantile)

    Use it to track a quantile other than the median. Avoid it for descent unless a biased gradient is wanted.

    Args:
        quantile: Which quantile, in (0, 1). With 0.5 it is `median_step.l1` with half of tau.

    Returns:
        The map from a difference and tau to a step.

    Raises:
        ValueError: If `quantile` is outside (0, 1).

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
    """The step of the l2 norm beyond a dead zone, `max(0, `|.|` - epsilon)`: small differences move nothing.

    The step for a difference d::

        d / |d| * min(tau, max(|d| - epsilon, 0))

    Use it when small differences are noise. Avoid a large `epsilon`, because the estimate may stay that far from the
    median.

    Args:
        epsilon: Radius of the dead zone, at least 0. With 0 it is `median_step.l2`.

    Returns:
        The map from a difference and tau to a step.

    Raises:
        ValueError: If `epsilon` is negative.

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
    """A subgradient step of the l1 norm: tau times the sign of the difference.

    It is not a proximal step, so it can go past the target.

    Use it to compare with `median_step.l1`. Avoid it otherwise, because with a constant tau the estimate never comes to
    rest.

    Returns:
        The map from a difference and tau to a step.

    Example:
        >>> subgradient_l1()(jnp.array([3.0, -0.5]), 1.0)
        Array([ 1., -1.], dtype=float32)
    """
    return MedianStep(
        "median_step.subgradient_l1", lambda difference, tau: jax.tree.map(lambda d: tau * jnp.sign(d), difference)
    )


def subgradient_l2() -> MedianStep:
    """A subgradient step of the l2 norm: a step of length tau along the difference, or zero if it is zero.

    It is not a proximal step, so it can go past the target.

    Use it to compare with `median_step.l2`. Avoid it otherwise, because with a constant tau the estimate never comes to
    rest.

    Returns:
        The map from a difference and tau to a step.

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
        summary="The step towards the mean: a fixed share of the difference, which makes an exponential average.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.huber_l2",
        factory=huber_l2,
        kind="function",
        summary="The step of the Huber function of the l2 norm: it averages near gradients and clips far ones.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.huber",
        factory=huber,
        kind="function",
        summary="The step of the Huber function of each coordinate: it averages near values and clips far ones.",
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
        summary="The step of the l2 norm beyond a dead zone, in which differences move nothing.",
        paper=MEDIAN,
        also_known_as=("epsilon-insensitive",),
    ),
    Method(
        name="median_step.subgradient_l1",
        factory=subgradient_l1,
        kind="function",
        summary="A subgradient step of the l1 norm: tau times the sign of the difference.",
        paper=MEDIAN,
    ),
    Method(
        name="median_step.subgradient_l2",
        factory=subgradient_l2,
        kind="function",
        summary="A subgradient step of the l2 norm: a step of length tau along the difference.",
        paper=MEDIAN,
    ),
)
