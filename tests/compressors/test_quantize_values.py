import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from round_trips import sent

from optkit.compressors import hard_threshold, quantize_values, rand_k, scaled_sign, top_k


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("compressor", [top_k(0.5), rand_k(0.5, key=0)], ids=["top_k", "rand_k"])
def test_kept_entries_go_to_the_nearest_level(compressor, bits):
    x = normal(40)
    kept, rounded = map(np.asarray, (sent(compressor, x), sent(quantize_values(compressor, bits), x)))
    levels = np.linspace(-1, 1, 2**bits) * float(np.max(np.abs(kept)))
    nearest = levels[np.argmin(np.abs(levels[None] - kept[:, None]), axis=1)]
    np.testing.assert_allclose(rounded, np.where(kept == 0, 0, nearest), rtol=1e-5)


def test_zeros_that_are_kept_stay_zero():
    x = np.zeros(20, np.float32)
    x[[3, 7]] = [1.0, -3.0]
    np.testing.assert_allclose(sent(quantize_values(top_k(1.0)), x), x, rtol=1e-6)
    np.testing.assert_allclose(sent(quantize_values(rand_k(1.0, key=0)), x), x, rtol=1e-6)


def test_entries_below_a_threshold_stay_zero():
    compressor, x = hard_threshold(1.0, 0.9), np.asarray(normal(100))
    kept, rounded = map(np.asarray, (sent(compressor, x), sent(quantize_values(compressor, 4), x)))
    np.testing.assert_array_equal(kept, np.where(np.abs(x) >= 1.0, x, 0))
    np.testing.assert_array_equal(rounded == 0, kept == 0)


def test_a_threshold_keeps_the_largest_entries_if_too_many_reach_it():
    x = normal(100)
    np.testing.assert_array_equal(sent(hard_threshold(0.1, 0.05), x), sent(top_k(0.05), x))


def test_a_threshold_may_be_traced():
    x = jnp.array([3.0, -1.0, 2.0])
    kept = jax.jit(lambda threshold: sent(hard_threshold(threshold, 1.0), x))(2.5)
    assert kept.tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", [0, 3, 2.5, 16])
def test_a_wrong_number_of_bits_is_named(bits):
    with pytest.raises(ValueError, match=f"bits must be 1, 2, 4 or 8, got {bits}"):
        quantize_values(top_k(), bits)


def test_compressors_that_keep_no_entries_are_refused():
    compressor = quantize_values(scaled_sign())
    with pytest.raises(
        TypeError, match="quantize_values needs a compressor that keeps entries, such as top_k, got one"
    ):
        compressor.compress(jnp.ones(4), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0,), r"threshold must be in \[0, inf\], got -1"), ((1.0, 0.0), "density must be in")],
)
def test_a_wrong_threshold_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hard_threshold(*arguments)
