import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from golden_files import assert_replays, replays
from promises import assert_state_is_window_and_inner_products
from trajectories import compiled_first_update, first_update, flat, flat_rows, last, last_update, trajectory

from optkit import low_rank_m_fac, m_fac, on_workers
from optkit.compressors import low_rank
from optkit.memory_efficient._error_feedback import ErrorFeedbackState, error_feedback
from optkit.memory_efficient._m_fac import scale_by_m_fac
from optkit.testing import golden


def options_of(recording):
    recorded = recording.hyperparams
    assert recorded["flatten_order"] == sorted(recording.tree("params0"))
    return recorded.take("learning_rate", "window", "rank", "momentum", "weight_decay", damping="damp")


def as_matrices(tree):
    """The view of the code: the first axis, and all others."""
    return {name: x.reshape(x.shape[0], -1) if x.ndim > 1 else x for name, x in tree.items()}


def run_as_recorded(recording, tx):
    """Runs it on matrices, from the factors of the code, which are products with the parameters."""
    draws = recording.tree("draws.q")

    def is_feedback(node):
        return isinstance(node, ErrorFeedbackState)

    def init(params):
        params = as_matrices(params)

        def start(node):
            factors = {
                name: None if x is None else params[name].T @ jnp.linalg.qr(params[name] @ draws[name])[0]
                for name, x in node.compressor.items()
            }
            return node._replace(compressor=factors)

        state = tx.init(params)
        return jax.tree.map(lambda node: start(node) if is_feedback(node) else node, state, is_leaf=is_feedback)

    def update(updates, state, params):
        moved, state = tx.update(as_matrices(updates), state, as_matrices(params))
        return {name: x.reshape(params[name].shape) for name, x in moved.items()}, state

    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    return trajectory(optax.GradientTransformation(init, update), recording.tree("grads"), params)


@pytest.mark.slow
@replays("efcp_lowrank_mfac")
def test_golden_low_rank_m_fac(recording):
    options = options_of(recording)
    tx = low_rank_m_fac(**{**options, "momentum": options["momentum"] or None})
    assert_replays(recording, run_as_recorded(recording, tx).params)


def gram_schmidt(x):
    """That of the code, whose columns are shorter than one."""
    columns = []
    for column in jnp.moveaxis(x, -1, 0):
        rest = column
        for other in columns:
            rest = rest - jnp.sum(other * rest, axis=-1, keepdims=True) * other
        columns.append(rest / (jnp.linalg.norm(rest, axis=-1, keepdims=True) + 1e-8))
    return jnp.stack(columns, axis=-1)


def as_in_the_code(compressor):
    """Keeps factors as long as they are, which matters beside what is added to the norms of columns."""

    def compress(tree, state):
        factors, _ = compressor.compress(tree, state)
        return factors, factors.right

    return compressor._replace(compress=compress)


@pytest.mark.slow
@replays("efcp_lowrank_mfac")
def test_golden_error_of_low_rank_m_fac(recording):
    options = options_of(recording)
    compressor = as_in_the_code(low_rank(options["rank"], orthonormalize=gram_schmidt))
    tx = optax.chain(
        optax.add_decayed_weights(options["weight_decay"]),
        error_feedback(scale_by_m_fac(options["window"], options["damping"], compressor=compressor), compressor),
        optax.ema(options["momentum"], debias=False),
        optax.scale_by_learning_rate(options["learning_rate"]),
    )
    run = run_as_recorded(recording, tx)
    assert_replays(recording, run.params)
    error, expected = optax.tree.get(last(run.states), "error"), recording.tree("final_state.error")
    assert golden.deviation(flat({name: error[name] for name in expected}), flat(expected)) <= recording.meta["rtol"]


LIKE = {"kernel": np.zeros((6, 4)), "scalar": np.zeros(()), "bias": np.zeros(5), "empty": np.zeros((0, 3)), "no": None}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_update_solves_the_damped_system_of_the_low_rank_window():
    window, damping, compressor = 4, 0.1, low_rank(2)
    tx = low_rank_m_fac(1.0, window, damping, rank=2)
    gradients = normal_like(LIKE, rows=(6,))
    rows = flat_rows(trajectory(error_feedback(optax.identity(), compressor), gradients).updates)[-window:]
    fisher = damping * np.eye(rows.shape[1]) + rows.T @ rows / window
    np.testing.assert_allclose(fisher @ flat(last_update(tx, gradients)), -rows[-1], atol=1e-10)


@pytest.mark.slow
def test_full_rank_is_the_whole_window():
    gradients = normal_like(LIKE, rows=(6,))
    low, whole = (last_update(tx, gradients) for tx in (low_rank_m_fac(0.1, 3, 0.1, rank=4), m_fac(0.1, 3, 0.1)))
    np.testing.assert_allclose(flat(low), flat(whole), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_matrix_that_begins_at_zero_moves():
    """The published code never moves it."""
    gradients = normal_like(LIKE, rows=(1,))
    assert np.all(last_update(low_rank_m_fac(0.1, 3), gradients)["kernel"] != 0)


@pytest.mark.slow
def test_momentum_averages_the_updates():
    gradients = normal_like(LIKE, rows=(2,))
    first, second = flat_rows(trajectory(low_rank_m_fac(0.1, 3, 0.1), gradients).updates)
    both = last_update(low_rank_m_fac(0.1, 3, 0.1, momentum=0.9), gradients)
    np.testing.assert_allclose(flat(both), 0.09 * first + 0.1 * second, rtol=1e-4, atol=1e-7)


def test_decay_is_a_gradient_that_spares_masked_leaves():
    params = {"decayed": jnp.array([4.0, 2.0]), "free": jnp.array([4.0, 2.0])}
    tx = low_rank_m_fac(0.1, 3, 1.0, weight_decay=0.5, mask={"decayed": True, "free": False})
    updates = compiled_first_update(tx, optax.tree.zeros_like(params), params)
    gradient = {"decayed": 0.5 * params["decayed"], "free": jnp.zeros(2)}
    expected = compiled_first_update(low_rank_m_fac(0.1, 3, 1.0), gradient)
    np.testing.assert_allclose(flat(updates), flat(expected), rtol=1e-6)


def test_gradients_of_zero_give_updates_of_zero():
    zeros = optax.tree.zeros_like(normal_like(LIKE, rows=(2,)))
    np.testing.assert_array_equal(flat(last_update(low_rank_m_fac(0.1, 3), zeros)), 0.0)


def test_empty_trees_are_left_alone():
    tx = low_rank_m_fac(0.1, 3)
    assert tx.update({}, tx.init({}), {})[0] == {}


@pytest.mark.slow
def test_a_gradient_of_nan_shows():
    gradients = jax.tree.map(lambda x: x.at[0].set(jnp.nan), normal_like({"w": LIKE["kernel"]}, rows=(3,)))
    assert np.all(np.isnan(flat(last_update(low_rank_m_fac(0.1, 2), gradients))))


@pytest.mark.slow
def test_gradients_of_workers_are_averaged_first():
    gradient = {"kernel": np.arange(24.0, dtype=np.float32).reshape(2, 4, 3) ** 2 - 50.0}
    tx, alone = low_rank_m_fac(0.1, 3, axis_name="workers"), low_rank_m_fac(0.1, 3)
    updates = jax.jit(on_workers(lambda g: first_update(tx, g), axis_name="workers", backend="vmap"))(gradient)
    expected = compiled_first_update(alone, jax.tree.map(lambda g: np.mean(g, axis=0), gradient))
    np.testing.assert_allclose(updates["kernel"], np.stack([expected["kernel"]] * 2), rtol=1e-5)


def test_state_is_the_factors_and_their_inner_products():
    rows, columns, size, window, rank = 300, 200, 10, 16, 2
    params = {"kernel": jax.ShapeDtypeStruct((rows, columns), jnp.float32)}
    params["bias"] = jax.ShapeDtypeStruct((size,), jnp.float32)
    row, error, factor = rank * (rows + columns) + size, rows * columns + size, rank * columns
    tx = low_rank_m_fac(0.1, window, rank=rank)
    assert_state_is_window_and_inner_products(tx, 4 * (window * row + error + factor), params)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: low_rank_m_fac(0.1, 0), "window must be a positive integer, got 0"),
        (lambda: low_rank_m_fac(0.1, rank=0), "rank must be a positive integer, got 0"),
        (lambda: low_rank_m_fac(0.1, damping=0.0), r"damping must be in \(0, inf\], got 0.0"),
        (lambda: low_rank_m_fac(0.1, momentum=1.5), r"momentum must be in \[0, 1\], got 1.5"),
        (lambda: low_rank_m_fac(0.1, weight_decay=-1.0), r"weight_decay must be in \[0, inf\], got -1.0"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"^low_rank_m_fac works on real parameters"):
        low_rank_m_fac(0.1).init({"w": jnp.ones((2, 3), jnp.complex64)})


def test_stacked_vectors_are_not_taken_for_matrices():
    with pytest.raises(ValueError, match=r"^low_rank takes leaves of two axes for matrices, and the leaf 'bias'"):
        low_rank_m_fac(0.1).init({"bias": jnp.ones((2, 3))})
