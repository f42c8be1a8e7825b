"""Checks of gradient transformations, for the tests of your own."""

from optkit.testing.contract import (
    PROMISES,
    BrokenContract,
    Violation,
    check_method,
    check_transformation,
    find_violations,
)

__all__ = ["PROMISES", "BrokenContract", "Violation", "check_method", "check_transformation", "find_violations"]
