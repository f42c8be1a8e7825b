import jax
import numpy as np
import pytest
from golden_files import assert_replays, replays

from optkit.compressors._dithering import dithering_rule
from optkit.compressors._natural import natural_dithering_rule, natural_rule
from optkit.compressors._rand_k import rand_k_rule
from optkit.compressors._scaled_sign import scaled_sign_rule
from optkit.compressors._top_k import top_k_rule
from optkit.compressors._wangni import wangni_rule


def rule_of(recording):
    hyperparams = recording.hyperparams
    for name, rule in {
        "top_k": lambda: top_k_rule(hyperparams["ratio"], round_up=False),
        "rand_k": lambda: rand_k_rule(hyperparams["ratio"], round_up=False, shared=True),
        "qsgd": lambda: dithering_rule(hyperparams["levels"], 2),
        "dithering_inf": lambda: dithering_rule(hyperparams["levels"], np.inf),
        "natural_dithering": lambda: natural_dithering_rule(
            hyperparams["levels"], hyperparams.word("p", {"inf": np.inf})
        ),
        "scaled_sign": scaled_sign_rule,
        "natural": natural_rule,
        "wangni_sparsify": lambda: wangni_rule(hyperparams["ratio"]),
    }.items():
        if recording.meta["variant"].startswith(name):
            return rule()
    raise ValueError(recording.name)


def draws_of(recording, leaf):
    """Uniform numbers (the same in both stages of natural dithering) or permutations; none for top-k."""
    name = "draws.perm" if "rand_k" in recording.name else "draws.u"
    drawn = recording.arrays.get(f"{name}.{leaf}")
    if drawn is None:
        return None
    drawn = np.reshape(drawn, (len(drawn), -1))
    return np.stack([drawn, drawn], axis=1) if "natural_dithering" in recording.name else drawn


@pytest.mark.slow
@replays("compressor")
def test_golden_compressor(recording):
    rule, rate = rule_of(recording), recording.hyperparams["learning_rate"]
    start, grads = recording.tree("params0"), recording.tree("grads")

    def one(gradient, drawn):
        return rule.decode(rule.encode(gradient.ravel(), drawn), gradient.size, float).reshape(gradient.shape)

    compressed = jax.jit(
        lambda grads, draws: {
            leaf: jax.vmap(one, (0, None if draws[leaf] is None else 0))(grads[leaf], draws[leaf]) for leaf in grads
        }
    )(grads, {leaf: draws_of(recording, leaf) for leaf in grads})
    assert_replays(recording, compressed, "compressed")
    assert_replays(recording, {leaf: start[leaf] - rate * np.cumsum(x, axis=0) for leaf, x in compressed.items()})
