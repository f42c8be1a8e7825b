import functools

import optax
import pytest
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.linalg.newton_schulz import newton_schulz
from optkit.orthonormalization import scale_by_muon
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.testing.golden import replay_gradients


def orthogonalization(hyperparams):
    coefficients = hyperparams["ns_coeffs"]
    one = not isinstance(coefficients[0], list)
    return functools.partial(
        newton_schulz,
        coefficients=tuple(coefficients) if one else [tuple(triple) for triple in coefficients],
        steps=hyperparams["ns_steps"] if one else len(coefficients),
        eps=hyperparams["ns_eps"],
        norm_factor=hyperparams.word("ns_prenorm", {"X/(1.02*||X||_F+eps)": 1.02}, 1.0),
    )


def torch_axes(shape, *, flatten):
    """Outputs first; all other axes are inputs, or all but the last two count matrices."""
    if len(shape) < 2:
        return None
    if flatten:
        return MuonDimensionNumbers(reduction_axis=tuple(range(1, len(shape))), output_axis=0)
    return MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


KELLER = "sqrt(max(1,rows/cols)) of the last two dims of the ORIGINAL gradient"
SCALES = {
    "rms_norm: 0.2*sqrt(max(rows,cols))": "rms",
    "spectral_norm with fan_in=prod(shape[1:])": "spectral",
    "spectral_norm: sqrt(rows/cols)": "spectral",
}
# Keller Jordan's code averages, and records no form.
SUMS = {"buf=mu*buf+g": False, "buf=mu*buf+g; u=buf": False, "buf=mu*buf+g; u=g+mu*buf": True}


def optimizer(recording):
    """Translates the authors' words."""
    hyperparams = recording.hyperparams
    jordan = "scale" in hyperparams
    if jordan:
        hyperparams.word("scale", (KELLER, f"{KELLER} (conv leaf k: 2/2 -> 1)"))
        hyperparams.word("conv", ("flattened to (out, -1) for Newton-Schulz",), None)
    scale = "jordan" if jordan else hyperparams.word("adjust_lr", SCALES)
    nesterov = hyperparams["nesterov"]
    assert hyperparams.word("momentum_form", SUMS, nesterov) == nesterov
    flatten = hyperparams.get("flatten", jordan)
    adam = {name: f"adam.{name}" for name in ("learning_rate", "b1", "b2", "eps", "weight_decay")}
    adam = hyperparams.take_recorded(**adam)
    translated = {
        **hyperparams.take("momentum"),
        "nesterov": nesterov,
        "ema": "momentum_form" not in hyperparams,
        "scale": scale,
        "scale_by_last_axes": jordan,
        "orthogonalize": orthogonalization(hyperparams),
    }
    params = recording.tree("params0")
    return matrix_optimizer(
        "muon",
        **hyperparams.take("learning_rate", "weight_decay"),
        direction=lambda numbers: scale_by_muon(weight_dimension_numbers=numbers, **translated),
        cautious_decay=hyperparams.get("cautious_wd", False),
        weight_dimension_numbers={leaf: torch_axes(x.shape, flatten=flatten) for leaf, x in params.items()},
        others=optax.adamw(**adam) if adam else None,
        eps_of_others=1e-10,
    )


@pytest.mark.slow
@replays("muon")
def test_golden_muon(recording):
    assert_replays(recording, replay_gradients(optimizer(recording), recording))
