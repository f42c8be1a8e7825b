"""Cube roots are right at all scales."""

import jax.numpy as jnp
import numpy as np

from optkit.core.roots import cube_root


def test_cube_roots_are_right_to_two_units_of_rounding_at_all_scales():
    limits = np.finfo(np.float32)
    drawn = 10 ** np.random.default_rng(0).uniform(-37, 38, 10_000)
    x = np.concatenate([drawn, [limits.tiny, limits.max, 1.0, 8.0, 1e-3]]).astype(np.float32)
    np.testing.assert_allclose(cube_root(jnp.array(x)), np.cbrt(x.astype(np.float64)), rtol=limits.eps, atol=0)


def test_zero_infinity_and_nan_have_themselves_as_cube_roots():
    x = np.array([0.0, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(cube_root(jnp.array(x)), x)


def test_other_dtypes_keep_their_precision():
    assert cube_root(jnp.array([8.0], jnp.bfloat16)).dtype == jnp.bfloat16
