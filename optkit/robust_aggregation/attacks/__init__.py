"""Attacks: what workers send that try to spoil training, and simulations of such workers."""

from optkit.method import methods_of

from ._messages import *
from ._protocols import *
from ._strongest import *
from ._under_attack import *

METHODS = methods_of(
    _messages,
    _strongest,
    _under_attack,
)
