import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from golden_files import assert_replays, replays
from promises import assert_state_is_window_and_inner_products, assert_window_needs_compressed_gradients
from trajectories import compiled_first_update, flat, flat_rows, last_update

from optkit.compressors import global_top_k
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._ggt import ggt, scale_by_ggt
from optkit.memory_efficient._sparse_ggt import sparse_ggt
from optkit.testing import golden


def recorded_optimizer(recording):
    recorded = recording.hyperparams
    assert recorded["flatten_order"] == sorted(recording.tree("params0"))
    rate, window, eps, decay = (recorded[name] for name in ("learning_rate", "window", "eps", "weight_decay"))
    jitter = recorded["gram_jitter"]
    if recording.meta["method"] == "efcp_ggt":
        compressor = global_top_k(recorded["density"])
        inner = scale_by_ggt(window, None, 1.0, eps, jitter=jitter, compressor=compressor)
        scale = error_feedback(inner, compressor)
    else:
        scale = scale_by_ggt(window, recorded["b1"], recorded["b2"], eps, jitter=jitter, undecayed_backprojection=True)
    return optax.chain(optax.add_decayed_weights(decay), scale, optax.scale_by_learning_rate(rate))


@pytest.mark.slow
@replays("ggt", "efcp_ggt")
def test_golden_ggt(recording):
    assert_replays(recording, golden.replay_gradients(recorded_optimizer(recording), recording))


SHAPES = {"kernel": (6, 4), "convolution": (2, 3, 2, 2), "scalar": (), "bias": (5,), "empty": (0, 3)}
LIKE = {**{name: np.zeros(shape) for name, shape in SHAPES.items()}, "none": None}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_full_window_without_decay_gives_the_inverse_root_on_its_span():
    gradients = normal_like(LIKE, rows=(5,))
    updates = last_update(scale_by_ggt(5, eps=1e-12), gradients)
    rows = flat_rows(gradients)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    inverse_root = vectors[:, -5:] / np.sqrt(values[-5:]) @ vectors[:, -5:].T
    np.testing.assert_allclose(flat(updates), inverse_root @ rows[-1], atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("b1", [None, 0.0, 0.7])
@pytest.mark.parametrize("jitter", [0.0, 0.5])
@pytest.mark.parametrize("undecayed_backprojection", [False, True])
def test_the_update_is_the_formula(b1, jitter, undecayed_backprojection):
    window, b2, eps = 4, 0.8, 0.1
    gradients = normal_like(LIKE, rows=(7,))
    tx = scale_by_ggt(window, b1, b2, eps, jitter=jitter, undecayed_backprojection=undecayed_backprojection)
    updates = last_update(tx, gradients)
    momentum = 0.0
    for gradient in flat_rows(gradients):
        momentum = (b1 or 0.0) * momentum + (1 - (b1 or 0.0)) * gradient
    rows = flat_rows(gradients)[-window:]
    decayed = rows * b2 ** np.arange(window)[::-1, None]
    squares, vectors = np.linalg.eigh(decayed @ decayed.T + jitter * np.eye(window))
    values = np.sqrt(squares)
    span = (rows if undecayed_backprojection else decayed).T @ vectors / values
    expected = span @ ((1 / (values + eps) - 1 / eps) * (span.T @ momentum)) + momentum / eps
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_steps_are_not_longer_than_the_learning_rate():
    for tx in (ggt(0.1, 4, eps=1e-8), sparse_ggt(0.1, 4, eps=1e-8, density=0.2)):
        for steps in (1, 3, 9):
            updates = last_update(tx, normal_like(LIKE, rows=(steps,)))
            assert 0.01 < np.linalg.norm(flat(updates)) < 0.1001


def test_a_singular_window_in_float32_gives_a_step_of_bounded_length():
    common, apart = normal_like(LIKE), normal_like(LIKE, 1, rows=(8,))
    tx = scale_by_ggt(8, eps=1e-8)
    for spread in np.float32([0.0, 1e-7, 1e-4]):
        gradients = jax.tree.map(lambda x, d, spread=spread: np.asarray(x) + spread * np.asarray(d), common, apart)
        assert 0.3 < np.linalg.norm(flat(last_update(tx, gradients))) < 1.1, spread


@pytest.mark.slow
def test_everything_kept_is_the_whole_window():
    gradients = normal_like(LIKE, rows=(6,))
    sparse, whole = (last_update(tx, gradients) for tx in (sparse_ggt(0.1, 3, density=1.0), ggt(0.1, 3)))
    np.testing.assert_allclose(flat(sparse), flat(whole), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_zero_give_updates_of_zero():
    zeros = jax.tree.map(np.zeros_like, normal_like(LIKE, rows=(2,)))
    for tx in (ggt(0.1, 3), ggt(0.1, 3, b1=0.9), sparse_ggt(0.1, 3, density=0.1)):
        np.testing.assert_array_equal(flat(last_update(tx, zeros)), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("tx", [ggt(0.1, 3), sparse_ggt(0.1, 3)])
def test_empty_trees_are_left_alone(tx):
    assert compiled_first_update(tx, {}, {}) == {}


@pytest.mark.slow
def test_decay_is_added_to_the_gradient():
    params = normal_like(LIKE)
    zeros = jax.tree.map(np.zeros_like, params)
    tx = ggt(0.1, 3, weight_decay=2.0)
    updates = compiled_first_update(tx, zeros, params)
    np.testing.assert_allclose(flat(updates), -0.1 * flat(params) / np.linalg.norm(flat(params)), rtol=1e-4)


LARGE = {"hidden": (300, 200), "output": (200, 10), "bias": (200,)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in LARGE.items()}
SIZE = sum(math.prod(shape) for shape in LARGE.values())


@pytest.mark.parametrize(
    ("tx", "bytes_of_state"),
    [
        (ggt(0.1, 16), 16 * 4 * SIZE),
        (ggt(0.1, 16, b1=0.9), 17 * 4 * SIZE),
        (sparse_ggt(0.1, 16), 16 * (SIZE // 100) * (4 + 4) + 4 * SIZE),
        (sparse_ggt(0.1, 16, window_dtype=jnp.bfloat16), 16 * (SIZE // 100) * (2 + 4) + 4 * SIZE),
    ],
)
def test_state_is_the_window_and_its_inner_products(tx, bytes_of_state):
    assert_state_is_window_and_inner_products(tx, bytes_of_state, PARAMS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ggt(0.1, 0), "window must be a positive integer, got 0"),
        (lambda: ggt(0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: ggt(0.1, b2=1.5), r"b2 must be in \[0, 1\], got 1.5"),
        (lambda: ggt(0.1, eps=0.0), r"eps must be in \(0, inf\], got 0.0"),
        (lambda: scale_by_ggt(jitter=-1.0), r"jitter must be in \[0, inf\], got -1.0"),
        (lambda: ggt(0.1, weight_decay=-1.0), r"weight_decay must be in \[0, inf\], got -1.0"),
        (lambda: sparse_ggt(0.1, density=2.0), r"density must be in \(0, 1\], got 2.0"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_a_compressed_window_says_where_it_must_stand():
    assert_window_needs_compressed_gradients(scale_by_ggt(2, compressor=global_top_k(0.5)), "scale_by_ggt")
