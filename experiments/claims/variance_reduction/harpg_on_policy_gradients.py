"""HARPG beside stochastic gradient descent on the policy gradients of a linear-quadratic regulator.

A step of HARPG costs a gradient and a Hessian-vector product, so that descent gets batches twice as large too.

HARPG fails, because products with the Hessian are much noisier here than gradients: at the start, over a step of 0.05
times the gradient, the product has nine times the noise of the batch's gradient. The estimate adds it up, since the
weight of new gradients falls with the steps; only rates at which it hardly learns keep it from diverging.
"""

import dataclasses

import numpy as np
import optax

from experiments import compare, tasks
from experiments.claims import Claim, Finding, judge
from optkit.catalog import METHODS
from optkit.comparison.task import Task
from optkit.method import Method

OPTIONS = compare.Options(task="lqr-policy-gradient", steps=300, rates=6, rounds=2, seeds=8)
# At the usual rate of descent, 0.1, HARPG diverges.
GRID = 1e-2
ENTRY = dataclasses.replace(METHODS["harpg"], example={"learning_rate": GRID}, grid=GRID)
NORMALIZED = dataclasses.replace(
    ENTRY, name="harpg_normalized", example={"learning_rate": GRID, "normalize": True}, variants={}
)
DESCENT = Method(
    name="descent",
    factory=optax.sgd,
    kind="optimizer",
    summary="Stochastic gradient descent without momentum.",
    example={"learning_rate": GRID},
    grid=GRID,
)


def larger_batches() -> Task:
    """Returns the task with batches twice as large."""
    task = tasks.load(OPTIONS.task)
    return dataclasses.replace(task, batch_size=2 * task.batch_size)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparisons, or continues them.

    Args:
        options: what to compare; without `out`, in folders named after the source.

    Returns:
        What came out.
    """
    rows = judge.compared("harpg-policy", options, [ENTRY, NORMALIZED, DESCENT])
    larger = dataclasses.replace(
        options,
        task=f"{__name__}:larger_batches",
        out=options.out and options.out.with_name(f"{options.out.name}-larger"),
    )
    costly = judge.compared("harpg-policy-larger", larger, [DESCENT])["descent"]
    same, same_text = judge.log_ratio(rows["harpg"], rows["descent"])
    equal, equal_text = judge.log_ratio(rows["harpg"], costly)
    shown = {
        "HARPG": rows["harpg"],
        "N-HARPG": rows["harpg_normalized"],
        "descent": rows["descent"],
        "descent with twice the batch": costly,
        "AdamW": rows["adamw"],
    }
    return Finding(
        f"{judge.least(shown)}; HARPG's over that of descent {same_text}, with twice the batch {equal_text}",
        all(bool(np.isfinite(found.high) and found.high < 0) for found in (same, equal)),
    )


CLAIM = Claim(
    method="harpg",
    arxiv="2302.01734",
    statement="In policy gradients, momentum that a Hessian-vector product corrects comes closer to the best policy"
    " than stochastic gradients do, with as many rollouts.",
    experiment=f"The policy of a linear-quadratic regulator (`lqr-policy-gradient`), {OPTIONS.steps} batches of 64"
    f" rollouts, the paper's schedule of weights, {judge.tuning(OPTIONS)}: the cost above the best policy's on test"
    " states; descent without momentum, also with batches of 128, which cost as much.",
    required="a lower one than descent with either batch (95% intervals of the ratios; seeds are paired)",
    measure=measure,
)
