"""Local updates: workers train alone for some steps, and then bring their parameters together."""

from optkit.method import methods_of

from ._asynchronous_local_sgd import *
from ._co2 import *
from ._delayed_nesterov import *
from ._des_loc import *
from ._diloco import *
from ._elastic_averaging import *
from ._local_scaling import *
from ._local_sgd import *
from ._local_updates import *
from ._mt_dao import *
from ._muloco import *
from ._proxskip import *
from ._quadratic_synchronization import *
from ._slow_momenta import *
from ._slowmo import *
from ._sparseloco import *

METHODS = methods_of(
    _local_updates,
    _quadratic_synchronization,
    _local_sgd,
    _slowmo,
    _diloco,
    _muloco,
    _sparseloco,
    _co2,
    _mt_dao,
    _des_loc,
    _local_scaling,
    _proxskip,
    _elastic_averaging,
    _delayed_nesterov,
    _asynchronous_local_sgd,
)
