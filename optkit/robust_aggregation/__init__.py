"""Robust aggregation: rules that a minority of arbitrary rows cannot lead astray, and attacks to try them on."""

from optkit.method import methods_of
from optkit.robust_aggregation import (
    _aksel,
    _bucketing,
    _centered_clip,
    _cge,
    _krum,
    _meamed,
    _monna,
    _nearest_neighbor_average,
    _nearest_neighbor_mixing,
    _phocas,
    _robust_mix,
    _robust_sgd,
    _self_centered_clip,
    _trimmed_mean,
    attacks,
)
from optkit.robust_aggregation._aksel import aksel
from optkit.robust_aggregation._bucketing import bucketing
from optkit.robust_aggregation._centered_clip import centered_clip
from optkit.robust_aggregation._cge import cge
from optkit.robust_aggregation._krum import krum
from optkit.robust_aggregation._meamed import meamed
from optkit.robust_aggregation._monna import monna
from optkit.robust_aggregation._nearest_neighbor_average import nearest_neighbor_average
from optkit.robust_aggregation._nearest_neighbor_mixing import nearest_neighbor_mixing
from optkit.robust_aggregation._phocas import phocas
from optkit.robust_aggregation._robust_mix import robust_mix
from optkit.robust_aggregation._robust_sgd import per_row, robust_sgd
from optkit.robust_aggregation._self_centered_clip import self_centered_clip
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
