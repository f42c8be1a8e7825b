"""Optimizers with less state: second moments that coordinates share, momentum in subspaces, and projections."""

from optkit.method import methods_of

from ._adagrad_sn import *
from ._adagrad_snsm import *
from ._adam_sn import *
from ._adam_snsm import *
from ._block_projector import *
from ._error_feedback import *
from ._frugal import *
from ._frugal_adamw import *
from ._frugal_blocks import *
from ._frugal_lion import *
from ._galore import *
from ._ggt import *
from ._low_rank_m_fac import *
from ._m_fac import *
from ._micro_adam import *
from ._projector import *
from ._rmsprop_sn import *
from ._sgd_sm import *
from ._sparse_ggt import *
from ._sparse_m_fac import *
from ._subset_norm import *
from ._subspace_momentum import *
from ._subspaces import *

METHODS = methods_of(
    _adam_sn,
    _rmsprop_sn,
    _adagrad_sn,
    _adam_snsm,
    _adagrad_snsm,
    _sgd_sm,
    _subspace_momentum,
    _frugal,
    _frugal_adamw,
    _frugal_lion,
    _frugal_blocks,
    _galore,
    _subspaces,
    _block_projector,
    _micro_adam,
    _error_feedback,
    _m_fac,
    _sparse_m_fac,
    _low_rank_m_fac,
    _ggt,
    _sparse_ggt,
)
