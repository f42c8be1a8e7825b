import jax
import numpy as np
import pytest
from draws import normal
from round_trips import round_trip, sent

from optkit.compressors import ternary


@pytest.mark.parametrize("follow", ["paper", "code"])
def test_the_mean_over_draws_is_the_clipped_vector(follow):
    x = np.array(normal(50))
    x[7] = 20.0
    compressor = ternary(2.5, key=0, follow=follow)

    def step(state, _):
        message, state = compressor.compress(x, state)
        return state, compressor.decompress(message, x)

    draws = np.asarray(jax.jit(lambda state: jax.lax.scan(step, state, length=4000)[1])(compressor.init(x)))
    limit = 2.5 * np.std(x)
    assert 3 < limit < 20
    noise = np.sqrt(np.sum(draws.var(axis=0)) / len(draws))
    assert np.linalg.norm(draws.mean(axis=0) - np.clip(x, -limit, limit)) < 2 * noise
    np.testing.assert_allclose(np.unique(np.abs(draws)), [0, limit], rtol=1e-5)


@pytest.mark.parametrize("follow", ["paper", "code"])
@pytest.mark.parametrize("x", [np.float32(-0.1), np.full(1000, 0.1, np.float32), np.float32([3.0])])
def test_leaves_of_equal_entries_are_sent_as_they_are(x, follow):
    np.testing.assert_array_equal(sent(ternary(key=0, follow=follow), x), x)


def test_workers_share_the_largest_scale_or_have_their_own():
    rows = np.asarray(normal(4, 30)) * np.float32([[1.0], [2.0], [0.1], [3.0]])

    def scales(**arguments):
        compressor = ternary(0.0, key=0, axis_name="workers", **arguments)
        return jax.jit(jax.vmap(lambda x: round_trip(compressor, x).message.scale, axis_name="workers"))(rows)

    largest = np.max(np.abs(rows), axis=1)
    np.testing.assert_allclose(scales(share_scale=False), largest, rtol=1e-6)
    np.testing.assert_allclose(scales(), np.full(4, np.max(largest)), rtol=1e-6)


def test_the_constant_is_reached_by_one_large_and_many_small_entries():
    d = 101
    x = np.r_[1.0, np.full(d - 1, (np.sqrt(d) - 1) / (d - 1))]
    variance = np.sum(np.abs(x)) - np.sum(x**2)
    np.testing.assert_allclose(variance / np.sum(x**2), ternary(0.0, key=0).omega(x))
    assert ternary(key=0).omega is None
    assert ternary(0.0, key=0, axis_name="workers").omega is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_factor": -1.0}, r"clip_factor must be in \[0, inf\]"),
        ({"follow": "me"}, "follow must be 'paper', 'code'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ternary(key=0, **arguments)
