"""CHOCO brings values to their mean though a tenth of them is sent; mixing compressed values does not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.chebyshev_consensus import distance_left
from optkit.typing import Mixing

WORKERS, NUMBERS, ROUNDS, DENSITY, GAMMA = 8, 200, 5000, 0.1, 0.1
NEAR, FAR = 1e-6, 1e-2
RING = optkit.topology.ring(WORKERS)
COMPRESSOR = optkit.compressors.top_k(DENSITY)


def choco_mix() -> Mixing:
    """Makes all rounds of CHOCO, without gradients."""
    tx = optkit.choco(optax.set_to_zero(), RING, COMPRESSOR, axis_name="workers", gamma=GAMMA)

    def mixing(tree, topology, axis_name, *, step: Any = 0, links=None):
        del topology, axis_name, step, links

        def round_of(carry, _):
            values, state = carry
            updates, state = tx.update(jnp.zeros_like(values), state, values)
            return (values + updates, state), None

        return jax.lax.scan(round_of, (tree, tx.init(tree)), length=ROUNDS)[0][0]

    return mixing


def compressed_mix() -> Mixing:
    """Makes all rounds of exchanges of compressed values, each worker moving by what it hears less what it sent."""

    def mixing(tree, topology, axis_name, *, step: Any = 0, links=None):
        del step, links

        def round_of(carry, _):
            values, state = carry
            message, state = COMPRESSOR.compress(values, state)
            sent = COMPRESSOR.decompress(message, values)
            return (values + GAMMA * (optkit.mix(sent, topology, axis_name) - sent), state), None

        return jax.lax.scan(round_of, (tree, COMPRESSOR.init(tree)), length=ROUNDS)[0][0]

    return mixing


def measure() -> Finding:
    """Mixes random values on a ring."""
    with jax.enable_x64(True):
        values = jnp.asarray(np.random.default_rng(0).standard_normal((WORKERS, NUMBERS)))
        choco, compressed = (distance_left(mixing, RING, values) for mixing in (choco_mix(), compressed_mix()))
    return Finding(f"{choco:.1e} of the distance left against {compressed:.1e}", choco <= NEAR and compressed >= FAR)


CLAIM = Claim(
    method="choco",
    arxiv="1902.00340",
    statement="Compressed differences bring workers to their mean at a linear rate, whatever the compressor leaves out;"
    " exchanges of compressed values do not reach it.",
    experiment=f"A ring of {WORKERS} workers with {NUMBERS} normal numbers each, the largest {DENSITY:.0%} sent, gamma"
    f" {GAMMA}, {ROUNDS:,} rounds, float64.",
    required=f"at most {NEAR:g} of the distance left, and at least {FAR:g} by compressed values",
    measure=measure,
)
