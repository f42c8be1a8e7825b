"""Collectives over a named axis of workers, which also work without an axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.precision import widen
from optkit.core.types import AxisName


def pmean(tree: Any, axis_name: AxisName | tuple[str, ...] | None, weight: float | jax.Array | None = None) -> Any:
    """Averages over the workers, in at least float32.

    Values of 16 bits are cast to float32 before they are summed, and the mean is rounded once at the end. Summed in 16
    bits, they would give other numbers in simulation than on real devices.

    Args:
        tree: Arrays of one worker.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        weight: This worker's share in the mean, at least 0. A worker of weight 0 is left out, even if its values are
            not finite. Default: None, equal shares.

    Returns:
        The mean, equal on all workers. Floating-point arrays keep their dtype; all others are as from `jax.lax.pmean`.
        If `axis_name` is None, `tree` as it is. If all weights are 0, NaN.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from optkit.core.workers import collectives
        >>> mean = jax.vmap(lambda x: collectives.pmean(x, "workers"), axis_name="workers", out_axes=None)
        >>> mean(jnp.array([1.0, 2.0, 6.0], jnp.bfloat16))
        Array(3, dtype=bfloat16)
    """
    if axis_name is None:
        return tree
    total = None if weight is None else jax.lax.psum(weight, axis_name)

    def mean(x, wide):
        if weight is None:
            averaged = jax.lax.pmean(wide, axis_name)
        else:
            share = jnp.where(weight > 0, wide * jnp.asarray(weight, wide.dtype), 0)
            averaged = jax.lax.psum(share, axis_name) / jnp.asarray(total, wide.dtype)
        return averaged.astype(x.dtype) if wide.dtype != x.dtype else averaged

    return jax.tree.map(mean, tree, widen(tree))


def cond(
    predicate: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    *operands: Any,
) -> Any:
    """Works like `jax.lax.cond`, but accepts branches of which only one communicates with the other workers.

    By default, `jax.shard_map` tracks which values vary between devices. The result of a collective does not vary, and
    that of the other branch does, so `jax.lax.cond` refuses them as branches of different types. This function declares
    both results as varying if either is. Under `vmap`, `pmap` and `shard_map(check_vma=False)` it is `jax.lax.cond`
    itself.

    Args:
        predicate: A scalar boolean that is equal on all workers; otherwise some workers wait forever for messages of
            the others. Under `vmap` it must not be batched, or both branches run every time.
        true_fun: Called with `operands` if `predicate` is true.
        false_fun: Called with `operands` otherwise. It must return the same tree of shapes and dtypes.
        *operands: Trees of arrays.

    Returns:
        The result of the branch that was taken.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from optkit.core.workers import collectives
        >>> def every_second_step(count, x):
        ...     return collectives.cond(count % 2 == 0, lambda x: jax.lax.pmean(x, "workers"), lambda x: x, x)
        >>> step = jax.vmap(every_second_step, in_axes=(None, 0), axis_name="workers")
        >>> step(0, jnp.array([1.0, 3.0])).tolist(), step(1, jnp.array([1.0, 3.0])).tolist()
        ([2.0, 2.0], [1.0, 3.0])
    """
    return jax.lax.cond(predicate, *_of_one_type((true_fun, false_fun), operands), *operands)


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """Works like `jax.lax.switch`, but accepts branches that communicate in different ways, or not at all; see `cond`.

    Args:
        index: Index of the branch, an integer that is equal on all workers.
        branches: Called with `operands`. They must return the same tree of shapes and dtypes.
        *operands: Trees of arrays.

    Returns:
        The result of the branch that was taken.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from optkit.core.workers import collectives
        >>> def mean_or_sum(index, x):
        ...     branches = [lambda x: jax.lax.pmean(x, "workers"), lambda x: jax.lax.psum(x, "workers")]
        ...     return collectives.switch(index, branches, x)
        >>> step = jax.vmap(mean_or_sum, in_axes=(None, 0), axis_name="workers")
        >>> step(1, jnp.array([1.0, 3.0])).tolist()
        [4.0, 4.0]
    """
    return jax.lax.switch(index, _of_one_type(branches, operands), *operands)


def vary_like(tree: Any, like: Any) -> Any:
    """Declares that values, such as the carry of a loop, vary over the same axes as other values do.

    Args:
        tree: Arrays.
        like: A tree of the same structure, of arrays or of what `jax.eval_shape` returns.

    Returns:
        The same numbers. If JAX does not track what varies (see `cond`), `tree` itself.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from optkit.core.workers import collectives
        >>> def loop(x):
        ...     body = lambda i, x: collectives.vary_like(jax.lax.pmean(x, "workers"), x)
        ...     return jax.lax.fori_loop(0, 2, body, x)
        >>> jax.vmap(loop, axis_name="workers")(jnp.array([1.0, 3.0])).tolist()
        [2.0, 2.0]
    """
    return jax.tree.map(lambda x, y: _declare_varying(x, _varying(jax.typeof(y))), tree, like)


def _of_one_type(branches: Sequence[Callable[..., Any]], operands: tuple[Any, ...]) -> Sequence[Callable[..., Any]]:
    """Declares the results of all branches as varying if those of any branch are."""
    if not jax.sharding.get_abstract_mesh().manual_axes:  # nothing varies outside `jax.shard_map`
        return branches
    results = [jax.eval_shape(branch, *operands) for branch in branches]
    varying = jax.tree.map(lambda *shapes: frozenset().union(*map(_varying, shapes)), *results)

    def declared(branch):
        return lambda *operands: jax.tree.map(_declare_varying, branch(*operands), varying)

    return [declared(branch) for branch in branches]


def _varying(shape: Any) -> frozenset[str]:
    """Returns the axes over which a value is known to vary; none if JAX does not track them."""
    return shape.manual_axis_type.varying if shape.manual_axis_type else frozenset()


def _declare_varying(x: Any, axes: frozenset[str]) -> Any:
    """Adds axes over which a value varies, without those that it already has, which JAX would refuse."""
    missing = axes - _varying(jax.typeof(x))
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x
