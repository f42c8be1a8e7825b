"""Random scaling: updates of random length, and optimizers made of online learners by them."""

from optkit.method import methods_of
from optkit.random_scaling import (
    _exponentiated_adamw,
    _exponentiated_sgdm,
    _iterate_average,
    _online_gradient_descent,
    _online_to_nonconvex,
    _random_scaling,
)
from optkit.random_scaling._exponentiated_adamw import exponentiated_adamw
from optkit.random_scaling._exponentiated_sgdm import exponentiated_sgdm
from optkit.random_scaling._iterate_average import average_iterates, averaged_params
from optkit.random_scaling._online_gradient_descent import online_gradient_descent
from optkit.random_scaling._online_to_nonconvex import online_to_nonconvex
from optkit.random_scaling._random_scaling import randomly_scaled, scale_by_exponential

__all__ = [
    "average_iterates",
    "averaged_params",
    "exponentiated_adamw",
    "exponentiated_sgdm",
    "online_gradient_descent",
    "online_to_nonconvex",
    "randomly_scaled",
    "scale_by_exponential",
]

METHODS = methods_of(
    _random_scaling,
    _exponentiated_adamw,
    _online_gradient_descent,
    _exponentiated_sgdm,
    _online_to_nonconvex,
    _iterate_average,
)
