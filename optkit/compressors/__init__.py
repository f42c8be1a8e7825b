"""Compressors: trees as fewer bytes, for the wire or for a window of gradients in memory."""

from optkit.compressors import (
    _compressor,
    _dithering,
    _global_top_k,
    _identity,
    _natural,
    _rand_k,
    _scaled_sign,
    _top_k,
    _wangni,
)
from optkit.compressors._compressor import Compressor, nbytes
from optkit.compressors._dithering import dithering_inf, qsgd
from optkit.compressors._global_top_k import global_top_k
from optkit.compressors._identity import identity
from optkit.compressors._natural import natural, natural_dithering
from optkit.compressors._rand_k import rand_k
from optkit.compressors._scaled_sign import scaled_sign
from optkit.compressors._top_k import top_k
from optkit.compressors._wangni import wangni_sparsify
from optkit.method import methods_of

__all__ = [
    "Compressor",
    "dithering_inf",
    "global_top_k",
    "identity",
    "natural",
    "natural_dithering",
    "nbytes",
    "qsgd",
    "rand_k",
    "scaled_sign",
    "top_k",
    "wangni_sparsify",
]

METHODS = methods_of(
    _identity, _top_k, _global_top_k, _rand_k, _scaled_sign, _dithering, _natural, _wangni, _compressor
)
