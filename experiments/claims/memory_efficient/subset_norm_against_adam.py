"""Adam with one second moment for each row or column learns as well as Adam."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss


def measure() -> Finding:
    """Trains with Adam, Adam-SN and Adam-SNSM, each at its best learning rate."""
    adam, adam_rate = best_loss(optax.adam)
    subset, subset_rate = best_loss(optkit.adam_sn)
    projector = optkit.subspace_projector("svd", rank=4)
    subspace, subspace_rate = best_loss(lambda rate: optkit.adam_snsm(rate, projector=projector, update_gap=50))
    return Finding(
        f"Adam {adam:.4f} (rate {adam_rate:g}), Adam-SN {subset:.4f} (rate {subset_rate:g}), with momentum in a"
        f" subspace of rank 4 {subspace:.4f} (rate {subspace_rate:g})",
        subset <= 1.3 * adam and subset_rate >= 2.9 * adam_rate,
    )


CLAIM = Claim(
    method="adam_sn",
    arxiv="2411.07120",
    statement="With one second moment for each row or column Adam learns as well, at a larger learning rate.",
    experiment=f"{NETWORK}; 64 second moments of matrices in place of 960.",
    required="Adam-SN's loss at most 1.3 times Adam's, at a learning rate at least 3 times as large",
    measure=measure,
)
