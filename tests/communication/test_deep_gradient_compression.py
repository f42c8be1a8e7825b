"""What Deep Gradient Compression promises: the recorded runs, and its limits without compression."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_decay_spares_masked_leaves, assert_refuses_complex_parameters
from trajectories import trajectory
from worker_runs import bytes_sent

import optkit
from optkit.communication._deep_gradient_compression import (
    ScaleByDeepGradientCompressionState,
    _phase,
    densities_of_phases,
)
from optkit.core.cost import hlo

WORKERS = 3
of_dgc = functools.partial(optkit.scale_by_deep_gradient_compression, axis_name="workers")
# So near to 1 that all entries of a small leaf are sent, and yet not 1, with which a leaf is not compressed.
ALL = 0.99


def run(tx, gradients, params=None):
    """Runs that are stacked, in NumPy: time first, and then workers."""
    return jax.tree.map(np.asarray, trajectory(tx, gradients, params, axis_name="workers"))


def draw(*shape, **arguments):
    return np.array(normal(*shape, **arguments))


def dgc_state(state):
    """The state of `scale_by_deep_gradient_compression` in that of the optimizer."""
    kind = ScaleByDeepGradientCompressionState
    (found,) = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]
    return found


@pytest.mark.slow
@replays("dgc")
def test_golden_dgc(recording):
    found, grads = recording.hyperparams, recording.tree("grads")
    epochs, steps_of_epoch = found["warmup_epochs"], found["steps_per_epoch"]
    warm_up = {"warmup_steps": epochs * steps_of_epoch, "warmup_phases": epochs} if epochs > 0 else {}
    density = found["compress_ratio"]
    tx = optkit.deep_gradient_compression(
        found["learning_rate"],
        found["momentum"],
        found["weight_decay"],
        axis_name="workers",
        density=density,
        nesterov=found["nesterov"],
        momentum_masking=found["momentum_masking"],
        clip_norm=found["clip_norm"],
        **warm_up,
    )
    assert {x.shape[1] for x in grads.values()} == {found["n_workers"]}
    steps = run(tx, grads, recording.tree("params0"))
    assert_replays(recording, steps.params)

    densities = densities_of_phases(density, max(epochs, 0))
    phase_of = jax.jit(lambda t: _phase(t, warm_up.get("warmup_steps"), len(densities) - 1))
    phases = [phase_of(t) for t in range(len(recording.arrays["ratio"]))]
    np.testing.assert_allclose([densities[phase] for phase in phases], recording.arrays["ratio"], rtol=1e-12)
    state = dgc_state(steps.states)
    for group, ours in (("momentum", state.momentum), ("velocity", state.velocity)):
        if any(name.startswith(f"{group}.") for name in recording.arrays):
            expected = recording.tree(group)
            chex.assert_trees_all_close({leaf: ours[leaf][-1] for leaf in expected}, expected, rtol=0, atol=1e-10)


def mean_of(gradients):
    return jax.tree.map(lambda g: np.broadcast_to(g.mean(axis=1, keepdims=True), g.shape), gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("density", [ALL, 1.0])
def test_sending_all_without_masking_is_momentum_sgd_on_the_mean(nesterov, density):
    gradients = {"w": draw(5, WORKERS, 2, 3), "b": draw(5, WORKERS, 3, seed=1)}
    tx = of_dgc(density=density, momentum_masking=False, nesterov=nesterov)
    # The buffers of the two are equal but for a factor: PyTorch's Nesterov momentum is Optax's.
    expected = run(optax.trace(0.9, nesterov), mean_of(gradients)).updates
    chex.assert_trees_all_close(run(tx, gradients).updates, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_sending_all_with_masking_is_sgd_on_the_mean():
    gradients = draw(5, WORKERS, 2, 3)
    np.testing.assert_allclose(run(of_dgc(density=ALL), gradients).updates, mean_of(gradients), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_nothing_is_lost():
    gradients = draw(6, WORKERS, 4, 5)
    steps = run(of_dgc(0.0, density=0.1), gradients)
    received = steps.updates.sum(axis=0)
    owed = steps.states.velocity[-1].mean(axis=0)
    np.testing.assert_allclose(received + owed, mean_of(gradients).sum(axis=0), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_leaves_that_are_not_compressed_have_the_momentum_of_the_mean():
    gradients = {"b": draw(4, WORKERS, 5), "s": draw(4, WORKERS, seed=1), "w": draw(4, WORKERS, 4, 4, seed=2)}
    expected = run(optax.trace(0.9), mean_of(gradients)).updates
    updates = run(of_dgc(density=0.1), gradients).updates
    chex.assert_trees_all_close([updates["b"], updates["s"]], [expected["b"], expected["s"]], rtol=1e-12)
    assert np.max(np.count_nonzero(updates["w"], axis=(2, 3))) <= 2 * WORKERS
    updates = run(of_dgc(density=0.1, compressed={"b": True, "s": False, "w": False}), gradients).updates
    chex.assert_trees_all_close([updates["w"], updates["s"]], [expected["w"], expected["s"]], rtol=1e-12)
    assert np.max(np.count_nonzero(updates["b"], axis=2)) <= WORKERS


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_warm_up_sends_fewer_entries_in_each_phase():
    gradients = draw(7, 1, 10, 100)
    updates = run(of_dgc(density=0.001, warmup_steps=6, warmup_phases=3), gradients).updates
    densities = densities_of_phases(0.001, 3)
    expected = [int(np.ceil(1000 * densities[phase])) for phase in (0, 0, 1, 1, 2, 2, 3)]
    assert np.count_nonzero(updates, axis=(1, 2, 3)).tolist() == expected == [178, 178, 32, 32, 6, 6, 1]


@pytest.mark.slow
def test_the_length_of_a_warm_up_may_be_injected():
    gradients = draw(4, 2, 6, 10)
    arguments = {"density": 0.05, "warmup_phases": 2, "axis_name": "workers"}
    injected = optkit.inject_hyperparams(optkit.deep_gradient_compression)
    ours = run(injected(0.1, warmup_steps=3, **arguments), gradients).params
    expected = run(optkit.deep_gradient_compression(0.1, warmup_steps=3, **arguments), gradients).params
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_leaf_is_clipped_by_its_own_norm():
    gradients = {"w": draw(1, 2, 3, 4), "b": draw(1, 2, 3, seed=1)}
    updates = run(of_dgc(density=ALL, clip_norm=0.5), gradients).updates
    norms = np.linalg.norm(gradients["w"][0].reshape(2, -1), axis=1)
    own = (gradients["w"][0] * (0.5 / norms)[:, None, None]).mean(axis=0)
    np.testing.assert_allclose(updates["w"][0, 0], own, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(updates["b"][0, 0]), 0.5, rtol=1e-5)


@pytest.mark.slow
def test_clipping_huge_gradients_keeps_their_direction():
    gradient = np.full((1, 1, 2, 2), 3e38, np.float32)
    np.testing.assert_allclose(run(of_dgc(density=ALL, clip_norm=1.0), gradient).updates, 0.5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_weight_decay_has_a_momentum_of_its_own(nesterov):
    # Without gradients the parameters decay as by SGD with momentum and an L2 penalty.
    params, zeros = draw(WORKERS, 2, 3), np.zeros((5, WORKERS, 2, 3))
    ours = run(optkit.deep_gradient_compression(0.1, 0.9, 0.2, axis_name="workers", nesterov=nesterov), zeros, params)
    sgd = optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1, 0.9, nesterov))
    np.testing.assert_allclose(ours.params, run(sgd, zeros, params).params, rtol=1e-12)


@pytest.mark.slow
def test_decay_spares_masked_leaves():
    assert_decay_spares_masked_leaves(functools.partial(optkit.deep_gradient_compression, axis_name=None))


WITHOUT_MOMENTUM = of_dgc(0.0, density=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["w", "b"])
def test_a_worker_whose_gradient_is_not_finite_is_left_out(bad, leaf):
    gradients = {"w": draw(3, WORKERS, 4, 3), "b": draw(3, WORKERS, 3, seed=1)}
    broken = {**gradients, leaf: gradients[leaf].copy()}
    broken[leaf][1, 0] = bad
    steps, others = run(WITHOUT_MOMENTUM, broken), run(WITHOUT_MOMENTUM, jax.tree.map(lambda g: g[:, 1:], gradients))
    chex.assert_trees_all_close(
        jax.tree.map(lambda u: u[1, 1:], steps.updates), jax.tree.map(lambda u: u[1], others.updates), rtol=1e-6
    )
    np.testing.assert_array_equal(steps.states.velocity["w"][1, 0], steps.states.velocity["w"][0, 0])
    np.testing.assert_array_equal(steps.states.momentum["w"][1, 0], steps.states.momentum["w"][0, 0])
    np.testing.assert_array_equal(steps.states.dropped, [[0] * 3, [1] * 3, [1] * 3])
    chex.assert_tree_all_finite(steps)


@pytest.mark.slow
def test_without_senders_updates_are_nan_and_buffers_stay():
    gradients = {"w": draw(2, WORKERS, 4, 3), "b": draw(2, WORKERS, 3, seed=1)}
    gradients["b"][1] = np.nan
    steps = run(of_dgc(density=0.3), gradients)
    assert all(np.all(np.isnan(u[1])) for u in jax.tree.leaves(steps.updates))
    for buffers in (steps.states.momentum, steps.states.velocity):
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x, t=t: x[t], buffers) for t in (0, 1)))
    np.testing.assert_array_equal(steps.states.dropped[1], WORKERS)


@pytest.mark.slow
def test_one_gather_sends_eight_bytes_for_each_entry():
    flag = 4
    tx = of_dgc(density=0.01, compressed=True)
    assert bytes_sent(tx, 1000) == {"all-gather": 7 * (10 * 8 + flag)}
    # Leaves that are not compressed are summed by a ring.
    assert bytes_sent(of_dgc(), 1000) == {"all-gather": 7 * flag, "all-reduce": 2 * 7 * 1000 * 4 // 8}


@pytest.mark.slow
def test_each_phase_of_a_warm_up_sends_its_own_bytes():
    tx = of_dgc(density=0.01, warmup_steps=10, warmup_phases=1, compressed=True)
    params = jnp.zeros((8, 1000))
    axes = optkit.worker_axes(tx, params, axis_name="workers")
    assert (axes.count, axes.dropped) == (None, None)
    step = optkit.on_workers(tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend="shard_map")
    lowered = jax.jit(step).lower(params, jax.eval_shape(jax.vmap(tx.init, out_axes=axes), params))
    compiled = lowered.compile()
    work = hlo.read(compiled, lowered)
    assert (work.sent, work.sent_when_taken) == ({}, {"all-gather": 7 * (100 * 8 + 4)})  # of the first phase
    sizes = {int(size) for size in re.findall(r"= u32\[8,(\d+)\]\S* all-gather\(", compiled.as_text())}
    assert sizes == {2 * 100 + 1, 2 * 10 + 1}


@pytest.mark.slow
def test_one_worker_needs_no_axis():
    gradients = {"w": draw(4, 1, 6, 4), "b": draw(4, 1, 3, seed=1)}
    alone = trajectory(
        optkit.scale_by_deep_gradient_compression(axis_name=None, density=0.2),
        jax.tree.map(lambda g: g[:, 0], gradients),
    )
    over_workers = jax.tree.map(lambda u: u[:, 0], run(of_dgc(density=0.2), gradients).updates)
    chex.assert_trees_all_equal(alone.updates, over_workers)


@functools.cache
def two_updates(backend):
    tx = of_dgc(density=0.1, warmup_steps=2, warmup_phases=2)
    gradients = {"w": draw(8, 6, 5), "b": draw(8, 3, seed=1)}
    axes = optkit.worker_axes(tx, gradients, axis_name="workers")
    states = jax.jit(jax.vmap(tx.init, out_axes=axes))(gradients)
    step = optkit.on_workers(tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend=backend)
    first, state = step(gradients, states)
    return first, step(gradients, state)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    chex.assert_trees_all_close(two_updates(backend), two_updates("vmap"), atol=1e-6)


def test_complex_parameters_are_refused():
    assert_refuses_complex_parameters(
        optkit.deep_gradient_compression(0.1, axis_name="workers"), "deep_gradient_compression"
    )
    assert_refuses_complex_parameters(of_dgc(), "scale_by_deep_gradient_compression")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"clip_norm": 0.0}, r"clip_norm must be in \(0, inf\], got 0.0"),
        ({"warmup_steps": -1}, r"warmup_steps must be in \[0, inf\], got -1"),
        ({"warmup_phases": 0}, "warmup_phases must be a positive integer, got 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        of_dgc(**arguments)


@pytest.mark.parametrize("name", ["density", "warmup_phases"])
def test_sizes_are_static(name):
    with pytest.raises(TypeError, match=f"{name} cannot be an array.*static_args"):
        of_dgc(**{name: jnp.array(1)})
