"""The error of the trimmed mean grows with the share of the attackers, and falls with the examples of a worker."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

import optkit
from experiments.claims import Claim, Finding

ROWS, SIZE, SHARES, EXAMPLES, TOLERANCE = 1000, 400, (0.05, 0.1, 0.2, 0.4), (1, 16, 256), 0.05
FAR = -1e6


def predicted(share: float) -> float:
    """Gives the mean of the honest values that are left when the trimmed mean drops as many of the largest."""
    kept = (1 - 2 * share) / (1 - share)
    return float(-scipy.stats.norm.pdf(scipy.stats.norm.ppf(kept)) / kept)


def bias(share: float, examples: int) -> float:
    """Gives the mean of the result over the coordinates; the honest rows are means of a worker's examples."""
    attackers = round(share * ROWS)
    rows = jax.random.normal(jax.random.key(examples), (ROWS, SIZE)) / examples**0.5
    rule = optkit.trimmed_mean(attackers)
    found: Any = rule.update(rows.at[:attackers].set(FAR), rule.init(jnp.zeros(SIZE)))[0]
    return float(jnp.mean(found))


def measure() -> Finding:
    """Compares the bias with the prediction for each share and each number of examples."""
    found = {(share, n): bias(share, n) * n**0.5 / predicted(share) for share in SHARES for n in EXAMPLES}
    worst = max(found, key=lambda key: abs(found[key] - 1))
    biases = ", ".join(f"{-bias(share, 1):.3f} at {share:.0%}" for share in SHARES)
    return Finding(
        f"errors of {biases} attackers with one example; at most {abs(found[worst] - 1):.1%} off the prediction for all"
        f" {len(found)}",
        bool(np.all(np.abs(np.array(list(found.values())) - 1) <= TOLERANCE)),
    )


CLAIM = Claim(
    method="trimmed_mean",
    arxiv="1803.01498",
    statement="With a share alpha of attackers and n examples a worker, the trimmed mean is off by alpha / sqrt(n),"
    " up to logarithms, which no rule can better.",
    experiment=f"{ROWS:,} rows of {SIZE} normal numbers, means of {', '.join(map(str, EXAMPLES))} examples, attackers"
    f" of {', '.join(f'{share:.0%}' for share in SHARES)} of the workers who send {FAR:g}: the bias against that of"
    " the truncated normal distribution that is left, of order alpha sqrt(log(1 / alpha) / n).",
    required=f"within {TOLERANCE:.0%} for each share and number of examples",
    measure=measure,
)
