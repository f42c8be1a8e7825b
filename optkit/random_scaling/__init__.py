"""Random scaling: updates of random length, which turn online learners into optimizers."""

from optkit.method import methods_of

from ._exponentiated_adamw import *
from ._exponentiated_sgdm import *
from ._iterate_average import *
from ._online_gradient_descent import *
from ._online_to_nonconvex import *
from ._random_scaling import *

METHODS = methods_of(
    _random_scaling,
    _exponentiated_adamw,
    _online_gradient_descent,
    _exponentiated_sgdm,
    _online_to_nonconvex,
    _iterate_average,
)
