"""Optimizers from recent papers as pure, composable gradient transformations, in the style of Optax."""

import importlib
from typing import TYPE_CHECKING

from optkit import catalog as catalog
from optkit import compressors as compressors
from optkit import linalg as linalg
from optkit import method as method
from optkit import prox as prox
from optkit import typing as typing
from optkit._tools import *
from optkit.communication import *
from optkit.communication import feedback as feedback
from optkit.decentralized import *
from optkit.decentralized import topology as topology
from optkit.local_training import *
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

# The families' own lists are not public; `optkit.catalog.METHODS` has all methods.
del METHODS, methods_of

__version__ = "0.1.0"

# What training does not need is imported on first use: it takes as long as all the rest. A type checker imports it.
_ON_USE = ("comparison", "testing")
if TYPE_CHECKING:
    from optkit import comparison as comparison
    from optkit import testing as testing
    from optkit.comparison import compare as compare
else:

    def __getattr__(name):
        if name in _ON_USE:
            return importlib.import_module(f"optkit.{name}")
        if name == "compare":
            return importlib.import_module("optkit.comparison").compare
        raise AttributeError(f"module 'optkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*(name for name in globals() if name not in {"TYPE_CHECKING", "importlib"}), "compare", *_ON_USE]
