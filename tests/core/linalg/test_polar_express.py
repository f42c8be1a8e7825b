import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, with_singular_values

from optkit.core.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC, QUINTIC_DION, newton_schulz, polar_express


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(12, 16), (16, 12)])
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_each_step_has_its_polynomial_and_the_last_one_is_repeated(shape, steps):
    x = normal(*shape)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    values /= 1.02 * np.linalg.norm(values)
    for a, b, c in (*POLAR_EXPRESS, POLAR_EXPRESS[-1], POLAR_EXPRESS[-1])[:steps]:
        values = a * values + b * values**3 + c * values**5
    found = jax.jit(functools.partial(polar_express, steps=steps, eps=0.0))(x)
    np.testing.assert_allclose(found, (left * values) @ right, atol=1e-12)


@pytest.mark.parametrize(("coefficients", "norm_factor", "low", "high"), [
    (QUINTIC, 1.0, 0.68, 1.20),
    (QUINTIC_DION, 1.0, 0.98, 1.14),
    (POLAR_EXPRESS, 1.02, 0.86, 1.14),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("x64")
def test_five_steps_bring_singular_values_into_the_published_range(coefficients, norm_factor, low, high, dtype):
    x = with_singular_values(np.logspace(0, -2, 64), 64, 64).astype(dtype)
    result = jax.jit(functools.partial(newton_schulz, coefficients=coefficients, norm_factor=norm_factor))(x)
    values = np.linalg.svd(result, compute_uv=False)
    assert result.dtype == dtype
    assert abs(np.min(values) - low) < 0.02
    assert abs(np.max(values) - high) < 0.02


def test_a_list_of_triples_is_a_sequence():
    x = jnp.asarray(with_singular_values(np.logspace(0, -1, 64), 64, 64), jnp.float32)
    lists = [list(triple) for triple in QUINTIC_DION]
    expected = newton_schulz(x, coefficients=QUINTIC_DION)
    np.testing.assert_array_equal(newton_schulz(x, coefficients=lists), expected)
