"""The type of an attack: a function that makes one row from stacked rows."""

from typing import Any, Protocol

import jax

__all__ = ["Attack", "AttackByNumber"]


class Attack(Protocol):
    """An attack: a function from what the honest workers send to what attackers send."""

    def __call__(self, honest: Any, /) -> Any:
        """Makes a tree shaped like a row from a tree of stacked rows."""
        ...


class AttackByNumber(Protocol):
    """An attack with one more argument: its strength, or a key for random draws."""

    def __call__(self, honest: Any, number: jax.Array, /) -> Any:
        """Makes a tree shaped like a row from a tree of stacked rows."""
        ...
