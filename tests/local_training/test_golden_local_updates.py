"""The authors' recorded runs of local SGD with QSR, DiLoCo, its streaming form, and MuLoCo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers
from trajectories import trajectory

import optkit
from optkit.core.linalg.newton_schulz import newton_schulz
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._muon import scale_by_muon


def run(recording, tx):
    """The parameters of all workers and the optimizer's states after every step."""
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    ran = trajectory(tx, gradients, params, axis_name="workers")
    assert_replays(recording, ran.params)
    return ran.states


def adamw_of(found):
    rates = found.take_recorded(learning_rate="inner_lr", b1="b1", b2="b2", eps="eps", weight_decay="weight_decay")
    return optax.adamw(**rates)


def inner_of(found):
    if found.word("inner", {"adamw": True, "sgd": False}, True):
        return adamw_of(found)
    # The recorded run lists these, but does not use them.
    for unused in ("weight_decay", "b2", "eps"):
        found.get(unused, None)
    return optax.sgd(found["inner_lr"])


def outer_of(found, *, nesterov):
    return optax.sgd(found["outer_lr"], found["outer_momentum"], nesterov=nesterov)


@replays("diloco")
def test_golden_diloco(recording):
    found = recording.hyperparams
    found["n_workers"]
    tx = optkit.local_updates(
        inner_of(found), outer_of(found, nesterov=found["nesterov"]), every=found["sync_every"], axis_name="workers"
    )
    run(recording, tx)


@replays("streaming_diloco")
def test_golden_streaming_diloco(recording):
    found = recording.hyperparams
    found["n_workers"]
    number = found["n_fragments"]
    fragments = {leaf: found[f"fragments.{leaf}"] for leaf in recording.tree("params0")}
    every = number * max(1, round(found["sync_every"] / number))  # MaxText rounds
    tx = optkit.local_updates(
        inner_of(found),
        outer_of(found, nesterov=found["nesterov"]),
        every=every,
        fragments=fragments,
        axis_name="workers",
        **found.take("delay", "alpha"),
    )
    states = run(recording, tx)
    anchors = jax.tree.map(lambda x: x[:, 0], states.anchor)
    assert_replays(recording, anchors, "outer")


@replays("qsr")
def test_golden_qsr(recording):
    found = recording.hyperparams
    found["n_workers"]
    warmup, steps, final = found["warmup_steps"], found["total_steps"], found["final_lr"]
    rates = jnp.asarray(recording.arrays["lr"])
    cosine = optax.warmup_cosine_decay_schedule(1e-6, found["peak_lr"], warmup, steps, final)
    np.testing.assert_allclose(jax.vmap(cosine)(jnp.arange(steps)), rates, rtol=1e-11)

    def schedule(count):
        return rates[jnp.minimum(count, steps - 1)]  # The cosine of a counter of 32 bits is in float32.

    every = optkit.quadratic_synchronization(
        schedule,
        found["alpha"],
        found["h_base"],
        warmup_steps=warmup,
        warmup=found["h_warmup"],
        total_steps=steps,
        power=found["power"],
    )
    decay, momentum = found["weight_decay"], found["momentum"]
    adamw = found.word("inner", {"adamw": True, "sgd": False})
    fields = {"exp_avg": "mu", "exp_avg_sq": "nu", "momentum_buffer": "trace"}
    averaged = tuple(fields[name] for name in found["average_state"])
    inner = (
        optax.adamw(schedule, weight_decay=decay)
        if adamw
        else optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum))
    )
    tx = optkit.local_updates(inner, every=every, axis_name="workers", average_state=averaged or None)
    states = run(recording, tx)
    np.testing.assert_array_equal(states.period[:, 0], recording.arrays["h"])
    np.testing.assert_array_equal(states.since[:, 0] == 0, recording.arrays["synced"])


SCALES = {
    "spectral_norm": lambda rows, columns: np.sqrt(rows / columns),
    "rms_norm": lambda rows, columns: 0.2 * np.sqrt(max(rows, columns)),
}


def outputs_first(shape):
    """Matrices as in PyTorch, where all axes but the first are inputs."""
    return MuonDimensionNumbers(tuple(range(1, len(shape))), 0) if len(shape) >= 2 else None


@replays("muloco")
def test_golden_muloco(recording):
    found = recording.hyperparams
    found["n_workers"], found["ns_steps"]
    assert found["flatten"]
    scale = found.word("scale", SCALES)
    shapes = {leaf: x.shape[1:] for leaf, x in recording.tree("params0").items()}
    orthogonalize = functools.partial(
        newton_schulz, coefficients=[tuple(triple) for triple in found["ns_coeffs"]], eps=found["ns_eps"]
    )

    def direction(numbers):
        def scaled(updates, _):
            # The authors take the first two axes of a convolution, which ours sees as one matrix.
            return {leaf: u if masked(u) else scale(*u.shape[:2]) * u for leaf, u in updates.items()}

        muon = scale_by_muon(
            **found.take("momentum", "nesterov"),
            ema=False,
            orthogonalize=orthogonalize,
            scale=None,
            weight_dimension_numbers=numbers,
        )
        return optax.chain(muon, optax.stateless(scaled))

    masked = lambda u: isinstance(u, optax.MaskedNode)  # noqa: E731
    adamw = found.take("b1", "b2", "eps", "weight_decay", learning_rate="adam_learning_rate")
    inner = matrix_optimizer(
        "muon",
        found["inner_lr"],
        direction,
        weight_decay=found["weight_decay"],
        cautious_decay=found["cautious_weight_decay"],
        weight_dimension_numbers={leaf: outputs_first(shape) for leaf, shape in shapes.items()},
        others=optax.adamw(**adamw),
        eps_of_others=1e-10,
    )
    tx = optkit.local_updates(
        inner, outer_of(found, nesterov=found["outer_momentum"] > 0), every=found["sync_every"], axis_name="workers"
    )
    run(recording, tx)
