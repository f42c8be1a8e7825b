import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from worker_runs import bytes_sent, learning_rate_of, quadratics, topology_of, train

from optkit.decentralized import gossip, qg_dadam, qg_dsgdm
from optkit.decentralized.topology import complete, ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}


@replays("qg_dsgdm")
def test_golden_qg_dsgdm(recording):
    arguments = recording.hyperparams.take_recorded(
        "momentum", "weight_decay", "nesterov", "qg_factor", "qg_local_step"
    )
    tx = qg_dsgdm(learning_rate_of(recording), topology_of(recording), **arguments, **WORKERS)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_its_bias_is_below_that_of_local_momentum():
    losses = quadratics(8)

    def bias(tx):
        params, _ = train(tx, losses, 400)
        return np.mean(np.sum((params[-1] - losses.minimum()) ** 2, axis=-1))

    local = gossip(optax.sgd(0.05, 0.9, nesterov=True), ring(8), **WORKERS)
    assert 2 * bias(qg_dsgdm(0.05, ring(8), **WORKERS)) < bias(local)


@pytest.mark.usefixtures("x64")
def test_without_momentum_it_is_gossip_of_sgd():
    losses = quadratics(5)
    one, _ = train(qg_dsgdm(0.1, ring(5), momentum=0.0, **WORKERS), losses, 20)
    other, _ = train(gossip(optax.sgd(0.1), ring(5), **WORKERS), losses, 20)
    np.testing.assert_allclose(one, other, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [True, False])
def test_where_all_agree_it_is_a_momentum_of_the_mean_gradient(nesterov):
    losses = quadratics(4)
    params, _ = train(qg_dsgdm(0.1, complete(4), nesterov=nesterov, **WORKERS), losses, 10)
    point = momentum = np.zeros(3)
    for reached in params:
        gradient = jnp.mean(losses.gradients(jnp.broadcast_to(point, (4, 3))), axis=0)
        way = 0.9 * momentum + gradient
        way = 0.9 * way + gradient if nesterov else way
        point = point - 0.1 * way
        momentum = 0.9 * momentum + 0.1 * way
        np.testing.assert_allclose(reached, np.broadcast_to(point, (4, 3)), atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_steps_without_a_learning_rate_leave_the_momentum_as_it_is():
    rate = optax.piecewise_constant_schedule(0.1, {10: 0.0})
    _, state = train(qg_dsgdm(rate, ring(5), **WORKERS), quadratics(5), 15)
    momentum = state[-1].momentum
    np.testing.assert_array_equal(momentum[10:], np.broadcast_to(momentum[9], momentum[10:].shape))
    assert np.max(np.abs(momentum[9])) > 1e-2


@pytest.mark.usefixtures("x64")
def test_between_local_steps_the_momentum_stays():
    _, state = train(qg_dsgdm(0.1, ring(5), qg_local_step=3, **WORKERS), quadratics(5), 9)
    changed = np.any(np.diff(state[-1].momentum, axis=0) != 0, axis=(1, 2))
    np.testing.assert_array_equal(changed, [False, False, True, False, False, True, False, False])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", [qg_dsgdm, qg_dadam])
def test_weight_decay_is_added_to_gradients_where_the_mask_says(method):
    params, gradients = jnp.ones((2, 5, 3)), jnp.arange(30.0).reshape(2, 5, 3)

    def step(tx, gradients):
        def worker(gradients, params):
            return tx.update(tuple(gradients), tx.init(tuple(params)), tuple(params))[0]

        return jax.jit(jax.vmap(worker, in_axes=1, axis_name="workers"))(gradients, params)

    decayed = step(method(0.1, ring(5), weight_decay=0.5, mask=(True, False), **WORKERS), gradients)
    by_hand = step(method(0.1, ring(5), **WORKERS), gradients.at[0].add(0.5))
    np.testing.assert_allclose(decayed, by_hand, atol=1e-14)


@pytest.mark.parametrize("method", [qg_dsgdm, qg_dadam])
def test_links_that_all_fail_leave_workers_alone(method):
    params, _ = train(method(0.1, ring(5), **WORKERS), quadratics(5), 5, links=np.zeros((5, 5, 5), bool))
    alone, _ = train(method(0.1, complete(1), **WORKERS), jax.tree.map(lambda x: x[:1], quadratics(5)), 5)
    np.testing.assert_allclose(params[:, :1], alone, rtol=1e-5)


@pytest.mark.parametrize("tx", [qg_dsgdm(0.1, ring(8), **WORKERS), qg_dadam(0.1, ring(8), **WORKERS)])
def test_it_sends_one_number_a_parameter_in_each_round(tx):
    assert bytes_sent(tx, size=64) == {"collective-permute": 2 * 64 * 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
        ({"dampening": 1.5}, r"dampening must be in \[0, 1\], got 1.5"),
        ({"qg_factor": -0.1}, r"qg_factor must be in \[0, 1\], got -0.1"),
        ({"qg_local_step": 0}, "qg_local_step must be a positive integer, got 0"),
    ],
)
def test_hyperparameters_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        qg_dsgdm(0.1, ring(4), **arguments, **WORKERS)
