"""Communication-efficient means: what stands in the place of `pmean` and sends fewer bytes."""

from optkit.method import methods_of

from ._deep_gradient_compression import *
from ._demo import *
from ._masha import *

METHODS = methods_of(
    _demo,
    _deep_gradient_compression,
    _masha,
)
