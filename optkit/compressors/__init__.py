"""Compressors: they encode trees in fewer bytes, to send them or to keep a window of gradients in memory."""

from optkit.method import methods_of

from ._compressor import *
from ._dithering import *
from ._global_top_k import *
from ._identity import *
from ._low_rank import *
from ._natural import *
from ._rand_k import *
from ._scaled_sign import *
from ._top_k import *
from ._wangni import *

METHODS = methods_of(
    _identity,
    _top_k,
    _global_top_k,
    _rand_k,
    _scaled_sign,
    _dithering,
    _natural,
    _wangni,
    _low_rank,
    _compressor,
)
