"""MASHA2 converges linearly on a strongly monotone game with top-k, where compressed gradient descent stalls."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication.masha_on_a_game import DENSITY, GAMES, RATES, STEPS, best_end

REQUIRED = 1e-6


def measure() -> Finding:
    """Plays with both, each at its best rate."""
    compressor = optkit.compressors.top_k(DENSITY)
    ours = best_end(lambda rate: optkit.masha2(rate, compressor, axis_name="workers"))
    theirs = best_end(
        lambda rate: optax.chain(optkit.compressed_mean(compressor, axis_name="workers"), optax.sgd(rate))
    )
    return Finding(f"{ours:.1e} against {theirs:.1e}", ours <= REQUIRED * theirs)


CLAIM = Claim(
    method="masha2",
    arxiv="2110.03313",
    statement="MASHA2 converges linearly on strongly monotone variational inequalities with contractive compression.",
    experiment=(
        f"{GAMES}; top-k of {DENSITY:.0%}, {STEPS} steps, the best of the rates {', '.join(map(str, RATES))}: squared"
        " norm of the mean operator, MASHA2 against descent by the compressed operators."
    ),
    required=f"at most {REQUIRED:g} times",
    measure=measure,
)
