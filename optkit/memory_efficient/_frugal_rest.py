"""The update of FRUGAL outside of the subspaces."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range

Rest = Literal["sign", "sgd"]


def check_rest(rest: Rest | None, rest_scale: jax.typing.ArrayLike, scale: jax.typing.ArrayLike) -> None:
    """Raises a ValueError unless the arguments `rest`, `rest_scale` and `scale` of `frugal` are in their ranges."""
    check_range("rest_scale", rest_scale, 0.0)
    check_range("scale", scale, 0.0)
    check_option("rest", rest, Rest, or_none=True)


def only_rest(
    rest: Rest | None, rest_scale: jax.typing.ArrayLike, scale: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    """Makes the transformation that updates whole leaves as `frugal` updates what is outside of its subspaces."""

    def update(updates, params):
        del params
        return jax.tree.map(lambda g: (scale * rest_scale * apply_rest(rest, g)).astype(g.dtype), updates)

    return optax.stateless(update)


def apply_rest(rest: Rest | None, x: jax.Array) -> jax.Array:
    """Returns the direction of one leaf outside of its subspace, from the gradient's part there."""
    if rest is None:
        return jnp.zeros_like(x)
    return jnp.sign(x) if rest == "sign" else x
