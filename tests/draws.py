"""Normal numbers that tests draw, by NumPy: it compiles nothing."""

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
        return jnp.asarray(rng.standard_normal((*rows, *x.shape)), jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(draw, tree)
