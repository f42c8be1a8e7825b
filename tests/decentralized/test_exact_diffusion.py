import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from worker_runs import bytes_sent, learning_rate_of, quadratics, sgd_of, topology_of, train

from optkit.decentralized import exact_diffusion, repeated_mix
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import exponential, hypercube, one_peer_exponential, ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}


@pytest.mark.slow
@replays("d2")
def test_golden_d2(recording):
    hyperparams, topology = recording.hyperparams, topology_of(recording)
    hyperparams.word("form", ("wrapper",), None)
    tx = exact_diffusion(
        sgd_of(recording),
        topology.lazy() if hyperparams.get("lazy", False) else topology,
        mixing=repeated_mix(1),  # on a ring of four, where the recorded runs do not settle, too
        learning_rate=learning_rate_of(recording) if hyperparams.get("lr_safe", False) else None,
        mix_first_step=hyperparams.get("mix_first_step", True),
        **WORKERS,
    )
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "topology",
    [ring(5), ring(4).lazy(), exponential(8).lazy(), one_peer_exponential(4).lazy()],
    ids=["ring", "lazy ring", "lazy exponential", "lazy one_peer_exponential"],
)
@pytest.mark.parametrize("mix_first_step", [True, False])
def test_all_workers_reach_the_minimum_of_the_mean_loss(topology, mix_first_step):
    tx = exact_diffusion(optax.sgd(0.1, 0.5), topology, mix_first_step=mix_first_step, **WORKERS)
    losses = quadratics(topology.size)
    params, _ = train(tx, losses, 1000)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("learning_rate", [None, 0.1])
def test_corrections_have_mean_zero(learning_rate):
    tx = exact_diffusion(optax.adam(0.1), ring(5), learning_rate=learning_rate, **WORKERS)
    _, state = train(tx, quadratics(5), 50)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)
    assert np.min(np.max(np.abs(state.correction), axis=(1, 2))) > 1e-3


@pytest.mark.usefixtures("x64")
def test_the_first_step_is_not_mixed_when_asked():
    losses = quadratics(5)
    params, _ = train(exact_diffusion(optax.sgd(0.1), ring(5), mix_first_step=False, **WORKERS), losses, 1)
    np.testing.assert_allclose(params[0], 0.1 * losses.linear, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_with_the_schedule_given_a_change_of_it_disturbs_nothing():
    losses = quadratics(5)
    rate = optax.piecewise_constant_schedule(0.2, {600: 0.5})
    safe, _ = train(exact_diffusion(optax.sgd(rate), ring(5), learning_rate=rate, **WORKERS), losses, 601)
    other, _ = train(exact_diffusion(optax.sgd(rate), ring(5), **WORKERS), losses, 601)
    assert_all_workers_end_at(losses.minimum(), safe)
    assert np.max(np.abs(other[-1] - losses.minimum())) > 1e-3


@pytest.mark.usefixtures("x64")
def test_a_learning_rate_of_zero_at_the_start_is_survived():
    losses = quadratics(5)
    rate = optax.linear_schedule(0.0, 0.2, 5)
    params, state = train(exact_diffusion(optax.sgd(rate), ring(5), learning_rate=rate, **WORKERS), losses, 600)
    np.testing.assert_array_equal(state.correction[0], 0)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
def test_links_that_fail_both_ways_keep_the_mean_of_corrections():
    lost = np.triu(np.random.default_rng(0).uniform(size=(50, 5, 5)) < 0.3, 1)
    links = np.asarray(~(lost | lost.swapaxes(1, 2)))
    _, state = train(exact_diffusion(optax.sgd(0.1), ring(5).lazy(), **WORKERS), quadratics(5), 50, links=links)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)


def test_it_sends_one_number_a_parameter_in_each_round():
    tx = exact_diffusion(optax.sgd(0.1, 0.9), ring(8).lazy(), **WORKERS)
    assert bytes_sent(tx, size=64) == {"collective-permute": 2 * 64 * 4}


@pytest.mark.parametrize("topology", [ring(4), hypercube(8), exponential(8), one_peer_exponential(8)])
def test_topologies_on_which_it_does_not_settle_are_refused(topology):
    with pytest.raises(ValueError, match=r"exact_diffusion does not settle on this topology: .* Use topology.lazy()"):
        exact_diffusion(optax.sgd(0.1), topology, **WORKERS)
    exact_diffusion(optax.sgd(0.1), topology.lazy(), **WORKERS)


def test_the_growth_of_a_period_is_named():
    def step(mixing, one):
        return [[mixing, 0 * one], [0 * one, 1.5 * one]]

    with pytest.raises(ValueError, match=r"grows 3.375-fold in its period of 3 steps, .* less than 1. Do not"):
        require_decay("nothing", one_peer_exponential(8), step, "Do not")


def test_missing_parameters_are_named():
    assert_needs_parameters(exact_diffusion(optax.sgd(0.1), ring(5), **WORKERS), "exact_diffusion")
