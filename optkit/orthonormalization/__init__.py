"""Orthonormalized updates of matrices: Dion, Muon and related methods, for sharded matrices too."""

from optkit.method import methods_of

from ._dion import *
from ._dion2 import *
from ._flax_dimension_numbers import *
from ._muon import *
from ._nordion2 import *
from ._normuon import *
from ._sharded_dion import *
from ._sharded_dion_specs import *

METHODS = methods_of(
    _dion,
    _sharded_dion,
    _muon,
    _dion2,
    _normuon,
    _nordion2,
    _flax_dimension_numbers,
)
