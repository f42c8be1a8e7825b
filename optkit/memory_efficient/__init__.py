"""Optimizer states of fewer numbers: second moments that coordinates share, momentum in subspaces, projections."""

from optkit.memory_efficient import _frugal, _galore, _ggt, _m_fac, _micro_adam, _snsm, _subset_norm
from optkit.memory_efficient._blocks import block_projector, carry_over, choose_blocks, frugal_blocks
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._frugal import frugal, frugal_adamw, frugal_lion
from optkit.memory_efficient._galore import galore_adamw
from optkit.memory_efficient._ggt import ggt, scale_by_ggt, sparse_ggt
from optkit.memory_efficient._m_fac import m_fac, scale_by_m_fac, sparse_m_fac
from optkit.memory_efficient._micro_adam import micro_adam, scale_by_micro_adam
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._snsm import adagrad_snsm, adam_snsm, sgd_sm
from optkit.memory_efficient._subset_norm import adagrad_sn, adam_sn, rmsprop_sn, scale_by_subset_norm
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

METHODS = methods_of(_subset_norm, _snsm, _frugal, _galore, _micro_adam, _m_fac, _ggt)
