"""EXTRA converges at a linear rate at a constant step, where gossip needs decreasing steps to converge at all.

It fails because the second stretch of steps was fixed badly: it reaches into rounding, which EXTRA meets at a squared
distance of 1e-28 after 650 steps. Up to there it falls by 0.041 decades in every step from 250 on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized.bias_under_uneven_data import RATE, STEPS, WORKERS, distances, draw_losses
from optkit.decentralized import extra, gossip
from optkit.decentralized.topology import ring

POWERS = (1 / 3, 1 / 2, 3 / 4, 1.0)
FIRST, MIDDLE, LAST = 200, 500, 800
ALIKE, EXACT, SLOW = 0.2, 1e-12, 1e-6


def measure() -> Finding:
    """Runs EXTRA at a constant rate, and gossip at rates that fall in several ways."""
    with jax.enable_x64(True):
        hessians, minima = map(jnp.asarray, draw_losses())
        rate = RATE / float(np.max(np.linalg.eigvalsh(hessians)))
        curve = distances(extra(optax.sgd(rate), ring(WORKERS), axis_name="workers"), hessians, minima)
        falling = {}
        for power in POWERS:
            sgd = optax.sgd(lambda count, power=power: rate / (1 + count) ** power)
            falling[power] = distances(gossip(sgd, ring(WORKERS), axis_name="workers"), hessians, minima)

    def draw(axes):
        axes.semilogy(curve, label="EXTRA, constant rate")
        for power, values in falling.items():
            axes.semilogy(values, label=f"D-SGD, rate falling with the power {power:.2g}")
        axes.set_xlabel("step")
        axes.set_ylabel("squared distance from the minimum")
        axes.legend()

    early, late = (
        float(np.log10(curve[begin] / curve[end])) / (end - begin) for begin, end in ((FIRST, MIDDLE), (MIDDLE, LAST))
    )
    listed = ", ".join(f"{values[-1]:.1e} (power {power:.2g})" for power, values in falling.items())
    return Finding(
        f"EXTRA ends at {curve[-1]:.1e}, and loses {early:.4f} and {late:.4f} decades a step; D-SGD ends at {listed}",
        bool(
            curve[-1] < EXACT
            and abs(late - early) < ALIKE * early
            and min(values[-1] for values in falling.values()) > SLOW
        ),
        draw,
    )


CLAIM = Claim(
    method="extra",
    arxiv="1404.6264",
    statement="EXTRA converges linearly at a constant step, where decentralized gradient descent is exact only with"
    " decreasing steps, which make it slow.",
    experiment=f"{WORKERS} workers on a ring, the quadratics of `gradient_tracking` above, whole gradients, learning"
    f" rate {RATE} over the largest curvature, {STEPS:,} steps, float64; decentralized gradient descent with that rate"
    f" over the powers {', '.join(f'{power:.2g}' for power in POWERS)} of the step.",
    required=f"EXTRA's squared distance below {EXACT:g}, its decades a step in steps {FIRST} to {MIDDLE} and {MIDDLE}"
    f" to {LAST} within {ALIKE:.0%}; decentralized gradient descent above {SLOW:g} with every power",
    measure=measure,
)
