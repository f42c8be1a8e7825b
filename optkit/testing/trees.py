"""Parameter trees on which the contract is checked, and the differences of two trees."""

from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.types import DTypeLike

DTYPES = ("float16", "bfloat16", "float32", "float64")
ORDINARY = {"kernel": (6, 4), "bias": (4,)}
SHAPES = {"scalar": (), "vector": (5,), "matrix": (4, 6), "convolution kernel": (3, 3, 2, 4)}
EMPTY_SHAPES = {"empty vector": (0,), "matrix without rows": (0, 3), "matrix without columns": (3, 0)}


@chex.dataclass
class Layer:
    """A layer's parameters as a dataclass."""

    kernel: Any
    bias: Any


def abstract(shapes: Any, dtype: DTypeLike = "float32") -> Any:
    """Turns a tree of shapes into a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), shapes, is_leaf=_is_shape)


def normal(like: Any, seed: int) -> Any:
    """Fills a tree of arrays or `jax.ShapeDtypeStruct` with standard normal numbers; equal seeds give equal numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), like)


def containers() -> Iterator[tuple[str, Any]]:
    """Yields abstract float32 parameters in every kind of tree that training loops use, each with its name."""
    kernel, bias = abstract((6, 4)), abstract((4,))
    yield "nested dicts", {"encoder": {"kernel": kernel, "bias": bias}, "decoder": {"norm": {"scale": bias}}}
    yield "tuples and lists", ({"kernel": kernel}, [bias, (kernel,)])
    yield "a dataclass", Layer(kernel=kernel, bias=bias)
    yield "one array", kernel
    yield "Flax Linen parameters", _linen_parameters()
    yield "Flax NNX parameters", _nnx_parameters()


def flatten(tree: Any) -> list[tuple[str, Any]]:
    """Lists the leaves of a tree with their places in words."""
    return [(jax.tree_util.keystr(path) or "the only leaf", leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def type_differences(expected: Any, actual: Any, name: str) -> list[str]:
    """Lists where two trees differ in structure, shape, dtype or weak type.

    Args:
        expected: Arrays or `jax.ShapeDtypeStruct`.
        actual: Arrays or `jax.ShapeDtypeStruct`.
        name: Name of the trees, for the messages.

    Returns:
        One line per leaf that differs, or one line for the structure.
    """
    if jax.tree.structure(expected) != jax.tree.structure(actual):
        structures = f"expected {jax.tree.structure(expected)}, got {jax.tree.structure(actual)}"
        return [f"the structure of the {name} changes: {structures}"]
    pairs = zip(flatten(expected), jax.tree.leaves(actual), strict=True)
    return [
        f"the {name} leaf {place}: expected {_type(want)}, got {_type(got)}"
        for (place, want), got in pairs
        if _type(want) != _type(got)
    ]


def value_differences(expected: Any, actual: Any, name: str, tolerance: Any = 0.0) -> list[str]:
    """Lists where two trees of equal structure differ in value.

    Args:
        expected: Arrays.
        actual: Arrays.
        name: Name of the trees, for the messages.
        tolerance: The largest absolute difference allowed: a number, or a tree of numbers or arrays. With 0, bits must
            agree, and NaN agrees with NaN. Default: 0.

    Returns:
        One line per leaf that differs, or one line for the structure.
    """
    if jax.tree.structure(expected) != jax.tree.structure(actual):
        return type_differences(expected, actual, name)
    tolerances = jax.tree.broadcast(tolerance, expected)
    lines = []
    for (place, want), got, allowed in zip(
        flatten(expected), jax.tree.leaves(actual), jax.tree.leaves(tolerances), strict=True
    ):
        want, got = to_numpy(want), to_numpy(got)  # noqa: PLW2901  (comparing JAX arrays would compile)
        if want.shape != got.shape:
            lines.append(f"the {name} leaf {place}: expected shape {want.shape}, got {got.shape}")
            continue
        if np.array_equal(want, got, equal_nan=jnp.issubdtype(want.dtype, jnp.floating)):
            continue
        difference = np.abs(want.astype(np.float64) - got.astype(np.float64))
        if not np.all(difference <= allowed):
            lines.append(
                f"the {name} leaf {place}: expected {_first(want)}, got {_first(got)}, "
                f"largest difference {np.max(difference):.2g} where {np.max(allowed):.2g} is allowed"
            )
    return lines


def to_numpy(x: Any) -> np.ndarray:
    """Copies an array to the host; of a typed key, it copies the data."""
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def _is_shape(x: Any) -> bool:
    return type(x) is tuple and all(isinstance(size, int) for size in x)


def _type(x: Any) -> str:
    weak = " (weak type)" if getattr(x, "weak_type", False) else ""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]{weak}"


def _first(x: np.ndarray) -> str:
    """Shows the first entries of an array."""
    shown = ", ".join(f"{entry:.6g}" for entry in x.ravel()[:3].astype(np.float64))
    return f"[{shown}{', ...' if x.size > 3 else ''}]"


def _linen_parameters() -> Any:
    from flax import linen  # noqa: PLC0415  (Flax is an extra)

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.LayerNorm()(linen.Conv(4, (3, 3))(x))
            return linen.Dense(3)(x.mean((1, 2)))

    return jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, 5, 5, 2)))["params"]


def _nnx_parameters() -> Any:
    from flax import nnx  # noqa: PLC0415  (Flax is an extra)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.convolution = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.dense = nnx.Linear(4, 3, rngs=rngs)

    return nnx.state(nnx.eval_shape(lambda: Model(nnx.Rngs(0))), nnx.Param)
