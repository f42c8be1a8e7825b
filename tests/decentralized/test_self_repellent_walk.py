import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax
import pytest
from golden_files import replays

from optkit.decentralized import (
    metropolis_walk,
    self_repellent_kernel,
    self_repellent_start,
    self_repellent_step,
    self_repellent_walk,
    train_along_path,
)
from optkit.testing import golden

RING = metropolis_walk(nx.cycle_graph(6))
kernel_of = jax.jit(self_repellent_kernel)


@pytest.mark.slow
@replays("sa_srrw")
def test_golden_sa_srrw(recording):
    hyperparams, arrays = recording.hyperparams, recording.arrays
    target, alpha = jnp.asarray(arrays["target"]), hyperparams["alpha"]
    beta_exponent = hyperparams["beta_exponent"]
    chain = metropolis_walk(nx.from_numpy_array(arrays["adjacency"]), arrays["target"])
    np.testing.assert_allclose(chain, arrays["base_chain"], atol=1e-15)

    def move(state, draw):
        row = self_repellent_kernel(chain, state.visits, alpha, target)[state.node]
        state = self_repellent_step(draw, state, chain, alpha, target, hyperparams["gamma_exponent"])
        return state, (row, state.node, state.visits)

    start = self_repellent_start(len(target))
    rows, path, visits = jax.jit(lambda: jax.lax.scan(move, start, jnp.asarray(arrays["draws.u"]))[1])()
    np.testing.assert_array_equal(path, arrays["path"])
    assert golden.deviation((rows, visits), (arrays["kernel_rows"], arrays["empirical"])) <= recording.meta["rtol"]

    hessians, linear = jnp.asarray(arrays["problem.Q"]), jnp.asarray(arrays["problem.c"])
    tx = optax.sgd(lambda count: (jnp.asarray(count, float) + 2) ** -beta_exponent)

    def train(steps):
        grad_fn = lambda i, params: {"theta": hessians[i] @ params["theta"] - linear[i]}  # noqa: E731
        return train_along_path(path[:steps], tx, grad_fn, jax.tree.map(jnp.asarray, recording.tree("params0")))[0]

    lengths = [1, 2, len(path)]
    trajectory = jax.tree.map(lambda *x: jnp.stack(x), *map(train, lengths))
    expected = jax.tree.map(lambda x: x[np.array(lengths) - 1], recording.tree("params"))
    assert golden.deviation(trajectory, expected) <= recording.meta["rtol"]


@pytest.mark.slow
def test_kernel_moves_along_edges_only_and_sums_to_one():
    visits = np.float32([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    kernel = np.asarray(kernel_of(RING, visits, 5.0))
    np.testing.assert_allclose(kernel.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(kernel > 0, RING > 0)
    assert kernel[1, 0] < 0.01 < kernel[1, 2]


def test_kernel_without_repulsion_or_with_visits_on_target_is_the_base_walk():
    visits = np.float32([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(kernel_of(RING, visits, 0.0), RING, atol=1e-6)
    np.testing.assert_allclose(kernel_of(RING, visits, 9.0, visits), RING, atol=1e-6)


def test_kernel_of_tiny_frequencies_is_finite():
    visits = np.float32([1 - 5e-30] + [1e-30] * 5)
    assert np.all(np.isfinite(kernel_of(RING, visits, 20.0)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_draws_choose_workers_in_order_of_their_probabilities():
    start = self_repellent_start(6)
    row = np.cumsum(RING[0])
    step = jax.jit(self_repellent_step)
    for draw in (0.0, 0.3, 0.6, 1 - 1e-12):
        node = int(step(draw, start, RING, 0.0).node)
        assert node == np.argmax(row > draw)
        assert RING[0, node] > 0


def frequencies(path):
    return np.bincount(np.asarray(path), minlength=6) / len(path)


@pytest.mark.slow
def test_visits_come_near_the_target_faster_than_the_base_walk_s():
    target = np.array([1, 1, 2, 2, 3, 3]) / 12
    chain = metropolis_walk(nx.cycle_graph(6), target)
    walk = jax.jit(lambda alpha: self_repellent_walk(0, 2000, chain, alpha))
    errors = {alpha: np.abs(frequencies(walk(alpha)) - target).max() for alpha in (0.0, 10.0)}
    assert errors[10.0] < 2e-3
    assert errors[10.0] < errors[0.0] / 5


def test_walk_moves_along_edges_and_is_the_same_for_the_same_key():
    walk = jax.jit(lambda key: self_repellent_walk(key, 200, RING))
    path = np.asarray(walk(3))
    assert np.all(RING[path[:-1], path[1:]] > 0)
    np.testing.assert_array_equal(path, walk(jax.random.key(3)))
    assert np.any(path != walk(4))


@pytest.mark.slow
def test_alpha_may_be_traced():
    paths = jax.jit(jax.vmap(lambda alpha: self_repellent_walk(0, 50, RING, alpha)))(np.float32([0.0, 10.0]))
    np.testing.assert_array_equal(paths[1], self_repellent_walk(0, 50, RING, 10.0))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"alpha must be in \[0, inf\], got -1.0"):
        self_repellent_walk(0, 5, RING, -1.0)
    with pytest.raises(ValueError, match=r"exponent must be in \(0.5, 1\], got 0.5"):
        self_repellent_walk(0, 5, RING, exponent=0.5)
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        self_repellent_walk(0, 0, RING)
    with pytest.raises(ValueError, match=r"node must be in \[0, 5\], got 6"):
        self_repellent_walk(0, 5, RING, node=6)
