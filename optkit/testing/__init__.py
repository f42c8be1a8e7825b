"""What users test their own transformations with."""

from optkit.testing.contract import (
    PROMISES,
    BrokenContract,
    Violation,
    check_method,
    check_transformation,
    find_violations,
)

__all__ = ["PROMISES", "BrokenContract", "Violation", "check_method", "check_transformation", "find_violations"]
