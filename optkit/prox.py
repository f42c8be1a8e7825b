"""Proximal maps: `argmin_v r(v) + |v - x|^2 / (2 step)`, in closed form, for penalties and constraints `r`.

A proximal map is a function `prox(tree, step) -> tree`. Arithmetic is in float32 at least, trees keep their dtypes.
Those of norms are Moreau's: a point less its projection on a ball of the dual norm.

Steps towards a median, `optkit.median_step`, are another type, and methods refuse those of the other kind.
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
    """The l1 norm: moves every entry towards zero by the same, and stops there.

    Args:
        weight: of the norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> l1(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([2., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox.l1", lambda x, step: x - jnp.clip(x, -step * weight, step * weight))


def squared_l2(weight: jax.typing.ArrayLike) -> Proximal:
    """Half the squared l2 norm: shrinks everything by the same factor.

    Args:
        weight: of it, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> squared_l2(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([ 1.5 , -0.25], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox.squared_l2", lambda x, step: x / (1 + step * weight))


def elastic_net(l1: jax.typing.ArrayLike, l2: jax.typing.ArrayLike) -> Proximal:
    """The l1 norm and half the squared l2 norm: `prox.l1`, then `prox.squared_l2`.

    Args:
        l1: weight of the l1 norm, at least 0.
        l2: weight of half the squared l2 norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if a weight is negative.

    Example:
        >>> elastic_net(2.0, 2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([1., 0.], dtype=float32)
    """
    check_range("l1", l1, 0.0)
    check_range("l2", l2, 0.0)
    return _of_leaves("prox.elastic_net", lambda x, step: (x - jnp.clip(x, -step * l1, step * l1)) / (1 + step * l2))


def group(weight: jax.typing.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Proximal:
    """The sum of the l2 norms of groups: shortens each group by the same, and removes it whole where it is shorter.

    Args:
        weight: of the norms, at least 0.
        axis: the axes over which a norm is taken, the same for all leaves: with 0 every column of a matrix is a group.
            None (default) makes every leaf one.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

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
    """The nuclear norm of matrices: moves every singular value towards zero by the same, so that ranks fall.

    The last two axes are a matrix, others count them; leaves of fewer axes stay as they are. Sharded leaves are
    gathered for their singular values where mesh axes are explicit.

    Args:
        weight: of the norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

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
    """The number of entries that are not zero: keeps those above a threshold as they are, and drops the others.

    It is not convex: what converges for the others need not converge here.

    Args:
        weight: of each entry, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> l0(1.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([3., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    # Not as a product with the condition, which would make NaN of what is infinite.
    return _of_leaves("prox.l0", lambda x, step: jnp.where(jnp.abs(x) <= jnp.sqrt(2 * step * weight), 0, x))


def box(lower: jax.typing.ArrayLike, upper: jax.typing.ArrayLike) -> Proximal:
    """Bounds on every entry, the same for all: clips, however long the step.

    Args:
        lower: the smallest value allowed; `-jnp.inf` for none.
        upper: the largest value allowed; `jnp.inf` for none.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `lower` is larger than `upper`.

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
    """A constraint: projects, however long the step.

    Args:
        projection: one of `optax.projections`, such as `projection_simplex`, `projection_l1_ball` or
            `projection_halfspace`, which see all leaves as one vector.
        *args: its further arguments.

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
    """A proximal map for some leaves only: biases that are not to vanish, for example, stay out of it.

    Args:
        prox: for the leaves inside.
        mask: tree of booleans, or a function that makes it from the tree.

    Returns:
        The proximal map, which leaves the others as they are.

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
        summary="Moves every entry towards zero by the same, and stops there: the proximal map of the l1 norm.",
        also_known_as=("soft thresholding", "soft-thresholding operator", "shrinkage", "lasso", "prox_lasso"),
    ),
    Method(
        name="prox.squared_l2",
        factory=squared_l2,
        kind="function",
        summary="Shrinks everything by the same factor: the proximal map of half the squared l2 norm.",
        also_known_as=("ridge", "prox_ridge", "Tikhonov regularization"),
    ),
    Method(
        name="prox.elastic_net",
        factory=elastic_net,
        kind="function",
        summary="Moves every entry towards zero, then shrinks by a factor: the map of l1 and squared l2 norms.",
        also_known_as=("prox_elastic_net",),
    ),
    Method(
        name="prox.group",
        factory=group,
        kind="function",
        summary="Shortens each group by the same, or removes it whole: the proximal map of a sum of l2 norms.",
        also_known_as=("group lasso", "prox_group_lasso", "block soft thresholding"),
    ),
    Method(
        name="prox.nuclear",
        factory=nuclear,
        kind="function",
        summary="Moves every singular value towards zero by the same: the proximal map of the nuclear norm.",
        also_known_as=("singular value thresholding", "trace norm"),
    ),
    Method(
        name="prox.l0",
        factory=l0,
        kind="function",
        summary="Keeps entries above a threshold, and drops the others: the map of the number of nonzeros.",
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
