"""Parts of the parameters that are synchronized in turn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.checks import check_integer
from optkit.core.trees import is_function, is_masked, resolve
from optkit.local_training._periods import Every


class Fragments(NamedTuple):
    """How a tree of parameters is cut into fragments.

    Attributes:
        number: How many fragments there are.
        labels: The fragment of each leaf, or an array with the fragment of each entry of its leading axis.
    """

    number: int
    labels: Any

    def part(self, fragment: int, tree: Any) -> Any:
        """Returns one fragment of a tree, with `optax.MaskedNode` for leaves without a part in it."""

        def cut(label, x):
            if isinstance(label, np.ndarray):
                rows = np.flatnonzero(label == fragment)
                return x[rows] if rows.size else optax.MaskedNode()
            return x if label == fragment else optax.MaskedNode()

        return tree if self.number == 1 else jax.tree.map(cut, self.labels, tree)

    def put(self, fragment: int, part: Any, tree: Any) -> Any:
        """Returns the tree with a new fragment, as `part` cuts it."""

        def paste(x, label, whole):
            if is_masked(x):
                return whole
            return whole.at[np.flatnonzero(label == fragment)].set(x) if isinstance(label, np.ndarray) else x

        return part if self.number == 1 else jax.tree.map(paste, part, self.labels, tree, is_leaf=is_masked)

    def choose(self, fragment: jax.Array, new: Any, old: Any) -> Any:
        """Takes one fragment, whose number may be traced, from a tree and the rest from another."""

        def pick(label, x, y):
            chosen = jnp.asarray(label) == fragment
            return jnp.where(chosen.reshape(chosen.shape + (1,) * (x.ndim - chosen.ndim)), x, y)

        return new if self.number == 1 else jax.tree.map(pick, self.labels, new, old)


def fragments_of(fragments: Any, params: Any, every: Every) -> Fragments:
    """Cuts parameters into fragments.

    Args:
        fragments: Their number, for fragments of about the same size; or a tree of labels, or a function that makes it;
            or None for a single one.
        params: The parameters.
        every: Number of updates in which each fragment is synchronized once.

    Returns:
        The fragments.

    Raises:
        ValueError: If labels are not integers from 0 on, or an array of labels does not fit its leaf, or `every` is no
            multiple of the number of fragments.

    Example:
        >>> params = {"a": jnp.zeros(4), "b": jnp.zeros(3), "c": jnp.zeros(2)}
        >>> fragments_of(2, params, every=4).labels
        {'a': 0, 'b': 1, 'c': 1}
    """
    if fragments is None:
        return Fragments(1, None)
    if isinstance(fragments, (int, np.integer)):
        return Fragments(int(fragments), _even_labels(int(fragments), params))
    labels = resolve("fragments", fragments, params)
    if not jax.tree.leaves(params):
        return Fragments(1 if is_function(fragments) else _count(fragments), labels)
    jax.tree.map_with_path(_check_label, labels, params)
    _check_multiple(every, _count(labels))
    return Fragments(_count(labels), labels)


def check_fragments(fragments: Any, every: Every, delay: int | None, average_state: Any) -> None:
    """Raises unless arguments of `local_updates` go together, as far as it can be known without parameters.

    Args:
        fragments: See `fragments_of`.
        every: Number of updates in which each fragment is synchronized once, or a function.
        delay: Number of updates from a synchronization to its arrival in the parameters.
        average_state: Names of fields that are averaged with the parameters.

    Raises:
        ValueError: If `fragments` is a number below 1, `every` is no multiple of their number or a function, `delay` is
            not in its range or goes with a function, or `average_state` is given with fragments.
    """
    if delay is not None:
        check_integer("delay", delay, least=0)
        if delay and callable(every):
            raise ValueError(f"every must be a number with a delay, got {every!r}")
        if isinstance(every, (int, np.integer)) and delay >= every:
            raise ValueError(f"delay must be less than every={every}, got {delay!r}")
    if fragments is None:
        return
    if average_state is not None:
        raise ValueError("average_state needs fragments=None, because fragments leave the inner state with the worker")
    if callable(every):
        raise ValueError(f"every must be a number with fragments, got {every!r}")  # noqa: TRY004
    if isinstance(fragments, (int, np.integer)):
        check_integer("fragments", fragments)
        _check_multiple(every, int(fragments))
    elif not is_function(fragments):
        _check_multiple(every, _count(fragments))


def _check_multiple(every: Any, number: int) -> None:
    if isinstance(every, (int, np.integer)) and int(every) % number:
        raise ValueError(f"every must be a multiple of the number of fragments, which is {number}, got {every}")


def _count(labels: Any) -> int:
    return 1 + max((int(np.max(label)) for label in jax.tree.leaves(labels)), default=0)


def _even_labels(number: int, params: Any) -> Any:
    """Gives each leaf, the largest first, to the fragment that is the smallest so far."""
    leaves, structure = jax.tree.flatten(params)
    sizes, labels = np.zeros(number), [0] * len(leaves)
    for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):
        labels[i] = int(np.argmin(sizes))
        sizes[labels[i]] += leaves[i].size
    return structure.unflatten(labels)


def _check_label(path: Any, label: Any, x: Any) -> None:
    name = jax.tree_util.keystr(path) or "the parameters"
    each = np.asarray(label)
    if each.dtype.kind not in "iu" or np.any(each < 0):
        raise ValueError(f"fragments must number the fragments from 0 on, got {label!r} for {name}")
    if each.ndim and each.shape != x.shape[:1]:
        raise ValueError(
            f"fragments must be one number for a leaf, or one for each entry of its leading axis, got an array of shape"
            f" {each.shape} for {name}, which has shape {x.shape}"
        )
