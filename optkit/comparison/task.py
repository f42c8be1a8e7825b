"""What is trained in a comparison: data, parameters, loss."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from optkit.comparison.errors import ComparisonError
from optkit.core.checks import check_count
from optkit.core.trees import is_function

SPLITS = ("train", "validation", "test")
# So many examples are scored at once.
SCORED_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Something to train. `Task.of` makes it from a model and data as they are.

    Attributes:
        train: The training examples, a tree of arrays with the examples along the first axis.
        validation: The examples on which hyperparameters are chosen, a tree like `train`.
        test: The examples on which results are reported, a tree like `train`.
        init: Makes the initial parameters from a JAX key. They are a tree of floating-point arrays.
        loss: The loss to train, a function of parameters and a batch: a mean over the batch's examples. With `state`,
            it takes parameters, state and batch, and returns the loss and the new state.
        metrics: What is reported, a function of parameters (with `state`: and state) and examples: arrays with one
            value for each example, by name, `"loss"` among them.
        steps: Number of steps of a training if no other is asked for.
        batch_size: Number of examples in a batch.
        name: Name of the task in tables, figures and folders. Default: "task".
        facts: What the results record about the data. Default: nothing.
        state: Makes the model's state other than parameters, such as running means and dropout keys, from a JAX key.
            Default: None, for a model without such a state.
        labels: Returns the class of each example of a batch, as `(examples,)` integers, for optimizers that treat
            classes separately. Default: None, for a task without classes.
        classes: Number of classes. Default: 0.
        hidden_matrices: Returns the input and output axes of the matrices of hidden layers, from the parameters, as
            Optax's Muon takes them, and None for all other parameters, for optimizers that treat matrices separately.
            Default: None; each optimizer then decides by itself.
    """

    train: Any
    validation: Any
    test: Any
    init: Callable[[jax.Array], Any]
    loss: Callable[..., Any]
    metrics: Callable[..., Mapping[str, jax.Array]]
    steps: int
    batch_size: int
    name: str = "task"
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: Callable[[jax.Array], Any] | None = None
    labels: Callable[[Any], jax.Array] | None = None
    classes: int = 0
    hidden_matrices: Callable[[Any], Any] | None = None

    @classmethod
    def of(
        cls,
        *,
        loss: Callable[..., Any],
        params: Any,
        train: Any,
        validation: Any,
        test: Any,
        batch_size: int = 64,
        steps: int = 1_000,
        metrics: Callable[..., Any] | None = None,
        state: Any = None,
        name: str = "task",
        **more: Any,
    ) -> Self:
        """Makes a task from a model and data as they are.

        Parameters are a tree of arrays, as those of Linen and Haiku, or a model of NNX or Equinox. Of a model, the
        floating-point arrays (in NNX: the `nnx.Param`) are trained, and `loss` and `metrics` get the whole model.

        Args:
            loss: A function of `params` and a batch that returns the mean loss over the batch's examples. With `state`,
                it takes parameters, state and batch, and returns the loss and the new state.
            params: The initial parameters or the initial model; or a function that makes them from a JAX key, with
                which every seed starts from weights of its own. A given model is where all seeds start.
            train: The training examples, a tree of arrays with the examples along the first axis.
            validation: The examples on which hyperparameters are chosen, a tree like `train`.
            test: The examples on which results are reported, a tree like `train`.
            batch_size: Number of examples in a batch, at most that of `train`. Default: 64.
            steps: Number of steps of a training. Default: 1,000.
            metrics: A function with the arguments of `loss` that returns values for each example: an array for the
                loss, or arrays by name, `"loss"` among them. Default: None, the loss of each example alone.
            state: What the model has beside parameters, such as running means and dropout keys, or a function that
                makes it from a JAX key. It needs `metrics`. Default: None, for a model without such a state.
            name: Name of the task in tables, figures and folders. Default: "task".
            **more: Other attributes of `Task`: `facts`, `labels`, `classes`, `hidden_matrices`.

        Returns:
            The task.

        Raises:
            ComparisonError: If the splits are no trees of arrays with equally many examples, if the model has a state
                other than parameters, or if `metrics` does not return values for each example.

        Example:
            >>> import jax.numpy as jnp
            >>> x = jnp.arange(12.0).reshape(6, 2)
            >>> def loss(params, batch):
            ...     return jnp.mean((batch @ params) ** 2)
            >>> task = Task.of(
            ...     loss=loss, params=jnp.ones(2), train=x[:2], validation=x[2:4], test=x[4:], batch_size=2
            ... )
            >>> task.metrics(jnp.ones(2), x[:2])["loss"]
            Array([ 1., 25.], dtype=float32)
        """
        check_count("batch_size", batch_size)
        check_count("steps", steps)
        init, whole = _split(params)
        if state is not None and metrics is None:
            raise ComparisonError(
                "a model with a state needs metrics(params, state, examples), which returns the loss of each example"
            )

        def own_loss(params, *inputs):
            return loss(whole(params), *inputs)

        def own_metrics(params, *inputs):
            values = _of_each(own_loss)(params, *inputs) if metrics is None else metrics(whole(params), *inputs)
            return dict(values) if isinstance(values, Mapping) else {"loss": values}

        task = cls(
            train=train,
            validation=validation,
            test=test,
            init=init,
            loss=own_loss,
            metrics=own_metrics,
            steps=steps,
            batch_size=batch_size,
            name=name,
            state=None if state is None else state if is_function(state) else lambda _: state,
            **more,
        )
        check(task)
        return task


def check(task: Task) -> None:
    """Checks what can be checked of a task without training.

    Args:
        task: The task.

    Raises:
        ComparisonError: If splits, loss or metrics are not what `Task` asks for.
    """
    for split in SPLITS:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(getattr(task, split))}
        if len(sizes) != 1 or sizes in ({()}, {(0,)}):
            lengths = sorted(size[0] if size else 0 for size in sizes)
            raise ComparisonError(
                f"{split} must be a tree of arrays with the examples along the first axis, equally many in all arrays; "
                f"got first axes of {lengths}"
            )
    if examples(task.train) < task.batch_size:
        raise ComparisonError(
            f"batch_size must be at most the {examples(task.train)} training examples, got {task.batch_size}"
        )
    params = jax.eval_shape(task.init, jax.random.key(0))
    _require_parameters(params)
    batch = jax.eval_shape(lambda: jax.tree.map(lambda leaf: jnp.asarray(leaf[: task.batch_size]), task.train))
    inputs = (params, batch) if task.state is None else (params, jax.eval_shape(task.state, jax.random.key(0)), batch)
    value = jax.eval_shape(task.loss, *inputs)
    if task.state is not None:
        if not isinstance(value, tuple) or len(value) != 2:
            raise ComparisonError(f"loss of a model with a state must return the loss and the new state, got {value}")
        value, state = value
        if jax.tree.map(_type, state) != jax.tree.map(_type, inputs[1]):
            raise ComparisonError("loss must return a state of the structure, shapes and dtypes of the one that it got")
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ComparisonError(f"loss must return a number, the mean over the batch's examples, got {value}")
    scores = jax.eval_shape(task.metrics, *inputs)
    wrong = {metric: values for metric, values in scores.items() if values.shape != (task.batch_size,)}
    if wrong or "loss" not in scores:
        raise ComparisonError(
            "metrics must return an array with one value for each example by name, 'loss' among them; for "
            f"{task.batch_size} examples it returned {dict(scores)}"
        )


def examples(split: Any) -> int:
    """Returns how many examples a split has."""
    return len(jax.tree.leaves(split)[0])


def score(task: Task, params: Any, state: Any, split: Any) -> dict[str, jax.Array]:
    """Scores parameters on every example of a split, some hundred at a time.

    Args:
        task: What is trained.
        params: The parameters.
        state: The model's other state; None if it has none.
        split: One of the task's splits.

    Returns:
        The task's metrics, one value for each example.
    """
    function = functools.partial(task.metrics, params, *([] if state is None else [state]))
    count = examples(split)
    if count <= SCORED_AT_ONCE:
        return dict(function(split))
    whole = count - count % SCORED_AT_ONCE
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, SCORED_AT_ONCE, *leaf.shape[1:]), split)
    values = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), jax.lax.map(function, parts))
    if whole == count:
        return dict(values)
    rest = function(jax.tree.map(lambda leaf: leaf[whole:], split))
    return {metric: jnp.concatenate([values[metric], rest[metric]]) for metric in values}


def _of_each(loss):
    def losses(params, examples):
        return jax.vmap(lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example)))(examples)

    return losses


def _split(params):
    """Returns a function from a key to the parameters, and one from these to what the user's functions take."""
    if _is_nnx(params) or not is_function(params):
        params, rest = _parameters(params)
        return lambda _: params, rest
    if not _takes_a_key(params):
        raise ComparisonError(f"params must be parameters, a model, or a function of a JAX key, got {params!r}")
    # What is beside the parameters is the same for every key, or refused.
    found = []

    def shape(key):
        own, whole = _parameters(params(key))
        found.append(whole)
        return own

    jax.eval_shape(shape, jax.random.key(0))
    return lambda key: _parameters(params(key))[0], found[0]


def _takes_a_key(function):
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _is_nnx(model):
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _parameters(model):
    """Splits a model into its parameters and a function that puts them back."""
    if _is_nnx(model):
        nnx = sys.modules["flax.nnx"]
        graph, own, rest = nnx.split(model, nnx.Param, ...)
        others = [(".".join(map(str, path)), type(leaf).__name__) for path, leaf in nnx.to_flat_state(rest)]
        if others:
            _refuse_state(f"{kind} at {path}" for path, kind in sorted(others))
        return nnx.to_pure_dict(own), lambda params: nnx.merge(graph, params)
    leaves, structure = jax.tree.flatten(model)
    is_array = [isinstance(leaf, (jax.Array, np.ndarray, float, np.generic, jax.ShapeDtypeStruct)) for leaf in leaves]
    if isinstance(model, Mapping) and "params" in model and len(model) > 1:
        _refuse_state(f"the collection {name!r}" for name in model if name != "params")
    if all(is_array):
        own = jax.tree.map(jnp.asarray, model)
        _require_parameters(own)
        return own, lambda params: params
    # Functions, sizes and words, as the models of Equinox hold them.
    own = structure.unflatten(jnp.asarray(leaf) if mine else None for leaf, mine in zip(leaves, is_array, strict=True))
    _require_parameters(own)

    def whole(params):
        given = iter(jax.tree.leaves(params))
        return structure.unflatten(next(given) if mine else leaf for leaf, mine in zip(leaves, is_array, strict=True))

    return own, whole


def _require_parameters(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    others = [
        f"{jax.tree_util.keystr(path) or 'the tree'} of {leaf.dtype}"
        for path, leaf in leaves
        if not jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    if others:
        _refuse_state(others)
    if not leaves:
        raise ComparisonError("params must hold at least one array")


def _refuse_state(things):
    raise ComparisonError(
        f"params holds a state other than parameters: {', '.join(things)}; give it as state, apart from params, and a "
        "loss(params, state, batch) that returns the loss and the new state"
    )


def _type(leaf):
    return leaf.shape, leaf.dtype
