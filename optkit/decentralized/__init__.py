"""Decentralized training: topologies, mixing, and optimizers that talk to their neighbours only."""

import inspect
from collections.abc import Callable

import jax
import optax

from optkit import prox
from optkit.compressors import top_k
from optkit.core.precision import in_float32
from optkit.decentralized._accelerated_mix import accelerated_mix
from optkit.decentralized._activation_matching import activation_matched_mix, align_units, match_units, permute_units
from optkit.decentralized._chebyshev import chebyshev_mix
from optkit.decentralized._choco import choco
from optkit.decentralized._compressed_proximal_tracking import compressed_proximal_tracking
from optkit.decentralized._consensus import consensus_covariance_trace, consensus_distance
from optkit.decentralized._dadam import dadam
from optkit.decentralized._dadao import DADAO, DadaoConstants, DadaoEvents, DadaoState, dadao, dadao_constants
from optkit.decentralized._delayed_dual_averaging import delayed_dual_averaging
from optkit.decentralized._dfedsam import dfedsam
from optkit.decentralized._drcgd import drcgd
from optkit.decentralized._exact_diffusion import exact_diffusion
from optkit.decentralized._extra import extra
from optkit.decentralized._gossip import gossip
from optkit.decentralized._gossip_rates import GossipRates, optimal_rates, uniform_rates
from optkit.decentralized._gradient_tracking import gradient_tracking, track_gradients
from optkit.decentralized._links import links_between, lossy_links
from optkit.decentralized._mixing import Mixing, mix, repeated_mix
from optkit.decentralized._network_lasso import network_lasso, network_lasso_start, network_lasso_sweep
from optkit.decentralized._nids import nids
from optkit.decentralized._noise_robust_gradient_tracking import noise_robust_gradient_tracking
from optkit.decentralized._noisy_mix import noisy_mix
from optkit.decentralized._participation import participation_mix, sample_participants
from optkit.decentralized._proximal_gradient_tracking import proximal_gradient_tracking
from optkit.decentralized._quasi_global_momentum import qg_dadam, qg_dsgdm
from optkit.decentralized._relay_sum import relay_sum
from optkit.decentralized._self_repellent_walk import (
    metropolis_walk,
    self_repellent_kernel,
    self_repellent_start,
    self_repellent_step,
    self_repellent_walk,
    stationary_distribution,
    train_along_path,
)
from optkit.decentralized._ties_merging import ties_merge
from optkit.decentralized._variance_corrected_averaging import variance_corrected_mean, variance_corrected_mix
from optkit.decentralized.topology import Topology, path, ring
from optkit.method import Method, Paper, Variant

__all__ = [
    "DADAO",
    "DadaoConstants",
    "DadaoEvents",
    "DadaoState",
    "GossipRates",
    "accelerated_mix",
    "activation_matched_mix",
    "align_units",
    "chebyshev_mix",
    "choco",
    "compressed_proximal_tracking",
    "consensus_covariance_trace",
    "consensus_distance",
    "dadam",
    "dadao",
    "dadao_constants",
    "delayed_dual_averaging",
    "dfedsam",
    "drcgd",
    "exact_diffusion",
    "extra",
    "gossip",
    "gradient_tracking",
    "links_between",
    "lossy_links",
    "match_units",
    "metropolis_walk",
    "mix",
    "network_lasso",
    "network_lasso_start",
    "network_lasso_sweep",
    "nids",
    "noise_robust_gradient_tracking",
    "noisy_mix",
    "optimal_rates",
    "participation_mix",
    "permute_units",
    "proximal_gradient_tracking",
    "qg_dadam",
    "qg_dsgdm",
    "relay_sum",
    "repeated_mix",
    "sample_participants",
    "self_repellent_kernel",
    "self_repellent_start",
    "self_repellent_step",
    "self_repellent_walk",
    "stationary_distribution",
    "ties_merge",
    "track_gradients",
    "train_along_path",
    "uniform_rates",
    "variance_corrected_mean",
    "variance_corrected_mix",
]


def _around_sgd(wrapper: Callable[..., optax.GradientTransformation]) -> Callable[..., optax.GradientTransformation]:
    """Returns a factory that puts `wrapper` around SGD with momentum, with the arguments of both."""
    _, *of_wrapper = inspect.signature(wrapper).parameters.values()

    def factory(learning_rate: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.9, **options):
        if "learning_rate" in inspect.signature(wrapper).parameters:
            options["learning_rate"] = learning_rate
        return in_float32(wrapper(optax.sgd(learning_rate, momentum), **options))

    # `inject_hyperparams` cannot see through **options.
    *of_sgd, _ = inspect.signature(factory).parameters.values()
    arguments = {argument.name: argument for argument in (*of_wrapper, *of_sgd)}
    factory.__signature__ = inspect.Signature(
        [argument.replace(kind=inspect.Parameter.KEYWORD_ONLY) for argument in arguments.values()]
    )
    return factory


def _diging(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    axis_name: str,
    mixing: Mixing | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum behind `track_gradients`, and parameters mixed first: DIGing."""
    tracking = track_gradients(topology, axis_name=axis_name, mixing=mixing)
    inner = optax.chain(tracking, optax.sgd(learning_rate, momentum))
    return in_float32(gossip(inner, topology, axis_name=axis_name, mixing=mixing, combine_first=True))


_DIGING = Paper(
    "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs",
    "Nedic, Olshevsky, Shi",
    2016,
    "1607.03218",
)
_RELAY = Paper("RelaySum for Decentralized Deep Learning on Heterogeneous Data", "Vogels et al.", 2021, "2110.04175")
_QUASI_GLOBAL = Paper(
    "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
    "Lin et al.",
    2021,
    "2102.04761",
)
_WORKERS = {"topology": ring(8), "axis_name": "workers"}
_DPROXSGT = Paper(
    "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite Problems with Heterogeneous"
    " Data",
    "Yan et al.", 2023, "2302.14252",
)  # fmt: skip
_CHOCO = Paper(
    "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication",
    "Koloskova, Stich, Jaggi", 2019, "1902.00340",
)  # fmt: skip
_NOISY_SHARING = Paper(
    "Gradient-Tracking Based Distributed Optimization with Guaranteed Optimality under Noisy Information Sharing",
    "Wang, Başar", 2022, "2210.00551",
)  # fmt: skip
_BOX = prox.box(-10.0, 10.0)

ENTRIES = (
    Method(
        name="gradient_tracking",
        factory=_around_sgd(gradient_tracking),
        family="decentralized",
        kind="wrapper",
        summary="Any optimizer, with each worker following an estimate of the mean of all workers' updates.",
        paper=_RELAY,
        example={"learning_rate": 2e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
    ),
    Method(
        name="track_gradients",
        factory=_diging,
        family="decentralized",
        kind="transformation",
        summary="Each worker's estimate of the mean of all workers' gradients; before mixed descent it is DIGing.",
        paper=_DIGING,
        example={"learning_rate": 2e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
        golden="gradient_tracking",
    ),
    Method(
        name="exact_diffusion",
        factory=_around_sgd(exact_diffusion),
        family="decentralized",
        kind="wrapper",
        summary="Any optimizer, with mixing corrected by the sum of what it did: D2, without bias under uneven data.",
        paper=Paper("D2: Decentralized Training over Decentralized Data", "Tang et al.", 2018, "1803.07068"),
        example={"learning_rate": 2e-3, **_WORKERS, "topology": ring(8).lazy()},
        grid=1e-1,
        needs=("axis_name",),
        golden="d2",
    ),
    Method(
        name="extra",
        factory=_around_sgd(extra),
        family="decentralized",
        kind="wrapper",
        summary="Any optimizer on mixed parameters, with the sum of all past disagreements as a correction.",
        paper=Paper(
            "EXTRA: An Exact First-Order Algorithm for Decentralized Consensus Optimization",
            "Shi, Ling, Wu, Yin",
            2014,
            "1404.6264",
        ),
        example={"learning_rate": 2e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
    ),
    Method(
        name="nids",
        factory=nids,
        family="decentralized",
        kind="optimizer",
        summary="Proximal gradient descent over workers, whose learning rate does not depend on the topology.",
        paper=Paper(
            "A Decentralized Proximal-Gradient Method with Network Independent Step-sizes and Separated Convergence"
            " Rates",
            "Li, Shi, Yan",
            2017,
            "1704.07807",
        ),
        example={"learning_rate": 1e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
    ),
    Method(
        name="qg_dsgdm",
        factory=qg_dsgdm,
        family="decentralized",
        kind="optimizer",
        summary="SGD mixed with the neighbours', whose momentum is the way that the mixed parameters go.",
        paper=_QUASI_GLOBAL,
        example={"learning_rate": 1e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
    ),
    Method(
        name="qg_dadam",
        factory=qg_dadam,
        family="decentralized",
        kind="optimizer",
        summary="Adam mixed with the neighbours', whose second moment is that of the way that mixed parameters go.",
        paper=_QUASI_GLOBAL,
        example={"learning_rate": 1e-3, **_WORKERS},
        grid=1e-3,
        needs=("axis_name",),
    ),
    Method(
        name="relay_sum",
        factory=_around_sgd(relay_sum),
        family="decentralized",
        kind="wrapper",
        summary="Any optimizer on a tree, with parameters replaced by the mean of all, relayed from edge to edge.",
        paper=_RELAY,
        example={"learning_rate": 1e-3, "topology": path(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="relaysgd",
    ),
    Method(
        name="dfedsam",
        factory=dfedsam,
        family="decentralized",
        kind="optimizer",
        summary="Local steps of sharpness-aware minimization between gossip rounds.",
        paper=Paper(
            "Improving the Model Consistency of Decentralized Federated Learning", "Shi et al.", 2023, "2302.04083"
        ),
        # With a longer ascent it misses the minimum of the contract's narrow valley, as it should.
        example={"learning_rate": 8e-4, "topology": ring(8), "every": 2, "rho": 2e-3, "axis_name": "workers"},
        grid=0.03,
        needs=("axis_name", "grad_fn"),
    ),
    Method(
        name="drcgd",
        factory=drcgd,
        family="decentralized",
        kind="optimizer",
        summary="Decentralized conjugate gradients over matrices with orthonormal columns.",
        paper=Paper(
            "Decentralized Riemannian Conjugate Gradient Method on the Stiefel Manifold",
            "Chen et al.",
            2023,
            "2308.10547",
        ),
        # The contract's problems have their solutions off the manifold, and without a line search the default beta
        # does not stay in the narrow valley of one of them.
        example={
            "learning_rate": 8e-4,
            "topology": ring(8),
            "axis_name": "workers",
            "beta": "polak_ribiere",
            "stiefel": False,
        },
        grid=0.1,
        needs=("axis_name",),
    ),
    Method(
        name="delayed_dual_averaging",
        factory=delayed_dual_averaging,
        family="decentralized",
        kind="optimizer",
        summary="Dual averaging whose steps shrink with the gradients and with how late they come (experimental).",
        paper=Paper(
            "Multi-Agent Online Optimization with Delays: Asynchronicity, Adaptivity, and Optimism",
            "Hsieh et al.",
            2020,
            "2012.11579",
        ),
        example={"radius": 1.0, "max_delay": 2},
        grid=1.0,
        tuned="radius",
    ),
    Method(
        name="proximal_gradient_tracking",
        factory=proximal_gradient_tracking,
        family="decentralized",
        kind="optimizer",
        summary="DProxSGT: decentralized proximal gradient descent with tracked gradients.",
        paper=_DPROXSGT,
        example={"learning_rate": 1e-3, "prox": _BOX, **_WORKERS},
        grid=0.1,
        needs=("axis_name",),
        variants={"unmixed": Variant({"mixed_step": False}, grid=0.1)},
        golden="dproxsgt",
    ),
    Method(
        name="compressed_proximal_tracking",
        factory=compressed_proximal_tracking,
        family="decentralized",
        kind="optimizer",
        summary="CDProxSGT: DProxSGT whose workers send compressed differences.",
        paper=_DPROXSGT,
        example={"learning_rate": 1e-3, "prox": _BOX, "compressor": top_k(0.5), **_WORKERS},
        grid=0.1,
        needs=("axis_name",),
        golden="cdproxsgt",
    ),
    Method(
        name="choco_sgd",
        factory=_around_sgd(choco),
        family="decentralized",
        kind="wrapper",
        summary="CHOCO: any optimizer, workers send compressed differences of parameters.",
        paper=_CHOCO,
        example={"learning_rate": 1e-3, "momentum": 0.0, "compressor": top_k(0.5), "gamma": 0.5, **_WORKERS},
        grid=0.1,
        needs=("axis_name",),
    ),
    Method(
        name="noise_robust_gradient_tracking",
        factory=noise_robust_gradient_tracking,
        family="decentralized",
        kind="optimizer",
        summary="Gradient tracking that does not add up the noise of its channels.",
        paper=_NOISY_SHARING,
        example={"learning_rate": 1e-3, "gamma": 1.0, **_WORKERS},
        grid=0.1,
        needs=("axis_name",),
        golden="noise_robust_gt",
    ),
    Method(
        name="gossip",
        factory=_around_sgd(gossip),
        family="decentralized",
        kind="wrapper",
        summary="Each worker's own optimizer, and parameters mixed with its neighbours': decentralized SGD.",
        paper=Paper(
            "Can Decentralized Algorithms Outperform Centralized Algorithms? A Case Study for Decentralized Parallel"
            " Stochastic Gradient Descent",
            "Lian et al.",
            2017,
            "1705.09056",
        ),
        example={"learning_rate": 2e-3, **_WORKERS},
        grid=1e-1,
        needs=("axis_name",),
        variants={
            "combine_first": Variant({"combine_first": True, "mixing": chebyshev_mix(2), "every": 2}, grid=1e-1),
        },
        golden="dsgd",
    ),
    Method(
        name="dadam",
        factory=dadam,
        family="decentralized",
        kind="optimizer",
        summary="Each worker's own Adam, and parameters mixed with its neighbours'.",
        paper=Paper(
            "DADAM: A Consensus-based Distributed Adaptive Gradient Method for Online Optimization",
            "Nazari, Tarzanagh, Michailidis",
            2019,
            "1901.09109",
        ),
        example={"learning_rate": 1e-2, **_WORKERS},
        grid=1e-3,
        needs=("axis_name",),
    ),
)
