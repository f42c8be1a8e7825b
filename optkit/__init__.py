"""Optimizers of recent papers as pure, composable gradient transformations, in the Optax style."""

from optkit import catalog as catalog
from optkit import compressors as compressors
from optkit import linalg as linalg
from optkit import prox as prox
from optkit import testing as testing
from optkit import typing as typing
from optkit.core.cost.cost import Cost as Cost
from optkit.core.cost.cost import cost as cost
from optkit.core.injection import inject_hyperparams as inject_hyperparams
from optkit.core.precision import in_float32 as in_float32
from optkit.core.preprocessing import preprocess_gradients as preprocess_gradients
from optkit.core.workers.on_workers import on_workers as on_workers
from optkit.core.workers.on_workers import worker_axes as worker_axes
from optkit.core.workers.sharding import state_shardings as state_shardings
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
