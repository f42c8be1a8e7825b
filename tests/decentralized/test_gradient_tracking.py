import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from trajectories import last, trajectory
from worker_runs import bytes_sent, learning_rate_of, quadratics, sgd_of, topology_of, train

from optkit.decentralized import gossip, gradient_tracking, track_gradients
from optkit.decentralized.topology import one_peer_exponential, ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}


def diging(inner, topology):
    return gossip(optax.chain(track_gradients(topology, **WORKERS), inner), topology, order="cta", **WORKERS)


@replays("gradient_tracking")
def test_golden_gradient_tracking(recording):
    topology, hyperparams = topology_of(recording), recording.hyperparams
    if hyperparams.word("form", {"wrapper/atc": True, "DIGing/cta": False}, False):
        tx = gradient_tracking(sgd_of(recording), topology, **WORKERS)
    else:
        momentum, nesterov = hyperparams.get("momentum", 0.0), hyperparams.get("nesterov", False)
        descent = diging(optax.sgd(learning_rate_of(recording), momentum, nesterov), topology)
        tx = optax.chain(optax.add_decayed_weights(hyperparams.get("weight_decay", 0.0)), descent)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("topology", [ring(5), one_peer_exponential(4)], ids=["ring", "one_peer_exponential"])
@pytest.mark.parametrize(
    "build", [lambda t: gradient_tracking(optax.sgd(0.1, 0.5), t, **WORKERS), lambda t: diging(optax.sgd(0.1, 0.5), t)]
)
def test_all_workers_reach_the_minimum_of_the_mean_loss(build, topology):
    losses = quadratics(topology.size)
    params, _ = train(build(topology), losses, 800)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_adam_reaches_the_minimum_behind_tracked_gradients_and_not_inside_tracked_updates():
    losses, adam = quadratics(5), optax.adam(0.05, eps=0.1)

    def distance(tx):
        return np.max(np.abs(train(tx, losses, 1500)[0][-1] - losses.minimum()))

    assert distance(diging(adam, ring(5))) < 1e-10
    assert distance(gradient_tracking(adam, ring(5), **WORKERS)) > 1e-2


@pytest.mark.usefixtures("x64")
def test_corrections_have_mean_zero():
    _, state = train(gradient_tracking(optax.adam(0.1), ring(5), **WORKERS), quadratics(5), 50)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)
    assert np.min(np.max(np.abs(state.correction), axis=(1, 2))) > 1e-3


@pytest.mark.usefixtures("x64")
def test_tracked_gradients_have_the_mean_of_the_gradients():
    gradients = normal(20, 5, 3)
    tracked = trajectory(track_gradients(ring(5), **WORKERS), gradients, **WORKERS).updates
    np.testing.assert_allclose(np.mean(tracked, axis=1), np.mean(gradients, axis=1), atol=1e-14)
    assert np.max(np.abs(tracked - gradients)) > 1


@pytest.mark.usefixtures("x64")
def test_tracked_gradients_come_together_when_gradients_stand_still():
    gradients = np.tile(np.arange(5.0), (80, 1))
    tracked = trajectory(track_gradients(ring(5), **WORKERS), gradients, **WORKERS).updates
    np.testing.assert_allclose(last(tracked), np.full(5, 2.0), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "build", [lambda t: gradient_tracking(optax.sgd(0.1), t, **WORKERS), lambda t: diging(optax.sgd(0.1), t)]
)
def test_links_that_fail_both_ways_leave_no_bias(build):
    losses, rng = quadratics(5), np.random.default_rng(0)
    lost = np.triu(rng.uniform(size=(600, 5, 5)) < 0.3, 1)
    links = np.asarray(~(lost | lost.swapaxes(1, 2)))
    params, _ = train(build(ring(5)), losses, 600, links=links)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
def test_the_minimum_stays_when_the_learning_rate_changes():
    losses = quadratics(5)
    rate = optax.piecewise_constant_schedule(0.2, {400: 0.5})
    params, _ = train(diging(optax.sgd(rate), ring(5)), losses, 420)
    assert_all_workers_end_at(losses.minimum(), params)


def test_it_sends_two_numbers_a_parameter_in_each_round():
    tx = gradient_tracking(optax.sgd(0.1, 0.9), ring(8), **WORKERS)
    assert bytes_sent(tx, size=64) == {"collective-permute": 2 * 2 * 64 * 4}


def test_tracking_gradients_sends_one_number_a_parameter_in_each_round():
    assert bytes_sent(track_gradients(ring(8), **WORKERS), size=64) == {"collective-permute": 2 * 64 * 4}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_corrections_of_16_bit_parameters_are_kept_in_float32(dtype):
    params = jnp.zeros(3, dtype)
    assert gradient_tracking(optax.sgd(0.1), ring(4), **WORKERS).init(params).correction.dtype == jnp.float32
    assert track_gradients(ring(4), **WORKERS).init(params).correction.dtype == jnp.float32


def test_missing_parameters_are_named():
    assert_needs_parameters(gradient_tracking(optax.sgd(0.1), ring(4), **WORKERS), "gradient_tracking")


def test_another_number_of_workers_is_an_error():
    with pytest.raises(ValueError, match="joins 4 workers, but the axis 'workers' has 5"):
        train(gradient_tracking(optax.sgd(0.1), ring(4), **WORKERS), quadratics(5), 1)
