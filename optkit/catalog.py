"""All methods and tools by name; tests, documentation and experiments read it."""

import types
from collections.abc import Mapping

from optkit import (
    decentralized,
    median_clipping,
    memory_efficient,
    orthonormalization,
    random_scaling,
    robust_aggregation,
    sign_momentum,
    variance_reduction,
)
from optkit.method import Method

__all__ = ["METHODS", "with_variants"]

_FAMILIES = (
    variance_reduction,
    median_clipping,
    random_scaling,
    sign_momentum,
    memory_efficient,
    orthonormalization,
    decentralized,
    robust_aggregation,
)

METHODS: Mapping[str, Method] = types.MappingProxyType(
    {method.name: method for family in _FAMILIES for method in family.METHODS}
)


def with_variants() -> Mapping[str, Method]:
    """Returns all methods of which optimizers can be made, and all their variants, these as `name:variant`.

    Example:
        >>> with_variants()["lion_kappa:huber"].summary == METHODS["lion_kappa"].summary
        True
    """
    methods = [method for method in METHODS.values() if method.kind != "function"]
    entries = ((method, *map(method.variant, method.variants)) for method in methods)
    return {entry.name: entry for group in entries for entry in group}
