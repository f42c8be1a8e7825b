"""Orthonormal bases and orthogonalized matrices."""

from optkit.core.linalg.newton_schulz import gram_newton_schulz, polar_express
from optkit.core.linalg.newton_schulz import orthogonalize as newton_schulz
from optkit.core.linalg.orthonormal import cholesky_qr, householder_qr, randomized_cholesky_qr

__all__ = [
    "cholesky_qr",
    "gram_newton_schulz",
    "householder_qr",
    "newton_schulz",
    "polar_express",
    "randomized_cholesky_qr",
]


METHODS = ()
