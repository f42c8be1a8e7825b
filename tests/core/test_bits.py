import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optkit.core.bits import pack, unpack


@pytest.mark.parametrize("bits", [1, 3, 8, 9])
def test_unpacked_codes_are_those_that_were_packed(bits):
    codes = jax.random.randint(jax.random.key(bits), (37,), 0, 2**bits).astype(jnp.uint32)
    np.testing.assert_array_equal(unpack(pack(codes, bits), 37, bits), codes)


@pytest.mark.parametrize(("size", "bits", "expected"), [(0, 3, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (37, 9, 42)])
def test_codes_take_their_bits_and_no_more_than_a_byte_is_filled_up(size, bits, expected):
    packed = pack(jnp.zeros(size, jnp.uint32), bits)
    assert (packed.shape, packed.dtype) == ((expected,), jnp.uint8)
