"""Local training: workers take steps of their own, and seldom talk."""

from optkit.method import methods_of

from ._asynchronous_local_sgd import *
from ._co2 import *
from ._delayed_nesterov import *
from ._elastic_averaging import *
from ._proxskip import *

METHODS = methods_of(_co2, _delayed_nesterov, _asynchronous_local_sgd, _elastic_averaging, _proxskip)
