"""The optimizers that the commands can run, by name."""

import inspect
from collections.abc import Iterable, Mapping

from experiments import gradients
from experiments.baselines import BASELINES
from experiments.errors import UserError, check_name
from optkit import catalog
from optkit.catalog import with_variants
from optkit.method import Method

# What a step of a decentralized run gives beside the gradients.
_PASSED_DECENTRALIZED = {"axis_name", "grad_fn"}
YARDSTICK = "adamw"
DEFAULT = (
    "sgd",
    YARDSTICK,
    "lion",
    "lion_kappa",
    "lion_kappa:huber",
    "lion_kappa:group",
    "grams_adamw",
    "cautious_adamw",
    "mars_adamw",
    "clipped_sgd",
)


def comparable() -> Mapping[str, Method]:
    """Returns every method that one training loop can run, variants included, by name."""
    return {
        name: method
        for name, method in {**BASELINES, **with_variants()}.items()
        if set(method.needs) <= gradients.PASSED
    }


def takes(method: Method) -> set[str]:
    """Returns the names of a method's arguments."""
    return set(inspect.signature(method.factory).parameters)


def decentralized() -> Mapping[str, Method]:
    """Returns the decentralized methods of the catalog, variants included, by name: those that take a topology."""
    return {
        name: method
        for name, method in with_variants().items()
        if "topology" in takes(method) and set(method.needs) <= _PASSED_DECENTRALIZED
    }


def look_up(names: Iterable[str], methods: Mapping[str, Method]) -> list[Method]:
    """Looks methods up by name.

    Args:
        names: the names.
        methods: all methods, by name.

    Returns:
        Their entries.

    Raises:
        UserError: if there is none of a name.
    """
    for name in names:
        if name not in methods:
            called = [method.name for method in catalog.find(name, methods=methods.values(), most=3)]
            if called:
                raise UserError(f"unknown optimizer {name!r}; did you mean {' or '.join(called)}?")
            check_name("optimizer", name, sorted(methods))
    return [methods[name] for name in names]


def find(names: Iterable[str], entries: Iterable[Method] | None = None) -> list[Method]:
    """Looks optimizers up.

    Args:
        names: names as on the command line: `method` or `method:variant`.
        entries: entries in place of those that `names` names.

    Returns:
        Their entries, AdamW's first whether it was named or not: it is what the others are measured against.

    Raises:
        UserError: if there is none of a name.
    """
    methods = comparable()
    if entries is not None:
        return [methods[YARDSTICK], *entries]
    return look_up(dict.fromkeys((YARDSTICK, *names)), methods)


def find_inner(name: str) -> Method:
    """Looks up the optimizer that wrappers wrap: one of those that can be compared and need gradients only.

    Args:
        name: its name.

    Returns:
        Its entry.

    Raises:
        UserError: if there is none of this name.
    """
    plain = {
        known: method
        for known, method in comparable().items()
        if not method.needs and method.stacked is None and method.tuned == "learning_rate"
    }
    (method,) = look_up([name], plain)
    return method
