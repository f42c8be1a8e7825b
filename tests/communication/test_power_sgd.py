import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from jax.sharding import AxisType
from trajectories import trajectory

import optkit
from optkit import linalg, power_sgd
from optkit.core.cost import hlo
from optkit.testing import golden


def on_recorded_matrices(tx, shapes, draws, warm_start):
    """Runs it on matrices of `shapes`, in the place of the leaves of these names, from the recorded factors."""

    def matrices(tree):
        return {name: x.reshape(shapes.get(name, x.shape)) for name, x in tree.items()}

    def from_draws(state, step):
        drawn = {
            side: {name: None if x is None else jnp.asarray(draws[side][name][step]) for name, x in factors.items()}
            for side in draws
            if (factors := getattr(state, side)) is not None
        }
        return state._replace(**drawn)

    def init(params):
        return from_draws(tx.init(matrices(params)), 0)

    def update(updates, state, params=None):
        state = state if warm_start else from_draws(state, state.count)
        means, state = tx.update(matrices(updates), state, None if params is None else matrices(params))
        return {name: x.reshape(updates[name].shape) for name, x in means.items()}, state

    return optax.GradientTransformation(init, update)


def compressed_by_the_package(shape, hyperparams):
    """Its test, which takes the axes of a convolution for those of a matrix."""
    rank = min(hyperparams["rank"], *shape)
    sent = 0.5 * hyperparams["num_iters_per_step"] * rank * sum(shape)
    return np.prod(shape) / sent > hyperparams["min_compression_rate"]


def momentum_of_the_paper(momentum):
    """Descends along the gradient and the momentum."""
    trace = optax.trace(momentum)

    def update(updates, state, params=None):
        moved, state = trace.update(updates, state, params)
        return optax.tree.add(updates, moved), state

    return optax.GradientTransformation(trace.init, update)


def recorded_optimizer(recording):
    recorded, gradients = recording.hyperparams, recording.tree("grads")
    paper = "warm_start" in recorded
    warm_start = recorded.get("warm_start", True)
    right = recording.tree("draws.q")
    left = {} if paper else recording.tree("draws.p")
    # With factors that are drawn in each step, time is the first axis.
    draws = {side: {name: x if x.ndim == 3 else x[None] for name, x in tree.items()} for side, tree in
             (("left", left), ("right", right))}  # fmt: skip
    shapes = {name: (gradients[name].shape[2], -1) for name in right}
    numbers = {
        name: optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1) if name in right else None
        for name in gradients
    }
    options = recorded.take("rank")
    if paper:
        # Added to the norms of columns: less than the file's tolerance.
        assert recorded["orthogonalize_eps"] <= recording.meta["rtol"]
        assert {name for name, g in gradients.items() if g.ndim >= 4} == set(right)
        outer = momentum_of_the_paper(recorded["momentum"])
    else:
        options |= {"alternating": True, **recorded.take("start_step", iterations="num_iters_per_step")}
        compressed = {name for name, g in gradients.items() if compressed_by_the_package(g.shape[2:], recorded)}
        assert compressed == set(right)
        outer = optax.trace(recorded["momentum"], nesterov=recorded["nesterov"])
    assert recorded["n_workers"] == next(iter(gradients.values())).shape[1]
    mean = power_sgd(
        **options,
        axis_name="workers",
        min_compression_rate=0,
        warm_start=warm_start,
        weight_dimension_numbers=numbers,
    )
    return optax.chain(
        on_recorded_matrices(mean, shapes, draws, warm_start),
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
    for name, expected in recording.tree("error").items():
        error = optax.tree.get(run.states, "error")[name]
        if error is None:
            np.testing.assert_array_equal(expected, 0)
            continue
        error = (
            error if len(expected) == len(error) and expected.ndim == run.params[name].ndim else error[-1]
        ).reshape(expected.shape)
        if "warm_start" in recording.hyperparams:
            # The paper's code keeps what the mean leaves out of each matrix: the sum is the same.
            error, expected = np.sum(error, axis=0), np.sum(expected, axis=0)
        assert golden.deviation(error, expected) <= recording.meta["rtol"], name
