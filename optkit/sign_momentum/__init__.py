"""Sign momentum: Lion with any convex function kappa, Signum, cautious updates and Grams."""

from optkit.method import methods_of

from . import kappa
from ._cautious import *
from ._cautious_decay import *
from ._grams import *
from ._lion_kappa import *
from ._signum import *

METHODS = methods_of(
    _lion_kappa,
    _signum,
    _cautious,
    _cautious_decay,
    _grams,
    kappa,
)
