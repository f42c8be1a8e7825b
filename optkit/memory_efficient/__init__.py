"""Optimizer states of fewer numbers: second moments that coordinates share, momentum in subspaces, projections."""

from optkit.memory_efficient import (
    _adagrad_sn,
    _adagrad_snsm,
    _adam_sn,
    _adam_snsm,
    _block_projector,
    _error_feedback,
    _frugal,
    _frugal_adamw,
    _frugal_blocks,
    _frugal_lion,
    _galore,
    _ggt,
    _m_fac,
    _micro_adam,
    _rmsprop_sn,
    _sgd_sm,
    _sparse_ggt,
    _sparse_m_fac,
    _subspace_momentum,
    _subspaces,
)
from optkit.memory_efficient._adagrad_sn import adagrad_sn
from optkit.memory_efficient._adagrad_snsm import adagrad_snsm
from optkit.memory_efficient._adam_sn import adam_sn
from optkit.memory_efficient._adam_snsm import adam_snsm
from optkit.memory_efficient._block_projector import block_projector
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._frugal import frugal
from optkit.memory_efficient._frugal_adamw import frugal_adamw
from optkit.memory_efficient._frugal_blocks import carry_over, choose_blocks, frugal_blocks
from optkit.memory_efficient._frugal_lion import frugal_lion
from optkit.memory_efficient._galore import galore_adamw
from optkit.memory_efficient._ggt import ggt, scale_by_ggt
from optkit.memory_efficient._m_fac import m_fac, scale_by_m_fac
from optkit.memory_efficient._micro_adam import micro_adam, scale_by_micro_adam
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._rmsprop_sn import rmsprop_sn
from optkit.memory_efficient._sgd_sm import sgd_sm
from optkit.memory_efficient._sparse_ggt import sparse_ggt
from optkit.memory_efficient._sparse_m_fac import sparse_m_fac
from optkit.memory_efficient._subset_norm import scale_by_subset_norm
from optkit.memory_efficient._subspace_momentum import subspace_momentum
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import methods_of

__all__ = [
    "Projector",
    "adagrad_sn",
    "adagrad_snsm",
    "adam_sn",
    "adam_snsm",
    "block_projector",
    "carry_over",
    "choose_blocks",
    "error_feedback",
    "frugal",
    "frugal_adamw",
    "frugal_blocks",
    "frugal_lion",
    "galore_adamw",
    "ggt",
    "m_fac",
    "micro_adam",
    "rmsprop_sn",
    "scale_by_ggt",
    "scale_by_m_fac",
    "scale_by_micro_adam",
    "scale_by_subset_norm",
    "sgd_sm",
    "sparse_ggt",
    "sparse_m_fac",
    "subspace_momentum",
    "subspace_projector",
]

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
    _ggt,
    _sparse_ggt,
)
