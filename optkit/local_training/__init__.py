"""Local training: workers take several steps of their own between two synchronizations."""

from optkit.method import methods_of

from ._des_loc import *
from ._local_scaling import *
from ._mt_dao import *
from ._slow_momenta import *

METHODS = methods_of(_mt_dao, _des_loc, _local_scaling)
