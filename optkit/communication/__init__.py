"""Communication-efficient means: what stands in the place of `pmean` and sends fewer bytes."""

from optkit.method import methods_of

from . import feedback
from ._compressed_mean import *
from ._deep_gradient_compression import *
from ._demo import *
from ._masha import *
from ._power_sgd import *
from ._sketched_mean import *
from ._terngrad import *

METHODS = methods_of(
    _compressed_mean,
    _power_sgd,
    _deep_gradient_compression,
    _terngrad,
    _sketched_mean,
    _demo,
    _masha,
    feedback,
)
