import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from optkit.core import quantization
from optkit.core.quantization import quantized_zeros

quantize = jax.jit(quantization.quantize, static_argnums=(1, 2, 3))
dequantize = jax.jit(quantization.dequantize, static_argnums=(1, 2, 3, 4))


@pytest.mark.parametrize(("bits", "size"), [(1, 37), (2, 37), (4, 37), (4, 16), (4, 7), (4, 1), (8, 37)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_nothing_moves_by_more_than_half_a_step(bits, size, dtype, offset):
    x = offset + normal(size, seed=size)
    kept = quantize(x, bits, 8, dtype)
    steps = np.repeat((np.float32(kept.high) - np.float32(kept.low)) / (2**bits - 1), 8)[:size]
    moved = np.abs(np.asarray(dequantize(kept, size, bits, 8, jnp.float32) - x))
    rounding = 4 * np.finfo(np.float32).eps * (1 + np.abs(x))
    assert np.all(moved <= steps / 2 + rounding)


@pytest.mark.parametrize("offset", [-300.0, 0.0, 300.0])
def test_narrow_ranges_hold_every_entry_and_are_at_most_one_rounding_too_wide(offset):
    x = offset + normal(64, seed=64)
    kept = quantize(x, 4, 64, jnp.bfloat16)
    x, low, high = np.asarray(x), float(kept.low[0]), float(kept.high[0])
    one_rounding = float(jnp.finfo(jnp.bfloat16).eps) * np.max(np.abs(x))
    assert np.min(x) - one_rounding <= low <= np.min(x)
    assert np.max(x) <= high <= np.max(x) + one_rounding


@pytest.mark.parametrize("value", [0.0, 1.5, -7.0])
def test_blocks_of_equal_entries_are_kept_exactly(value):
    x = jnp.full(10, value)
    np.testing.assert_array_equal(dequantize(quantize(x, 4, 4, jnp.bfloat16), 10, 4, 4, jnp.float32), x)


@pytest.mark.usefixtures("x64")
def test_ends_of_a_range_are_kept_exactly():
    x = jnp.linspace(-1.0, 2.0, 16)
    np.testing.assert_allclose(dequantize(quantize(x, 4, 16, jnp.float64), 16, 4, 16, jnp.float64), x, atol=1e-15)


@pytest.mark.parametrize(("bits", "codes"), [(1, [0b01000000]), (2, [0b00110000]), (4, [0x0F, 0x00]), (8, [0, 255, 0])])
def test_the_first_code_is_in_the_highest_bits(bits, codes):
    assert quantize(jnp.array([0.0, 1.0, 0.0]), bits, 3, jnp.float32).codes.tolist() == codes


@pytest.mark.parametrize("size", [0, 1, 7, 37])
@pytest.mark.parametrize("bits", [1, 4])
def test_zeros_are_what_quantization_makes_of_zeros(size, bits):
    zeros = quantized_zeros(size, bits, 8, jnp.bfloat16)
    made = quantize(jnp.zeros(size), bits, 8, jnp.bfloat16)
    for expected, actual in zip(zeros, made, strict=True):
        assert (expected.shape, expected.dtype) == (actual.shape, actual.dtype)
        np.testing.assert_array_equal(expected, actual)


@pytest.mark.slow
def test_a_nan_spoils_its_block_only():
    x = jnp.arange(8.0).at[1].set(jnp.nan)
    back = dequantize(quantize(x, 4, 4, jnp.float32), 8, 4, 4, jnp.float32)
    assert jnp.all(jnp.isnan(back[:4]))
    np.testing.assert_allclose(back[4:], x[4:], atol=0.1)
