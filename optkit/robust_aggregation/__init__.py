"""Robust aggregation: rules that a minority of arbitrary rows cannot lead astray, and attacks to try them on."""

from optkit.decentralized.topology import complete
from optkit.method import Method, Paper
from optkit.robust_aggregation._aksel import aksel
from optkit.robust_aggregation._bucketing import bucketing
from optkit.robust_aggregation._centered_clip import centered_clip, self_centered_clip
from optkit.robust_aggregation._cge import cge
from optkit.robust_aggregation._krum import krum
from optkit.robust_aggregation._meamed import meamed, phocas
from optkit.robust_aggregation._monna import monna
from optkit.robust_aggregation._nearest_neighbors import nearest_neighbor_average, nearest_neighbor_mixing
from optkit.robust_aggregation._robust_mix import robust_mix
from optkit.robust_aggregation._robust_sgd import per_row, robust_sgd
from optkit.robust_aggregation._trimmed_mean import trimmed_mean

__all__ = [
    "aksel",
    "bucketing",
    "centered_clip",
    "cge",
    "krum",
    "meamed",
    "monna",
    "nearest_neighbor_average",
    "nearest_neighbor_mixing",
    "per_row",
    "phocas",
    "robust_mix",
    "robust_sgd",
    "self_centered_clip",
    "trimmed_mean",
]


def _entry(name, aggregator, summary, paper, golden=None):
    return Method(
        name=name,
        factory=robust_sgd,
        family="robust_aggregation",
        kind="aggregator",
        summary=summary,
        paper=paper,
        example={"learning_rate": 2e-3, "aggregator": aggregator},
        grid=1.0,
        rows="microbatches",
        golden=golden,
    )


# Examples fit the four rows of gradients that `compare` and the contract pass.
ENTRIES = (
    _entry(
        "trimmed_mean",
        trimmed_mean(1),
        "The mean of each coordinate over workers, without its largest and smallest values.",
        Paper(
            "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", "Yin et al.", 2018, "1803.01498"
        ),
    ),
    _entry(
        "meamed",
        meamed(1),
        "The mean of each coordinate over the workers whose values are nearest to its median.",
        Paper("Generalized Byzantine-tolerant SGD", "Xie, Koyejo, Gupta", 2018, "1802.10116"),
    ),
    _entry(
        "phocas",
        phocas(1),
        "The mean of each coordinate over the workers whose values are nearest to its trimmed mean.",
        Paper(
            "Phocas: dimensional Byzantine-resilient stochastic gradient descent", "Xie, Koyejo, Gupta", 2018,
            "1805.09682",
        ),
    ),
    _entry(
        "krum",
        krum(0, selected=2),
        "The workers' gradients that lie nearest to their nearest others (multi-Krum, Krum).",
        Paper(
            "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", "Blanchard et al.", 2017,
            "1703.02757",
        ),
    ),
    _entry(
        "cge",
        cge(1),
        "The mean of the workers' gradients without the longest (comparative gradient elimination).",
        Paper(
            "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient Descent (SGD) and"
            " Norm-Based Comparative Gradient Elimination (CGE)", "Gupta, Liu, Vaidya", 2020, "2008.04699",
        ),
    ),
    _entry(
        "centered_clip",
        centered_clip(10.0),
        "Adds to the last aggregate the workers' differences from it, each clipped to a radius.",
        Paper(
            "Learning from History for Byzantine Robust Optimization", "Karimireddy, He, Jaggi", 2020, "2012.10333"
        ),
        "centered_clipping",
    ),
    _entry(
        "bucketing",
        bucketing(trimmed_mean(0), 2, key=0),
        "Averages workers in small random groups before a robust rule.",
        Paper(
            "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", "Karimireddy, He, Jaggi", 2020,
            "2006.09365",
        ),
    ),
    _entry(
        "nearest_neighbor_mixing",
        nearest_neighbor_mixing(trimmed_mean(1), 1),
        "Replaces each worker's gradient by the mean of those nearest to it before a robust rule (NNM).",
        Paper(
            "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", "Allouah et al.", 2023,
            "2302.01772",
        ),
        "nnm",
    ),
    Method(
        name="monna",
        factory=monna,
        family="robust_aggregation",
        kind="optimizer",
        summary="Local momentum, and means of the parameters nearest to a worker's own, without a server.",
        paper=Paper(
            "Robust Collaborative Learning with Linear Gradient Overhead", "Farhadkhani et al.", 2022, "2209.10931"
        ),
        example={"learning_rate": 2e-3, "topology": complete(8), "byzantine": 2, "axis_name": "workers"},
        grid=1.0,
        needs=("axis_name",),
    ),
)  # fmt: skip
