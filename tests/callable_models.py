"""A model that can be called, as those of Equinox can, and whose parameters are those of a dictionary."""

import dataclasses
from typing import Any

import jax

_FIELDS = ("bias", "kernel")


# Not `register_dataclass`: in JAX 0.10 trees of two classes that are registered so compare equal if their leaves stand
# alike, so that a jitted function may return the class of an earlier test (where the hashes of both meet).
@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass
class CallableModel:
    """Its leaves come in the order of the dictionary's."""

    bias: Any
    kernel: Any

    def __call__(self):
        raise AssertionError("a tree was called as if it were a function")

    def tree_flatten_with_keys(self):
        return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _FIELDS), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)
