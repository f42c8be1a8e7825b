"""N-IGT beside normalized momentum SGD on the policy gradients of a linear-quadratic regulator.

Its loss is lower in the mean, but eight seeds do not tell that from chance.
"""

import numpy as np
import optax

from experiments import compare
from experiments.claims import Claim, Finding, judge
from experiments.claims.variance_reduction.nigt_logistic import average_from_first_gradient
from optkit.catalog import METHODS
from optkit.method import Method

OPTIONS = compare.Options(task="lqr-policy-gradient", steps=300, rates=6, rounds=2, seeds=8)


def normalized_momentum(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Steps of fixed length along an average that begins as the first gradient, with the decay of N-IGT's default."""
    normalized = optax.normalize_by_update_norm(eps=0.0)
    return optax.chain(average_from_first_gradient(0.9), normalized, optax.scale_by_learning_rate(learning_rate))


PLAIN = Method(
    name="normalized_momentum",
    factory=normalized_momentum,
    kind="optimizer",
    summary="Steps of fixed length along an average of gradients.",
    example={"learning_rate": 1e-2},
    grid=METHODS["nigt"].grid,
)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    rows = judge.compared("nigt-policy", options, [METHODS["nigt"], PLAIN])
    found, text = judge.log_ratio(rows["nigt"], rows["normalized_momentum"])
    shown = {"N-IGT": rows["nigt"], "normalized momentum": rows["normalized_momentum"], "AdamW": rows["adamw"]}
    return Finding(
        f"{judge.least(shown)}; N-IGT's over that of normalized momentum {text}",
        bool(np.isfinite(found.high) and found.high < 0),
    )


CLAIM = Claim(
    method="nigt",
    arxiv="2302.01734",
    statement="In policy gradients, gradients taken ahead of the parameters (N-PG-IGT) bring normalized momentum closer"
    " to the best policy in as many steps.",
    experiment=f"The policy of a linear-quadratic regulator (`lqr-policy-gradient`), {OPTIONS.steps} batches of 64"
    f" rollouts, decay 0.9 for both, {judge.tuning(OPTIONS)}: the cost above the best policy's on test states.",
    required="a lower one (95% interval of the ratio, paired by seed)",
    measure=measure,
)
