"""RelaySGD reaches the minimum of the mean loss on trees however different workers' data are; gossip does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized.bias_under_uneven_data import WORKERS, draw_losses
from experiments.claims.decentralized.network_independent_step import distance
from optkit.decentralized import gossip, relay_sum
from optkit.decentralized.topology import binary_tree, path, star

RATE = 0.1  # over the largest curvature; a tenth, because messages take up to 7 steps along the path
SPREADS, EXACT, BIASED = (0.1, 1.0, 10.0), 1e-12, 1e-2
TREES = {"path": path(WORKERS), "star": star(WORKERS), "binary tree": binary_tree(WORKERS)}


def measure() -> Finding:
    """Runs both methods on all trees with all spreads of the minima."""
    relayed, mixed = {}, {}
    with jax.enable_x64(True):
        hessians, minima = map(jnp.asarray, draw_losses())
        sgd = optax.sgd(RATE / float(np.max(np.linalg.eigvalsh(hessians))))
        for name, tree in TREES.items():
            for found, tx in (
                (relayed, relay_sum(sgd, tree, axis_name="workers")),
                (mixed, gossip(sgd, tree, axis_name="workers")),
            ):
                found[name] = [distance(tx, hessians, spread * minima) for spread in SPREADS]
    texts = (
        f"{method}: {', '.join(f'{name} {values[0]:.1e}, {values[1]:.1e}, {values[2]:.1e}' for name, values in of)}"
        for method, of in (("RelaySGD", relayed.items()), ("D-SGD", mixed.items()))
    )
    exact = all(value < EXACT for values in relayed.values() for value in values)
    biased = all(min(values[1:]) > BIASED for values in mixed.values())
    return Finding("; ".join(texts), exact and biased)


CLAIM = Claim(
    method="relay_sum",
    arxiv="2110.04175",
    statement="RelaySGD converges at a constant learning rate however different workers' data are, where decentralized"
    " SGD keeps a bias that grows with the difference.",
    experiment=f"{WORKERS} workers on {', '.join(TREES)}, the quadratics of `gradient_tracking` above with their minima"
    f" multiplied by {', '.join(f'{spread:g}' for spread in SPREADS)}, whole gradients, learning rate {RATE} over the"
    " largest curvature, 5,000 steps, float64: mean squared distance from the minimum of the mean loss.",
    required=f"by RelaySGD below {EXACT:g} on each tree with each factor; by decentralized SGD above {BIASED:g} on each"
    " tree with the factors 1 and 10",
    measure=measure,
)
