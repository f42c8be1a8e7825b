"""Replays of the recorded runs of implicit transport, Discover, SGD-SaI and AdaGrad-norm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
    averaging = hyperparams.word("averaging", ("ata", "full"))
    in_wrapper = averaging == "ata"
    transport = {"averaging": averaging, **hyperparams.take_recorded("delta", "interval")}
    rate = hyperparams["learning_rate"]
    inner = hyperparams.word("inner", ("adam", "gd", "momentum"))
    if inner == "adam":
        adam = hyperparams.take("b1", "b2", "eps")
        if in_wrapper:
            return optkit.implicit_gradient_transport(optax.adam(rate, **adam), **transport)
        return optkit.igt_adam(rate, **adam, **transport)
    momentum = {"momentum": hyperparams.get("momentum"), "nesterov": hyperparams.get("nesterov", False)}
    assert inner == "momentum" or not momentum["momentum"]
    if in_wrapper:
        return optkit.implicit_gradient_transport(optax.sgd(rate, **momentum), **transport)
    return optkit.igt(rate, **momentum, **transport)


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
    tx = optkit.nigt(**recording.hyperparams.take("learning_rate", "normalize", "init_first", b1="beta"))
    assert_replays(recording, replay_oracle(tx, recording, eval_params=optkit.igt_eval_params))


def discover(hyperparams, **clusters):
    """Discover as recorded, over rows of clusters."""
    shared = {**hyperparams.take("learning_rate", "alpha"), **clusters}
    if "nu" in hyperparams:
        return optkit.discover(**shared, **hyperparams.take("nu", momentum="beta"))
    if "beta" in hyperparams:
        return optkit.discover_igt(**shared, **hyperparams.take(b1="beta"))
    return optkit.discover(**shared, momentum=hyperparams.get("momentum"))


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


@pytest.mark.slow
@replays("discover")
def test_golden_discover_over_rows(recording):
    num_clusters, probabilities = recording.hyperparams["num_clusters"], recording.arrays.get("probs")
    tx = discover(recording.hyperparams, num_clusters=num_clusters, probabilities=probabilities)
    tx = one_cluster_a_batch(tx, num_clusters)
    assert_replays(recording, replay_discover(tx, recording))


@pytest.mark.slow
@replays("discover")
def test_golden_discover_with_one_cluster_a_batch(recording):
    hyperparams = recording.hyperparams
    estimate = optkit.scale_by_cluster_control_variate(
        hyperparams["num_clusters"], probabilities=recording.arrays.get("probs"), alpha=hyperparams["alpha"]
    )
    # The momentum after it: with one cluster in all, the estimate of the second part is what it is given.
    after = one_cluster_in_all(discover(hyperparams, num_clusters=1))
    assert_replays(recording, replay_discover(optax.chain(estimate, after), recording))


@replays("sgd_sai")
def test_golden_sgd_sai(recording):
    hyperparams = recording.hyperparams.take("learning_rate", "momentum", "eps", "weight_decay")
    assert_replays(recording, replay_gradients(optkit.sgd_sai(**hyperparams), recording))


@replays("sgd_sai")
def test_golden_sgd_sai_measures_the_recorded_ratios(recording):
    recording.hyperparams.take("learning_rate", "weight_decay")  # No matter for the ratios.
    tx = optkit.scale_by_sai(**recording.hyperparams.take("momentum", "eps"))
    params = recording.tree("params0")
    state = tx.init(jax.tree.map(jnp.asarray, params))
    _, state = tx.update(jax.tree.map(lambda g: jnp.asarray(g[0]), recording.tree("grads")), state)
    assert_replays(recording, state.gsnr, "expected.gsnr")


@replays("adagrad_norm")
def test_golden_adagrad_norm(recording):
    tx = optkit.adagrad_norm(**recording.hyperparams.take("learning_rate", "b0"))
    assert_replays(recording, replay_gradients(tx, recording))


@replays("adagrad_norm_sgd")
def test_golden_adagrad_norm_sgd(recording):
    tx = optkit.adagrad_norm(**recording.hyperparams.take("b0", learning_rate="eta"))
    assert_replays(recording, replay_gradients(tx, recording))


@replays("adagrad_norm_sgd")
def test_golden_adagrad_norm_divisor(recording):
    recording.hyperparams.take("eta")  # No matter for the divisor.
    tx = optkit.scale_by_adagrad_norm(**recording.hyperparams.take("b0"))
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))

    def step(state, grads):
        state = tx.update(grads, state, params)[1]
        return state, jnp.sqrt(state.squares)

    divisors = jax.lax.scan(step, tx.init(params), jax.tree.map(jnp.asarray, recording.tree("grads")))[1]
    np.testing.assert_allclose(divisors, recording.arrays["b"], rtol=recording.meta["rtol"])
