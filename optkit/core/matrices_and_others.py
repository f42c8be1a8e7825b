"""Which parameters are matrices, and what moves all others: shared by the optimizers whose rule is for matrices."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import DENSE_KERNELS, leaf_name, matrix_view
from optkit.core.precision import in_float32
from optkit.core.trees import resolve, with_whole_tree
from optkit.core.types import AxisName, DTypeLike, Mask
from optkit.core.workers import collectives

Kind = Literal["matrix", "other"]

_NO_MATRICES = ("bias", "scale")


def matrices_and_others(
    method: str,
    matrices: Callable[[Any, Any], optax.GradientTransformation],
    others: optax.GradientTransformation | None,
    default_others: Callable[[Any], optax.GradientTransformation],
    *,
    labels: Any | None,
    weight_dimension_numbers: Any | None,
    mask: Mask | None,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives matrices one optimizer and all other parameters another one, all in float32 at least.

    Args:
        method: the public name of the optimizer, for messages.
        matrices: builds the whole optimizer of the matrices from a tree of `MuonDimensionNumbers`, with None for leaves
            that are no matrices, and from a tree of booleans, the leaves that decay, or None for all. Both are of the
            whole tree of parameters, of which the optimizer sees a part.
        others: the whole optimizer of all other parameters, taken as it is; or None.
        default_others: builds what it is for None from the leaves that decay.
        labels: see `kinds_of_leaves`.
        weight_dimension_numbers: see `kinds_of_leaves`.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: axis over workers, or a tuple of axes, over which gradients of the other parameters are averaged
            before `others` sees them. `matrices` gets each worker's own.

    Returns:
        An optimizer.

    Raises:
        TypeError: if an argument is an array, or `others` is no transformation.
        ValueError: if `matrices` or `default_others` raises it; from `init`, see `kinds_of_leaves`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = matrices_and_others(
        ...     "method", lambda numbers, mask: optax.sgd(1.0), None, lambda mask: optax.sgd(2.0),
        ...     labels=None, weight_dimension_numbers=None, mask=None,
        ... )
        >>> params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
        >>> tx.update(params, tx.init(params))[0]
        {'bias': Array([-2.], dtype=float32), 'kernel': Array([[-1.]], dtype=float32)}
    """
    refuse_arrays(labels=labels, weight_dimension_numbers=weight_dimension_numbers, mask=mask)
    check_others(others)
    # What is out of its range raises here, where the optimizer is made, and not in `init`.
    matrices(None, None)
    default_others(None)
    average = optax.stateless(lambda updates, _: collectives.pmean(updates, axis_name))

    def kinds(tree):
        return kinds_of_leaves(method, tree, labels, weight_dimension_numbers)

    def build(labels, numbers, mask):
        rest = default_others(mask) if others is None else others
        rest = rest if axis_name is None else optax.chain(average, rest)
        # Labels as a function, since `optax.partition` would call a tree that is callable.
        return in_float32(optax.partition({"matrix": matrices(numbers, mask), "other": rest}, lambda _: labels))

    return with_whole_tree(build, labels=lambda tree: kinds(tree)[0], numbers=lambda tree: kinds(tree)[1], mask=mask)


def check_others(others: Any) -> None:
    """Raises unless what moves the other parameters is one transformation, or None."""
    if others is not None and not isinstance(others, optax.GradientTransformation):
        raise TypeError(f"others must be one optax.GradientTransformation or None, got {others!r}")


def adamw(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    b1: float,
    b2: float,
    eps: float,
    mask: Mask | None = None,
    *,
    weight_decay: float | jax.Array = 0.0,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """AdamW for the other parameters: `optax.adamw`, whose update needs no parameters where there is no decay.

    Args:
        method: the public name of the optimizer that it is a part of.
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, at least 0.
        mask: the leaves that decay. All by default.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mu_dtype: dtype of the first moment, that of the parameters by default.

    Returns:
        The optimizer.
    """
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
        add_decay(method, weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def kinds_of_leaves(
    method: str,
    tree: Any,
    labels: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    *,
    labels_name: str = "labels",
) -> tuple[Any, Any]:
    """Says which leaves are matrices, and of which axes.

    Without labels these are the leaves that have dimension numbers; and without any numbers all leaves of exactly two
    axes, kernels of Flax's dense layers. Leaves without entries never are.

    Args:
        method: the public name of the optimizer, for messages.
        tree: the whole tree of parameters, or of gradients.
        labels: tree of the words `"matrix"` and `"other"`, a prefix of `tree`, or a function that makes it from `tree`.
            A leaf that is labelled a matrix and has no numbers is one by its last two axes: others count matrices.
        weight_dimension_numbers: tree of `optax.contrib.MuonDimensionNumbers`, a prefix of `tree`, with None for leaves
            that are no matrices; a function that makes it from `tree`; or one for all leaves of two axes or more.
        labels_name: what the optimizer calls the argument from which `labels` are made, for messages.

    Returns:
        A tree of words, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: if a label is another word; if numbers or labels make a matrix of a leaf that cannot be one, or none
            of any leaf although one has two axes or more; or if, without either, a leaf of two axes or more is called
            `bias` or `scale`.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"kernel": jnp.ones((2, 3)), "head": jnp.ones((3, 4)), "bias": jnp.ones(4)}
        >>> kinds, numbers = kinds_of_leaves("muon", tree, {"kernel": "matrix", "head": "other", "bias": "other"})
        >>> kinds
        {'bias': 'other', 'head': 'other', 'kernel': 'matrix'}
        >>> numbers["kernel"], numbers["head"]
        (MuonDimensionNumbers(reduction_axis=-2, output_axis=-1), None)
    """
    words = resolve("labels", labels, tree)
    numbers = _numbers(method, tree, weight_dimension_numbers, labels is None, labels_name)
    if words is None:
        kinds = jax.tree.map(lambda x, own: "matrix" if x.size and own is not None else "other", tree, numbers)
    else:
        kinds = jax.tree.map_with_path(lambda path, x, word: _kind(method, path, x, word), tree, words)
        numbers = jax.tree.map(lambda _, own: DENSE_KERNELS if own is None else own, tree, numbers)
    numbers = jax.tree.map(lambda _, kind, own: own if kind == "matrix" else None, tree, kinds, numbers)

    def check(path, x, own):
        return own is not None and matrix_view(x.shape, own, f"{method}: the leaf {leaf_name(path)!r}")

    jax.tree.map_with_path(check, tree, numbers)
    if (labels is not None or weight_dimension_numbers is not None) and "matrix" not in jax.tree.leaves(kinds):
        refuse_candidates(method, tree, None if labels is None else labels_name)
    return kinds, numbers


def _numbers(method: str, tree: Any, weight_dimension_numbers: Any | None, alone: bool, labels_name: str) -> Any:
    """The numbers of each leaf; where nothing else says which leaves are matrices (`alone`), those of matrices only."""
    one = weight_dimension_numbers
    if one is not None and not isinstance(one, MuonDimensionNumbers):
        return resolve("weight_dimension_numbers", one, tree)
    if not alone:
        return jax.tree.map(lambda _: one, tree)

    def of(path, x):
        *layers, name = leaf_name(path).split("/")
        if name in _NO_MATRICES and x.ndim >= 2 and x.size:
            raise ValueError(_stacked_message(method, layers, name, x.shape, labels_name))
        if one is None:
            return DENSE_KERNELS if x.ndim == 2 else None
        return one if x.ndim >= 2 else None

    return jax.tree.map_with_path(of, tree)


def _kind(method: str, path: Any, x: Any, word: Any) -> Kind:
    if word not in get_args(Kind):
        raise ValueError(f"{method}: labels must be 'matrix' or 'other', got {word!r} for the leaf {leaf_name(path)!r}")
    return word if x.size else "other"


def _stacked_message(method: str, layers: list[str], name: str, shape: tuple[int, ...], labels_name: str) -> str:
    leaf, where = "/".join((*layers, name)), layers[0] if layers else ""
    return (
        f"{method} takes leaves of two axes for matrices, and the leaf {leaf!r} of shape {shape} is a {name}: say which"
        " leaves are matrices by weight_dimension_numbers=optkit.flax_dimension_numbers, or, where layers are stacked"
        " along a leading axis, by weight_dimension_numbers=functools.partial(optkit.flax_dimension_numbers,"
        f" stacked=lambda path: path.startswith({where!r})); or by {labels_name}"
    )


def refuse_candidates(method: str, tree: Any, labels_name: str | None) -> None:
    """Raises if a leaf could be a matrix, where none is one."""
    advice = (
        "make one a matrix, or take another optimizer"
        if labels_name
        else "flax_dimension_numbers has numbers for leaves called 'kernel' only. Leave it out where leaves have other"
        " names, so that those of two axes are matrices, or give labels or optax.contrib.MuonDimensionNumbers"
    )
    argument = labels_name or "weight_dimension_numbers"
    for path, x in jax.tree.leaves_with_path(tree):
        if x.ndim >= 2 and x.size:
            raise ValueError(
                f"{method}: by {argument} no leaf is a matrix, although {leaf_name(path)!r} of shape {x.shape} has two"
                f" axes or more: {advice}"
            )
