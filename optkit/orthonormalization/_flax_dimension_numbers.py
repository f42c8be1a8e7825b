"""Which axes of a Flax model's kernels are inputs and outputs, for optimizers of matrices."""

from collections.abc import Callable
from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

from optkit.core.injection import refuse_scalar
from optkit.core.linalg.matrix_view import leaf_name
from optkit.method import Method

__all__ = ["flax_dimension_numbers"]


def flax_dimension_numbers(
    params: Any,
    exclude: Callable[[str], bool] | None = None,
    stacked: Callable[[str], bool] | None = None,
) -> Any:
    """Says which axes of a Flax model's kernels are inputs and outputs, by their names.

    Give it as `weight_dimension_numbers` to any optimizer for matrices, `optax.contrib.muon` among them: leaves for
    which it has None go to the optimizer for other parameters. It has numbers for leaves named `kernel`:

    - those of layers `query`, `key` and `value` with three axes, as attention in Flax makes them (inputs, heads, size
      of a head), have the first axis for inputs and two for outputs;
    - all others have the last axis for outputs and the rest for inputs: dense layers, convolutions, and attention's
      `out`.

    Biases, scales, embeddings and other names have None. Exclude the last layer, depthwise convolutions, and kernels
    with axes of other meanings, such as those of an einsum.

    Args:
        params: parameters of a Linen or NNX model.
        exclude: says of a leaf's path, such as `"params/decoder/head/kernel"`, whether it has None. By default all
            kernels have numbers.
        stacked: says of a path whether the leaf's first axis counts layers, as `nn.scan` and `nnx.vmap` make them: each
            of them is a matrix. By default none.

    Returns:
        A tree of `MuonDimensionNumbers` and None.

    Raises:
        TypeError: if `params` is a lone number, which is what `optax.inject_hyperparams` hands to functions.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"layer": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}, "head": {"kernel": jnp.ones((8, 9))}}
        >>> numbers = flax_dimension_numbers(params, exclude=lambda path: path.startswith("head"))
        >>> numbers["layer"]
        {'bias': None, 'kernel': MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))}
        >>> numbers["head"]
        {'kernel': None}
    """
    refuse_scalar("weight_dimension_numbers", params)

    def numbers(path, x):
        name = leaf_name(path)
        *_, layer, leaf = ("", *name.split("/"))
        axes = x.ndim - (stacked is not None and stacked(name))
        if leaf != "kernel" or axes < 2 or (exclude is not None and exclude(name)):
            return None
        outputs = 2 if layer in {"query", "key", "value"} and axes == 3 else 1
        return MuonDimensionNumbers(tuple(range(-axes, -outputs)), tuple(range(-outputs, 0)))

    return jax.tree.map_with_path(numbers, params)


METHODS = (
    Method(
        name="flax_dimension_numbers",
        factory=flax_dimension_numbers,
        kind="function",
        summary="Says which axes of a Flax model's kernels are inputs and outputs, for optimizers of matrices.",
        also_known_as=("MuonDimensionNumbers", "muon_weight_dimension_numbers"),
    ),
)
