"""AdaGrad with one sum of squares for each row or column learns as well as AdaGrad."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss


def measure() -> Finding:
    """Trains with both, without momentum."""
    subset, subset_rate = best_loss(lambda rate: optkit.adagrad_sn(rate, b1=None))
    adagrad, adagrad_rate = best_loss(optax.adagrad)
    return Finding(
        f"AdaGrad-SN {subset:.4f} (rate {subset_rate:g}), AdaGrad {adagrad:.4f} (rate {adagrad_rate:g})",
        subset <= 1.3 * adagrad,
    )


CLAIM = Claim(
    method="adagrad_sn",
    arxiv="2411.07120",
    statement="With one sum of squares for each row or column AdaGrad learns as well.",
    experiment=f"{NETWORK}, no momentum; 64 sums of matrices in place of 960.",
    required="AdaGrad-SN's loss at most 1.3 times AdaGrad's",
    measure=measure,
)
