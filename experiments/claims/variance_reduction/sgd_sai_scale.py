"""What SGD-SaI's scales depend on."""

import jax
import numpy as np

import optkit
from experiments.claims import Claim, Finding


def scales(gradients):
    """The scale of each leaf, from its first gradient."""
    tx = optkit.scale_by_sai()
    return jax.device_get(jax.jit(tx.update)(gradients, tx.init(gradients))[1].gsnr)


def measure() -> Finding:
    """Compares the scales."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 64, 64)).astype(np.float32)
    plain = scales({"first": first, "second": second})
    of_larger_loss = scales({"first": 1000 * first, "second": 1000 * second})
    change = max(abs(of_larger_loss[name] / plain[name] - 1) for name in plain)
    unequal = scales({"first": first, "second": 100 * second})
    ratio = unequal["second"] / unequal["first"]
    return Finding(
        f"scales change by {change:.1g} under a loss 1000 times larger; those of leaves whose gradients are as 1 to "
        f"100 are as 1 to {ratio:.3f}",
        bool(change <= 1e-6 and abs(ratio - 1) <= 0.05),
    )


CLAIM = Claim(
    method="sgd_sai",
    arxiv="2412.11768",
    statement="The signal-to-noise ratio of a leaf's first gradient does not depend on the gradient's scale, so that, "
    "other than Adam's, updates of leaves keep the proportion of their gradients.",
    experiment="Gaussian gradients of two leaves of 64 by 64; all times 1000; one of them times 100.",
    required="scales change by at most 1e-6 under the larger loss, and differ by at most 5% between the leaves",
    measure=measure,
)
