"""What DeMo promises: the recorded runs, few bytes in one message, and steps that ignore rounding and bad gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_refuses_complex_parameters
from trajectories import trajectory
from worker_runs import bytes_sent

import optkit
from optkit.communication._demo import ScaleByDemoState, _frequencies
from optkit.core.chunks import Chunks

WORKERS = 3
of_demo = functools.partial(optkit.scale_by_demo, axis_name="workers")


def run(tx, gradients, params=None):
    """Runs that are stacked, in NumPy: time first, and then workers."""
    return jax.tree.map(np.asarray, trajectory(tx, gradients, params, axis_name="workers"))


def draw(*shape, **arguments):
    return np.array(normal(*shape, **arguments))


def demo_state(state):
    """The state of `scale_by_demo` in that of `demo`."""
    parts = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ScaleByDemoState))
    (found,) = [part for part in parts if isinstance(part, ScaleByDemoState)]
    return found


@pytest.mark.slow
@replays("demo")
def test_golden_demo(recording):
    found, grads = recording.hyperparams, recording.tree("grads")
    tx = optkit.demo(
        found["learning_rate"],
        found["compression_decay"],
        found["weight_decay"],
        axis_name="workers",
        top_k=found["compression_topk"],
        chunk_size=found["compression_chunk"],
    )
    assert {x.shape[1] for x in grads.values()} == {found["n_workers"]}
    steps = run(tx, grads, recording.tree("params0"))
    assert_replays(recording, steps.params)
    residual = jax.tree.map(lambda x: x[None], recording.tree("delta"))
    ours = jax.tree.map(lambda x: x[-1:], demo_state(steps.states).residual)
    chex.assert_trees_all_close(ours, residual, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_updates_are_signs_and_equal_on_all_workers():
    gradients = {"w": draw(4, WORKERS, 8, 6), "stack": draw(4, WORKERS, 2, 4, 6, seed=1), "s": draw(4, WORKERS)}
    updates = run(of_demo(top_k=3, chunk_size=4), gradients).updates
    for x in jax.tree.leaves(updates):
        assert set(np.unique(x)) <= {-1.0, 0.0, 1.0}
        np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1], x.shape))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_all_frequencies_are_the_sign_of_the_mean():
    gradients = {"w": draw(3, WORKERS, 6, 10), "kernel": draw(3, WORKERS, 2, 5, 3, seed=1), "s": draw(3, WORKERS)}
    steps = run(of_demo(top_k=100, chunk_size=8), gradients)
    expected = jax.tree.map(lambda g: np.broadcast_to(np.sign(g.mean(axis=1, keepdims=True)), g.shape), gradients)
    chex.assert_trees_all_equal(steps.updates, expected)
    chex.assert_trees_all_equal(steps.states.residual, jax.tree.map(np.zeros_like, gradients))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_is_not_sent_is_kept():
    gradient = draw(WORKERS, 8, 8)
    steps = run(of_demo(decay=0.0, top_k=5), gradient[None])
    kept = steps.states.residual[-1]
    cut = Chunks.square((8, 8), 64)
    frequencies = jax.jit(jax.vmap(functools.partial(_frequencies, cut)))
    left, whole = (np.asarray(frequencies(x))[:, 0] for x in (kept, gradient))
    for ours, all_of_them in zip(left, whole, strict=True):
        largest = np.argsort(-np.abs(all_of_them))[:5]
        expected = all_of_them.copy()
        expected[largest] = 0.0
        np.testing.assert_allclose(ours, expected, atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_frequency_is_averaged_over_those_who_sent_it():
    # The first worker alone sends a constant, which a mean over all three would make smaller than the others' wave.
    tx = of_demo(top_k=1)
    constant, wave = np.full(4, 1.0), 1.5 * np.array([1.0, -1.0, -1.0, 1.0])
    steps = run(tx, np.stack([constant, 0.8 * wave, 0.8 * wave])[None])
    np.testing.assert_array_equal(steps.updates[0, 0], np.sign(constant + 0.8 * wave))
    np.testing.assert_array_equal(steps.updates[0, 0], [1.0, -1.0, -1.0, 1.0])
    weaker = run(tx, np.stack([constant, 0.6 * wave, 0.6 * wave])[None])
    np.testing.assert_array_equal(weaker.updates[0, 0], [1.0, 1.0, 1.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5, 7, 63])
def test_rounding_has_no_sign(size):
    # Of one wave of odd frequency the entry in the middle is zero, and of the sum of opposite ones all are.
    tx, wave = of_demo(top_k=1), np.cos((2 * np.arange(size) + 1) * np.pi / (2 * size)).astype(np.float32)
    wave[size // 2] = 0.0
    updates = run(tx, np.stack([wave, wave])[None]).updates[0, 0]
    np.testing.assert_array_equal(updates, np.sign(wave))
    np.testing.assert_array_equal(run(tx, np.stack([wave, -wave])[None]).updates, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_learning_rate_stays_with_its_gradient():
    rates = np.array([1.0, 0.1, 0.01])
    gradients = draw(3, WORKERS, 16)
    scheduled = run(optkit.demo(lambda count: jnp.asarray(rates)[count], axis_name="workers", top_k=2), gradients)
    scaled = run(of_demo(top_k=2), gradients * rates[:, None, None])
    np.testing.assert_allclose(scheduled.updates, -rates[:, None, None] * scaled.updates, rtol=1e-12)


def test_chunks_are_the_largest_divisors():
    assert Chunks.square((130, 96), 64) == ((130, 96), (5, 26), (2, 48))
    assert Chunks.square((97,), 64) == ((97,), (1, 1), (97, 1))
    assert Chunks.square((), 64) == ((), (1, 1), (1, 1))
    assert Chunks.square((3, 3, 16, 32), 8) == ((3, 3, 16, 32), (2, 8), (4, 8))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_chunks_of_a_stack_are_those_of_its_matrices():
    gradients = draw(3, WORKERS, 2, 6, 4)
    tx = of_demo(top_k=2, chunk_size=3)
    whole = run(tx, gradients).updates
    apart = [run(tx, gradients[:, :, i]).updates for i in range(2)]
    np.testing.assert_array_equal(whole, np.stack(apart, axis=2))


OF_FOUR = of_demo(top_k=4)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_worker_whose_gradient_is_not_finite_is_left_out(bad):
    gradients = draw(3, WORKERS, 12)
    spoilt = gradients.copy()
    spoilt[1, 0, 2] = bad
    broken, others = run(OF_FOUR, spoilt), run(OF_FOUR, gradients[:, 1:])
    np.testing.assert_array_equal(broken.updates[1, 1:], others.updates[1])
    np.testing.assert_array_equal(broken.updates[1, 0], others.updates[1, 0])
    np.testing.assert_array_equal(broken.states.residual[1, 0], broken.states.residual[0, 0])
    np.testing.assert_array_equal(broken.states.residual[1, 1:], others.states.residual[1])
    np.testing.assert_array_equal(broken.states.dropped, [[0] * 3, [1] * 3, [1] * 3])


@pytest.mark.slow
def test_without_senders_updates_are_nan_and_momenta_stay():
    gradients = draw(3, WORKERS, 12)
    gradients[1] = np.nan
    steps = run(OF_FOUR, gradients)
    assert np.all(np.isnan(steps.updates[1]))
    np.testing.assert_array_equal(steps.states.residual[1], steps.states.residual[0])
    np.testing.assert_array_equal(steps.states.dropped[1], WORKERS)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "message"), [(4096, 64 * 32 * 6), (100, 2 * 32 * 6), (1, 4 + 4)])
def test_one_gather_sends_six_bytes_for_each_frequency(size, message):
    flag = 4
    assert bytes_sent(of_demo(), size) == {"all-gather": 7 * (message + flag)}


@pytest.mark.slow
def test_one_worker_needs_no_axis():
    gradients = draw(4, 1, 6, 4)
    alone = trajectory(optkit.demo(0.1, axis_name=None, top_k=2), gradients[:, 0])
    np.testing.assert_array_equal(
        alone.params, run(optkit.demo(0.1, axis_name="workers", top_k=2), gradients).params[:, 0]
    )


@functools.cache
def update_on_all(backend):
    tx = of_demo(top_k=3, chunk_size=4)
    axes = optkit.worker_axes(tx, jax.ShapeDtypeStruct((4, 8, 6), jnp.float32), axis_name="workers")
    assert (axes.residual, axes.dropped) == (0, None)
    gradients = draw(4, 8, 6)
    states = jax.jit(jax.vmap(tx.init, out_axes=axes))(gradients)
    mapped = optkit.on_workers(
        tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(None, axes), backend=backend
    )
    return mapped(gradients, states)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    chex.assert_trees_all_close(update_on_all(backend), update_on_all("vmap"), atol=1e-6)


def test_complex_parameters_are_refused():
    assert_refuses_complex_parameters(optkit.demo(0.1, axis_name="workers"), "demo")
    assert_refuses_complex_parameters(of_demo(), "scale_by_demo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
        ({"chunk_size": 2.5}, "chunk_size must be a positive integer, got 2.5"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        of_demo(**arguments)


@pytest.mark.parametrize("name", ["top_k", "chunk_size"])
def test_sizes_are_static(name):
    with pytest.raises(TypeError, match=f"{name} cannot be an array.*static_args"):
        of_demo(**{name: jnp.array(3)})
