"""DFedSAM with one and with several gossip steps: how far workers stay apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from optkit.decentralized import dfedsam, mix, repeated_mix
from optkit.decentralized.topology import ring

WORKERS, SIZE, EVERY, GOSSIP_STEPS = 16, 20, 5, 4


def shrinkage(mixing):
    """The distance from the mean behind a round over that before its exchange, with workers apart along a slow mode."""
    topology = ring(WORKERS)
    mode = np.cos(2 * np.pi * np.arange(WORKERS) / WORKERS)
    targets = jnp.asarray(mode[:, None] * np.random.default_rng(0).standard_normal(SIZE))

    def round_end(mixing):
        tx = dfedsam(0.05, topology, EVERY, axis_name="workers", mixing=mixing)

        def train(target):
            def grad_fn(x):
                return x - target

            def step(carry, _):
                params, state = carry
                updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
                return (optax.apply_updates(params, updates), state), None

            start = jnp.zeros(SIZE)
            return jax.lax.scan(step, (start, tx.init(start)), length=EVERY)[0][0]

        params = jax.jit(jax.vmap(train, axis_name="workers"))(targets)
        return float(jnp.linalg.norm(params - jnp.mean(params, axis=0)))

    return round_end(mixing) / round_end(lambda tree, *_, **__: tree)


def measure():
    """Compares one exchange to several with the powers of the topology's contraction."""
    rho = ring(WORKERS).contraction
    one, several = shrinkage(mix), shrinkage(repeated_mix(GOSSIP_STEPS))
    close = abs(one / rho - 1) < 0.05 and abs(several / rho**GOSSIP_STEPS - 1) < 0.05
    return Finding(f"shrinks by {one:.3f} (predicted {rho:.3f}) and by {several:.3f} ({rho**GOSSIP_STEPS:.3f})", close)


CLAIM = Claim(
    method="dfedsam",
    arxiv="2302.04083",
    statement="Several gossip steps at the end of a round (DFedSAM-MGS) bring workers nearer by that power of the"
    " topology's contraction.",
    experiment=f"f_i(x) = |x - c_i|^2 / 2 with {SIZE} parameters, a ring of {WORKERS} workers whose c_i differ along"
    f" its slowest mode, one round of {EVERY} steps, {GOSSIP_STEPS} gossip steps against one.",
    required="both within 5% of the prediction",
    measure=measure,
)
