"""Extra arguments of `update`: their vocabulary, and errors for those that are missing."""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from optkit.core.trees import is_function, is_masked


class Moment(NamedTuple):
    """One step of training, from which extra arguments are made.

    Attributes:
        params: the parameters.
        value_fn: from parameters to this batch's loss.
        grad_fn: from parameters to this batch's gradient.
        full_grad_fn: from parameters to the gradient on all data, None if nobody can have it.
        previous: the parameters one step ago, None if nobody kept them.
    """

    params: Any
    value_fn: Callable[[Any], jax.Array]
    grad_fn: Callable[[Any], Any]
    full_grad_fn: Callable[[Any], Any] | None = None
    previous: Any | None = None


class ExtraArg(NamedTuple):
    """What an extra argument of `update` is.

    Attributes:
        meaning: in words.
        of: makes it from a `Moment`; None where a loss alone does not say it.
        points: of a function whose first argument, and those by name, are trees like the parameters, the dtype in which
            a method in `in_float32` hands them on: "own", the parameters' own, for functions that give gradients or
            products with the Hessian; "float32", at least, for functions whose small differences count. None for all
            else.
        whole_tree: whether it is of the whole tree of parameters, so that a method which takes it cannot stand inside
            `optax.masked` or `optax.partition`.
        equal: whether it is equal on all workers.
    """

    meaning: str
    of: Callable[[Moment], Any] | None = None
    points: Literal["own", "float32"] | None = None
    whole_tree: bool = False
    equal: bool = False


def _hessian_products(at: Moment) -> Callable[..., Any]:
    return lambda vector, point=at.params: jax.jvp(at.grad_fn, (point,), (vector,))[1]


EXTRA_ARGS: Mapping[str, ExtraArg] = types.MappingProxyType(
    {
        "value": ExtraArg("this batch's loss", lambda at: at.value_fn(at.params)),
        "value_fn": ExtraArg(
            "from parameters to this batch's loss", lambda at: at.value_fn, "float32", whole_tree=True
        ),
        "grad_fn": ExtraArg("from parameters to this batch's gradient", lambda at: at.grad_fn, "own", whole_tree=True),
        "prev_grads": ExtraArg(
            "this batch's gradient at the previous parameters",
            lambda at: at.grad_fn(at.previous),
            None,
            whole_tree=True,
        ),
        "full_grad_fn": ExtraArg(
            "from parameters to the gradient on all data", lambda at: at.full_grad_fn, "own", whole_tree=True
        ),
        "hvp_fn": ExtraArg(
            "from a tree to this batch's Hessian times it, at the parameters or where the argument `point` says",
            _hessian_products,
            "own",
            whole_tree=True,
        ),
        "minibatch_grad_fn": ExtraArg(
            "from parameters and a number j to the gradient on part j of the batch", None, "own", whole_tree=True
        ),
        "residual_fn": ExtraArg("from parameters to the residuals of this batch", None, "float32", whole_tree=True),
        "losses": ExtraArg("one loss for each objective"),
        "weight": ExtraArg("this worker's share in a mean, 0 if it is absent"),
        "predicted_grads": ExtraArg("a guess of this batch's gradient"),
        "layer_stats": ExtraArg("statistics of the layers' inputs and outputs"),
        "class_counts": ExtraArg("how many examples of each class the batch has"),
        "sample_counts": ExtraArg("how many examples each row's gradient is the mean of"),
        "errors": ExtraArg("one error for each example"),
        "links": ExtraArg("which messages between workers arrive", equal=True),
        "active": ExtraArg("which workers take part", equal=True),
        "issued_at": ExtraArg("how many gradients had arrived when the parameters of this one were read"),
    }
)
"""The vocabulary: every extra argument that a method of optkit takes."""


def extra_args(names: Iterable[str], at: Moment) -> dict[str, Any]:
    """Makes extra arguments from a loss.

    Args:
        names: names in `EXTRA_ARGS`; those that a loss alone does not say are left out.
        at: the step.

    Returns:
        The arguments by name, as `update` takes them.

    Example:
        >>> at = Moment(params=2.0, value_fn=lambda w: w**2, grad_fn=lambda w: 2 * w)
        >>> extra_args(["value", "hvp_fn"], at)["value"], extra_args(["hvp_fn"], at)["hvp_fn"](1.0)
        (4.0, Array(2., dtype=float32, weak_type=True))
    """
    makers = {name: EXTRA_ARGS[name].of for name in names}
    return {name: make(at) for name, make in makers.items() if make is not None}


def split_functions(extra_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts extra arguments into functions and arrays, which can be traced.

    The vocabulary decides, since a tree of arrays can be callable; of names that are not in it `is_function` does.

    Args:
        extra_args: extra arguments of `update`, by name.

    Returns:
        Functions, and all others.

    Example:
        >>> split_functions({"grad_fn": abs, "value": 1.0})
        ({'grad_fn': <built-in function abs>}, {'value': 1.0})
    """

    def is_called(name):
        known, value = EXTRA_ARGS.get(name), extra_args[name]
        return is_function(value) if known is None or value is None else known.points is not None

    functions = {name: value for name, value in extra_args.items() if is_called(name)}
    return functions, {name: value for name, value in extra_args.items() if name not in functions}


def required(value: Any, name: str, method: str, example: str) -> Any:
    """Returns an extra argument of `update`, or says that it is missing.

    Args:
        value: what was passed, None if nothing.
        name: the argument's name, for example `"grad_fn"`.
        method: the public name of the transformation.
        example: the argument in a call that works, for example `"grad_fn=jax.grad(loss)"`.

    Returns:
        `value`.

    Raises:
        TypeError: if it is None.

    Example:
        >>> required(1.0, "value", "polyak", "value=loss")
        1.0
    """
    if value is None:
        raise TypeError(f"{method} needs the extra argument {name}: call update(grads, state, params, {example})")
    return value


def require_whole_tree(tree: Any, method: str) -> None:
    """Says that a method which calls functions of the whole parameter tree sees a part of it only.

    Args:
        tree: parameters or gradients.
        method: the public name of the transformation.

    Raises:
        TypeError: if `optax.masked` or `optax.partition` cut leaves out of the tree.

    Example:
        >>> require_whole_tree({"kernel": 1.0, "bias": None}, "storm")
    """
    if any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked))):
        raise TypeError(
            f"{method} evaluates functions of all parameters and cannot stand inside optax.masked or optax.partition: "
            "put it outside, and name the leaves that it works on by its own argument applies_to or trainable"
        )


def require_params(params: Any, method: str) -> None:
    """Says that a method cannot do without the parameters.

    Args:
        params: what `update` was given.
        method: the public name of the method.

    Raises:
        ValueError: if it is None.

    Example:
        >>> require_params({"kernel": 1.0}, "dfedsam")
    """
    if params is None:
        raise ValueError(f"{method} needs the parameters: call update(updates, state, params)")
