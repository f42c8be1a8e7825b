"""What MASHA promises: the recorded runs, the solutions of games, and its limit, the extragradient method."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays

import optkit
from optkit import compressors
from optkit.compressors._compressor import decompressing
from optkit.compressors._rand_k import rand_k_rule
from optkit.core.cost import hlo
from optkit.core.workers.gathering import bytes_together

METHODS = {"masha1": optkit.masha1, "masha2": optkit.masha2}
BY_NAME = pytest.mark.parametrize("name", METHODS)
identity = compressors.identity


def compressor_of(name, density=0.25):
    return compressors.rand_k(density, key=0, axis_name="workers") if name == "masha1" else compressors.top_k(density)


def share_of(number, size):
    """A density with which so many entries are kept, without rounding errors."""
    return (number - 0.5) / size


def recorded_rand_k(permutations, number, row):
    """Rand-k with recorded draws, for trees of one leaf.

    Args:
        permutations: time first, then workers and the server.
        number: how many entries are kept.
        row: a function that returns the row of the recorded draws.
    """
    rule = rand_k_rule(share_of(number, permutations.shape[-1]), round_up=True, shared=False)

    def compress(tree, step):
        encode = lambda x: rule.encode(x.ravel(), jnp.asarray(permutations)[step, row()])  # noqa: E731
        return jax.tree.map(encode, tree), step + 1

    def decompress(message, like):
        return jax.tree.map(lambda x, sent: rule.decode(sent, x.size, x.dtype).reshape(x.shape), like, message)

    return decompressing(lambda _: jnp.zeros([], jnp.int32), compress, decompress, omega=lambda _: 1.0)


def recorded_masha(recording):
    """The recorded method."""
    found, draws = recording.hyperparams, recording.arrays["draws.perm"]
    number, workers = found["k"], found["n_workers"]
    if found["variant"] == 1:
        method = optkit.masha1
        compressor = recorded_rand_k(draws, number, lambda: jax.lax.axis_index("workers"))
        server = recorded_rand_k(draws, number, lambda: workers)
    else:
        assert found["variant"] == 2
        method, compressor = optkit.masha2, compressors.top_k(share_of(number, draws.shape[-1]))
        server = compressor
    server = server if found["bidirectional"] else None
    return method(
        found["gamma"],
        compressor,
        found["tau"],
        axis_name="workers",
        server_compressor=server,
        anchor=found.word("anchor", ("next",)),
    )


@pytest.mark.slow
@replays("masha")
def test_golden_masha(recording):
    tx = recorded_masha(recording)
    matrices, offsets, params = (recording.tree(group) for group in ("M", "b", "params0"))

    def worker(matrices, offsets):
        def grad_fn(point):
            return jax.tree.map(lambda x, m, b: (m @ x.ravel() - b).reshape(x.shape), point, matrices, offsets)

        def step(carry, coin):
            params, state = carry
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            params = optax.apply_updates(params, updates)
            return (params, state._replace(refresh=coin)), (params, state.anchor.point)

        start = jax.tree.map(jnp.asarray, params)
        return jax.lax.scan(step, (start, tx.init(start)), jnp.asarray(recording.arrays["draws.coin"]))[1]

    over_workers = jax.jit(jax.vmap(worker, axis_name="workers"))
    trajectories, anchors = over_workers(matrices, offsets)
    for row in range(recording.hyperparams["n_workers"]):
        assert_replays(recording, jax.tree.map(lambda x, row=row: x[row], trajectories))
    # The recorded anchor is that after the step, which is ours in the next one.
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0, 1:], anchors),
        jax.tree.map(lambda x: x[:-1], recording.tree("anchor")),
        rtol=0,
        atol=1e-12,
    )


class Game:
    """Affine operators `M x - b` of several workers, whose mean is strongly monotone, with a large skew part."""

    def __init__(self, workers=4, dimension=8, seed=0):
        rng = np.random.default_rng(seed)
        skew = rng.standard_normal((workers, dimension, dimension))
        self.matrices = skew - skew.mT + 0.3 * np.eye(dimension)
        self.offsets = rng.standard_normal((workers, dimension))
        self.solution = np.linalg.solve(self.matrices.mean(axis=0), self.offsets.mean(axis=0))

    def run(self, tx, steps, bad=None):
        """The workers' parameters and states after each step, in NumPy; `bad`, time first, is added to operators."""
        tx = optax.with_extra_args_support(tx)
        workers, dimension = self.offsets.shape
        bad = np.zeros((steps, workers)) if bad is None else bad

        def worker(matrix, offset, bad):
            def step(carry, bad):
                params, state = carry
                grad_fn = lambda point: matrix @ point - offset + bad  # noqa: E731
                updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
                params = optax.apply_updates(params, updates)
                return (params, state), (params, state)

            start = jnp.zeros(dimension)
            return jax.lax.scan(step, (start, tx.init(start)), bad)[1]

        mapped = jax.vmap(worker, (0, 0, 1), 1, axis_name="workers")
        return jax.tree.map(np.asarray, jax.jit(mapped)(self.matrices, self.offsets, bad))

    def distances(self, params):
        return np.linalg.norm(params[:, 0] - self.solution, axis=-1)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@BY_NAME
def test_without_compression_it_is_the_extragradient_method(name):
    game = Game()
    params, _ = game.run(METHODS[name](0.05, identity(), axis_name="workers"), 20)
    operator = lambda x: game.matrices.mean(axis=0) @ x - game.offsets.mean(axis=0)  # noqa: E731
    point = np.zeros(8)
    for found in params:
        point = point - 0.05 * operator(point - 0.05 * operator(point))
        np.testing.assert_allclose(found, np.broadcast_to(point, found.shape), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@BY_NAME
def test_the_anchor_may_move_to_the_point_where_the_step_began(name):
    game = Game()
    params, _ = game.run(METHODS[name](0.05, identity(), axis_name="workers", anchor="previous"), 6)
    operator = lambda x: game.matrices.mean(axis=0) @ x - game.offsets.mean(axis=0)  # noqa: E731
    point = anchor = np.zeros(8)
    for found in params:
        half = anchor - 0.05 * operator(anchor)
        anchor, point = point, half - 0.05 * (operator(half) - operator(anchor))
        np.testing.assert_allclose(found, np.broadcast_to(point, found.shape), rtol=1e-10)


def largest(x, number):
    """The entries of largest magnitude, and zeros."""
    kept = np.zeros_like(x)
    places = np.argsort(-np.abs(x))[:number]
    kept[places] = x[places]
    return kept


@pytest.mark.usefixtures("x64")
def test_worker_and_server_both_keep_what_masha2_leaves_out():
    game, tau, rate = Game(), 0.6, 0.05
    quarter, half = compressors.top_k(share_of(2, 8)), compressors.top_k(share_of(4, 8))
    tx = optkit.masha2(rate, quarter, tau, axis_name="workers", server_compressor=half)
    params, state = game.run(tx, 15)
    matrices, offsets, coins = (np.asarray(x) for x in (game.matrices, game.offsets, state.refresh[:, 0]))
    operators = lambda x: matrices @ x - offsets  # noqa: E731
    point = anchor = server_error = np.zeros(8)
    errors = np.zeros((4, 8))
    for found, coin in zip(params, coins, strict=True):
        middle = tau * point + (1 - tau) * anchor - rate * operators(anchor).mean(axis=0)
        wanted = rate * (operators(middle) - operators(anchor)) + errors
        sent = np.stack([largest(x, 2) for x in wanted])
        answer = largest(sent.mean(axis=0) + server_error, 4)
        errors, server_error = wanted - sent, sent.mean(axis=0) + server_error - answer
        point = middle - answer
        anchor = point if coin else anchor
        np.testing.assert_allclose(found, np.broadcast_to(point, found.shape), rtol=1e-10)
    assert 0 < coins.sum() < len(coins)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@BY_NAME
def test_it_finds_the_solution_of_a_game_by_a_quarter_of_the_entries(name):
    game = Game()
    tx = METHODS[name](0.02, compressor_of(name), axis_name="workers")
    params, _ = game.run(tx, 6000)
    distances = game.distances(params)
    assert distances[-1] < 1e-8 * distances[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_an_anchor_messages_of_the_same_compressor_do_not_find_it():
    game, compressor = Game(), compressor_of("masha1")

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        message, state = compressor.compress(updates, state)
        return -0.02 * jax.lax.pmean(compressor.decompress(message, updates), "workers"), state

    params, _ = game.run(optax.GradientTransformationExtraArgs(compressor.init, update), 6000)
    distances = game.distances(params)
    assert not distances[-1] < 0.1 * distances[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@BY_NAME
def test_the_anchor_moves_with_the_stated_probability(name):
    tx = METHODS[name](0.001, compressor_of(name), 0.8, axis_name="workers")
    _, state = Game().run(tx, 2000)
    assert np.all(state.refresh == state.refresh[:, :1])
    assert abs(state.refresh[:, 0].mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)


@pytest.mark.slow
@BY_NAME
def test_by_default_anchors_cost_as_many_bytes_as_messages(name):
    compressor = compressor_of(name, density=1 / 16)  # 8 bytes for each entry kept, 4 for each of all
    _, state = Game(dimension=32).run(METHODS[name](1e-4, compressor, axis_name="workers"), 3000)
    assert abs(state.refresh[:, 0].mean() - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 3000)


@pytest.mark.slow
@BY_NAME
def test_a_worker_whose_operator_is_not_finite_is_left_out(name):
    game, steps = Game(), 40
    bad = np.zeros((steps, 4))
    bad[10, 2], bad[20, 1] = np.nan, np.inf
    params, state = game.run(METHODS[name](0.01, compressor_of(name), 0.5, axis_name="workers"), steps, bad)
    chex.assert_tree_all_finite((params, state))
    assert np.all(np.diff(state.dropped[:, 0]) >= 0)
    assert state.dropped[9, 0] == 0
    assert state.dropped[10, 0] == 1
    assert state.dropped[-1, 0] >= 2
    # Who is left out comes back when the anchor moves.
    assert state.dropped[-1, 0] == state.dropped[-5, 0]
    np.testing.assert_array_equal(params, np.broadcast_to(params[:, :1], params.shape))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@BY_NAME
def test_the_mean_is_over_the_others(name):
    game, others = Game(), Game()
    others.matrices, others.offsets = game.matrices[1:], game.offsets[1:]
    bad = np.zeros((20, 4))
    bad[:, 0] = np.nan
    tx = METHODS[name](0.01, compressors.identity(), axis_name="workers")
    params, state = game.run(tx, 20, bad)
    np.testing.assert_allclose(params[:, 1:], others.run(tx, 20)[0], rtol=1e-12)
    np.testing.assert_array_equal(state.dropped[:, 0], np.arange(1, 21))


@pytest.mark.slow
@BY_NAME
def test_without_senders_updates_are_nan_and_errors_stay(name):
    tx = METHODS[name](0.1, identity() if name == "masha1" else compressor_of(name), axis_name=None)
    params = jnp.zeros(8)
    grad_fn = lambda point: point - jnp.arange(8.0)  # noqa: E731
    no_numbers = lambda point: jnp.full_like(point, jnp.nan)  # noqa: E731

    @jax.jit
    def steps():
        _, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        return state, *tx.update(no_numbers(params), state, params, grad_fn=no_numbers)

    state, updates, after = steps()
    assert np.all(np.isnan(updates))
    chex.assert_trees_all_equal(after.error, state.error)
    assert (after.dropped, bool(after.refresh)) == (state.dropped + 1, True)
    chex.assert_tree_all_finite(after)


@pytest.mark.slow
@BY_NAME
def test_one_gather_sends_the_message_and_a_word(name):
    compressor = compressor_of(name, density=0.1)
    tx = METHODS[name](0.1, compressor, axis_name="workers")

    def update(params, state):
        grad_fn = lambda point: point + jax.lax.axis_index("workers")  # noqa: E731
        return tx.update(grad_fn(params), state, params, grad_fn=grad_fn)

    params = jnp.zeros((8, 100))
    axes = optkit.worker_axes(
        optax.GradientTransformation(tx.init, lambda updates, state, _: update(updates, state)),
        params,
        axis_name="workers",
    )
    assert (axes.refresh, axes.count, axes.key, axes.dropped) == (None,) * 4
    states = jax.eval_shape(jax.vmap(tx.init, out_axes=axes), params)
    step = optkit.on_workers(update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend="shard_map")
    lowered = jax.jit(step).lower(params, states)
    work = hlo.read(lowered.compile(), lowered)
    message = jax.eval_shape(lambda x: x, {"values": jnp.zeros(10), "places": jnp.zeros(10, jnp.int32)})
    assert work.sent == {"all-gather": 7 * (bytes_together(message) + 4)}
    # The mean of operators at a new anchor, and how many they are.
    assert work.sent_when_taken == {"all-reduce": 2 * 7 / 8 * 4 * (100 + 1)}


@functools.cache
def four_steps(name, backend):
    """Where all workers are after them, and their states."""
    tx, targets = METHODS[name](0.1, compressor_of(name), 0.5, axis_name="workers"), normal(8, 6)

    def run(target):
        def step(carry, _):
            params, state = carry
            grad_fn = lambda point: point - target  # noqa: E731
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros(6)
        return jax.lax.scan(step, (params, tx.init(params)), length=4)[0]

    return optkit.on_workers(run, axis_name="workers", backend=backend)(targets)


@pytest.mark.slow
@BY_NAME
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(name, backend):
    chex.assert_trees_all_close(four_steps(name, backend), four_steps(name, "vmap"), atol=1e-6)


@pytest.mark.slow
@BY_NAME
def test_leaves_that_are_not_trained_stay(name):
    tx = METHODS[name](0.1, identity(), axis_name=None, trainable={"a": True, "b": False})
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    grad_fn = jax.grad(lambda tree: jnp.sum(tree["a"] ** 2) * jnp.sum(tree["b"]))
    step = jax.jit(lambda p: tx.update(grad_fn(p), tx.init(p), p, grad_fn=grad_fn))
    updates, state = step(params)
    np.testing.assert_allclose(updates["a"], 0.1 * (-4 + 0.4 * 4), rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)
    assert state.anchor.point["b"] == optax.MaskedNode()


def test_the_compressor_must_fit():
    with pytest.raises(ValueError, match=r"^compressor must be unbiased, got one whose omega is None.*masha2"):
        optkit.masha1(0.1, compressors.top_k(0.1), axis_name="workers")
    with pytest.raises(
        ValueError, match=r"^server_compressor must be contractive, got one whose delta is None.*masha1"
    ):
        optkit.masha2(
            0.1,
            compressors.top_k(0.1),
            axis_name="workers",
            server_compressor=compressors.rand_k(0.1, key=0),
        )


@BY_NAME
def test_tau_is_a_probability(name):
    with pytest.raises(ValueError, match=r"tau must be in \[0, 1\), got 1.0"):
        METHODS[name](0.1, identity(), 1.0, axis_name="workers")


@BY_NAME
def test_the_anchor_moves_to_one_of_two_points(name):
    with pytest.raises(ValueError, match="anchor must be 'next' or 'previous', got 'last'"):
        METHODS[name](0.1, identity(), axis_name="workers", anchor="last")


@BY_NAME
def test_the_operator_is_needed(name):
    tx, params = METHODS[name](0.1, identity(), axis_name=None), jnp.ones(2)
    with pytest.raises(TypeError, match=f"^{name} needs the extra argument grad_fn"):
        tx.update(params, tx.init(params), params)


@BY_NAME
def test_complex_parameters_are_refused(name):
    tx = METHODS[name](0.1, identity(), axis_name=None)
    with pytest.raises(TypeError, match=f"^{name} works on real parameters.*two leaves"):
        tx.init(jnp.ones(2, jnp.complex64))
