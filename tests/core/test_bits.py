import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optkit.core.bits import pack, unpack


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 9])
def test_unpacked_codes_are_those_that_were_packed(bits):
    codes = jax.random.randint(jax.random.key(bits), (37,), 0, 2**bits).astype(jnp.uint32)
    np.testing.assert_array_equal(unpack(pack(codes, bits), 37, bits), codes)


@pytest.mark.parametrize(
    ("size", "bits", "expected"), [(0, 3, 0), (0, 4, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (9, 4, 5), (37, 9, 42)]
)
def test_codes_take_their_bits_and_no_more_than_a_byte_is_filled_up(size, bits, expected):
    packed = pack(jnp.zeros(size, jnp.uint32), bits)
    assert (packed.shape, packed.dtype) == ((expected,), jnp.uint8)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 9])
def test_the_first_code_is_in_the_highest_bits(bits):
    codes = jax.random.randint(jax.random.key(bits), (37,), 0, 2**bits).astype(jnp.uint32)
    digits = "".join(f"{int(code):0{bits}b}" for code in codes)
    digits += "0" * (-len(digits) % 8)
    assert pack(codes, bits).tolist() == [int(digits[start : start + 8], 2) for start in range(0, len(digits), 8)]
