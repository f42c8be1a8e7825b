"""Compressors: trees as fewer bytes, for the wire or for a window of gradients in memory."""

from optkit.compressors._compressor import Compressor, global_top_k, nbytes
from optkit.compressors._of_leaves import (
    dithering_inf,
    identity,
    natural,
    natural_dithering,
    qsgd,
    rand_k,
    scaled_sign,
    top_k,
    wangni_sparsify,
)

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

METHODS = ()
