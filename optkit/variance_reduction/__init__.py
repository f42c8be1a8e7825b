"""Better estimates of the gradient in front of any preconditioner, and what its noise says."""

from optkit.variance_reduction import _mars, _noise, _recursive, _transport
from optkit.variance_reduction._mars import *
from optkit.variance_reduction._noise import *
from optkit.variance_reduction._recursive import *
from optkit.variance_reduction._transport import *

__all__ = [*_mars.__all__, *_recursive.__all__, *_transport.__all__, *_noise.__all__]

ENTRIES = (*_mars.ENTRIES, *_recursive.ENTRIES, *_transport.ENTRIES, *_noise.ENTRIES)
