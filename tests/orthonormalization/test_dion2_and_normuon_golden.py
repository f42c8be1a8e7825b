import functools
import re
from typing import Any

from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.newton_schulz import orthogonalize
from optkit.orthonormalization.dion2 import dion2
from optkit.orthonormalization.nordion2 import nordion2
from optkit.orthonormalization.normuon import normuon
from optkit.testing.golden import replay_gradients

SCALES = {"paper": "paper_rms", "spectral": "spectral", "rms": "rms", "none": None}


def orthogonalization(hyperparams):
    triples = hyperparams["ns_coeffs"]
    factor = re.search(r"([\d.]+)\*\|\|X", hyperparams["ns_prenorm"])
    return functools.partial(
        orthogonalize,
        coefficients=[tuple(triple) for triple in triples],
        steps=len(triples),
        eps=hyperparams["ns_eps"],
        norm_factor=float(factor[1]) if factor else 1.0,
    )


def torch_axes(shape, *, flatten):
    """Outputs first; all other axes are inputs, or all but the last two count matrices."""
    if len(shape) < 2:
        return None
    inputs = tuple(range(1, len(shape))) if flatten else -1
    return MuonDimensionNumbers(inputs, 0 if flatten else -2)


def arguments(recording):
    """What all three take, in our words."""
    hyperparams = recording.hyperparams
    words = str(hyperparams.get("scale", hyperparams.get("adjust_lr"))).lower()
    flatten = hyperparams.get("flatten", False)
    return {
        "learning_rate": hyperparams["learning_rate"],
        "weight_decay": hyperparams["weight_decay"],
        "orthogonalize": orthogonalization(hyperparams),
        "scale": next(scale for word, scale in SCALES.items() if word in words),
        "weight_dimension_numbers": {
            leaf: torch_axes(x.shape, flatten=flatten) for leaf, x in recording.tree("params0").items()
        },
    }


def selection(hyperparams):
    return {"fraction": hyperparams["fraction"], "ef_decay": hyperparams["ef_decay"]}


def row_sizes(hyperparams):
    return {"b2": hyperparams["b2"], "eps": hyperparams["neuron_eps"]}


@replays("dion2")
def test_golden_dion2(recording):
    select: Any = next((side for side in ("rows", "columns") if side in recording.hyperparams.get("select", "")), None)
    tx = dion2(**arguments(recording), **selection(recording.hyperparams), select=select)
    assert_replays(recording, replay_gradients(tx, recording))


@replays("normuon")
def test_golden_normuon(recording):
    hyperparams = recording.hyperparams
    tx = normuon(
        **arguments(recording),
        **row_sizes(hyperparams),
        momentum=hyperparams["momentum"],
        nesterov=hyperparams["nesterov"],
        ema="(1-mu)" in hyperparams["momentum_form"],
        cautious_decay=hyperparams.get("cautious_wd", hyperparams.get("cautious_decay", False)),
    )
    assert_replays(recording, replay_gradients(tx, recording))


@replays("nordion2")
def test_golden_nordion2(recording):
    tx = nordion2(**arguments(recording), **selection(recording.hyperparams), **row_sizes(recording.hyperparams))
    assert_replays(recording, replay_gradients(tx, recording))
