"""The table of all methods; tests, docs and experiments read it."""

import types
from collections.abc import Mapping

from optkit import sign_momentum
from optkit.core.method import Kind, Method, Paper

__all__ = ["METHODS", "Kind", "Method", "Paper"]

_FAMILIES = (sign_momentum,)

METHODS: Mapping[str, Method] = types.MappingProxyType(
    {method.name: method for family in _FAMILIES for method in family.ENTRIES}
)
