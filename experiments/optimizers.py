"""Which optimizers can be compared, by name."""

import difflib
from collections.abc import Iterable, Mapping

from experiments import gradients
from experiments.baselines import BASELINES
from experiments.errors import UserError
from optkit import catalog
from optkit.catalog import with_variants
from optkit.method import Method

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
            close = called or difflib.get_close_matches(name, methods, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(methods))}"
            raise UserError(f"unknown optimizer {name!r}; {hint}")
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
