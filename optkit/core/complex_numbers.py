"""Complex parameters, for methods whose rule is for real ones."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def refuse_complex(tree: Any, method: str, *, functions: bool = False) -> None:
    """Raises if a leaf is complex, and says what to do.

    Args:
        tree: Parameters or gradients, arrays or `jax.ShapeDtypeStruct`.
        method: The public name of the method.
        functions: Whether the method takes extra arguments, which `optax.contrib.split_real_and_imaginary` drops.
            Default: False.

    Raises:
        TypeError: If there is a complex leaf.

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


def only_real(method: str, tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Makes the `init` of a transformation refuse complex parameters.

    It is for transformations without functions among their extra arguments.

    Args:
        method: The public name of the method.
        tx: The transformation.

    Returns:
        The same transformation, whose `init` raises a TypeError if there is a complex leaf.

    Example:
        >>> only_real("sgd", optax.sgd(1.0)).init({"kernel": jnp.ones(2)})
        (EmptyState(), EmptyState())
    """

    def init_fn(params):
        refuse_complex(params, method)
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init_fn, optax.with_extra_args_support(tx).update)
