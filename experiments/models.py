"""Flax NNX modules as pure functions of a plain tree of parameters, and which parameters are hidden matrices."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from optkit.orthonormalization import flax_dimension_numbers


def functional(build: Callable[[nnx.Rngs], Any]) -> tuple[Callable[[jax.Array], Any], Callable[..., Any]]:
    """Splits a module into what makes its parameters and what applies them.

    Args:
        build: makes the module from random number generators; all its state must be parameters.

    Returns:
        `init(key) -> params`, nested dicts of arrays, and `apply(params, *inputs)`.
    """

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)

    def apply(params, *inputs):
        return nnx.merge(graph, params)(*inputs)

    return init, apply


def hidden_matrices(params: Any) -> Any:
    """Says which parameters are the matrices of hidden layers, as methods for matrices ask for it.

    Args:
        params: of a module whose last layer is called `output`.

    Returns:
        The input and output axes of kernels as Optax's Muon takes them; None for embeddings, the last layer, and what
        is no kernel.
    """
    return flax_dimension_numbers(params, exclude=lambda path: path.startswith("output/"))
