"""With error feedback a window of sparse gradients preconditions nearly as well as one of whole gradients."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss
from optkit.compressors import global_top_k

WINDOW, DAMPING, DENSITIES = 20, 0.01, (0.05, 0.01)


def forget(density: float) -> optax.GradientTransformation:
    """Compresses without error feedback."""
    compressor = global_top_k(density)

    def update(updates, params):
        del params
        return compressor.decompress(compressor.compress(updates, compressor.init(updates))[0], updates)

    return optax.stateless(update)


def measure() -> Finding:
    """Trains on whole gradients, and on sparse ones with and without error feedback."""
    whole = best_loss(lambda rate: optkit.m_fac(rate, WINDOW, DAMPING))[0]
    sparse = {
        density: best_loss(lambda rate, k=density: optkit.sparse_m_fac(rate, WINDOW, DAMPING, k))[0]
        for density in DENSITIES
    }
    forgetful = {
        density: best_loss(lambda rate, k=density: optax.chain(forget(k), optkit.m_fac(rate, WINDOW, DAMPING)))[0]
        for density in DENSITIES
    }
    return Finding(
        f"whole gradients {whole:.4f}; "
        + "; ".join(f"{k:.0%} of the entries {sparse[k]:.4f}, without feedback {forgetful[k]:.4f}" for k in DENSITIES),
        all(sparse[k] <= 0.8 * forgetful[k] for k in DENSITIES) and sparse[0.05] <= 1.5 * whole,
    )


CLAIM = Claim(
    method="sparse_m_fac",
    arxiv="2306.06098",
    statement="Error feedback makes up for most of what M-FAC loses on gradients of which few entries are kept.",
    experiment=f"{NETWORK}; M-FAC with a window of {WINDOW} and damping {DAMPING}, on whole gradients, on 5% and on 1%"
    " of their entries, with and without error feedback.",
    required="at most 0.8 times the loss without feedback at both shares, and at 5% at most 1.5 times that of whole"
    " gradients",
    measure=measure,
)
