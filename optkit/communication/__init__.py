"""Compressed communication: trees as fewer bytes."""

from optkit.communication.compressors import (
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
from optkit.core.compressor import nbytes

__all__ = [
    "dithering_inf",
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
