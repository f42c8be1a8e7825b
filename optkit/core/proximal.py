"""The types of proximal maps and of steps towards a median.

Both are functions of a tree and a number, and both exist for the same norms, but they are different functions. So each
has its own type, and methods refuse the other one.
"""

import dataclasses
from typing import Any, Protocol

from optkit.core.complex_numbers import refuse_complex


class ProximalMap(Protocol):
    """The type of a penalty or constraint in methods: a `Proximal`, or any function of a tree and a step size."""

    def __call__(self, tree: Any, step: Any, /) -> Any:
        """Returns `argmin_v r(v) + ||v - tree||^2 / (2 * step)`, in the dtypes of the tree."""
        ...


class StepTowardsMedian(Protocol):
    """The type of the norm of a median in methods: a `MedianStep`, or any function of a difference and tau."""

    def __call__(self, difference: Any, tau: Any, /) -> Any:
        """Returns the part of a difference by which an estimate of the median moves."""
        ...


@dataclasses.dataclass(frozen=True)
class Proximal:
    """The proximal map of a penalty or a constraint.

    Attributes:
        name: Name of the function that made it.
        rule: The function that it calls, on real leaves.
    """

    name: str
    rule: ProximalMap

    def __call__(self, tree: Any, step: Any) -> Any:
        """Applies the map to a tree."""
        refuse_complex(tree, self.name, functions=True)
        return self.rule(tree, step)


@dataclasses.dataclass(frozen=True)
class MedianStep:
    """A step of an estimate towards a median.

    Attributes:
        name: Name of the function that made it.
        rule: The function that it calls, on real leaves.
    """

    name: str
    rule: StepTowardsMedian

    def __call__(self, difference: Any, tau: Any) -> Any:
        """Returns the part of the difference by which the estimate moves."""
        refuse_complex(difference, self.name)
        return self.rule(difference, tau)


def check_proximal(prox: Any, method: str) -> None:
    """Raises unless an argument `prox` can be a proximal map.

    Args:
        prox: The argument. None is accepted.
        method: The public name of the method.

    Raises:
        TypeError: If it is a step towards a median, or not a function.

    Example:
        >>> from optkit import prox
        >>> check_proximal(prox.l1(0.1), "nids")
    """
    if isinstance(prox, MedianStep) or (prox is not None and not callable(prox)):
        got = f"optkit.{prox.name}(), a step towards a median" if isinstance(prox, MedianStep) else repr(prox)
        raise TypeError(
            f"prox of {method} must be the proximal map of a penalty or a constraint, such as optkit.prox.l1(0.1) or"
            f" optkit.prox.box(0.0, 1.0), got {got}"
        )


def check_proximal_leaves(prox: Any, params: Any) -> None:
    """Raises in a method's `init` if its proximal map cannot be applied to the parameters.

    Args:
        prox: The map. Functions that users wrote are not checked, and None is accepted.
        params: The parameters.

    Raises:
        TypeError: If there is a complex leaf.

    Example:
        >>> from optkit import prox
        >>> check_proximal_leaves(prox.l1(0.1), {"kernel": 1.0})
    """
    if isinstance(prox, Proximal):
        refuse_complex(params, prox.name, functions=True)


def check_step(step: Any, method: str) -> None:
    """Raises unless an argument `step` can be a step towards a median.

    Args:
        step: The argument. None is accepted.
        method: The public name of the method.

    Raises:
        TypeError: If it is the proximal map of a penalty, or not a function.

    Example:
        >>> check_step(None, "clipped_sgd")
    """
    if isinstance(step, Proximal) or (step is not None and not callable(step)):
        got = f"optkit.{step.name}(...), the proximal map of a penalty" if isinstance(step, Proximal) else repr(step)
        raise TypeError(
            f"step of {method} must be a step towards a median, such as optkit.median_step.l1() or"
            f" optkit.median_step.l2(), got {got}"
        )
