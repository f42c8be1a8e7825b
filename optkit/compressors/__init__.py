"""Compressors: they encode trees in fewer bytes, to send them or to keep a window of gradients in memory."""

from optkit.method import methods_of

from ._bin_values import *
from ._compressor import *
from ._dithering import *
from ._global_top_k import *
from ._hard_threshold import *
from ._identity import *
from ._in_blocks import *
from ._low_rank import *
from ._natural import *
from ._on_whole_tree import *
from ._quantize_values import *
from ._rand_k import *
from ._scaled_sign import *
from ._sketches import *
from ._ternary import *
from ._top_k import *
from ._top_k_in_chunks import *
from ._wangni import *

METHODS = methods_of(
    _identity,
    _top_k,
    _global_top_k,
    _hard_threshold,
    _rand_k,
    _scaled_sign,
    _ternary,
    _dithering,
    _natural,
    _wangni,
    _sketches,
    _in_blocks,
    _top_k_in_chunks,
    _on_whole_tree,
    _quantize_values,
    _bin_values,
    _low_rank,
    _compressor,
)
