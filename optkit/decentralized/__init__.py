"""Decentralized training: topologies, mixing, and optimizers that talk to their neighbours only."""

from optkit.method import methods_of

from . import topology
from ._accelerated_mix import *
from ._activation_matching import *
from ._chebyshev import *
from ._choco import *
from ._compressed_proximal_tracking import *
from ._consensus import *
from ._dadam import *
from ._dadao import *
from ._dadao_events import *
from ._dadao_flow import *
from ._delayed_dual_averaging import *
from ._dfedsam import *
from ._drcgd import *
from ._exact_diffusion import *
from ._extra import *
from ._gossip import *
from ._gossip_rates import *
from ._gradient_tracking import *
from ._links import *
from ._metropolis_walk import *
from ._mixing import *
from ._network_lasso import *
from ._nids import *
from ._noise_robust_gradient_tracking import *
from ._noisy_mix import *
from ._participation import *
from ._proximal_gradient_tracking import *
from ._quasi_global_adam import *
from ._quasi_global_momentum import *
from ._relay_sum import *
from ._repeated_mix import *
from ._self_repellent_walk import *
from ._ties_merging import *
from ._variance_corrected_averaging import *

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
    _dadao,
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
    _dadao_events,
    _gossip_rates,
    _network_lasso,
    _self_repellent_walk,
    _metropolis_walk,
    topology,
)
