"""Functions that orthogonalize matrices, or find orthonormal bases of their columns."""

from optkit.core.linalg.newton_schulz import gram_newton_schulz, newton_schulz, polar_express
from optkit.core.linalg.orthonormal import cholesky_qr, householder_qr, randomized_cholesky_qr
from optkit.method import Method, Paper

__all__ = [
    "cholesky_qr",
    "gram_newton_schulz",
    "householder_qr",
    "newton_schulz",
    "polar_express",
    "randomized_cholesky_qr",
]

METHODS = (
    Method(
        name="linalg.newton_schulz",
        factory=newton_schulz,
        kind="function",
        summary="Moves the singular values of a matrix towards one by an odd polynomial, applied a few times.",
        paper=Paper("Old Optimizer, New Norm: An Anthology", "Bernstein, Newhouse", 2024, "2409.20325"),
        also_known_as=(
            "Newton-Schulz5",
            "NS5",
            "zeropower_via_newtonschulz5",
            "orthogonalize_via_newton_schulz",
            "orthogonalize",
        ),
    ),
    Method(
        name="linalg.gram_newton_schulz",
        factory=gram_newton_schulz,
        kind="function",
        summary="Takes Newton-Schulz steps on the products of a matrix's rows, which needs fewer operations.",
        paper=Paper("Gram Newton-Schulz", "Zhang, Amsel, Chen, Dao", 2026),
    ),
    Method(
        name="linalg.polar_express",
        factory=polar_express,
        kind="function",
        summary="Moves the singular values of a matrix towards one by the best polynomial for each step.",
        paper=Paper(
            "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm",
            "Amsel, Persson, Musco, Gower",
            2025,
            "2505.16932",
        ),
        also_known_as=("PolarExpress", "matrix sign", "polar decomposition"),
    ),
    Method(
        name="linalg.householder_qr",
        factory=householder_qr,
        kind="function",
        summary="Finds an orthonormal basis of a matrix's columns by Householder reflections.",
        also_known_as=("QR decomposition", "Householder reflections"),
    ),
    Method(
        name="linalg.cholesky_qr",
        factory=cholesky_qr,
        kind="function",
        summary="Finds an orthonormal basis of a matrix's columns by repeated Cholesky factorizations.",
        paper=Paper(
            "Shifted CholeskyQR for computing the QR factorization of ill-conditioned matrices",
            "Fukaya et al.",
            2018,
            "1809.11085",
        ),
        also_known_as=("CholeskyQR", "CholeskyQR2", "shifted CholeskyQR", "CQR"),
    ),
    Method(
        name="linalg.randomized_cholesky_qr",
        factory=randomized_cholesky_qr,
        kind="function",
        summary="Finds an orthonormal basis of a matrix's columns by a random sketch and one Cholesky factorization.",
        paper=Paper("A randomized preconditioned Cholesky-QR algorithm", "Garrison, Ipsen", 2024, "2406.11751"),
        also_known_as=("RCQR", "randomized Cholesky QR", "rpCholesky-QR"),
    ),
)
