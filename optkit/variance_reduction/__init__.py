"""Better estimates of the gradient for any preconditioner, and measures of its noise."""

from optkit.method import methods_of

from ._adagrad_norm import *
from ._adaptive_batch_size import *
from ._agvm import *
from ._batch_size_tests import *
from ._cluster_control_variate import *
from ._discover import *
from ._gradient_snr import *
from ._harpg import *
from ._hessian_corrected_momentum import *
from ._igt import *
from ._igt_adam import *
from ._implicit_transport import *
from ._mars import *
from ._mars_adamw import *
from ._mars_lion import *
from ._mars_m import *
from ._mars_momentum import *
from ._mars_shampoo import *
from ._nigt import *
from ._noise_scale import *
from ._noise_scale_over_steps import *
from ._page import *
from ._path_integrated_gradient import *
from ._recursive_momentum import *
from ._sgd_sai import *
from ._spider import *
from ._spider_boost import *
from ._storm import *
from ._storm_coordinatewise import *
from ._storm_plus import *
from ._svrg import *
from ._vr_adam import *
from ._vr_lamb import *
from ._vr_lars import *
from ._vr_momentum import *
from ._vr_sgd import *

METHODS = methods_of(
    _mars,
    _mars_momentum,
    _mars_adamw,
    _mars_lion,
    _mars_shampoo,
    _mars_m,
    _recursive_momentum,
    _storm,
    _storm_coordinatewise,
    _storm_plus,
    _svrg,
    _path_integrated_gradient,
    _spider,
    _spider_boost,
    _page,
    _hessian_corrected_momentum,
    _harpg,
    _implicit_transport,
    _igt,
    _igt_adam,
    _nigt,
    _cluster_control_variate,
    _discover,
    _sgd_sai,
    _adagrad_norm,
    _gradient_snr,
    _vr_sgd,
    _vr_momentum,
    _vr_adam,
    _vr_lars,
    _vr_lamb,
    _agvm,
    _noise_scale,
    _noise_scale_over_steps,
    _batch_size_tests,
    _adaptive_batch_size,
)
