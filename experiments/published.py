"""`python -m experiments.published RUN`: the order of optimizers in a run beside their order in published results.

`SOURCES` holds what was published, under our names of the methods, and says where each figure was read.
"""

import itertools
import pathlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from experiments import evidence
from optkit.comparison import Comparison
from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.store import hold, write_results

# A correlation of fewer methods says nothing.
LEAST_IN_COMMON = 3
# All orders of up to seven methods are fewer, so that their p-values are exact.
ORDERS = 9_999
LEGEND = (
    f"In the tables of correlations, p is the share of all orders, or of {ORDERS:,} random ones, whose correlation is"
    " at least as far from zero. The p-values of one source depend on each other, and are not corrected for"
    " their number."
)
NAMES = (
    "Methods have our names. Their Muon, in all sources, is our `muon`: Jordan's scale, and AdamW for parameters that"
    " are not matrices, though with other numbers of Newton-Schulz steps. It is not `optax_muon`. Their MARS is"
    " `mars_adamw` with the gradient of the step before as it was (MARS-approx); that of Wen et al. corrects all"
    " parameters, ours only matrices. The rule of Sophia differs: ours estimates the Hessian's diagonal by Hutchinson's"
    " method, SophiaG from labels that the model draws. Our run has no weight decay; most of theirs have."
)


class Source(NamedTuple):
    """Published results of several optimizers.

    Attributes:
        name: what tables call it.
        about: what was trained, and where the figures were read, in Markdown.
        models: by the model, the result of each method: a loss, or a number of steps. Less is better.
        decimals: how many of them tables show.
    """

    name: str
    about: str
    models: Mapping[str, Mapping[str, float]]
    decimals: int = 3


SOURCES = (
    Source(
        name="Wen et al.",
        about=(
            "Losses of language models of 130 to 520 million parameters, trained on 1, 2, 4 or 8 times the tokens that"
            " are called optimal for their size, each optimizer with tuned hyperparameters: Wen, Hall, Ma, Liang,"
            ' "Fantastic Pretraining Optimizers and Where to Find Them",'
            " [2509.02046](https://arxiv.org/abs/2509.02046). They are read from marin-community/marin at commit"
            " 122c501, in experiments/optimizer_sweep/Analysis. All of 130M and of 1x are the first rows of"
            " PhaseI/tex/hyperparam_tables_\\*.tex; the rows below change one hyperparameter at a time, which lowers"
            " the loss by 0.005 at most. The others are `min_loss` of PhaseII/wandb_cache.json, which has no Sophia."
            " For 130M, 4x there is no table of `cautious_adamw`."
        ),
        models={
            "130M, 1x": {
                "muon": 3.464,
                "adamw": 3.529,
                "cautious_adamw": 3.535,
                "mars_adamw": 3.537,
                "sophia": 3.544,
                "lion": 3.552,
            },
            "130M, 2x": {
                "muon": 3.369,
                "mars_adamw": 3.396,
                "cautious_adamw": 3.403,
                "adamw": 3.409,
                "lion": 3.414,
                "sophia": 3.414,
            },
            "130M, 4x": {
                "muon": 3.296,
                "adamw": 3.322,
                "mars_adamw": 3.323,
                "sophia": 3.330,
                "lion": 3.331,
            },
            "130M, 8x": {
                "muon": 3.240,
                "mars_adamw": 3.247,
                "lion": 3.252,
                "cautious_adamw": 3.253,
                "sophia": 3.259,
                "adamw": 3.262,
            },
            "300M, 1x": {
                "muon": 3.224,
                "mars_adamw": 3.249,
                "cautious_adamw": 3.260,
                "adamw": 3.264,
                "sophia": 3.267,
                "lion": 3.268,
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
            "520M, 1x": {
                "muon": 3.073,
                "cautious_adamw": 3.100,
                "mars_adamw": 3.101,
                "sophia": 3.106,
                "lion": 3.108,
                "adamw": 3.110,
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
        },
    ),
    Source(
        name="Semenov et al.'s code",
        about=(
            "Losses of one Llama of about 30 million parameters after 268 million tokens of FineWeb, with one seed: 13"
            " of 20 optimizers. They are read from epfml/llm-optimizer-benchmark, or a fork of it, at commit 7a167f0,"
            " exps/sub_one_pass/formal/confirm_selection.json. The code is that of Semenov, Pagliardini, Jaggi,"
            ' "Benchmarking Optimizers for Large Language Model Pretraining",'
            " [2509.01440](https://arxiv.org/abs/2509.01440), but the run is not in their paper, whose own losses are"
            " only in figures. As far as we know it is not reviewed, and its own plan is marked as unverified. The"
            " learning rate is constant after a warm-up, and was chosen out of three to six by the loss after a"
            " sixteenth of the tokens. Adafactor was hardly tuned, because its losses then differed by 0.004 over a"
            " factor of 30."
        ),
        models={
            "30M, 268M tokens": {
                "ademamix": 4.019940,
                "muon": 4.043658,
                "adamw": 4.083444,
                "prodigy": 4.091464,
                "mars_adamw": 4.121806,
                "lion": 4.166975,
                "adopt": 4.170770,
                "sophia": 4.209933,
                "lamb": 4.210541,
                "signum": 4.239973,
                "schedule_free_adamw": 4.304592,
                "adafactor": 4.321354,
                "sgd": 6.973094,
            },
        },
    ),
    Source(
        name="Yuan et al.",
        about=(
            "The best losses of GPT-2 after 5, 20 and 50 billion tokens of OpenWebText, by MARS's authors: Yuan, Liu,"
            ' Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models",'
            " [2411.10438](https://arxiv.org/abs/2411.10438), in the README of AGI-Arena/MARS at commit ded0f61."
        ),
        models={
            "small, 5B tokens": {"mars_adamw": 3.108, "muon": 3.165, "adamw": 3.193},
            "small, 20B tokens": {"mars_adamw": 2.981, "muon": 3.006, "adamw": 3.024},
            "small, 50B tokens": {"mars_adamw": 2.849, "adamw": 2.885, "muon": 2.901},
            "medium, 5B tokens": {"mars_adamw": 2.969, "muon": 3.009, "adamw": 3.084},
            "medium, 20B tokens": {"mars_adamw": 2.763, "muon": 2.813, "adamw": 2.821},
            "medium, 50B tokens": {"mars_adamw": 2.636, "muon": 2.688, "adamw": 2.691},
            "large, 5B tokens": {"mars_adamw": 2.876, "muon": 2.915, "adamw": 3.013},
            "large, 20B tokens": {"mars_adamw": 2.647, "muon": 2.691, "adamw": 2.741},
            "large, 50B tokens": {"mars_adamw": 2.518, "adamw": 2.561, "muon": 2.573},
        },
    ),
    Source(
        name="Modded-NanoGPT",
        about=(
            "The fewest steps to a validation loss of 3.28 in the Modded-NanoGPT Optimization Benchmark, a public"
            " table that anyone may improve (KellerJordan/modded-nanogpt, records/track_3_optimization/README.md at"
            " commit 6b313f2): its results 10, 12 and 2. The others are earlier ones of the same methods, or of methods"
            " and combinations that are not in our run. The table itself calls AdamW most likely undertuned."
        ),
        models={"NanoGPT small": {"normuon": 3250, "muon": 3325, "adamw": 5625}},
        decimals=0,
    ),
)


class Correlation(NamedTuple):
    """How alike two orders are.

    Attributes:
        methods: what is in both, the best published one first.
        spearman: Spearman's rank correlation.
        spearman_p: how likely one at least as large, or as small, is where the orders have nothing to do with each
            other: the share of all orders, or of 9,999 random ones if there are more.
        kendall: Kendall's, of pairs.
        kendall_p: the same of it.
    """

    methods: list[str]
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float


def correlation(ours: Mapping[str, float], published: Mapping[str, float]) -> Correlation:
    """Correlates two orders over the methods in common.

    Args:
        ours: losses by method.
        published: other results by method.

    Returns:
        Both rank correlations, with p-values.

    Raises:
        ValueError: if fewer than three methods are in both.
    """
    methods, values, theirs = in_common(ours, published)

    def with_p(of: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        def statistic(order: np.ndarray, axis: int) -> np.ndarray:
            return scipy.stats.pearsonr(of(order), of(np.broadcast_to(theirs, order.shape)), axis=axis).statistic

        found = scipy.stats.permutation_test(
            (values,), statistic, permutation_type="pairings", vectorized=True, n_resamples=ORDERS, rng=0
        )
        return float(found.statistic), float(found.pvalue)

    return Correlation(methods, *with_p(ranks), *with_p(signs))


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks along the last axis. Their correlation is Spearman's."""
    return scipy.stats.rankdata(values, axis=-1)


def signs(values: np.ndarray) -> np.ndarray:
    """Returns the sign of each difference along the last axis. Their correlation is Kendall's, tau-b where some tie."""
    return np.sign(values[..., :, None] - values[..., None, :]).reshape(*values.shape[:-1], -1)


def in_common(ours: Mapping[str, float], published: Mapping[str, float]) -> tuple[list[str], list[float], list[float]]:
    """Returns the methods in both, the best published one first, and their results in both.

    Args:
        ours: losses by method.
        published: other results by method.

    Raises:
        ValueError: if there are fewer than three.
    """
    methods = [name for name in sorted(published, key=lambda name: published[name]) if name in ours]
    if len(methods) < LEAST_IN_COMMON:
        raise ValueError(f"fewer than three methods in common: {', '.join(methods) or 'none'}")
    return methods, [ours[name] for name in methods], [published[name] for name in methods]


def comparable(ours: Collection[str], published: Collection[str]) -> bool:
    """Returns whether enough methods are in both."""
    return len(set(ours) & set(published)) >= LEAST_IN_COMMON


def spearman(ours: Mapping[str, float], published: Mapping[str, float]) -> float:
    """Returns Spearman's rank correlation over the methods in common."""
    _, values, theirs = in_common(ours, published)
    return float(scipy.stats.spearmanr(values, theirs).statistic)


def compared(losses: Mapping[str, Sequence[float]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Correlates a run's order with each published one.

    Args:
        losses: the test losses of the seeds by method.

    Returns:
        For each source and model the correlations of the mean losses, and the Spearman correlations of each seed
        alone. Models with fewer than three methods in common are missing.
    """
    means = {name: float(np.mean(values)) for name, values in losses.items()}
    seeds = range(min(map(len, losses.values())))
    return {
        source.name: {
            model: {
                **correlation(means, published)._asdict(),
                "spearman_by_seed": [
                    spearman({name: values[seed] for name, values in losses.items()}, published) for seed in seeds
                ],
            }
            for model, published in source.models.items()
            if comparable(losses, published)
        }
        for source in SOURCES
    }


def among_themselves() -> dict[str, dict[str, list[float]]]:
    """Correlates the published orders with each other.

    Returns:
        For each pair of sources Spearman's correlations between a model of the one and another of the other, as far as
        they have three methods in common.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for one, other in itertools.combinations_with_replacement(SOURCES, 2):
        models = one.models.values()
        pairs = itertools.combinations(models, 2) if one is other else itertools.product(models, other.models.values())
        values = [spearman(left, right) for left, right in pairs if comparable(left, right)]
        if values:
            found.setdefault(one.name, {})[other.name] = values
    return found


def ahead(losses: Mapping[str, Sequence[float]]) -> dict[str, dict[str, tuple[int, int]]]:
    """Counts in how many published models a method is ahead of AdamW.

    Args:
        losses: the test losses of the seeds of our run by method, for which methods to count.

    Returns:
        By method and source in how many models it is, and how many have both; sources without one are missing.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for source in SOURCES:
        for name in losses.keys() - {YARDSTICK}:
            both = [results for results in source.models.values() if {name, YARDSTICK} <= results.keys()]
            if both:
                wins = sum(results[name] < results[YARDSTICK] for results in both)
                found.setdefault(name, {})[source.name] = (wins, len(both))
    return found


def markdown(task: str, losses: Mapping[str, Sequence[float]], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the results as a page of Markdown.

    Args:
        task: the name of the run's task.
        losses: the test losses of the seeds by method.
        found: what `compared` returns.
    """
    lines = [
        f"# The order on {task} beside published ones",
        "",
        "Written by `python -m experiments.published RUN`.",
        "",
        NAMES,
        "",
        LEGEND,
    ]
    for source in SOURCES:
        if found[source.name]:
            lines += ["", *_section(source, task, losses, found[source.name])]
    lines += [
        "",
        "## Each method against AdamW",
        "",
        "Ours: the mean loss minus AdamW's. Others: in how many of the models with both the method is ahead of AdamW.",
        "",
        f"| method | {task}, ours | {' | '.join(source.name for source in SOURCES)} |",
        f"|---|{'---|' * (1 + len(SOURCES))}",
    ]
    differences = {name: np.mean(values) - np.mean(losses[YARDSTICK]) for name, values in losses.items()}
    counts = ahead(losses)
    for name in sorted(counts, key=lambda name: differences[name]):
        cells = [" of ".join(map(str, counts[name].get(source.name, ()))) for source in SOURCES]
        lines.append(f"| {name} | {differences[name]:+.3f} | {' | '.join(cells)} |")
    lines += [
        "",
        "## The published orders among themselves",
        "",
        "Spearman's correlation, the least and the greatest over all pairs of models with three methods in common.",
        "",
        "| source | other | pairs of models | Spearman |",
        "|---|---|---|---|",
    ]
    for one, others in among_themselves().items():
        for other, values in others.items():
            lines.append(f"| {one} | {other} | {len(values)} | {min(values):.2f} to {max(values):.2f} |")
    return "\n".join(lines) + "\n"


def _section(
    source: Source, task: str, losses: Mapping[str, Sequence[float]], found: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Returns the lines of one source."""
    shown = sorted(
        set().union(*(source.models[model] for model in found)) & set(losses), key=lambda name: np.mean(losses[name])
    )
    lines = [
        f"## {source.name}",
        "",
        source.about,
        "",
        f"| model | {' | '.join(shown)} |",
        f"|---|{'---|' * len(shown)}",
        f"| {task}, ours | {' | '.join(f'{np.mean(losses[name]):.4f}' for name in shown)} |",
    ]
    for model in found:
        published = source.models[model]
        cells = [f"{published[name]:.{source.decimals}f}" if name in published else "" for name in shown]
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
    return lines


def write(task: str, losses: Mapping[str, Sequence[float]], folder: pathlib.Path) -> None:
    """Writes `published-order.json` and `published-order.md`.

    Args:
        task: the name of the run's task.
        losses: the test losses of the seeds by method.
        folder: where the results go.

    Raises:
        ComparisonError: if results cannot be written.
    """
    found = compared(losses)
    content = {"task": task, "losses": losses, "correlations": found, "among_published": among_themselves()}
    with hold(folder, wait=True):
        write_results(folder / "published-order.json", content, markdown(task, losses, found))


def losses_of(run: pathlib.Path) -> tuple[str, dict[str, list[float]]]:
    """Reads the task of a run, and the test losses of the seeds by method, without those that diverged.

    Args:
        run: the run's folder.

    Raises:
        ComparisonError: if there is no run.
    """
    result = Comparison.read(run)
    losses = {row.optimizer: row.test_losses.tolist() for row in result.rows if not row.diverged}
    return result.records[0]["settings"]["task"], losses


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m experiments.published RUN, the folder of a run of compare")
    write(*losses_of(pathlib.Path(sys.argv[1])), evidence.RESULTS)
