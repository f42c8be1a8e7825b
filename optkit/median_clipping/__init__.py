"""Medians in place of means: of gradients over time, over samples, coordinate by coordinate."""

from optkit.median_clipping import (
    _class_normalized,
    _clip_by_quantile,
    _clipped_sgd,
    _coordinate_median,
    _cvar_prox_linear,
    _cvar_subgradient,
    _geometric_median,
    _median_tracking,
    _proximal_median,
    median_step,
)
from optkit.median_clipping._class_normalized import class_normalized
from optkit.median_clipping._clip_by_quantile import clip_by_quantile
from optkit.median_clipping._clipped_sgd import clipped_sgd
from optkit.median_clipping._coordinate_median import coordinate_median
from optkit.median_clipping._cvar_prox_linear import cvar_prox_linear
from optkit.median_clipping._cvar_subgradient import cvar_subgradient
from optkit.median_clipping._geometric_median import geometric_median
from optkit.median_clipping._median_tracking import median_tracking_sgd, scale_by_median_tracking
from optkit.median_clipping._proximal_median import proximal_median, proximal_pass
from optkit.method import methods_of

__all__ = [
    "class_normalized",
    "clip_by_quantile",
    "clipped_sgd",
    "coordinate_median",
    "cvar_prox_linear",
    "cvar_subgradient",
    "geometric_median",
    "median_tracking_sgd",
    "proximal_median",
    "proximal_pass",
    "scale_by_median_tracking",
]

METHODS = methods_of(
    _median_tracking,
    _clipped_sgd,
    _coordinate_median,
    _geometric_median,
    _proximal_median,
    _clip_by_quantile,
    _cvar_prox_linear,
    _cvar_subgradient,
    _class_normalized,
    median_step,
)
