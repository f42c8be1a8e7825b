import numpy as np
import pytest
from golden_files import assert_replays, replays
from worker_runs import learning_rate_of, quadratics, topology_of, train

from optkit.decentralized import qg_dadam
from optkit.decentralized.topology import ring
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}


@pytest.mark.slow
@replays("qg_dadam")
def test_golden_qg_dadam(recording):
    arguments = recording.hyperparams.take("b1", "b2", "eps", "weight_decay")
    form = recording.hyperparams.word("variant", ("v0", "v1", "v2"))
    tx = qg_dadam(learning_rate_of(recording), topology_of(recording), form=form, **arguments, **WORKERS)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["v0", "v1", "v2", "paper"])
def test_second_moments_are_those_of_ways_of_length_one(form):
    _, state = train(qg_dadam(0.1, ring(5), b2=0.5, form=form, **WORKERS), quadratics(5), 3)
    np.testing.assert_allclose(np.sum(state[-1].nu, axis=-1), [[0.5] * 5, [0.75] * 5, [0.875] * 5], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_with_normalized_gradients_their_scale_is_of_no_account():
    losses = quadratics(5)
    longer = losses._replace(hessian=1000 * losses.hessian, linear=1000 * losses.linear)
    tx = qg_dadam(0.1, ring(5), form="v1", **WORKERS)
    np.testing.assert_allclose(train(tx, losses, 10)[0], train(tx, longer, 10)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
        ({"form": "v3"}, "form must be 'v0', 'v1', 'v2' or 'paper', got 'v3'"),
    ],
)
def test_hyperparameters_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        qg_dadam(0.1, ring(4), **arguments, **WORKERS)
