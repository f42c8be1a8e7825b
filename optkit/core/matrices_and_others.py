"""Which parameters are matrices, and the optimizer of all others: shared by optimizers whose rule is for matrices."""

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
    """Gives one optimizer to matrices and another one to all other parameters, both in at least float32.

    Args:
        method: The public name of the optimizer, for messages.
        matrices: Builds the whole optimizer of the matrices from two trees: one of `MuonDimensionNumbers`, with None
            for leaves that are not matrices, and one of booleans for the leaves that decay, or None for all. Both
            describe the whole tree of parameters, of which the optimizer receives a part.
        others: The optimizer of all other parameters. None: the one that `default_others` builds.
        default_others: Builds the optimizer of all other parameters from the tree of the leaves that decay.
        labels: See `kinds_of_leaves`.
        weight_dimension_numbers: See `kinds_of_leaves`.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. It may be a tuple of names. Gradients of the other parameters are
            averaged over it before `others` receives them; `matrices` receives those of each worker. Default: None.

    Returns:
        An optimizer.

    Raises:
        TypeError: If an argument is an array, or `others` is not a transformation.
        ValueError: If `matrices` or `default_others` raises it; from `init`, see `kinds_of_leaves`.

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
    """Raises unless the optimizer of the other parameters is a single transformation or None."""
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
    """AdamW for the other parameters: `optax.adamw`, but its update needs no parameters if there is no decay.

    Args:
        method: The public name of the optimizer of which it is a part.
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the first moment, in [0, 1).
        b2: Decay rate of the second moment, in [0, 1).
        eps: Added to the square root of the second moment, at least 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mu_dtype: Dtype of the first moment. Default: that of the parameters.

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
    """Finds which leaves are matrices, and which of their axes are inputs and outputs.

    Without labels, these are the leaves that have dimension numbers. Without dimension numbers too, they are all leaves
    of exactly two axes, like kernels of Flax's dense layers. Leaves without entries are never matrices.

    Args:
        method: The public name of the optimizer, for messages.
        tree: The whole tree of parameters, or of gradients.
        labels: Which leaves are matrices: a tree of "matrix" and "other", or a function that makes it from the
            parameters. The tree may be a prefix. In a leaf that is labelled a matrix and has no dimension numbers, the
            last two axes are those of the matrix, and the other axes count matrices. Default: None, see above.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree of `MuonDimensionNumbers`, or a prefix of it, with None for leaves that are not
            matrices; a function that makes it from the parameters; or a single one for all leaves of at least two axes.
            Default: None, see above.
        labels_name: The optimizer's name for the argument from which `labels` are made, for messages. Default:
            "labels".

    Returns:
        A tree of words, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: If a label is another word; if numbers or labels make a matrix of a leaf that cannot be one, or of
            no leaf although one has at least two axes; or if, without labels and numbers, a leaf of at least two axes
            is called `bias` or `scale`.

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
    """Returns the numbers of each leaf; if nothing else (`alone`) tells which leaves are matrices, only of those."""
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
    """Raises if no leaf is a matrix although one could be."""
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
