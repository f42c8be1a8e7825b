"""Local training: workers take steps of their own, and seldom talk."""

from optkit.method import methods_of

from ._co2 import *

METHODS = methods_of(_co2)
