import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

import optkit


def test_attackers_are_the_last_workers_stacked_or_not():
    rows = np.arange(8, dtype=np.float32)[:, None]
    stacked = optkit.attacks.under_attack(optkit.attacks.sign_flip, 2)
    expected = np.array([0, 1, 2, 3, 4, 5, -2.5, -2.5])[:, None]
    np.testing.assert_allclose(jax.jit(stacked.update)(rows, stacked.init(None))[0], expected)
    own = optkit.attacks.under_attack(optkit.attacks.sign_flip, 2, axis_name="workers")
    over = optkit.on_workers(lambda x: own.update(x, own.init(None))[0], axis_name="workers", backend="shard_map")
    np.testing.assert_allclose(over(rows), expected)


@pytest.mark.slow
def test_noise_is_drawn_anew_each_step():
    tx = optkit.attacks.under_attack(lambda honest, key: optkit.attacks.gaussian_noise(honest, 2.0, key), 1, key=0)
    rows, update = np.zeros((3, 2000), np.float32), jax.jit(tx.update)
    first, state = update(rows, tx.init(None))
    second, _ = update(rows, state)
    first, second = np.asarray(first), np.asarray(second)
    assert not np.allclose(first[2], second[2])
    np.testing.assert_allclose(np.std(first[2]), 2.0, rtol=0.1)
    np.testing.assert_array_equal(first[:2], 0.0)


def test_scaled_inner_product_cancels_the_mean():
    honest = normal(6, 4, seed=1)
    sent = jax.jit(optkit.attacks.inner_product_manipulation)(honest, 6 / 2)
    np.testing.assert_allclose(np.asarray(honest).sum(axis=0) + 2 * np.asarray(sent), 0.0, atol=1e-5)


@pytest.mark.slow
def test_long_among_kept_passes_cge():
    honest = normal(6, 4, seed=2)
    sent = jax.jit(lambda rows: optkit.attacks.long_among_kept(rows, 2))(honest)
    norms = np.sort(np.linalg.norm(honest, axis=1))
    np.testing.assert_allclose(np.linalg.norm(sent), norms[4], rtol=1e-6)


def test_outlying_worker_is_mimicked():
    honest = np.float32([[1.0, 5.0], [-4.0, 0.0], [3.0, 9.0]])
    worker = jax.jit(optkit.attacks.outlying_worker)(honest, np.float32([1.0, 0.0]))
    np.testing.assert_array_equal(jax.jit(optkit.attacks.mimic)(honest, worker), honest[1])


def test_label_flip_twice_is_nothing():
    labels = jnp.arange(10)
    np.testing.assert_array_equal(optkit.attacks.label_flip(optkit.attacks.label_flip(labels, 10), 10), labels)


def test_the_last_workers_draw_by_a_key_that_may_be_traced():
    rows = jnp.ones((4, 2))

    def sent(key):
        tx = optkit.attacks.under_attack(
            lambda honest, key: optkit.attacks.gaussian_noise(honest, 1.0, key), 1, key=key
        )
        return tx.update(rows, tx.init(None))[0]

    expected = sent(3)
    np.testing.assert_array_equal(jax.jit(sent)(3), expected)
    np.testing.assert_array_equal(jax.jit(sent)(jax.random.key(3)), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.attacks.hidden_deviations(8, 4), r"byzantine must be in \[1, 4\), got 4"),
        (lambda: optkit.attacks.hidden_deviations(8, 0), "byzantine must be a positive integer, got 0"),
        (lambda: optkit.attacks.gaussian_noise(jnp.zeros((2, 1)), -1.0, 0), "scale must be in"),
        (lambda: optkit.attacks.long_among_kept(jnp.zeros((2, 1)), 2), r"byzantine must be in \[1, 1\], got 2"),
        (lambda: optkit.attacks.under_attack(optkit.attacks.mimic, 0), "byzantine must be a positive integer, got 0"),
        (
            lambda: optkit.attacks.attacked_mix(optkit.mix, optkit.attacks.mimic, 0),
            "byzantine must be a positive integer, got 0",
        ),
        (
            lambda: optkit.attacks.under_attack(optkit.attacks.mimic, 3).update(
                jnp.zeros((3, 1)), optkit.attacks.under_attack(optkit.attacks.mimic, 3).init(None)
            ),
            r"byzantine must be in \[1, 2\], got 3",
        ),
        (
            lambda: optkit.attacks.strongest(
                optkit.attacks.a_little_is_enough, jnp.zeros((3, 1)), 1, optkit.trimmed_mean(1), 0
            ),
            "evaluations must be a positive integer, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
