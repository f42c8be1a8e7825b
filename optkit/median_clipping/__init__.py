"""Medians in place of means: of gradients over time, over samples, coordinate by coordinate."""

from optkit.median_clipping import (
    _class_normalized,
    _coordinate_clip,
    _coordinate_median,
    _cvar,
    _geometric_median,
    _median_tracking,
    _proximal_median,
)
from optkit.median_clipping._class_normalized import class_normalized, class_normalized_sgd
from optkit.median_clipping._coordinate_clip import clip_by_quantile, coordinate_clip_sgd
from optkit.median_clipping._coordinate_median import coordinate_median
from optkit.median_clipping._cvar import cvar_prox_linear, cvar_subgradient
from optkit.median_clipping._geometric_median import geometric_median
from optkit.median_clipping._median_tracking import clipped_sgd, median_tracking_sgd, scale_by_median_tracking
from optkit.median_clipping._proximal_median import proximal_median, proximal_pass
from optkit.method import methods_of

__all__ = [
    "class_normalized",
    "class_normalized_sgd",
    "clip_by_quantile",
    "clipped_sgd",
    "coordinate_clip_sgd",
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
    _coordinate_median,
    _geometric_median,
    _proximal_median,
    _coordinate_clip,
    _cvar,
    _class_normalized,
)
