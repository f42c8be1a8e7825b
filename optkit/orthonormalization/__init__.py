"""Orthonormalized updates of matrices: Dion, Muon and their relatives, sharded or not."""

from optkit.method import methods_of
from optkit.orthonormalization import (
    _dion,
    _dion2,
    _flax_dimension_numbers,
    _muon,
    _nordion2,
    _normuon,
    _sharded_dion,
)
from optkit.orthonormalization._dion import dion, scale_by_dion, sync_momentum
from optkit.orthonormalization._dion2 import dion2, scale_by_dion2
from optkit.orthonormalization._flax_dimension_numbers import flax_dimension_numbers
from optkit.orthonormalization._muon import muon, scale_by_muon
from optkit.orthonormalization._nordion2 import nordion2, scale_by_nordion2
from optkit.orthonormalization._normuon import normuon, scale_by_normuon
from optkit.orthonormalization._sharded_dion import scale_by_sharded_dion, sharded_dion
from optkit.orthonormalization._sharded_dion_specs import sharded_dion_specs

__all__ = [
    "dion",
    "dion2",
    "flax_dimension_numbers",
    "muon",
    "nordion2",
    "normuon",
    "scale_by_dion",
    "scale_by_dion2",
    "scale_by_muon",
    "scale_by_nordion2",
    "scale_by_normuon",
    "scale_by_sharded_dion",
    "sharded_dion",
    "sharded_dion_specs",
    "sync_momentum",
]

METHODS = methods_of(_dion, _sharded_dion, _muon, _dion2, _normuon, _nordion2, _flax_dimension_numbers)
