"""NIDS converges at nearly 2 / L on any graph, EXTRA only below a limit that depends on it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized.bias_under_uneven_data import draw_losses
from optkit.decentralized import extra, nids
from optkit.decentralized.topology import complete, path, ring, star

WORKERS, STEPS, RATE, INSIDE = 8, 5000, 1.9, 0.95
NEAR, FAR = 1e-12, 1.0
TOPOLOGIES = {"ring": ring(WORKERS), "path": path(WORKERS), "star": star(WORKERS), "complete": complete(WORKERS)}


def distance(tx, hessians, minima):
    """The mean squared distance of workers from the minimum of the mean loss at the end."""
    best = jnp.linalg.solve(jnp.sum(hessians, axis=0), jnp.einsum("nij,nj->i", hessians, minima))

    def worker(hessian, minimum):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(hessian @ (params - minimum), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros_like(minimum)
        params = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0]
        return jax.lax.pmean(jnp.sum((params - best) ** 2), "workers")

    return float(jax.jit(jax.vmap(worker, axis_name="workers", out_axes=None))(hessians, minima))


def measure() -> Finding:
    """Runs NIDS and EXTRA at one rate on all graphs, and EXTRA below its limit."""
    found = {"NIDS": {}, "EXTRA": {}, "EXTRA below its limit": {}}
    with jax.enable_x64(True):
        hessians, minima = map(jnp.asarray, draw_losses())
        largest = float(np.max(np.linalg.eigvalsh(hessians)))
        for name, topology in TOPOLOGIES.items():
            limit = 1 + float(np.min(np.linalg.eigvalsh(topology.matrices[0])))
            methods = {
                "NIDS": nids(RATE / largest, topology, axis_name="workers"),
                "EXTRA": extra(optax.sgd(RATE / largest), topology, axis_name="workers"),
                "EXTRA below its limit": extra(optax.sgd(INSIDE * limit / largest), topology, axis_name="workers"),
            }
            for method, tx in methods.items():
                found[method][name] = distance(tx, hessians, minima)
    texts = (
        f"{method}: {', '.join(f'{name} {value:.1e}' for name, value in of.items())}" for method, of in found.items()
    )
    converged = max(*found["NIDS"].values(), *found["EXTRA below its limit"].values())
    apart = min((np.inf if np.isnan(x) else x) for x in found["EXTRA"].values())
    return Finding("; ".join(texts), bool(converged <= NEAR and apart >= FAR))


CLAIM = Claim(
    method="nids",
    arxiv="1704.07807",
    statement="NIDS converges at any rate below 2 / L, whatever the graph; EXTRA needs one below (1 + the smallest"
    " eigenvalue of the mixing matrix) / L.",
    experiment=f"{WORKERS} workers, the quadratics of `gradient_tracking` above, {', '.join(TOPOLOGIES)}, {STEPS:,}"
    f" steps, float64: the mean squared distance from the minimum at the rate {RATE} / L, and EXTRA's at {INSIDE} of"
    " its limit.",
    required=f"NIDS, and EXTRA below its limit, at most {NEAR:g} on each graph; EXTRA at {RATE} / L at least {FAR:g}",
    measure=measure,
)
