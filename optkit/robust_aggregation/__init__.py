"""Robust aggregation: rules that a minority of arbitrary rows cannot mislead, and attacks to test them with."""

from optkit.method import methods_of

from . import attacks
from ._aksel import *
from ._bucketing import *
from ._centered_clip import *
from ._cge import *
from ._krum import *
from ._meamed import *
from ._monna import *
from ._nearest_neighbor_average import *
from ._nearest_neighbor_mixing import *
from ._phocas import *
from ._robust_mix import *
from ._robust_sgd import *
from ._self_centered_clip import *
from ._trimmed_mean import *

METHODS = methods_of(
    _trimmed_mean,
    _meamed,
    _phocas,
    _krum,
    _cge,
    _aksel,
    _centered_clip,
    _bucketing,
    _nearest_neighbor_mixing,
    _robust_sgd,
    _robust_mix,
    _nearest_neighbor_average,
    _self_centered_clip,
    _monna,
    attacks,
)
