import functools

import pytest
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.linalg.newton_schulz import newton_schulz
from optkit.orthonormalization._dion2 import scale_by_dion2
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._nordion2 import scale_by_nordion2
from optkit.orthonormalization._normuon import scale_by_normuon
from optkit.testing.golden import replay_gradients

pytestmark = pytest.mark.slow

SCALES = {"none": None, "rms_norm": "rms", "spectral_norm": "spectral"}
PRENORMS = {"X/(1.02*||X||_F+eps)": 1.02, "X/(||X||_F+eps)": 1.0}


def orthogonalization(hyperparams):
    triples = hyperparams["ns_coeffs"]
    return functools.partial(
        newton_schulz,
        coefficients=[tuple(triple) for triple in triples],
        steps=len(triples),
        eps=hyperparams["ns_eps"],
        norm_factor=hyperparams.word("ns_prenorm", PRENORMS),
    )


def torch_axes(shape):
    """Outputs first; all axes but the last two count matrices."""
    return MuonDimensionNumbers(reduction_axis=-1, output_axis=-2) if len(shape) >= 2 else None


def replay(recording, scale_by, **used):
    """Translates what all three take, and replays the optimizer."""
    hyperparams = recording.hyperparams
    shared = {"orthogonalize": orthogonalization(hyperparams), "scale": hyperparams.word("adjust_lr", SCALES)}
    tx = matrix_optimizer(
        "method",
        **hyperparams.take("learning_rate", "weight_decay"),
        direction=lambda numbers: scale_by(weight_dimension_numbers=numbers, **shared, **used),
        weight_dimension_numbers={leaf: torch_axes(x.shape) for leaf, x in recording.tree("params0").items()},
    )
    assert_replays(recording, replay_gradients(tx, recording))


@pytest.mark.slow
@replays("dion2")
def test_golden_dion2(recording):
    replay(recording, scale_by_dion2, **recording.hyperparams.take("fraction", "ef_decay"))


@replays("normuon")
def test_golden_normuon(recording):
    hyperparams = recording.hyperparams
    sums = {"buf=mu*buf+g": False, "buf=mu*buf+g; u=g+mu*buf": True}
    assert hyperparams.word("momentum_form", sums) == hyperparams["nesterov"]
    used = hyperparams.take("momentum", "nesterov", "b2", eps="neuron_eps")
    replay(recording, scale_by_normuon, **used, ema=False)


@pytest.mark.slow
@replays("nordion2")
def test_golden_nordion2(recording):
    recording.hyperparams.word("select", ("rows always",))
    used = recording.hyperparams.take("fraction", "ef_decay", "b2", eps="neuron_eps")
    replay(recording, scale_by_nordion2, **used)
