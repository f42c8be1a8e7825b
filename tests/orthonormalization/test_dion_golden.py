import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers
from trajectories import last, trajectory

from optkit.core.linalg.orthonormal import householder_qr, randomized_cholesky_qr
from optkit.orthonormalization import scale_by_dion
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.testing.golden import replay_gradients

pytestmark = pytest.mark.slow

# The recordings' weights are PyTorch's.
OUTPUTS_FIRST = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
BASES = {"qr": householder_qr, "rcqr": randomized_cholesky_qr}


def others(hyperparams, algorithms):
    """AdamW and Lion, with what the recording has of each, or of all."""
    shared = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.0, **hyperparams.take("learning_rate")}
    shared |= hyperparams.take_recorded("weight_decay", "b1", "b2")

    def own(other, *names):
        return shared | hyperparams.take_recorded(**{name: f"{other}.{name}" for name in names})

    kinds = {
        "adamw": optax.adamw(**own("adamw", "learning_rate", "weight_decay", "eps")),
        "lion": optax.lion(**own("lion", "learning_rate", "weight_decay")),
        "dion": optax.set_to_zero(),
    }
    return optax.partition({**kinds}, algorithms)


def optimizer(recording, axis_name=None):
    """Translates the authors' words; leaves without an algorithm of their own are Dion's."""
    hyperparams = recording.hyperparams
    hyperparams.get("cqr_warmup_steps")  # Parameters do not depend on how a basis is made orthonormal.
    algorithms = dict.fromkeys(recording.tree("params0"), "dion")
    algorithms |= hyperparams.words("algorithms", ("dion", "adamw", "lion"))
    translated = {
        **hyperparams.take(momentum="mu", power_iterations="power_iters"),
        **hyperparams.take_recorded("rank", "rank_fraction", "rank_multiple_of", "eps"),
        "transpose": hyperparams.word("transpose", {"m<n": None, "never": False}),
    }
    if "qr_method" in hyperparams:
        translated["orthonormalize"] = hyperparams.word("qr_method", BASES)
    return matrix_optimizer(
        "dion",
        **hyperparams.take("learning_rate"),
        direction=lambda numbers: scale_by_dion(weight_dimension_numbers=numbers, axis_name=axis_name, **translated),
        **{"weight_decay": 0.01, **hyperparams.take_recorded("weight_decay")},
        labels={leaf: "matrix" if name == "dion" else "other" for leaf, name in algorithms.items()},
        others=others(hyperparams, algorithms),
        weight_dimension_numbers=OUTPUTS_FIRST,
        axis_name=axis_name,
    )


def beginning_with(tx, bases):
    """Replaces the first bases, which are drawn, by recorded ones."""

    def init(params):
        state = tx.init(params)
        drawn = optax.tree.get(state, "basis")
        recorded = {leaf: jnp.asarray(bases[leaf]) if leaf in bases else basis for leaf, basis in drawn.items()}
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), drawn, recorded)
        return optax.tree.set(state, basis=recorded)

    return tx._replace(init=init)


@replays("dion")
def test_golden_dion(recording):
    tx = beginning_with(optimizer(recording), recording.tree("draws.Q0"))
    assert_replays(recording, replay_gradients(tx, recording))


@replays("dion_dp")
def test_golden_dion_over_workers(recording):
    tx = beginning_with(optimizer(recording, "workers"), recording.tree("draws.Q0"))
    workers, compressed = recording.hyperparams["n_workers"], recording.hyperparams.group("compressed_leaves")
    params = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (workers, *x.shape)), recording.tree("params0"))
    run = trajectory(tx, jax.tree.map(jnp.asarray, recording.tree("grads")), params, axis_name="workers")
    momenta = last(optax.tree.get(run.states, "momentum"))
    assert_replays(recording, run.params)
    for leaf, expected in recording.tree("final_state.momentum").items():
        if compressed[leaf]:
            np.testing.assert_allclose(momenta[leaf], expected, rtol=0, atol=recording.meta["rtol"])
