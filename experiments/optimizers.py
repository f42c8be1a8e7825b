"""The optimizers that the commands run by name."""

import inspect
from collections.abc import Iterable, Mapping

from experiments.tasks import imported
from optkit import catalog
from optkit.catalog import with_variants
from optkit.comparison import entries
from optkit.comparison.baselines import BASELINES
from optkit.method import Method

# What a step of a decentralized run gives beside the gradients.
_PASSED_DECENTRALIZED = {"axis_name", "grad_fn"}
# What `compare` compares where nothing is asked for.
DEFAULT = (
    "sgd",
    "adamw",
    "lion",
    "lion_kappa",
    "lion_kappa:huber",
    "lion_kappa:group",
    "grams_adamw",
    "cautious_adamw",
    "mars_adamw",
    "clipped_sgd",
)


def find(names: Iterable[str]) -> list[Method]:
    """Looks optimizers up.

    Args:
        names: names as on the command line: `method`, `method:variant`, or `module:function` of a function of a
            learning rate, or an `optkit.method.Method`, of the user's own.

    Returns:
        Their entries, AdamW's first.

    Raises:
        UserError: if there is none of a name.
    """
    known, families = entries.comparable(), set(catalog.METHODS) | set(BASELINES)
    return entries.find(
        [
            name if name in known or ":" not in name or name.split(":")[0] in families else imported(name)
            for name in names
        ]
    )


def everything() -> list[Method]:
    """Returns all methods that one training loop can run, without variants."""
    return [method for name, method in entries.comparable().items() if ":" not in name]


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


def find_inner(name: str) -> Method:
    """Looks up the optimizer that wrappers wrap: one of those that can be compared and need gradients only.

    Args:
        name: its name.

    Returns:
        Its entry.

    Raises:
        ComparisonError: if there is none of this name.
    """
    plain = {
        known: method
        for known, method in entries.comparable().items()
        if not method.needs and method.stacked is None and method.tuned == "learning_rate"
    }
    (method,) = entries.look_up([name], plain)
    return method
