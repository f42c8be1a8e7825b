"""What local steps cost MT-DAO, beside its own rule on the mean of all gradients, and what they cost Adam."""

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures
from experiments.claims.local_training.mt_dao_closes_the_gap import (
    ADAM,
    OMEGA,
    described,
    local,
    losses_of,
    synchronous,
)
from optkit.comparison import statistics

B1 = 0.99


def measure() -> Finding:
    """Trains Adam and the rule of MT-DAO, with local steps and without."""
    found = {
        name: (losses_of(local, momentum), losses_of(synchronous, momentum))
        for name, momentum in {"MT-DAO": (B1, OMEGA), "Adam": ADAM}.items()
    }
    ratios = {name: np.log(ours.test["loss"] / central.test["loss"]) for name, (ours, central) in found.items()}
    saved = statistics.student(ratios["MT-DAO"] - ratios["Adam"])
    texts = (
        f"{name} {figures(ours)} with local steps and {figures(central)} without,"
        f" {np.exp(np.mean(ratios[name])):.2f} times"
        for name, (ours, central) in found.items()
    )
    mean, low, high = np.exp(saved[:3])
    return Finding(f"test loss of {'; '.join(texts)}: {mean:.2f} ({low:.2f} to {high:.2f}) of Adam's", saved.high < 0)


CLAIM = Claim(
    method="mt_dao",
    arxiv="2510.05361",
    statement="Local steps cost MT-DAO less than they cost Adam, each beside its rule on the mean of all gradients.",
    experiment=described(B1),
    required="a smaller ratio of the test losses with and without local steps (paired 95% interval)",
    measure=measure,
)
