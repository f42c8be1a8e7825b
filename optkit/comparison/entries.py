"""The optimizers that can be compared: by name, as methods, and as functions of a learning rate."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from optkit import catalog
from optkit.catalog import with_variants
from optkit.comparison import gradients
from optkit.comparison.baselines import BASELINES, YARDSTICK
from optkit.comparison.errors import ComparisonError
from optkit.method import Method

_LONGEST_NAME = 100


def comparable() -> Mapping[str, Method]:
    """Returns every method that one training loop can run, variants included, by name."""
    return {
        name: method
        for name, method in {**BASELINES, **with_variants()}.items()
        if set(method.needs) <= gradients.PASSED
    }


def look_up(names: Iterable[str], methods: Mapping[str, Method]) -> list[Method]:
    """Looks methods up by name.

    Args:
        names: The names.
        methods: All methods, by name.

    Returns:
        Their entries.

    Raises:
        ComparisonError: If there is none of a name.
    """
    for name in names:
        if name not in methods:
            called = [method.name for method in catalog.find(name, methods=methods.values(), most=3)]
            called = called or difflib.get_close_matches(name, methods, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(called)}?" if called else f"there are {', '.join(sorted(methods))}"
            raise ComparisonError(f"unknown optimizer {name!r}; {hint}")
    return [methods[name] for name in names]


def find(optimizers: Iterable[str | Method | Callable[..., Any]]) -> list[Method]:
    """Makes entries of whatever names or builds optimizers.

    Args:
        optimizers: Names of the catalog or of Optax's methods in `BASELINES`, variants as `name:variant`; entries;
            functions of the catalog; and other functions of a learning rate.

    Returns:
        Their entries. AdamW, against which the others are measured, is the first one whether it was named or not.

    Raises:
        ComparisonError: If one of them is something else, or two have the same name.
    """
    if isinstance(optimizers, (str, Method)) or callable(optimizers):
        raise ComparisonError(f"optimizers must be a list, got {optimizers!r}")
    methods = comparable()
    found = {YARDSTICK: methods[YARDSTICK]}
    for optimizer in optimizers:
        method = _entry(optimizer, methods)
        if method.name in found and found[method.name] != method:
            raise ComparisonError(f"two optimizers have the name {method.name}; give them different names")
        found[method.name] = method
    return list(found.values())


def _entry(optimizer, methods):
    if isinstance(optimizer, str):
        return look_up([optimizer], methods)[0]
    if isinstance(optimizer, Method):
        _check_entry(optimizer)
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise ComparisonError(
            "an optimizer must be a name, a function of a learning rate, which is tuned, or an optkit.method.Method; "
            f"got {optimizer!r}"
        )
    for method in (*BASELINES.values(), *catalog.METHODS.values()):
        if method.factory is optimizer:
            _check_entry(method)
            return method
    return _of_function(optimizer)


def _check_entry(method):
    if method.kind == "function" or not set(method.needs) <= gradients.PASSED:
        what = ", ".join(sorted(set(method.needs) - gradients.PASSED)) or "it is no optimizer"
        raise ComparisonError(f"{method.name} cannot be compared in one training loop: {what}")
    if not 0 < len(method.name) <= _LONGEST_NAME:
        raise ComparisonError(
            f"the name of an optimizer must have 1 to {_LONGEST_NAME} characters, got {method.name!r}"
        )


def _of_function(function):
    """The entry of a user's own function of a learning rate."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ComparisonError(
            f"an optimizer needs a name: define {function!r} with `def`, or give an optkit.method.Method(name=...)"
        )
    first, *others = inspect.signature(function, eval_str=True).parameters.values()
    lacking = [other.name for other in others if other.default is other.empty and other.kind not in _VARIADIC]
    if lacking:
        raise ComparisonError(f"{name} must need nothing but a learning rate, but it needs {', '.join(lacking)}")

    def factory(learning_rate, **arguments):
        return function(learning_rate, **arguments)

    rate = inspect.Parameter("learning_rate", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=first.annotation)
    keywords = [other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others if other.kind not in _VARIADIC]
    factory.__signature__ = inspect.Signature([rate, *keywords])  # pyright: ignore[reportFunctionMemberAccess]
    factory.__name__ = name
    summary = (inspect.getdoc(function) or "").split("\n")[0]
    return Method(name=name, factory=factory, kind="optimizer", summary=summary, grid=math.nan)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
