import functools
import re

from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.newton_schulz import orthogonalize
from optkit.orthonormalization import muon
from optkit.testing.golden import replay_gradients


def orthogonalization(hyperparams):
    coefficients = hyperparams["ns_coeffs"]
    one = not isinstance(coefficients[0], list)
    factor = re.search(r"([\d.]+)\*\|\|X", hyperparams.get("ns_prenorm", ""))
    return functools.partial(
        orthogonalize,
        coefficients=tuple(coefficients) if one else [tuple(triple) for triple in coefficients],
        steps=hyperparams.get("ns_steps", 5 if one else len(coefficients)),
        eps=hyperparams["ns_eps"],
        norm_factor=float(factor[1]) if factor else 1.0,
    )


def torch_axes(shape, *, flatten):
    """Outputs first; all other axes are inputs, or all but the last two count matrices."""
    if len(shape) < 2:
        return None
    if flatten:
        return MuonDimensionNumbers(reduction_axis=tuple(range(1, len(shape))), output_axis=0)
    return MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


def row_blocks(hyperparams, shapes):
    """Blocks of rows, of one size for each of `num_heads`, or as `split_sizes` says, of one leaf or of all."""

    def of(name, leaf):
        option = hyperparams.get(name)
        return option.get(leaf) if isinstance(option, dict) else option

    blocks = {}
    for leaf, shape in shapes.items():
        heads, sizes = of("num_heads", leaf), of("split_sizes", leaf)
        blocks[leaf] = tuple(sizes) if sizes else (shape[0] // heads,) * heads if heads else None
    return blocks


def arguments(recording):
    """Translates the authors' words."""
    hyperparams = recording.hyperparams
    shapes = {leaf: x.shape for leaf, x in recording.tree("params0").items()}
    words = str(hyperparams.get("scale", hyperparams.get("adjust_lr")))
    keller = "max(1" in words
    scales = {"spectral": "spectral", "rms": "rms"}
    scale = "keller" if keller else next((name for word, name in scales.items() if word in words), None)
    flatten = keller or hyperparams.get("flatten", False)
    adam = {f"adam_{name}": value for name, value in hyperparams.get("adam", {}).items()}
    return {
        "learning_rate": hyperparams["learning_rate"],
        "momentum": hyperparams["momentum"],
        "weight_decay": hyperparams["weight_decay"],
        "nesterov": hyperparams["nesterov"],
        "ema": "momentum_form" not in hyperparams,
        "cautious_decay": hyperparams.get("cautious_wd", hyperparams.get("cautious_decay", False)),
        "scale": scale,
        "scale_by_last_axes": keller and "ORIGINAL" in words,
        "orthogonalize": orthogonalization(hyperparams),
        "row_blocks": row_blocks(hyperparams, shapes),
        "weight_dimension_numbers": {leaf: torch_axes(shape, flatten=flatten) for leaf, shape in shapes.items()},
        **adam,
    }


@replays("muon")
def test_golden_muon(recording):
    assert_replays(recording, replay_gradients(muon(**arguments(recording)), recording))
