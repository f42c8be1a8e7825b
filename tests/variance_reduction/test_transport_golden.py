"""Replays of the recorded runs of implicit transport, Discover, SGD-SaI and AdaGrad-norm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_files import assert_replays, replays

import optkit
from optkit.testing.golden import deviation, replay_gradients, replay_oracle


def eval_point_recording(recording):
    """The same run with the points at which gradients were taken in place of the parameters."""
    points = {
        name.removeprefix("expected.eval_point."): x for name, x in recording.arrays.items() if "eval_point" in name
    }
    return dataclasses.replace(recording, arrays=recording.arrays | {f"params.{name}": x for name, x in points.items()})


def igt(recording):
    """The method of a recording; tail averages were recorded with PyTorch's optimizers inside the authors' wrapper."""
    hyperparams = recording.hyperparams
    inner = hyperparams.pop("inner")
    in_wrapper = hyperparams["averaging"] == "ata"
    if inner == "adam":
        return optkit.igt_adam(**hyperparams, eps_placement="post" if in_wrapper else "pre")
    hyperparams = {"momentum": None, "nesterov": inner == "nesterov", **hyperparams}
    if not in_wrapper:
        return optkit.igt(**hyperparams)
    options = {name: hyperparams.pop(name) for name in ("averaging", "delta", "interval") if name in hyperparams}
    decay = optax.add_decayed_weights(hyperparams.pop("weight_decay", 0.0))
    return optkit.implicit_gradient_transport(optax.chain(decay, optax.sgd(**hyperparams)), **options)


@replays("igt")
def test_golden_igt(recording):
    assert_replays(recording, replay_oracle(igt(recording), recording, eval_params=optkit.igt_eval_params))


@replays("igt")
def test_golden_igt_takes_gradients_where_the_authors_do(recording):
    points = replay_oracle(igt(recording), recording)
    recorded = eval_point_recording(recording).tree("params")
    assert deviation(jax.tree.map(lambda x: x[:-1], points), jax.tree.map(lambda x: x[1:], recorded)) <= 1e-8


@replays("nigt")
def test_golden_nigt(recording):
    hyperparams = recording.hyperparams
    tx = optkit.nigt(b1=hyperparams.pop("beta"), **hyperparams)
    assert_replays(recording, replay_oracle(tx, recording, eval_params=optkit.igt_eval_params))


def discover(hyperparams, probabilities):
    """Discover as recorded, over rows of clusters."""
    hyperparams = {**hyperparams, "probabilities": probabilities}
    if "nu" in hyperparams:
        return optkit.discover(momentum=hyperparams.pop("beta"), **hyperparams)
    if "beta" in hyperparams:
        return optkit.discover_igt(b1=hyperparams.pop("beta"), **hyperparams)
    return optkit.discover(**{"momentum": None, **hyperparams})


def one_cluster_a_batch(tx, num_clusters):
    """Gives the gradient of one cluster to a method that takes rows of clusters."""

    def update(updates, state, params, *, cluster_id, **extra_args):
        counts = jax.nn.one_hot(cluster_id, num_clusters)
        rows = jax.tree.map(lambda g: jnp.multiply.outer(counts, g), updates)
        return tx.update(rows, state, params, class_counts=counts, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def one_cluster_in_all(tx):
    """Gives any gradient to a method over rows of clusters as that of the only cluster there is."""

    def update(updates, state, params, **extra_args):
        rows = jax.tree.map(lambda g: g[None], updates)
        return tx.update(rows, state, params, class_counts=jnp.ones(1), **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def replay_discover(tx, recording):
    clusters = {"cluster_id": recording.arrays["draws.cluster"]}
    if recording.meta["kind"] == "oracle":
        return replay_oracle(tx, recording, eval_params=optkit.igt_eval_params, extra_args=clusters)
    return replay_gradients(tx, recording, clusters)


@replays("discover")
def test_golden_discover_over_rows(recording):
    tx = discover(recording.hyperparams, recording.arrays.get("probs"))
    tx = one_cluster_a_batch(tx, recording.hyperparams["num_clusters"])
    assert_replays(recording, replay_discover(tx, recording))


@replays("discover")
def test_golden_discover_with_one_cluster_a_batch(recording):
    hyperparams = recording.hyperparams
    options = {name: hyperparams[name] for name in ("alpha", "inverse_probability") if name in hyperparams}
    estimate = optkit.scale_by_cluster_control_variate(
        hyperparams["num_clusters"], probabilities=recording.arrays.get("probs"), **options
    )
    # The momentum behind it: with one cluster in all, the estimate of the second part is what it is given.
    behind = one_cluster_in_all(discover({**hyperparams, "num_clusters": 1}, probabilities=None))
    assert_replays(recording, replay_discover(optax.chain(estimate, behind), recording))


@replays("sgd_sai")
def test_golden_sgd_sai(recording):
    assert_replays(recording, replay_gradients(optkit.sgd_sai(**recording.hyperparams), recording))


@replays("sgd_sai")
def test_golden_sgd_sai_measures_the_recorded_ratios(recording):
    tx = optkit.scale_by_sai(recording.hyperparams["momentum"], recording.hyperparams["eps"])
    params = recording.tree("params0")
    state = tx.init(jax.tree.map(jnp.asarray, params))
    _, state = tx.update(jax.tree.map(lambda g: jnp.asarray(g[0]), recording.tree("grads")), state)
    assert deviation(state.gsnr, recording.tree("expected.gsnr")) <= recording.meta["rtol"]


@replays("adagrad_norm")
def test_golden_adagrad_norm(recording):
    assert_replays(recording, replay_gradients(optkit.adagrad_norm(**recording.hyperparams), recording))


@replays("adagrad_norm_sgd")
def test_golden_adagrad_norm_sgd(recording):
    hyperparams = recording.hyperparams
    tx = optkit.adagrad_norm(hyperparams.pop("eta"), **hyperparams)
    assert_replays(recording, replay_gradients(tx, recording))


@replays("adagrad_norm_sgd")
def test_golden_adagrad_norm_divisor(recording):
    options = {name: value for name, value in recording.hyperparams.items() if name != "eta"}
    tx = optkit.scale_by_adagrad_norm(**options)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))

    def step(state, grads):
        state = tx.update(grads, state, params)[1]
        return state, jnp.sqrt(state.squares)

    divisors = jax.lax.scan(step, tx.init(params), jax.tree.map(jnp.asarray, recording.tree("grads")))[1]
    np.testing.assert_allclose(divisors, recording.arrays["b"], rtol=recording.meta["rtol"])
