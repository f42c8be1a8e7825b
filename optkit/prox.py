"""Proximal maps, `argmin_v r(v) + |v - x|^2 / (2 step)`, in closed form for penalties and constraints `r`.

A proximal map is a function `prox(tree, step) -> tree`. It computes at least in float32, and the leaves keep their
dtypes. The map of a norm is a point minus its projection on a ball of the dual norm (Moreau).

Steps towards a median, from `optkit.median_step`, are another type. A method that needs one type refuses the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.checks import check_range
from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.linalg.svd import svd
from optkit.core.precision import widen
from optkit.core.proximal import Proximal, ProximalMap, check_proximal
from optkit.core.trees import mask_tree, unmask_tree
from optkit.core.types import Mask
from optkit.method import Method


def l1(weight: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of the l1 norm: moves every entry towards zero by the same amount, and stops at zero.

    The map of the penalty `r(x) = weight * sum(|x|)`::

        prox(x, step) = sign(x) * max(|x| - step * weight, 0)

    Use it when parameters must be sparse. Avoid it when the entries that remain must not shrink: `prox.l0` keeps them
    as they are.

    Args:
        weight: Weight of the norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> l1(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([2., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox.l1", lambda x, step: x - jnp.clip(x, -step * weight, step * weight))


def squared_l2(weight: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of half the squared l2 norm: multiplies all entries by the same factor.

    The map of the penalty `r(x) = weight / 2 * sum(x^2)`::

        prox(x, step) = x / (1 + step * weight)

    Use it when parameters must stay small. Avoid it when they must become zero, because a factor never makes an entry
    zero.

    Args:
        weight: Weight of half the squared norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> squared_l2(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([ 1.5 , -0.25], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox.squared_l2", lambda x, step: x / (1 + step * weight))


def elastic_net(l1: jax.typing.ArrayLike, l2: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of the l1 norm plus half the squared l2 norm: `prox.l1`, then `prox.squared_l2`.

    The map of the penalty `r(x) = l1 * sum(|x|) + l2 / 2 * sum(x^2)`::

        prox(x, step) = sign(x) * max(|x| - step * l1, 0) / (1 + step * l2)

    Use it when parameters must be sparse and the others small, for example if several inputs are correlated.

    Args:
        l1: Weight of the l1 norm, at least 0.
        l2: Weight of half the squared l2 norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> elastic_net(2.0, 2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([1., 0.], dtype=float32)
    """
    check_range("l1", l1, 0.0)
    check_range("l2", l2, 0.0)
    return _of_leaves("prox.elastic_net", lambda x, step: (x - jnp.clip(x, -step * l1, step * l1)) / (1 + step * l2))


def group(weight: jax.typing.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Proximal:
    """The proximal map of a sum of l2 norms of groups: shortens each group by the same length, or makes it zero.

    The map of the penalty `r(x) = weight * sum over groups of |x|_2`, for each group x::

        prox(x, step) = x * max(1 - step * weight / |x|_2, 0)

    Use it when whole rows, columns or leaves must become zero together.

    Args:
        weight: Weight of the norms, at least 0.
        axis: The axes over which a norm is taken, the same for all leaves: with 0, every column of a matrix is a group.
            Default: None, where every leaf is a group.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> group(2.0, axis=0)(jnp.array([[3.0, 0.1], [4.0, 0.2]]), 0.5).round(3)
        Array([[2.4, 0. ],
               [3.2, 0. ]], dtype=float32)
    """
    check_range("weight", weight, 0.0)

    def shorten(x, step):
        largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
        unit = x / jnp.where(largest > 0, largest, 1)
        norm = largest * jnp.sqrt(jnp.sum(unit * unit, axis=axis, keepdims=True))
        return x * jnp.maximum(1 - step * weight / jnp.where(norm > 0, norm, 1), 0)

    return _of_leaves("prox.group", shorten)


def nuclear(weight: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of the nuclear norm: moves every singular value towards zero, so that matrices get low rank.

    The map of the penalty `r(X) = weight * (sum of the singular values of X)`, with the singular value decomposition X
    = U S V^T::

        prox(X, step) = U max(S - step * weight, 0) V^T

    The last two axes of a leaf are a matrix, and the others count matrices. Leaves with fewer axes stay as they are.

    Use it when matrices must have low rank. Avoid it when matrices are large or sharded, because it computes a singular
    value decomposition in each step, and gathers sharded leaves for it if mesh axes are explicit.

    Args:
        weight: Weight of the norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> nuclear(2.0)(jnp.diag(jnp.array([3.0, 0.5])), 0.5)
        Array([[2., 0.],
               [0., 0.]], dtype=float32)
    """
    check_range("weight", weight, 0.0)

    def shorten(x, step):
        if x.ndim < 2 or not x.size:
            return x
        left, values, right = svd(replicate(x))
        kept = jnp.maximum(values - step * weight, 0)
        return shard_like(einsum("...ij,...j,...jk->...ik", left, kept, right, precision="highest"), x)

    return _of_leaves("prox.nuclear", shorten)


def l0(weight: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of the number of nonzero entries: keeps entries above a threshold, and makes the others zero.

    The map of the penalty `r(x) = weight * (number of nonzero entries)`::

        prox(x, step) = x if |x| > sqrt(2 * step * weight), otherwise 0

    Use it when parameters must be sparse and the entries that remain must not shrink. Avoid it when a method's
    convergence matters, because this penalty is not convex: a method that converges with the other penalties may not
    converge with this one.

    Args:
        weight: Price of each nonzero entry, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> l0(1.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([3., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    # Not a product with the condition, in which infinite entries would become NaN.
    return _of_leaves("prox.l0", lambda x, step: jnp.where(jnp.abs(x) <= jnp.sqrt(2 * step * weight), 0, x))


def box(lower: jax.typing.ArrayLike, upper: jax.typing.ArrayLike) -> Proximal:
    """The proximal map of bounds on every entry: clips, whatever the step is.

    The map, which ignores the step::

        prox(x, step) = min(max(x, lower), upper)

    Use it when parameters must stay in an interval, for example if they must not be negative.

    Args:
        lower: The smallest value that is allowed; `-jnp.inf` for none.
        upper: The largest value that is allowed; `jnp.inf` for none.

    Returns:
        The proximal map.

    Raises:
        ValueError: If `lower` is larger than `upper`.

    Example:
        >>> box(0.0, jnp.inf)(jnp.array([3.0, -0.5]), 0.5)
        Array([3., 0.], dtype=float32)
    """
    if isinstance(lower, (int, float)):
        check_range("upper", upper, lower)

    def clip(x, step):
        del step
        return jnp.clip(x, lower, upper)

    return _of_leaves("prox.box", clip)


def constraint(projection: Callable[..., Any], *args: Any) -> Proximal:
    """The proximal map of a constraint: projects onto a set, whatever the step is.

    The map, which ignores the step::

        prox(x, step) = projection(x, *args)

    Use it when parameters must stay in a set for which Optax has a projection.

    Args:
        projection: A function from `optax.projections`, such as `projection_simplex`, `projection_l1_ball` or
            `projection_halfspace`, which see all leaves as one vector.
        *args: The other arguments of `projection`.

    Returns:
        The proximal map.

    Example:
        >>> import optax
        >>> constraint(optax.projections.projection_l2_ball, 1.0)(jnp.array([3.0, 4.0]), 0.5)
        Array([0.6, 0.8], dtype=float32)
    """

    def prox(tree, step):
        del step
        projected = projection(widen(tree), *args)
        return jax.tree.map(lambda p, x: p.astype(x.dtype), projected, tree)

    return Proximal("prox.constraint", prox)


def masked(prox: ProximalMap, mask: Mask) -> Proximal:
    """A proximal map for some leaves only: the other leaves stay as they are.

    Use it when some leaves must not be penalized, for example biases that must not become zero.

    Args:
        prox: The proximal map of the leaves where `mask` is True.
        mask: Which leaves are mapped: a tree of booleans, or a function that makes it from the tree.

    Returns:
        The proximal map.

    Raises:
        TypeError: If `prox` is a step towards a median, or not a function.

    Example:
        >>> prox = masked(l1(2.0), {"kernel": True, "bias": False})
        >>> jax.tree.map(float, prox({"kernel": jnp.array(3.0), "bias": jnp.array(3.0)}, 0.5))
        {'bias': 3.0, 'kernel': 2.0}
    """
    check_proximal(prox, "prox.masked")

    def masked(tree, step):
        return unmask_tree(prox(mask_tree(mask, tree), step), tree)

    return Proximal("prox.masked", masked)


def _of_leaves(name: str, rule: Callable[[jax.Array, Any], jax.Array]) -> Proximal:
    def prox(tree, step):
        return jax.tree.map(lambda x: rule(widen(x), step).astype(x.dtype), tree)

    return Proximal(name, prox)


METHODS = (
    Method(
        name="prox.l1",
        factory=l1,
        kind="function",
        summary="Moves every entry towards zero by the same amount, and stops there: the proximal map of the l1 norm.",
        also_known_as=("soft thresholding", "soft-thresholding operator", "shrinkage", "lasso", "prox_lasso"),
    ),
    Method(
        name="prox.squared_l2",
        factory=squared_l2,
        kind="function",
        summary="Multiplies all entries by the same factor: the proximal map of half the squared l2 norm.",
        also_known_as=("ridge", "prox_ridge", "Tikhonov regularization"),
    ),
    Method(
        name="prox.elastic_net",
        factory=elastic_net,
        kind="function",
        summary="Moves every entry towards zero, then shrinks it: the proximal map of l1 and squared l2 norms.",
        also_known_as=("prox_elastic_net",),
    ),
    Method(
        name="prox.group",
        factory=group,
        kind="function",
        summary="Shortens each group by the same length, or makes it zero: the proximal map of a sum of l2 norms.",
        also_known_as=("group lasso", "prox_group_lasso", "block soft thresholding"),
    ),
    Method(
        name="prox.nuclear",
        factory=nuclear,
        kind="function",
        summary="Moves every singular value towards zero by the same amount: the proximal map of the nuclear norm.",
        also_known_as=("singular value thresholding", "trace norm"),
    ),
    Method(
        name="prox.l0",
        factory=l0,
        kind="function",
        summary="Keeps entries above a threshold, and makes the others zero: the map of the number of nonzeros.",
        also_known_as=("hard thresholding",),
    ),
    Method(
        name="prox.box",
        factory=box,
        kind="function",
        summary="Clips every entry to bounds: the proximal map of a box.",
        also_known_as=("clipping", "non-negativity", "projection_box"),
    ),
    Method(
        name="prox.constraint",
        factory=constraint,
        kind="function",
        summary="Projects onto a set: the proximal map of a constraint.",
        also_known_as=("projection", "indicator function"),
    ),
    Method(
        name="prox.masked",
        factory=masked,
        kind="function",
        summary="Applies a proximal map to some leaves, and leaves the others as they are.",
    ),
)
