"""Better estimates of the gradient in front of any preconditioner, and what its noise says."""

from optkit.method import methods_of
from optkit.variance_reduction import (
    _adagrad_norm,
    _adaptive_batch_size,
    _agvm,
    _batch_size_tests,
    _cluster_control_variate,
    _discover,
    _gradient_snr,
    _harpg,
    _hessian_corrected_momentum,
    _igt,
    _igt_adam,
    _implicit_transport,
    _mars,
    _mars_adamw,
    _mars_lion,
    _mars_m,
    _mars_momentum,
    _mars_shampoo,
    _nigt,
    _noise_scale,
    _noise_scale_over_steps,
    _page,
    _path_integrated_gradient,
    _recursive_momentum,
    _sgd_sai,
    _spider,
    _spider_boost,
    _storm,
    _storm_coordinatewise,
    _storm_plus,
    _svrg,
    _vr_adam,
    _vr_lamb,
    _vr_lars,
    _vr_momentum,
    _vr_sgd,
)
from optkit.variance_reduction._adagrad_norm import adagrad_norm, scale_by_adagrad_norm
from optkit.variance_reduction._adaptive_batch_size import (
    AdaptiveBatchSizeState,
    adaptive_batch_size,
    round_up_batch_size,
)
from optkit.variance_reduction._agvm import AGVMState, agvm
from optkit.variance_reduction._batch_size_tests import (
    augmented_inner_product_test,
    coordinate_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
)
from optkit.variance_reduction._cluster_control_variate import cluster_control_variate, scale_by_cluster_control_variate
from optkit.variance_reduction._discover import discover, discover_igt
from optkit.variance_reduction._gradient_snr import scale_by_gradient_snr
from optkit.variance_reduction._harpg import harpg
from optkit.variance_reduction._hessian_corrected_momentum import harpg_schedule, hessian_corrected_momentum
from optkit.variance_reduction._igt import igt
from optkit.variance_reduction._igt_adam import igt_adam
from optkit.variance_reduction._implicit_transport import igt_eval_params, implicit_gradient_transport
from optkit.variance_reduction._mars import MarsCorrection, reduce_variance
from optkit.variance_reduction._mars_adamw import mars_adamw
from optkit.variance_reduction._mars_lion import mars_lion
from optkit.variance_reduction._mars_m import mars_m
from optkit.variance_reduction._mars_momentum import scale_by_mars_momentum
from optkit.variance_reduction._mars_shampoo import mars_shampoo
from optkit.variance_reduction._nigt import nigt
from optkit.variance_reduction._noise_scale import NoiseScale, gradient_noise_scale, read_noise_scale
from optkit.variance_reduction._noise_scale_over_steps import gradient_noise_scale_over_steps
from optkit.variance_reduction._page import page, page_gradient
from optkit.variance_reduction._path_integrated_gradient import path_integrated_gradient
from optkit.variance_reduction._recursive_momentum import recursive_momentum
from optkit.variance_reduction._sgd_sai import scale_by_sai, sgd_sai
from optkit.variance_reduction._spider import spider
from optkit.variance_reduction._spider_boost import spider_boost
from optkit.variance_reduction._storm import scale_by_storm, storm
from optkit.variance_reduction._storm_coordinatewise import scale_by_storm_coordinatewise, storm_coordinatewise
from optkit.variance_reduction._storm_plus import scale_by_storm_plus, storm_plus
from optkit.variance_reduction._svrg import svrg, svrg_correction
from optkit.variance_reduction._vr_adam import vr_adam
from optkit.variance_reduction._vr_lamb import vr_lamb
from optkit.variance_reduction._vr_lars import vr_lars
from optkit.variance_reduction._vr_momentum import vr_momentum
from optkit.variance_reduction._vr_sgd import vr_sgd

__all__ = [
    "AGVMState",
    "AdaptiveBatchSizeState",
    "MarsCorrection",
    "NoiseScale",
    "adagrad_norm",
    "adaptive_batch_size",
    "agvm",
    "augmented_inner_product_test",
    "cluster_control_variate",
    "coordinate_test",
    "discover",
    "discover_igt",
    "gradient_noise_scale",
    "gradient_noise_scale_over_steps",
    "harpg",
    "harpg_schedule",
    "hessian_corrected_momentum",
    "igt",
    "igt_adam",
    "igt_eval_params",
    "implicit_gradient_transport",
    "inner_product_test",
    "mars_adamw",
    "mars_lion",
    "mars_m",
    "mars_shampoo",
    "nigt",
    "norm_test",
    "orthogonality_test",
    "page",
    "page_gradient",
    "path_integrated_gradient",
    "read_noise_scale",
    "recursive_momentum",
    "reduce_variance",
    "round_up_batch_size",
    "scale_by_adagrad_norm",
    "scale_by_cluster_control_variate",
    "scale_by_gradient_snr",
    "scale_by_mars_momentum",
    "scale_by_sai",
    "scale_by_storm",
    "scale_by_storm_coordinatewise",
    "scale_by_storm_plus",
    "sgd_sai",
    "spider",
    "spider_boost",
    "storm",
    "storm_coordinatewise",
    "storm_plus",
    "svrg",
    "svrg_correction",
    "vr_adam",
    "vr_lamb",
    "vr_lars",
    "vr_momentum",
    "vr_sgd",
]

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
