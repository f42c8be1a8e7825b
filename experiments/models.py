"""Flax NNX modules as pure functions of a plain tree of parameters."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


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
