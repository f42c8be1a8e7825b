"""Which workers exchange messages: mixing matrices, with the messages that carry out the mixing."""

from optkit.method import methods_of

from ._graphs import *
from ._plot import *
from ._topology import *
from ._weights import *

METHODS = methods_of(
    _topology,
    _graphs,
    _weights,
    _plot,
)
