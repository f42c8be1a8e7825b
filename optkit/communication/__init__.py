"""Communication-efficient means: what stands in the place of `pmean` and sends fewer bytes."""

from optkit.method import methods_of

from ._power_sgd import *

METHODS = methods_of(
    _power_sgd,
)
