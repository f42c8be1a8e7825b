"""Dimension numbers of Flax models: which axes of their kernels are inputs and which are outputs."""

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
    """Returns which axes of a Flax model's kernels are inputs and which are outputs, from the names of the leaves.

    Use it as `weight_dimension_numbers` of any optimizer for matrices, also of `optax.contrib.muon`: leaves for which
    it returns None are left to the optimizer of the other parameters. It returns numbers for leaves named `kernel`:

    - If the layer is named `query`, `key` or `value` and the kernel has three axes, as in Flax's attention (inputs,
      heads, size of a head), the first axis is the input and the other two are outputs.
    - In all other kernels, those of dense layers, of convolutions and of attention's `out`, the last axis is the output
      and the rest are inputs.

    Biases, scales, embeddings and leaves with other names get None. Avoid it without `exclude` for the last layer, for
    depthwise convolutions, and for kernels whose axes have other meanings, such as those of an einsum, because it
    cannot tell them apart.

    Args:
        params: The parameters of a Linen or NNX model.
        exclude: A function that returns for the path of a leaf, such as `"params/decoder/head/kernel"`, whether it gets
            None. Default: no kernel is excluded.
        stacked: A function that returns for a path whether the first axis of the leaf counts layers, as `nn.scan` and
            `nnx.vmap` make them. Each layer is then a matrix. Default: no leaf is stacked.

    Returns:
        A tree of `MuonDimensionNumbers` and None.

    Raises:
        TypeError: If `params` is a single number, which is what `optax.inject_hyperparams` passes to functions.

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
        summary="Returns which axes of a Flax model's kernels are inputs and outputs, for optimizers of matrices.",
        also_known_as=("MuonDimensionNumbers", "muon_weight_dimension_numbers"),
    ),
)
