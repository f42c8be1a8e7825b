"""Decentralized training: topologies, mixing, and optimizers that talk to their neighbours only."""

from optkit.decentralized import (
    _accelerated_mix,
    _activation_matching,
    _chebyshev,
    _choco,
    _compressed_proximal_tracking,
    _consensus,
    _dadam,
    _dadao,
    _delayed_dual_averaging,
    _dfedsam,
    _drcgd,
    _exact_diffusion,
    _extra,
    _gossip,
    _gossip_rates,
    _gradient_tracking,
    _links,
    _metropolis_walk,
    _mixing,
    _network_lasso,
    _nids,
    _noise_robust_gradient_tracking,
    _noisy_mix,
    _participation,
    _proximal_gradient_tracking,
    _quasi_global_adam,
    _quasi_global_momentum,
    _relay_sum,
    _repeated_mix,
    _self_repellent_walk,
    _ties_merging,
    _variance_corrected_averaging,
    topology,
)
from optkit.decentralized._accelerated_mix import accelerated_mix
from optkit.decentralized._activation_matching import activation_matched_mix, align_units, match_units, permute_units
from optkit.decentralized._chebyshev import chebyshev_mix
from optkit.decentralized._choco import choco
from optkit.decentralized._compressed_proximal_tracking import compressed_proximal_tracking
from optkit.decentralized._consensus import consensus_covariance_trace, consensus_distance
from optkit.decentralized._dadam import dadam
from optkit.decentralized._dadao import DadaoEvents, DadaoSimulator, DadaoState, dadao
from optkit.decentralized._dadao_flow import DadaoConstants, dadao_constants
from optkit.decentralized._delayed_dual_averaging import delayed_dual_averaging
from optkit.decentralized._dfedsam import dfedsam
from optkit.decentralized._drcgd import drcgd
from optkit.decentralized._exact_diffusion import exact_diffusion
from optkit.decentralized._extra import extra
from optkit.decentralized._gossip import gossip
from optkit.decentralized._gossip_rates import GossipRates, optimal_rates, uniform_rates
from optkit.decentralized._gradient_tracking import gradient_tracking, track_gradients
from optkit.decentralized._links import links_among, lossy_links
from optkit.decentralized._metropolis_walk import metropolis_walk, stationary_distribution
from optkit.decentralized._mixing import mix
from optkit.decentralized._network_lasso import network_lasso, network_lasso_start, network_lasso_sweep
from optkit.decentralized._nids import nids
from optkit.decentralized._noise_robust_gradient_tracking import noise_robust_gradient_tracking
from optkit.decentralized._noisy_mix import noisy_mix
from optkit.decentralized._participation import participation_mix, sample_participants
from optkit.decentralized._proximal_gradient_tracking import proximal_gradient_tracking
from optkit.decentralized._quasi_global_adam import qg_dadam
from optkit.decentralized._quasi_global_momentum import qg_dsgdm
from optkit.decentralized._relay_sum import relay_sum
from optkit.decentralized._repeated_mix import repeated_mix
from optkit.decentralized._self_repellent_walk import (
    self_repellent_kernel,
    self_repellent_start,
    self_repellent_step,
    self_repellent_walk,
    train_along_path,
)
from optkit.decentralized._ties_merging import ties_merge
from optkit.decentralized._variance_corrected_averaging import variance_corrected_mean, variance_corrected_mix
from optkit.method import methods_of

__all__ = [
    "DadaoConstants",
    "DadaoEvents",
    "DadaoSimulator",
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
    "links_among",
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

METHODS = methods_of(
    _gossip,
    _gradient_tracking,
    _exact_diffusion,
    _extra,
    _nids,
    _quasi_global_momentum,
    _quasi_global_adam,
    _dadam,
    _relay_sum,
    _dfedsam,
    _drcgd,
    _delayed_dual_averaging,
    _proximal_gradient_tracking,
    _compressed_proximal_tracking,
    _choco,
    _noise_robust_gradient_tracking,
    _mixing,
    _repeated_mix,
    _chebyshev,
    _accelerated_mix,
    _noisy_mix,
    _participation,
    _activation_matching,
    _variance_corrected_averaging,
    _ties_merging,
    _links,
    _consensus,
    _dadao,
    _gossip_rates,
    _network_lasso,
    _self_repellent_walk,
    _metropolis_walk,
    topology,
)
