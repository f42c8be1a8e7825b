"""Proximal maps: `argmin_v r(v) + |v - x|^2 / (2 step)`, in closed form, for penalties and constraints `r`.

A proximal map is a function `prox(tree, step) -> tree`. Arithmetic is in float32 at least, trees keep their dtypes.
Those of norms are Moreau's: a point less its projection on a ball of the dual norm.

Steps towards a median (`median_clipping`) are functions of a tree and a number too, and of the same norms, but other
ones: so both have types, and methods refuse those of the other kind.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.linalg.svd import svd
from optkit.core.precision import widen
from optkit.core.trees import mask_tree, unmask_tree


class ProximalMap(Protocol):
    """What methods take for a penalty or a constraint: a `Proximal`, or any function of a tree and a step."""

    def __call__(self, tree: Any, step: Any, /) -> Any:
        """Gives `argmin_v r(v) + |v - tree|^2 / (2 step)`, in the tree's dtypes."""
        ...


class StepTowardsMedian(Protocol):
    """What methods take for the norm of a median: a `MedianStep`, or any function of a difference and tau."""

    def __call__(self, difference: Any, tau: Any, /) -> Any:
        """Gives the part of a difference that an estimate of the median takes over."""
        ...


@dataclasses.dataclass(frozen=True)
class Proximal:
    """The proximal map of a penalty or a constraint.

    Attributes:
        name: of the function that made it.
        rule: what it calls, on real leaves.
    """

    name: str
    rule: ProximalMap

    def __call__(self, tree: Any, step: Any) -> Any:
        """Applies the map to a tree."""
        refuse_complex(tree, self.name, functions=True)
        return self.rule(tree, step)


@dataclasses.dataclass(frozen=True)
class MedianStep:
    """A step of an estimate towards a median.

    Attributes:
        name: of the function that made it.
        rule: what it calls, on real leaves.
    """

    name: str
    rule: StepTowardsMedian

    def __call__(self, difference: Any, tau: Any) -> Any:
        """Gives the part of the difference that the estimate takes over."""
        refuse_complex(difference, self.name)
        return self.rule(difference, tau)


def check_proximal(prox: Any, method: str) -> None:
    """Raises unless an argument `prox` can be a proximal map.

    Args:
        prox: what was given; None passes.
        method: the public name of the method.

    Raises:
        TypeError: if it is a step towards a median, or no function.

    Example:
        >>> check_proximal(prox_l1(0.1), "nids")
    """
    if isinstance(prox, MedianStep) or (prox is not None and not callable(prox)):
        got = f"optkit.{prox.name}(), a step towards a median" if isinstance(prox, MedianStep) else repr(prox)
        raise TypeError(
            f"prox of {method} must be the proximal map of a penalty or a constraint, such as optkit.prox_l1(0.1) or"
            f" optkit.prox_box(0.0, 1.0), got {got}"
        )


def check_proximal_leaves(prox: Any, params: Any) -> None:
    """Raises in a method's `init` if its proximal map cannot take the parameters.

    Args:
        prox: the map; functions that users wrote are not checked, and None passes.
        params: the parameters.

    Raises:
        TypeError: if there is a complex leaf.

    Example:
        >>> check_proximal_leaves(prox_l1(0.1), jnp.ones(2))
    """
    if isinstance(prox, Proximal):
        refuse_complex(params, prox.name, functions=True)


def check_step(step: Any, method: str) -> None:
    """Raises unless an argument `step` can be a step towards a median.

    Args:
        step: what was given; None passes.
        method: the public name of the method.

    Raises:
        TypeError: if it is the proximal map of a penalty, or no function.

    Example:
        >>> check_step(None, "clipped_sgd")
    """
    if isinstance(step, Proximal) or (step is not None and not callable(step)):
        got = f"optkit.{step.name}(...), the proximal map of a penalty" if isinstance(step, Proximal) else repr(step)
        raise TypeError(
            f"step of {method} must be a step towards a median, such as optkit.proximal_l1() or optkit.proximal_l2(),"
            f" got {got}"
        )


def prox_l1(weight: jax.typing.ArrayLike) -> Proximal:
    """The l1 norm: moves every entry towards zero by the same, and stops there.

    Args:
        weight: of the norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> prox_l1(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([2., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox_l1", lambda x, step: x - jnp.clip(x, -step * weight, step * weight))


def prox_squared_l2(weight: jax.typing.ArrayLike) -> Proximal:
    """Half the squared l2 norm: shrinks everything by the same factor.

    Args:
        weight: of it, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> prox_squared_l2(2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([ 1.5 , -0.25], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    return _of_leaves("prox_squared_l2", lambda x, step: x / (1 + step * weight))


def prox_elastic_net(l1: jax.typing.ArrayLike, l2: jax.typing.ArrayLike) -> Proximal:
    """The l1 norm and half the squared l2 norm: `prox_l1`, then `prox_squared_l2`.

    Args:
        l1: weight of the l1 norm, at least 0.
        l2: weight of half the squared l2 norm, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if a weight is negative.

    Example:
        >>> prox_elastic_net(2.0, 2.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([1., 0.], dtype=float32)
    """
    check_range("l1", l1, 0.0)
    check_range("l2", l2, 0.0)
    return _of_leaves("prox_elastic_net", lambda x, step: (x - jnp.clip(x, -step * l1, step * l1)) / (1 + step * l2))


def prox_group(weight: jax.typing.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Proximal:
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
        >>> prox_group(2.0, axis=0)(jnp.array([[3.0, 0.1], [4.0, 0.2]]), 0.5).round(3)
        Array([[2.4, 0. ],
               [3.2, 0. ]], dtype=float32)
    """
    check_range("weight", weight, 0.0)

    def shorten(x, step):
        largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
        unit = x / jnp.where(largest > 0, largest, 1)
        norm = largest * jnp.sqrt(jnp.sum(unit * unit, axis=axis, keepdims=True))
        return x * jnp.maximum(1 - step * weight / jnp.where(norm > 0, norm, 1), 0)

    return _of_leaves("prox_group", shorten)


def prox_nuclear(weight: jax.typing.ArrayLike) -> Proximal:
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
        >>> prox_nuclear(2.0)(jnp.diag(jnp.array([3.0, 0.5])), 0.5)
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

    return _of_leaves("prox_nuclear", shorten)


def prox_l0(weight: jax.typing.ArrayLike) -> Proximal:
    """The number of entries that are not zero: keeps those above a threshold as they are, and drops the others.

    It is not convex: what converges for the others need not converge here.

    Args:
        weight: of each entry, at least 0.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> prox_l0(1.0)(jnp.array([3.0, -0.5]), 0.5)
        Array([3., 0.], dtype=float32)
    """
    check_range("weight", weight, 0.0)
    # Not as a product with the condition, which would make NaN of what is infinite.
    return _of_leaves("prox_l0", lambda x, step: jnp.where(jnp.abs(x) <= jnp.sqrt(2 * step * weight), 0, x))


def prox_box(lower: jax.typing.ArrayLike, upper: jax.typing.ArrayLike) -> Proximal:
    """Bounds on every entry, the same for all: clips, however long the step.

    Args:
        lower: the smallest value allowed; `-jnp.inf` for none.
        upper: the largest value allowed; `jnp.inf` for none.

    Returns:
        The proximal map.

    Raises:
        ValueError: if `lower` is larger than `upper`.

    Example:
        >>> prox_box(0.0, jnp.inf)(jnp.array([3.0, -0.5]), 0.5)
        Array([3., 0.], dtype=float32)
    """
    if isinstance(lower, (int, float)):
        check_range("upper", upper, lower)

    def clip(x, step):
        del step
        return jnp.clip(x, lower, upper)

    return _of_leaves("prox_box", clip)


def prox_constraint(projection: Callable[..., Any], *args: Any) -> Proximal:
    """A constraint: projects, however long the step.

    Args:
        projection: one of `optax.projections`, such as `projection_simplex`, `projection_l1_ball` or
            `projection_halfspace`, which see all leaves as one vector.
        *args: its further arguments.

    Returns:
        The proximal map.

    Example:
        >>> import optax
        >>> prox_constraint(optax.projections.projection_l2_ball, 1.0)(jnp.array([3.0, 4.0]), 0.5)
        Array([0.6, 0.8], dtype=float32)
    """

    def prox(tree, step):
        del step
        projected = projection(widen(tree), *args)
        return jax.tree.map(lambda p, x: p.astype(x.dtype), projected, tree)

    return Proximal("prox_constraint", prox)


def prox_masked(prox: ProximalMap, mask: Any) -> Proximal:
    """A proximal map for some leaves only: biases that are not to vanish, for example, stay out of it.

    Args:
        prox: for the leaves inside.
        mask: tree of booleans, or a function that makes it from the tree.

    Returns:
        The proximal map, which leaves the others as they are.

    Example:
        >>> prox = prox_masked(prox_l1(2.0), {"kernel": True, "bias": False})
        >>> jax.tree.map(float, prox({"kernel": jnp.array(3.0), "bias": jnp.array(3.0)}, 0.5))
        {'bias': 3.0, 'kernel': 2.0}
    """
    check_proximal(prox, "prox_masked")

    def masked(tree, step):
        return unmask_tree(prox(mask_tree(mask, tree), step), tree)

    return Proximal("prox_masked", masked)


def _of_leaves(name: str, rule: Callable[[jax.Array, Any], jax.Array]) -> Proximal:
    def prox(tree, step):
        return jax.tree.map(lambda x: rule(widen(x), step).astype(x.dtype), tree)

    return Proximal(name, prox)
