"""What papers claim, measured again at toy scale: one file a claim, in a folder for each family.

A claim's file is a module with a constant `CLAIM`. Its margin is fixed before the experiment is run and stays where it
is when the experiment fails it.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.errors import check_name


class Finding(NamedTuple):
    """What an experiment gave.

    Attributes:
        measured: the figures, in words: "5.3e-3 against 1.2e-2".
        holds: whether they keep the required margin; None where nothing is required and the figures are only reported.
        draw: draws a picture of it into Matplotlib axes, where a picture says more.
    """

    measured: str
    holds: bool | None
    draw: Callable[[Any], None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Attributes:
        method: the method that it is about, by its name in the catalog.
        arxiv: the paper that makes it, for example "2411.10438"; empty if it is not on arXiv.
        statement: what the paper says, or what follows from it, in one sentence.
        experiment: what is run, in one sentence: problem, sizes, rates, seeds.
        required: the margin that makes it hold, in words; "reported as found" where there is none.
        measure: runs the experiment.
    """

    method: str
    arxiv: str
    statement: str
    experiment: str
    required: str
    measure: Callable[[], Finding]


def families() -> list[str]:
    """Returns the names of all families with claims."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def check(name: str) -> str:
    """Returns the name of a claim, `family/name`, or of a family, if there is one.

    Args:
        name: the name.

    Raises:
        UserError: if there is none; it shows the names most like it.
    """
    family, of_a_claim, _ = name.partition("/")
    check_name("family", family, families())
    return check_name("claim", name, _names(family)) if of_a_claim else name


def load(chosen: Sequence[str] = ()) -> dict[str, Claim]:
    """Finds claims.

    Args:
        chosen: the names of the claims that are wanted, or of families of which all are; all claims by default.

    Returns:
        The claims by `family/name`, in the order of these names.

    Raises:
        UserError: if there is no such claim or family.
    """
    wanted = {check(name) for name in chosen or families()}
    names = (name for family in families() for name in _names(family) if {family, name} & wanted)
    return {name: importlib.import_module(f"{__name__}.{name.replace('/', '.')}").CLAIM for name in names}


def _names(family):
    modules = pkgutil.iter_modules([f"{place}/{family}" for place in __path__])
    return sorted(f"{family}/{module.name}" for module in modules)
