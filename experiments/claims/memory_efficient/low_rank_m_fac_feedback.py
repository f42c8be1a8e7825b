"""Low-rank gradients in M-FAC's window, with and without error feedback."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss
from optkit.compressors import low_rank

WINDOW, DAMPING, RANKS = 20, 0.01, (1, 2)


def forget(rank: int) -> optax.GradientTransformation:
    """Compresses without error feedback, each time from the factors of the last."""
    compressor = low_rank(rank)

    def init(params):
        return compressor.init(params)

    def update(updates, state, params=None):
        del params
        compressed, state = compressor.compress(updates, state)
        return compressor.decompress(compressed, updates), state

    return optax.GradientTransformation(init, update)


def measure() -> Finding:
    """Trains on whole gradients, and on low-rank ones with and without error feedback."""
    whole = best_loss(lambda rate: optkit.m_fac(rate, WINDOW, DAMPING))[0]
    kept = {rank: best_loss(lambda rate, r=rank: optkit.low_rank_m_fac(rate, WINDOW, DAMPING, r))[0] for rank in RANKS}
    forgotten = {
        rank: best_loss(lambda rate, r=rank: optax.chain(forget(r), optkit.m_fac(rate, WINDOW, DAMPING)))[0]
        for rank in RANKS
    }
    shown = "; ".join(f"rank {rank} {kept[rank]:.4f}, without feedback {forgotten[rank]:.4f}" for rank in RANKS)
    return Finding(f"whole gradients {whole:.4f}; {shown}", None)


CLAIM = Claim(
    method="low_rank_m_fac",
    arxiv="2306.06098",
    statement="Error feedback makes up for what M-FAC loses on gradients of low rank.",
    experiment=f"{NETWORK}; M-FAC with a window of {WINDOW} and damping {DAMPING}, on whole gradients and on gradients"
    " of rank 1 and 2, with and without error feedback.",
    required="reported as found",
    measure=measure,
)
