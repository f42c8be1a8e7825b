import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from worker_runs import bytes_sent, quadratics, sgd_of, topology_of, train

from optkit.decentralized import extra, repeated_mix
from optkit.decentralized.topology import hypercube, ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}


@replays("extra")
def test_golden_extra(recording):
    coefficient = recording.hyperparams.get("w_tilde_coeff", 0.5)
    # With the recorded coefficients it does not settle: a mixing that is not checked.
    mixing = repeated_mix(1)
    tx = extra(sgd_of(recording), topology_of(recording), w_tilde_coeff=coefficient, mixing=mixing, **WORKERS)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("topology", [ring(5), ring(4), hypercube(8)], ids=["odd ring", "even ring", "hypercube"])
@pytest.mark.parametrize("coefficient", [0.5, 0.8])
def test_all_workers_reach_the_minimum_of_the_mean_loss(topology, coefficient):
    losses = quadratics(topology.size)
    tx = extra(optax.sgd(0.1, 0.5), topology, w_tilde_coeff=coefficient, **WORKERS)
    params, _ = train(tx, losses, 1000)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
def test_corrections_have_mean_zero():
    _, state = train(extra(optax.adam(0.1), ring(5), **WORKERS), quadratics(5), 50)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)
    assert np.min(np.max(np.abs(state.correction[1:]), axis=(1, 2))) > 1e-3


@pytest.mark.usefixtures("x64")
def test_the_minimum_is_reached_when_the_learning_rate_changes():
    losses = quadratics(5)
    rate = optax.piecewise_constant_schedule(0.2, {400: 0.5})
    params, _ = train(extra(optax.sgd(rate), ring(5), **WORKERS), losses, 1000)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
def test_links_that_fail_both_ways_keep_the_mean_of_corrections():
    lost = np.triu(np.random.default_rng(0).uniform(size=(50, 5, 5)) < 0.3, 1)
    links = np.asarray(~(lost | lost.swapaxes(1, 2)))
    _, state = train(extra(optax.sgd(0.1), ring(5), **WORKERS), quadratics(5), 50, links=links)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)


def test_it_sends_one_number_a_parameter_in_each_round():
    assert bytes_sent(extra(optax.sgd(0.1, 0.9), ring(8), **WORKERS), size=64) == {"collective-permute": 2 * 64 * 4}


# 0.9 / (1 - min W_ii), which the replayed code has for this ring.
def test_coefficients_with_which_it_does_not_settle_are_refused():
    with pytest.raises(ValueError, match=r"extra does not settle .* Use w_tilde_coeff in \[0.5, 1\), got 1.35"):
        extra(optax.sgd(0.1), ring(4), w_tilde_coeff=1.35, **WORKERS)


def test_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match=r"w_tilde_coeff must be in \[0, inf\], got -0.5"):
        extra(optax.sgd(0.1), ring(4), w_tilde_coeff=-0.5, **WORKERS)


def test_missing_parameters_are_named():
    assert_needs_parameters(extra(optax.sgd(0.1), ring(5), **WORKERS), "extra")
