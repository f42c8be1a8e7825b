"""Medians in place of means: of gradients over time, over samples or workers, and of each coordinate."""

from optkit.method import methods_of

from . import median_step
from ._class_normalized import *
from ._clip_by_quantile import *
from ._clipped_sgd import *
from ._coordinate_median import *
from ._cvar_prox_linear import *
from ._cvar_subgradient import *
from ._geometric_median import *
from ._median_tracking import *
from ._proximal_median import *

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
