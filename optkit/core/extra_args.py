"""The extra arguments of `update`: their vocabulary, and errors for missing ones."""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from optkit.core.trees import is_function, is_masked


class Moment(NamedTuple):
    """One step of training, from which extra arguments are made.

    Attributes:
        params: The parameters.
        value_fn: A function from parameters to the loss of this batch.
        grad_fn: A function from parameters to the gradient of this batch.
        full_grad_fn: A function from parameters to the gradient on all data, or None if it is not available.
        previous: The parameters one step ago, or None if they were not kept.
    """

    params: Any
    value_fn: Callable[[Any], jax.Array]
    grad_fn: Callable[[Any], Any]
    full_grad_fn: Callable[[Any], Any] | None = None
    previous: Any | None = None


class ExtraArg(NamedTuple):
    """The properties of one extra argument of `update`.

    Attributes:
        meaning: The meaning in words.
        of: Makes the argument from a `Moment`; None if a loss alone does not determine it.
        points: For a function whose first argument, and named arguments, are trees like the parameters: the dtype of
            these trees when a method inside `in_float32` calls it. "own" is the dtype of the parameters, for functions
            that return gradients or products with the Hessian. "float32" is at least float32, for functions of which
            small differences matter. None for all other arguments.
        whole_tree: Whether it belongs to the whole tree of parameters. A method that takes it cannot be used inside
            `optax.masked` or `optax.partition`.
        equal: Whether it is equal on all workers.
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
        names: Names in `EXTRA_ARGS`. Those that a loss alone does not determine are left out.
        at: The step.

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
    """Splits extra arguments into functions and arrays, which can be traced.

    The vocabulary decides, because a tree of arrays can be callable; for other names `is_function` decides.

    Args:
        extra_args: Extra arguments of `update`, by name.

    Returns:
        The functions, and all others.

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
    """Returns an extra argument of `update`, or raises if it is missing.

    Args:
        value: The argument, or None if it was not passed.
        name: Its name, for example `"grad_fn"`.
        method: The public name of the transformation.
        example: The argument in a call that works, for example `"grad_fn=jax.grad(loss)"`.

    Returns:
        `value`.

    Raises:
        TypeError: If it is None.

    Example:
        >>> required(1.0, "value", "polyak", "value=loss")
        1.0
    """
    if value is None:
        raise TypeError(f"{method} needs the extra argument {name}: call update(grads, state, params, {example})")
    return value


def require_whole_tree(tree: Any, method: str) -> None:
    """Raises if a method that calls functions of the whole parameter tree receives only a part of it.

    Args:
        tree: Parameters or gradients.
        method: The public name of the transformation.

    Raises:
        TypeError: If `optax.masked` or `optax.partition` removed leaves from the tree.

    Example:
        >>> require_whole_tree({"kernel": 1.0, "bias": None}, "storm")
    """
    if any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked))):
        raise TypeError(
            f"{method} evaluates functions of all parameters and cannot stand inside optax.masked or optax.partition: "
            "put it outside, and choose its leaves by its own argument applies_to or trainable"
        )


def require_params(params: Any, method: str) -> None:
    """Raises if a method that needs the parameters was called without them.

    Args:
        params: The parameters that `update` received, or None.
        method: The public name of the method.

    Raises:
        ValueError: If it is None.

    Example:
        >>> require_params({"kernel": 1.0}, "dfedsam")
    """
    if params is None:
        raise ValueError(f"{method} needs the parameters: call update(updates, state, params)")
