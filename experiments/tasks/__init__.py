"""The tasks, one file each: a module of this package with a function `task()`, found by its name."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from experiments.errors import check_name

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Something to train.

    Attributes:
        train: the training examples, a tree of NumPy arrays with the examples along the first axis.
        validation: the examples on which a learning rate is chosen, likewise.
        test: the examples on which results are reported, likewise.
        init: makes the parameters from a JAX key.
        loss: the loss to train, from parameters and a batch: a mean over the batch's examples.
        metrics: what is reported, from parameters and one of the splits: scalars by name, `"loss"` among them.
        steps: length of a training where none is asked for.
        batch_size: examples in a batch.
        facts: what the results record about the data.
        labels: gives the class of each example of a batch, `(examples,)` integers; None where there are no classes.
        classes: how many classes there are.
        hidden_matrices: gives the input and output axes of hidden layers' matrices, from the parameters, as Optax's
            Muon takes them, and None for all others: for methods that treat matrices apart. None where there are no
            layers.
    """

    train: Any
    validation: Any
    test: Any
    init: Callable[["jax.Array"], Any]
    loss: Callable[[Any, Any], "jax.Array"]
    metrics: Callable[[Any, Any], Mapping[str, "jax.Array"]]
    steps: int
    batch_size: int
    facts: Mapping[str, Any]
    labels: Callable[[Any], "jax.Array"] | None = None
    classes: int = 0
    hidden_matrices: Callable[[Any], Any] | None = None


def names() -> list[str]:
    """Returns the names of all tasks."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Task:
    """Builds a task.

    Args:
        name: one of `names()`.

    Returns:
        The task, its data loaded.

    Raises:
        UserError: if there is none of this name.
    """
    check_name("task", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").task()
