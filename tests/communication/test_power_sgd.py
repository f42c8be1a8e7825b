import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, with_singular_values
from golden_files import assert_replays, replays
from trajectories import trajectory

import optkit
from optkit import power_sgd
from optkit.core.cost import hlo
from optkit.testing import golden


def on_recorded_matrices(tx, draws, *, warm_start):
    """Runs it on the matrices of the recorded code, the first axis and all others, from the recorded factors."""

    def matrices(tree):
        return {name: x.reshape(x.shape[0], -1) if name in draws["right"] else x for name, x in tree.items()}

    def from_draws(state, step):
        drawn = {
            side: {name: draws[side][name][step] if name in draws[side] else None for name in state.error}
            for side in draws
        }
        return state._replace(**drawn)

    def init(params):
        return from_draws(tx.init(matrices(params)), 0)

    def update(updates, state, params=None):
        del params
        means, state = tx.update(matrices(updates), state if warm_start else from_draws(state, state.count))
        return {name: x.reshape(updates[name].shape) for name, x in means.items()}, state

    return optax.GradientTransformation(init, update)


def is_compressed_by_the_package(shape, hyperparams):
    """Its test, which takes the axes of a convolution for those of a matrix."""
    sent = 0.5 * hyperparams["num_iters_per_step"] * min(hyperparams["rank"], *shape) * sum(shape)
    return np.prod(shape) / sent > hyperparams["min_compression_rate"]


def momentum_of_the_paper(momentum):
    """Descends along the gradient and the momentum."""
    trace = optax.trace(momentum)

    def update(updates, state, params=None):
        moved, state = trace.update(updates, state, params)
        return optax.tree.add(updates, moved), state

    return optax.GradientTransformation(trace.init, update)


def is_of_the_paper(recording):
    return "warm_start" in recording.hyperparams


def recorded_optimizer(recording):
    recorded, gradients = recording.hyperparams, recording.tree("grads")
    shapes = {name: g.shape[2:] for name, g in gradients.items()}
    draws = {"right": recording.tree("draws.q")}
    options = recorded.take("rank")
    if is_of_the_paper(recording):
        assert recorded["orthogonalize_eps"] <= recording.meta["rtol"]  # relative to the norms of columns
        compressed = {name for name, shape in shapes.items() if len(shape) > 1}
        outer = momentum_of_the_paper(recorded["momentum"])
    else:
        draws["left"] = recording.tree("draws.p")
        options |= {"alternating": True, **recorded.take("start_step", iterations="num_iters_per_step")}
        compressed = {name for name, shape in shapes.items() if shape and is_compressed_by_the_package(shape, recorded)}
        outer = optax.trace(recorded["momentum"], nesterov=recorded["nesterov"])
    assert compressed == set(draws["right"])
    assert {g.shape[1] for g in gradients.values()} == {recorded["n_workers"]}
    # Factors that are drawn in each step have time first.
    warm_start = recorded.get("warm_start", True)
    draws = jax.tree.map(lambda x: jnp.asarray(x if x.ndim > 2 else x[None]), draws)
    numbers = {name: optax.contrib.MuonDimensionNumbers(0, 1) if name in compressed else None for name in shapes}
    mean = power_sgd(**options, axis_name="workers", min_compression_rate=0.0, weight_dimension_numbers=numbers)
    return optax.chain(
        on_recorded_matrices(mean, draws, warm_start=warm_start),
        optax.add_decayed_weights(recorded.get("weight_decay", 0.0)),
        outer,
        optax.scale_by_learning_rate(recorded["learning_rate"]),
    )


@pytest.mark.slow
@replays("powersgd")
def test_golden_power_sgd(recording):
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    run = trajectory(recorded_optimizer(recording), recording.tree("grads"), params, axis_name="workers")
    assert_replays(recording, run.params)
    errors = optax.tree.get(run.states, "error")
    for name, recorded in recording.tree("error").items():
        if errors[name] is None:
            np.testing.assert_array_equal(recorded, 0)
            continue
        # Of some leaves the last error is recorded, of others all of them.
        ours = np.asarray(errors[name])
        ours = ours if recorded.ndim == run.params[name].ndim else ours[-1]
        pair = ours.reshape(recorded.shape), recorded
        if is_of_the_paper(recording):  # whose code keeps what the mean leaves out: the sum over workers is the same
            pair = [np.sum(x, axis=0) for x in pair]
        assert golden.deviation(*pair) <= recording.meta["rtol"], name


WORKERS, ROWS, COLUMNS = 3, 8, 6
FORMS = {"paper": {}, "alternating": {"alternating": True}, "both_in_a_step": {"alternating": True, "iterations": 2}}
every_form = pytest.mark.parametrize("form", FORMS)


def build(form="paper", rank=2, **options):
    options = {"min_compression_rate": 0.0, **FORMS[form], **options}
    return power_sgd(rank, axis_name="workers", **options)


# One transformation for all tests of a form, so that runs along gradients of equal shapes are one program.
built = functools.cache(build)


def over_workers(tx, gradients):
    """A run of all workers in NumPy, time first."""
    return jax.tree.map(np.asarray, trajectory(tx, gradients, axis_name="workers"))


def run(tx, gradients):
    """The updates of one worker and the errors of all, time first."""
    steps = over_workers(tx, gradients)
    np.testing.assert_array_equal(steps.updates, np.broadcast_to(steps.updates[:, :1], steps.updates.shape))
    return steps.updates[:, 0], steps.states.error, steps.states


def draw(*shape):
    return np.array(normal(*shape))


GRADIENTS = draw(5, WORKERS, ROWS, COLUMNS)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@every_form
def test_what_is_sent_and_what_is_owed_are_the_gradients(form):
    gradients = GRADIENTS.astype(float)
    updates, errors, _ = run(built(form), gradients)
    arrived = np.cumsum(updates, axis=0) + errors.mean(axis=1)
    np.testing.assert_allclose(arrived, np.cumsum(gradients.mean(axis=1), axis=0), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (COLUMNS, ROWS)])
@pytest.mark.parametrize("start_step", [0, 2])
def test_full_rank_is_the_mean(shape, start_step):
    gradients = draw(4, WORKERS, *shape)
    updates, errors, _ = run(build(rank=COLUMNS, start_step=start_step), gradients)
    np.testing.assert_allclose(updates, gradients.mean(axis=1), atol=3e-6)
    np.testing.assert_allclose(errors.sum(axis=1), 0, atol=1e-5)


@pytest.mark.slow
def test_workers_average_whole_gradients_before_the_first_compressed_step():
    updates, errors, _ = run(build(start_step=2), GRADIENTS)
    np.testing.assert_allclose(updates[:2], GRADIENTS[:2].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(errors[:2], 0)
    # The first three of as many steps as other tests take, whose program this is.
    later, _, _ = run(built("paper"), np.concatenate([GRADIENTS[2:], GRADIENTS[:2]]))
    np.testing.assert_allclose(updates[2:], later[:3], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "steps"), [("paper", 1), ("alternating", 2), ("both_in_a_step", 1)])
def test_multiples_of_one_matrix_of_rank_one_are_sent_exactly(form, steps):
    matrix = np.float32(np.outer(np.arange(1, ROWS + 1), np.arange(-2, COLUMNS - 2)))
    gradients = np.broadcast_to(np.float32([1, -3, 8])[:, None, None] * matrix, (4, WORKERS, ROWS, COLUMNS))
    updates, errors, _ = run(build(form, rank=1), gradients)
    # What the first step leaves out arrives in the second one.
    arrived = updates.reshape(-1, steps, ROWS, COLUMNS).sum(axis=1)
    np.testing.assert_allclose(arrived, np.broadcast_to(steps * 2 * matrix, arrived.shape), atol=3e-4)
    np.testing.assert_allclose(errors[steps - 1 :: steps].sum(axis=1), 0, atol=5e-4)


@pytest.mark.slow
def test_later_steps_find_the_best_approximation():
    values = np.array([8.0, 4.0, 1.0, 0.5, 0.2, 0.1])
    tx, matrix = build(), np.float32(with_singular_values(values, ROWS, COLUMNS))

    # Without what was left out, so that the matrix stays the same.
    def step(state, _):
        updates, state = tx.update(matrix, state)
        return state._replace(error=jnp.zeros_like(matrix)), jnp.linalg.norm(updates - matrix)

    def worker(_):
        return jax.lax.scan(step, tx.init(matrix), length=20)[1]

    distances = jax.jit(jax.vmap(worker, axis_name="workers"))(np.arange(WORKERS))[0]
    best = np.linalg.norm(values[2:])
    assert distances[0] > 1.05 * best
    np.testing.assert_allclose(distances[-1], best, rtol=1e-3)


@pytest.mark.slow
def test_a_cold_start_draws_in_each_step():
    tx, matrix = build(rank=1, warm_start=False), np.broadcast_to(GRADIENTS[0, 0], (3, WORKERS, ROWS, COLUMNS))
    steps = over_workers(tx, matrix)
    assert steps.states.right is None
    # The space of the columns is another one in each step, although nothing else has changed but the length.
    directions = [np.linalg.svd(u)[0][:, 0] for u in steps.updates[:, 0]]
    assert abs(directions[0] @ directions[1]) < 0.999
    assert len({tuple(k) for k in steps.states.key[:, 0]}) == 3


def lowered_step(tx, params):
    workers = jax.tree.map(lambda x: np.zeros((8, *x.shape), np.float32), params)
    step = optkit.on_workers(tx.update, axis_name="workers", backend="shard_map")
    lowered = jax.jit(step).lower(workers, jax.eval_shape(jax.vmap(tx.init), workers))
    return hlo.read(lowered.compile(), lowered)


TREE = {"matrix": np.zeros((64, 48)), "stack": np.zeros((3, 16, 20)), "bias": np.zeros(48)}
NUMBERS = {"matrix": optax.contrib.MuonDimensionNumbers(0, 1), "stack": optax.contrib.MuonDimensionNumbers(1, 2)}
NUMBERS["bias"] = None
RING = 2 * 7 / 8


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 2])
def test_a_step_sends_both_factors_and_one_number(iterations):
    tx = build(iterations=iterations, weight_dimension_numbers=NUMBERS)
    numbers = iterations * 2 * (64 + 48 + 3 * (16 + 20)) + 48 + 1
    assert lowered_step(tx, TREE).sent == {"all-reduce": RING * 4 * numbers}


@pytest.mark.slow
def test_an_alternating_step_sends_one_factor():
    work = lowered_step(build("alternating", weight_dimension_numbers=NUMBERS), TREE)
    assert work.sent == {"all-reduce": RING * 4 * (48 + 1)}
    assert work.sent_when_taken == {"all-reduce": RING * 4 * 2 * (64 + 3 * 16)}  # that of the longer side
    both = lowered_step(build("both_in_a_step", weight_dimension_numbers=NUMBERS), TREE)
    assert both.sent == {"all-reduce": RING * 4 * (2 * (64 + 48 + 3 * (16 + 20)) + 48 + 1)}


@pytest.mark.slow
def test_backends_agree_also_where_conditionals_decide_what_is_sent():
    tx = build("alternating", start_step=1)
    gradients = {"matrix": normal(8, ROWS, COLUMNS), "bias": normal(8, COLUMNS)}
    axes = optkit.worker_axes(tx, gradients, axis_name="workers")

    def three_steps(gradients):
        def step(state, _):
            updates, state = tx.update(gradients, state)
            return state, updates

        state, updates = jax.lax.scan(step, tx.init(gradients), length=3)
        return updates, state

    simulated, *others = (
        optkit.on_workers(three_steps, axis_name="workers", out_axes=(None, axes), backend=backend)(gradients)
        for backend in ("vmap", "pmap", "shard_map")
    )
    for other in others:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), simulated, other)


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_worker_whose_gradient_is_not_finite_is_left_out_and_counted(form, bad):
    tree = {"matrix": GRADIENTS, "bias": GRADIENTS[:, :, 0, 0]}
    spoilt = {"matrix": GRADIENTS, "bias": tree["bias"].copy()}
    spoilt["bias"][1, 2] = bad
    steps = over_workers(built(form), spoilt)
    assert steps.states.dropped[:, 0].tolist() == [0, 1, 1, 1, 1]
    np.testing.assert_allclose(steps.updates["bias"][1, 0], tree["bias"][1, :2].mean(), rtol=1e-6)
    owed = steps.states.error["matrix"]
    np.testing.assert_array_equal(owed[1, 2], owed[0, 2])
    # What the others had and were owed has arrived, or is owed.
    arrived = steps.updates["matrix"][1, 0] + np.mean(owed[1, :2], axis=0)
    np.testing.assert_allclose(arrived, np.mean(GRADIENTS[1, :2] + owed[0, :2], axis=0), atol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(steps))


@pytest.mark.slow
@every_form
def test_without_a_finite_gradient_the_mean_is_nan_and_the_state_stays(form):
    gradients = GRADIENTS.copy()
    gradients[1, :, 0, 0] = np.nan
    steps = over_workers(built(form), gradients)
    assert np.all(np.isnan(steps.updates[1]))
    assert steps.states.dropped[:, 0].tolist() == [0, 3, 3, 3, 3]
    for part in (steps.states.error, steps.states.left, steps.states.right):
        if part is not None:
            np.testing.assert_array_equal(part[1], part[0])
    assert np.all(np.isfinite(steps.updates[2:]))


@pytest.mark.slow
@every_form
def test_gradients_of_zero_and_of_small_rank_are_fine(form):
    gradients = GRADIENTS.copy()
    gradients[0], gradients[1, :, 1:] = 0, 0  # nothing, one row, all
    updates, errors, states = run(build(form, rank=3), gradients)
    np.testing.assert_array_equal(updates[0], 0)
    total = gradients.sum(axis=0).mean(axis=0)
    np.testing.assert_allclose(updates.sum(axis=0) + errors[-1].mean(axis=0), total, atol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(states))
    # One row is less than the rank, and so arrives at once; by the alternating form, once both sides have been sent.
    assert np.linalg.norm(errors[1].mean(axis=0)) <= (1e-5 if form != "alternating" else np.linalg.norm(gradients[1]))


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_neither_tiny_nor_huge_gradients_are_lost(form, scale):
    updates, _, _ = run(built(form), GRADIENTS)
    scaled, _, _ = run(built(form), np.float32(scale) * GRADIENTS)
    np.testing.assert_allclose(scaled / scale, updates, atol=1e-4)


@pytest.mark.slow
def test_stacked_matrices_are_averaged_one_by_one():
    stacked = draw(len(GRADIENTS), WORKERS, 2, ROWS, COLUMNS)
    numbers = optax.contrib.MuonDimensionNumbers(1, 2)
    together = over_workers(build(weight_dimension_numbers=numbers), stacked).updates
    alone = [over_workers(built("paper"), stacked[:, :, i]).updates for i in range(2)]
    np.testing.assert_allclose(together, np.stack(alone, axis=2), atol=1e-5)


def factors_of(tx, *shape):
    return optax.tree.get(jax.eval_shape(tx.init, jax.ShapeDtypeStruct(shape, jnp.float32)), "right")


def test_only_matrices_that_shrink_enough_are_compressed():
    mean = optkit.power_sgd
    assert factors_of(mean(axis_name="workers"), 16, 16) is None  # 256 numbers are twice the 4 * (16 + 16) of factors
    assert factors_of(mean(axis_name="workers"), 17, 16).shape == (16, 4)
    assert factors_of(mean(axis_name="workers", alternating=True), 16, 16).shape == (16, 4)
    assert factors_of(mean(axis_name="workers"), 400) is None
    assert factors_of(mean(axis_name="workers"), 0, 400) is None
    assert factors_of(mean(axis_name="workers"), 9, 40, 40) is None


def test_alternating_iterations_take_less_than_the_whole_matrix():
    """Otherwise the last one would go on from rounding."""
    assert factors_of(build("alternating", rank=4, iterations=3), 7, 20).shape == (20, 2)
    assert factors_of(build("alternating", rank=4, iterations=1), 4, 20).shape == (20, 4)
    assert factors_of(build("alternating", rank=4, iterations=4), 4, 20) is None


def test_one_worker_needs_no_axis():
    tx = power_sgd(2, axis_name=None, min_compression_rate=0.0)
    gradient = GRADIENTS[0, 0]
    updates, state = jax.jit(lambda g: tx.update(g, tx.init(g)))(gradient)
    expected, _, _ = run(build(), GRADIENTS[:1, :1])
    np.testing.assert_allclose(updates, expected[0], atol=1e-5)
    np.testing.assert_allclose(updates + state.error, gradient, atol=1e-6)
    assert tx.update({}, tx.init({}))[0] == {}


@pytest.mark.slow
def test_an_axis_may_be_several():
    tx = power_sgd(2, axis_name=("nodes", "devices"), min_compression_rate=0.0)
    gradients = draw(2, 3, ROWS, COLUMNS)

    def step(gradient):
        return tx.update(gradient, tx.init(gradient))[0]

    both = jax.jit(jax.vmap(jax.vmap(step, axis_name="devices"), axis_name="nodes"))(gradients)
    one, _, _ = run(build(), gradients.reshape(1, 6, ROWS, COLUMNS))
    np.testing.assert_allclose(both, np.broadcast_to(one[0], both.shape), atol=1e-5)


def test_gradients_of_16_bits_are_averaged_in_32():
    tx = build()
    gradient = GRADIENTS[0].astype(jnp.bfloat16)
    updates, state = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name="workers"))(gradient)
    assert (updates.dtype, state.error.dtype, state.right.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    expected, _, _ = run(tx, gradient.astype(np.float32)[None])
    np.testing.assert_array_equal(updates[0], expected[0].astype(jnp.bfloat16))


def test_trees_without_matrices_are_averaged():
    tree = {"vector": normal(WORKERS, 5), "scalar": normal(WORKERS), "none": None, "masked": optax.MaskedNode()}
    tree["empty"] = jnp.zeros((WORKERS, 0, 3))
    tx = build()
    step = jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name="workers", out_axes=(None, 0))
    means, _ = jax.jit(step)(tree)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y.mean(axis=0), rtol=1e-6), means, tree)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be a positive integer, got 0"),
        ({"rank": 2.0}, "rank must be a positive integer, got 2.0"),
        ({"iterations": 0}, "iterations must be a positive integer, got 0"),
        ({"start_step": -1}, r"start_step must be in \[0, inf\], got -1"),
        ({"min_compression_rate": -0.5}, r"min_compression_rate must be in \[0, inf\], got -0.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        power_sgd(axis_name="workers", **arguments)


def test_sizes_must_not_be_arrays():
    with pytest.raises(TypeError, match=r"rank.*static_args"):
        power_sgd(jnp.array(2), axis_name="workers")


def test_stacked_vectors_are_not_taken_for_matrices():
    with pytest.raises(ValueError, match=r"^power_sgd takes leaves of two axes for matrices, and the leaf 'bias'"):
        build().init({"bias": jnp.ones((2, 3))})
