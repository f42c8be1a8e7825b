"""The parameters of transformers, as shapes."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Size(NamedTuple):
    """How large a transformer is.

    Attributes:
        vocabulary: number of tokens.
        positions: length of the context.
        width: features of each position.
        layers: number of blocks.
    """

    vocabulary: int
    positions: int
    width: int
    layers: int


SIZES: Mapping[str, Size] = {
    "7M": Size(vocabulary=8192, positions=512, width=256, layers=6),
    "50M": Size(vocabulary=50304, positions=1024, width=512, layers=8),
}
DTYPES = ("float32", "bfloat16", "float16")


def parameters(size: Size, dtype: Any) -> Any:
    """Returns the parameters of a decoder in the manner of GPT-2, its embedding shared with its output.

    Args:
        size: how large it is.
        dtype: of all parameters.

    Returns:
        A tree of `jax.ShapeDtypeStruct`; every kernel is a matrix.
    """
    # Here, since the command line reads the names above before anything else is imported.
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    width = size.width

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

    def norm():
        return {"scale": array(width), "bias": array(width)}

    def dense(inputs, outputs):
        return {"kernel": array(inputs, outputs), "bias": array(outputs)}

    def block():
        attention = {name: dense(width, width) for name in ("query", "key", "value", "out")}
        feed_forward = {"expand": dense(width, 4 * width), "contract": dense(4 * width, width)}
        return {
            "attention_norm": norm(),
            "attention": attention,
            "feed_forward_norm": norm(),
            "feed_forward": feed_forward,
        }

    return {
        "tokens": array(size.vocabulary, width),
        "positions": array(size.positions, width),
        "blocks": [block() for _ in range(size.layers)],
        "norm": norm(),
    }
