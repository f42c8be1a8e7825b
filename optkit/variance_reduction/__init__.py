"""Better estimates of the gradient in front of any preconditioner, and what its noise says."""

from optkit.method import methods_of
from optkit.variance_reduction import (
    _adagrad_norm,
    _agvm,
    _batch_size,
    _discover,
    _gradient_snr,
    _harpg,
    _implicit_transport,
    _mars,
    _mars_adamw,
    _mars_lion,
    _mars_m,
    _mars_shampoo,
    _nigt,
    _noise_scale,
    _page,
    _recursive_momentum,
    _sgd_sai,
    _spider,
    _storm,
    _storm_coordinatewise,
    _storm_plus,
    _svrg,
)
from optkit.variance_reduction._adagrad_norm import adagrad_norm, scale_by_adagrad_norm
from optkit.variance_reduction._agvm import AGVMState, agvm
from optkit.variance_reduction._batch_size import (
    AdaptiveBatchSizeState,
    adaptive_batch_size,
    augmented_inner_product_test,
    coordinate_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
    round_up_batch_size,
)
from optkit.variance_reduction._cluster_control_variate import cluster_control_variate, scale_by_cluster_control_variate
from optkit.variance_reduction._discover import discover, discover_igt
from optkit.variance_reduction._gradient_snr import (
    scale_by_gradient_snr,
    vr_adam,
    vr_lamb,
    vr_lars,
    vr_momentum,
    vr_sgd,
)
from optkit.variance_reduction._harpg import harpg, harpg_schedule, hessian_corrected_momentum
from optkit.variance_reduction._implicit_transport import igt, igt_adam, igt_eval_params, implicit_gradient_transport
from optkit.variance_reduction._mars import MarsCorrection, reduce_variance, scale_by_mars_momentum
from optkit.variance_reduction._mars_adamw import mars_adamw
from optkit.variance_reduction._mars_lion import mars_lion
from optkit.variance_reduction._mars_m import mars_m
from optkit.variance_reduction._mars_shampoo import mars_shampoo
from optkit.variance_reduction._nigt import nigt
from optkit.variance_reduction._noise_scale import (
    NoiseScale,
    gradient_noise_scale,
    gradient_noise_scale_over_steps,
    read_noise_scale,
)
from optkit.variance_reduction._page import page, page_gradient
from optkit.variance_reduction._recursive_momentum import recursive_momentum
from optkit.variance_reduction._sgd_sai import scale_by_sai, sgd_sai
from optkit.variance_reduction._spider import path_integrated_gradient, spider, spider_boost
from optkit.variance_reduction._storm import scale_by_storm, storm
from optkit.variance_reduction._storm_coordinatewise import scale_by_storm_coordinatewise, storm_coordinatewise
from optkit.variance_reduction._storm_plus import scale_by_storm_plus, storm_plus
from optkit.variance_reduction._svrg import svrg, svrg_correction

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
    _mars_adamw,
    _mars_lion,
    _mars_shampoo,
    _mars_m,
    _recursive_momentum,
    _storm,
    _storm_coordinatewise,
    _storm_plus,
    _svrg,
    _spider,
    _page,
    _harpg,
    _implicit_transport,
    _nigt,
    _discover,
    _sgd_sai,
    _adagrad_norm,
    _gradient_snr,
    _agvm,
    _noise_scale,
    _batch_size,
)
