"""What an attack is: a function that makes a row of stacked rows."""

from typing import Any, Protocol

import jax

__all__ = ["Attack", "AttackByNumber"]


class Attack(Protocol):
    """What attackers send: a function of what the honest workers send."""

    def __call__(self, honest: Any, /) -> Any:
        """Makes a tree shaped like a row of a tree of stacked rows."""
        ...


class AttackByNumber(Protocol):
    """An attack with one more argument: its strength, or a key to draw with."""

    def __call__(self, honest: Any, number: jax.Array, /) -> Any:
        """Makes a tree shaped like a row of a tree of stacked rows."""
        ...
