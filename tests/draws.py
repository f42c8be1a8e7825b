"""Numbers that tests draw, by NumPy: it compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0, dtype=None):
    """One array."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def normal_like(tree, seed=0, *, rows=()):
    """A tree of arrays with the shapes and dtypes of another, behind the axes `rows`; other numbers in each leaf."""
    rng = np.random.default_rng(seed)

    def draw(x):
        numbers = rng.standard_normal((*rows, *x.shape))
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            numbers = numbers + 1j * rng.standard_normal(numbers.shape)
        return jnp.asarray(numbers, jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(draw, tree)


def with_singular_values(values, rows, columns, *, seed=0):
    """A NumPy matrix in double precision with these singular values, and with singular vectors that are drawn."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (rows, columns))
    return left * values @ right.T
