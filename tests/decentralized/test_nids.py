import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from worker_runs import bytes_sent, learning_rate_of, quadratics, topology_of, train

from optkit.decentralized import exact_diffusion, nids
from optkit.decentralized.topology import one_peer_exponential, ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}
PENALTY = 0.3


def soft_threshold(params, step_size):
    shrunk = jnp.maximum(jnp.abs(params) - PENALTY * step_size, 0)
    return jnp.sign(params) * shrunk


def composite_minimum(losses):
    """The minimum of the mean loss and an l1 penalty, by proximal gradient descent on one machine."""

    def step(_, params):
        return soft_threshold(params - 0.5 * jnp.mean(losses.gradients(params), axis=0), 0.5)

    return jax.lax.fori_loop(0, 500, step, jnp.zeros_like(losses.linear))[0]


@pytest.mark.slow
@replays("nids")
def test_golden_nids(recording):
    c = recording.hyperparams.get("c", 0.5)
    tx = nids(learning_rate_of(recording), topology_of(recording), c=c, **WORKERS)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
def test_all_workers_reach_the_minimum_of_the_mean_loss_at_large_learning_rates():
    losses = quadratics(8)
    params, _ = train(nids(1.5, ring(8), **WORKERS), losses, 800)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_with_a_proximal_map_all_workers_reach_the_composite_minimum():
    losses = quadratics(5)
    params, _ = train(nids(0.5, ring(5), prox=soft_threshold, **WORKERS), losses, 600)
    expected = composite_minimum(losses)
    assert np.any(expected == 0)
    assert np.any(expected != 0)
    assert_all_workers_end_at(expected, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prox", [None, soft_threshold])
def test_each_worker_may_have_its_own_learning_rate(prox):
    losses, rates = quadratics(5), jnp.array([0.2, 0.4, 0.6, 0.8, 1.0])
    tx = nids(lambda _: rates[jax.lax.axis_index("workers")], ring(5), max_learning_rate=1.0, prox=prox, **WORKERS)
    params, _ = train(tx, losses, 1000)
    expected = losses.minimum() if prox is None else composite_minimum(losses)
    assert_all_workers_end_at(expected, params)


@pytest.mark.usefixtures("x64")
def test_without_a_proximal_map_it_is_exact_diffusion_on_the_lazy_topology():
    losses = quadratics(5)
    one, state = train(nids(0.3, ring(5), **WORKERS), losses, 30)
    tx = exact_diffusion(optax.sgd(0.3), ring(5).lazy(), mix_first_step=False, **WORKERS)
    other, _ = train(tx, losses, 30)
    np.testing.assert_allclose(one, other, atol=1e-13)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)


def test_rounding_does_not_move_the_mean_of_corrections():
    _, state = train(nids(0.01, ring(8), **WORKERS), quadratics(8), 5000)
    assert np.max(np.abs(np.mean(state.correction[-1], axis=0))) < 3e-6


@pytest.mark.usefixtures("x64")
def test_links_that_fail_both_ways_keep_the_mean_of_corrections():
    lost = np.triu(np.random.default_rng(0).uniform(size=(50, 5, 5)) < 0.3, 1)
    links = np.asarray(~(lost | lost.swapaxes(1, 2)))
    _, state = train(nids(0.3, ring(5), **WORKERS), quadratics(5), 50, links=links)
    np.testing.assert_allclose(np.mean(state.correction, axis=1), 0, atol=1e-14)
    assert np.max(np.abs(state.correction)) > 1e-2


def test_it_keeps_one_number_a_parameter_and_two_with_a_proximal_map():
    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    assert sum(x.size for x in jax.tree.leaves(nids(0.1, ring(4), **WORKERS).init(params))) == 15 + 1
    with_map = nids(0.1, ring(4), prox=soft_threshold, **WORKERS).init(params)
    assert sum(x.size for x in jax.tree.leaves(with_map)) == 2 * 15 + 1


def test_it_sends_one_number_a_parameter_in_each_round():
    tx = nids(0.1, ring(8), prox=soft_threshold, **WORKERS)
    assert bytes_sent(tx, size=64) == {"collective-permute": 2 * 64 * 4}


def test_topologies_on_which_it_does_not_settle_are_refused():
    with pytest.raises(ValueError, match=r"nids does not settle on this topology: .* Use another c"):
        nids(0.1, one_peer_exponential(8).lazy(), **WORKERS)
    nids(0.1, one_peer_exponential(8).lazy(), c=1.0, **WORKERS)


@pytest.mark.parametrize("c", [0.0, 1.1])
def test_c_out_of_its_range_is_refused(c):
    with pytest.raises(ValueError, match=rf"c must be in \(0, 1\], got {c}"):
        nids(0.1, ring(4), c=c, **WORKERS)


def test_a_largest_learning_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"max_learning_rate must be in \(0, inf\], got 0"):
        nids(0.1, ring(4), max_learning_rate=0, **WORKERS)


def test_missing_parameters_are_named():
    assert_needs_parameters(nids(0.1, ring(5), **WORKERS), "nids")
