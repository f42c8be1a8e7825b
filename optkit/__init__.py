"""Optimizers of recent papers as pure, composable gradient transformations, in the Optax style."""

from optkit import catalog as catalog
from optkit.sign_momentum import *
