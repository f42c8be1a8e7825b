"""Complex parameters, for methods whose rule is for real ones."""

from typing import Any

import jax
import jax.numpy as jnp


def refuse_complex(tree: Any, method: str, *, functions: bool = False) -> None:
    """Raises if a leaf is complex, and says what to do about it.

    Args:
        tree: parameters or gradients, arrays or `jax.ShapeDtypeStruct`.
        method: the public name of the method.
        functions: whether the method takes extra arguments, which `optax.contrib.split_real_and_imaginary` drops.

    Raises:
        TypeError: if there is a complex leaf.

    Example:
        >>> refuse_complex({"kernel": jnp.ones(2)}, "muon")
    """
    for path, x in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating):
            advice = (
                "hold the real and imaginary parts as two leaves"
                if functions
                else "wrap it in optax.contrib.split_real_and_imaginary"
            )
            place = jax.tree_util.keystr(path) or "itself"
            raise TypeError(f"{method} works on real parameters, and the leaf {place} is {x.dtype}: {advice}")
