"""Optimizers of recent papers as pure, composable gradient transformations, in the Optax style."""

import importlib

from optkit import catalog as catalog
from optkit import compressors as compressors
from optkit import linalg as linalg
from optkit import method as method
from optkit import prox as prox
from optkit import typing as typing
from optkit._tools import *
from optkit.decentralized import *
from optkit.decentralized import topology as topology
from optkit.median_clipping import *
from optkit.median_clipping import median_step as median_step
from optkit.memory_efficient import *
from optkit.orthonormalization import *
from optkit.random_scaling import *
from optkit.robust_aggregation import *
from optkit.robust_aggregation import attacks as attacks
from optkit.sign_momentum import *
from optkit.sign_momentum import kappa as kappa
from optkit.variance_reduction import *

# Each family's own list, and how it was made; `optkit.catalog.METHODS` has all methods.
del METHODS, methods_of

__version__ = "0.1.0"

# What trains nothing is imported on use: it costs as much time as all the rest.
_ON_USE = ("testing",)


def __getattr__(name: str) -> object:
    if name in _ON_USE:
        return importlib.import_module(f"optkit.{name}")
    raise AttributeError(f"module 'optkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ON_USE]
