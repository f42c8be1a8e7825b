"""The tasks, one file each: a module of this package with a function `task()`, found by its name."""

import dataclasses
import importlib
import pathlib
import pkgutil
import runpy
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError, check_name

if TYPE_CHECKING:
    from optkit.comparison import Task


def names() -> list[str]:
    """Returns the names of all tasks."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def check(name: str) -> None:
    """Checks what can be checked of a task's name without importing anything.

    Args:
        name: one of `names()`; the path of a Python file with a function `task()`; or `module:function`.

    Raises:
        UserError: if there is no such name or file.
    """
    if name.endswith(".py"):
        if not pathlib.Path(name).is_file():
            raise UserError(f"there is no file {name}")
    elif ":" not in name:
        check_name("task", name, names())


def load(name: str) -> "Task":
    """Builds a task.

    Args:
        name: as for `check`.

    Returns:
        The task, its data loaded.

    Raises:
        UserError: if there is none of this name, or what is there makes no task.
    """
    check(name)
    if name.endswith(".py"):
        path = pathlib.Path(name)
        return _own(runpy.run_path(name).get("task"), f"task in {name}", path.stem)
    if ":" in name:
        return _own(imported(name), name, name)
    task = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").task()
    return dataclasses.replace(task, name=name)


def imported(name: str) -> Any:
    """Imports a user's own thing.

    Args:
        name: `module:attribute`.

    Returns:
        The attribute.

    Raises:
        UserError: if there is no such module, or it lacks the attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        # What the module itself lacks is another matter.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"there is no module {error.name!r}, of which {name!r} is to be imported") from error
    except AttributeError as error:
        raise UserError(f"the module {module!r} has no {attribute!r}") from error


def _own(function, what, name):
    """A user's own task, from a function that makes it."""
    from optkit.comparison import Task  # noqa: PLC0415

    task = function() if callable(function) else function
    if not isinstance(task, Task):
        raise UserError(f"{what} must be a function that returns an optkit.comparison.Task, got {task!r}")
    return task if task.name != "task" else dataclasses.replace(task, name=name)
