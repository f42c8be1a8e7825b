"""Robust aggregation: rules that a minority of arbitrary rows cannot lead astray, and attacks to try them on."""

from optkit.method import methods_of
from optkit.robust_aggregation import (
    _bucketing,
    _centered_clip,
    _cge,
    _krum,
    _meamed,
    _monna,
    _nearest_neighbors,
    _trimmed_mean,
)
from optkit.robust_aggregation._aksel import aksel
from optkit.robust_aggregation._bucketing import bucketing
from optkit.robust_aggregation._centered_clip import centered_clip, self_centered_clip
from optkit.robust_aggregation._cge import cge
from optkit.robust_aggregation._krum import krum
from optkit.robust_aggregation._meamed import meamed, phocas
from optkit.robust_aggregation._monna import monna
from optkit.robust_aggregation._nearest_neighbors import nearest_neighbor_average, nearest_neighbor_mixing
from optkit.robust_aggregation._robust_mix import robust_mix
from optkit.robust_aggregation._robust_sgd import per_row, robust_sgd
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

METHODS = methods_of(_trimmed_mean, _meamed, _krum, _cge, _centered_clip, _bucketing, _nearest_neighbors, _monna)
