"""`python -m experiments.published RUN`: the order of optimizers in a run beside their order in published results.

The published losses are those of Wen, Hall, Ma, Liang, "Fantastic Pretraining Optimizers and Where to Find Them", 2025,
arXiv:2509.02046: language models of 130 to 520 million parameters, each optimizer with its best hyperparameters. They
are read from the authors' repository, marin-community/marin, at commit 122c501, in the folder
experiments/optimizer_sweep/Analysis: for 130 million parameters they are the first rows of
PhaseI/tex/hyperparam_tables_*.tex, which have three decimals, for the others `min_loss` of PhaseII/wandb_cache.json.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from experiments import evidence
from optkit.comparison import Comparison
from optkit.comparison.store import hold, write_results

# By the model and by how often its training text goes into the 20 tokens a parameter that are called optimal.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "130M, 2x": {
        "muon": 3.369,
        "mars_adamw": 3.396,
        "cautious_adamw": 3.403,
        "adamw": 3.409,
        "lion": 3.414,
        "sophia": 3.414,
    },
    "300M, 2x": {
        "muon": 3.143347,
        "mars_adamw": 3.156471,
        "adamw": 3.163545,
        "cautious_adamw": 3.164819,
        "lion": 3.170241,
    },
    "300M, 4x": {
        "muon": 3.079275,
        "cautious_adamw": 3.093841,
        "adamw": 3.094309,
        "mars_adamw": 3.094513,
        "lion": 3.100434,
    },
    "300M, 8x": {
        "muon": 3.029240,
        "mars_adamw": 3.038046,
        "cautious_adamw": 3.040944,
        "adamw": 3.042271,
        "lion": 3.042885,
    },
    "520M, 2x": {
        "muon": 3.001875,
        "mars_adamw": 3.013663,
        "cautious_adamw": 3.017449,
        "adamw": 3.023179,
        "lion": 3.028451,
    },
    "520M, 4x": {
        "muon": 2.944232,
        "mars_adamw": 2.952987,
        "cautious_adamw": 2.955670,
        "adamw": 2.958468,
        "lion": 2.965239,
    },
    "520M, 8x": {
        "muon": 2.900200,
        "mars_adamw": 2.905677,
        "cautious_adamw": 2.910153,
        "adamw": 2.912762,
        "lion": 2.914735,
    },
}


class Correlation(NamedTuple):
    """How alike two orders are.

    Attributes:
        methods: what is in both, the least of the published losses first.
        spearman: Spearman's rank correlation.
        spearman_p: how likely one at least as large, or as small, is where the orders have nothing to do with each
            other: the share of all orders.
        kendall: Kendall's, of pairs.
        kendall_p: the same of it.
    """

    methods: list[str]
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float


def correlation(ours: Mapping[str, float], published: Mapping[str, float]) -> Correlation:
    """Correlates the orders of two sets of losses over the methods in common.

    Args:
        ours: losses by method.
        published: other losses by method.

    Returns:
        Both rank correlations, with exact p-values.

    Raises:
        ValueError: if fewer than three methods are in both.
    """
    methods, values, theirs = in_common(ours, published)

    def exact(of_pair):
        def statistic(order):
            return of_pair(order, theirs).statistic

        found = scipy.stats.permutation_test((values,), statistic, permutation_type="pairings", n_resamples=np.inf)
        return float(found.statistic), float(found.pvalue)

    return Correlation(methods, *exact(scipy.stats.spearmanr), *exact(scipy.stats.kendalltau))


def in_common(ours: Mapping[str, float], published: Mapping[str, float]) -> tuple[list[str], list[float], list[float]]:
    """Returns the methods in both, the least published loss first, and their losses in both.

    Args:
        ours: losses by method.
        published: other losses by method.

    Raises:
        ValueError: if there are fewer than three.
    """
    methods = [name for name in sorted(published, key=lambda name: published[name]) if name in ours]
    if len(methods) < 3:
        raise ValueError(f"fewer than three methods in common: {', '.join(methods) or 'none'}")
    return methods, [ours[name] for name in methods], [published[name] for name in methods]


def spearman(ours: Mapping[str, float], published: Mapping[str, float]) -> float:
    """Returns Spearman's rank correlation over the methods in common."""
    _, values, theirs = in_common(ours, published)
    return float(scipy.stats.spearmanr(values, theirs).statistic)


def compared(losses: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Correlates a run's order with each published one.

    Args:
        losses: the test losses of the seeds by method.

    Returns:
        For each published model the correlations of the mean losses, and the Spearman correlations of each seed alone.
    """
    means = {name: float(np.mean(values)) for name, values in losses.items()}
    seeds = range(min(map(len, losses.values())))
    return {
        model: {
            **correlation(means, published)._asdict(),
            "spearman_by_seed": [
                spearman({name: values[seed] for name, values in losses.items()}, published) for seed in seeds
            ],
        }
        for model, published in PUBLISHED.items()
    }


def among_themselves() -> list[float]:
    """Correlates the published orders with each other, by Spearman's."""
    models = list(PUBLISHED.values())
    return [spearman(one, other) for i, one in enumerate(models) for other in models[i + 1 :]]


def markdown(task: str, losses: Mapping[str, Sequence[float]], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the results as a page of Markdown.

    Args:
        task: the name of the run's task.
        losses: the test losses of the seeds by method.
        found: what `compared` returns.
    """
    shown = sorted(set().union(*PUBLISHED.values()) & set(losses), key=lambda name: np.mean(losses[name]))
    between = among_themselves()
    source = (
        "Written by `python -m experiments.published RUN`. The published losses are of language models of 130 to 520"
        " million parameters, trained on 2, 4 or 8 times the tokens that are called optimal for their size"
        ' (Wen et al., "Fantastic Pretraining Optimizers and Where to Find Them",'
        " [2509.02046](https://arxiv.org/abs/2509.02046), as recorded in marin-community/marin at commit 122c501)."
    )
    legend = (
        "p is the share of all orders whose correlation is at least as far from zero. The published orders correlate"
        f" among themselves by {min(between):.2f} to {max(between):.2f} (Spearman)."
    )
    lines = [
        f"# The order on {task} beside published ones",
        "",
        source,
        "",
        f"| model | {' | '.join(shown)} |",
        f"|---|{'---|' * len(shown)}",
        f"| {task}, ours | {' | '.join(f'{np.mean(losses[name]):.4f}' for name in shown)} |",
    ]
    for model, published in PUBLISHED.items():
        cells = [f"{published[name]:.3f}" if name in published else "" for name in shown]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | methods in common | Spearman (p) | Kendall (p) | Spearman, each seed alone |",
        "|---|---|---|---|---|",
    ]
    for model, one in found.items():
        by_seed = one["spearman_by_seed"]
        both = (f"{one[name]:.2f} ({one[f'{name}_p']:.2g})" for name in ("spearman", "kendall"))
        lines.append(
            f"| {model} | {len(one['methods'])} | {' | '.join(both)} | {min(by_seed):.2f} to {max(by_seed):.2f} |"
        )
    return "\n".join([*lines, "", legend]) + "\n"


def write(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Reads a run, and writes `published-order.json` and `published-order.md`.

    Args:
        run: the run's folder.
        folder: where the results go.

    Raises:
        ComparisonError: if there is no run, or results cannot be written.
    """
    result = Comparison.read(run)
    losses = {row.optimizer: row.test_losses.tolist() for row in result.rows if not row.diverged}
    task, found = result.records[0]["settings"]["task"], compared(losses)
    content = {"task": task, "losses": losses, "correlations": found, "among_published": among_themselves()}
    with hold(folder, wait=True):
        write_results(folder / "published-order.json", content, markdown(task, losses, found))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m experiments.published RUN, the folder of a run of compare")
    write(pathlib.Path(sys.argv[1]), evidence.RESULTS)
