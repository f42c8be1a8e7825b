"""Better estimates of the gradient in front of any preconditioner, and what its noise says."""

from typing import Any

import jax
import optax

from optkit.core.precision import in_float32
from optkit.core.trees import only
from optkit.method import Method, Paper, Variant
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

_MARS = Paper(
    "MARS: Unleashing the Power of Variance Reduction for Training Large Models", "Yuan et al.", 2024, "2411.10438"
)


def _nowhere(tree):
    """A decay mask: nothing decays, the parameters that others move neither."""
    return jax.tree.map(lambda _: False, tree)


def _momentum_of_corrected_gradients(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    gamma: optax.ScalarOrSchedule = 0.025,
    *,
    correction: MarsCorrection | None = None,
    applies_to: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    return in_float32(
        optax.chain(
            reduce_variance(gamma, b1, applies_to=applies_to, correction=correction),
            optax.ema(b1, debias=False),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


_STORM = Paper("Momentum-Based Variance Reduction in Non-Convex SGD", "Cutkosky, Orabona", 2019, "1905.10018")
_STORM_PLUS = Paper(
    "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization", "Levy, Kavis, Cevher", 2021, "2111.01040"
)
_SVRG = Paper("A Coefficient Makes SVRG Effective", "Yin et al.", 2023, "2311.05589")
_SPIDER = Paper(
    "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential Estimator",
    "Fang et al.", 2018, "1807.01695",
)  # fmt: skip
_SPIDER_BOOST = Paper(
    "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex Optimization", "Wang et al.", 2018,
    "1810.10690",
)  # fmt: skip
_PAGE = Paper(
    "PAGE: A Simple and Optimal Probabilistic Gradient Estimator for Nonconvex Optimization", "Li et al.", 2020,
    "2008.10898",
)  # fmt: skip
_HARPG = Paper(
    "Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies",
    "Fatkhullin et al.", 2023, "2302.01734",
)  # fmt: skip


def _recursive_momentum_descent(
    learning_rate: optax.ScalarOrSchedule,
    a: jax.typing.ArrayLike = 0.1,
    *,
    keep_params: bool = True,
    trainable: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    estimator = recursive_momentum(a, keep_params=keep_params, applies_to=trainable)
    return in_float32(optax.chain(only(estimator, trainable), optax.scale_by_learning_rate(learning_rate)))


"""Entries of the family."""
_IGT = Paper(
    "Reducing the variance in online optimization by transporting past gradients", "Arnold et al.", 2019, "1906.03532"
)
_DISCOVER = Paper(
    "Variance Reduction in Deep Learning: More Momentum is All You Need", "Tondji, Kashubin, Cissé", 2021, "2111.11828"
)
_GSNR = Paper(
    "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", "Jiang, Liu, Ding, Guo, Lin", 2023,
    "2309.13681",
)  # fmt: skip
_NOISE_SCALE = Paper(
    "An Empirical Model of Large-Batch Training", "McCandlish, Kaplan, Amodei et al.", 2018, "1812.06162"
)


def _first_leaf_and_rest(tree):
    """Labels the first leaf "reference" and all others "rest"."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(["reference" if index == 0 else "rest" for index in range(len(leaves))])


def _momentum_by_module(
    learning_rate: optax.ScalarOrSchedule,
    start: int | jax.Array = 500,
    interval: int | jax.Array = 5,
    axis_name: str | None = None,
) -> optax.GradientTransformation:
    inner = optax.sgd(learning_rate, momentum=0.9)
    return in_float32(
        agvm(inner, _first_leaf_and_rest, "reference", start=start, interval=interval, axis_name=axis_name)
    )


def _measured_momentum(
    learning_rate: optax.ScalarOrSchedule,
    batch_size_small: float | jax.Array = 32,
    decay: float | jax.Array = 0.99,
    axis_name: str | None = None,
) -> optax.GradientTransformation:
    measure = gradient_noise_scale(batch_size_small, decay, axis_name=axis_name)
    return in_float32(optax.chain(measure, optax.sgd(learning_rate, momentum=0.9)))


def _momentum_measured_over_steps(
    learning_rate: optax.ScalarOrSchedule,
    batch_size: float | jax.Array = 32,
    window: int | jax.Array = 10,
    decay: float | jax.Array = 0.99,
) -> optax.GradientTransformation:
    measure = gradient_noise_scale_over_steps(batch_size, window, decay)
    return in_float32(optax.chain(measure, optax.sgd(learning_rate, momentum=0.9)))


def _momentum_with_batch_size(
    learning_rate: optax.ScalarOrSchedule, eta: float | jax.Array = 0.1, axis_name: str | None = None
) -> optax.GradientTransformation:
    measure = adaptive_batch_size(norm_test(eta), 8, 4096, axis_name=axis_name)
    return in_float32(optax.chain(measure, optax.sgd(learning_rate, momentum=0.9)))


ENTRIES = (
    Method(
        name="reduce_variance",
        factory=_momentum_of_corrected_gradients,
        family="variance_reduction",
        kind="transformation",
        summary="The MARS correction, unclipped, in front of any preconditioner (here momentum).",
        paper=_MARS,
        example={"learning_rate": 0.02, "correction": MarsCorrection(max_norm=None)},
        grid=1.0,
        golden="mars",
    ),
    Method(
        name="mars_adamw",
        factory=mars_adamw,
        family="variance_reduction",
        kind="optimizer",
        summary="AdamW on gradients that are corrected by their change since the last step, and clipped leaf by leaf.",
        paper=_MARS,
        example={"learning_rate": 1e-2, "mask": _nowhere},
        grid=3e-3,
        golden="mars",
    ),
    Method(
        name="mars_lion",
        factory=mars_lion,
        family="variance_reduction",
        kind="optimizer",
        summary="The sign of the momentum of MARS-corrected gradients; AdamW for what is no matrix.",
        paper=_MARS,
        example={"learning_rate": 1e-2, "mask": _nowhere},
        grid=1e-3,
        golden="mars",
    ),
    Method(
        name="mars_shampoo",
        factory=mars_shampoo,
        family="variance_reduction",
        kind="optimizer",
        summary="Orthogonalizes the momentum of MARS-corrected gradients; AdamW for what is no matrix.",
        paper=_MARS,
        example={"learning_rate": 1e-2, "mask": _nowhere},
        grid=1e-2,
        golden="mars",
    ),
    Method(
        name="mars_m",
        factory=mars_m,
        family="variance_reduction",
        kind="optimizer",
        summary="MARS-M: Muon, in Moonlight's scaling, on MARS-corrected gradients; AdamW for what is no matrix.",
        paper=Paper("MARS-M: When Variance Reduction Meets Matrices", "Liu, Yuan, Gu", 2025, "2510.21800"),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=3e-3,
    ),
    Method(
        name="recursive_momentum",
        factory=_recursive_momentum_descent,
        family="variance_reduction",
        kind="transformation",
        summary="STORM's estimator with a constant weight (MVR): momentum corrected for the steps taken since.",
        paper=_STORM,
        example={"learning_rate": 2e-3},
        grid=0.1,
        needs=("grad_fn",),
        golden="storm",
    ),
    Method(
        name="storm",
        factory=storm,
        family="variance_reduction",
        kind="optimizer",
        summary="Recursive momentum, with rates that shrink as gradients accumulate: the paper's form.",
        paper=_STORM,
        example={"learning_rate": 0.1},
        grid=0.3,
        needs=("grad_fn",),
    ),
    Method(
        name="storm_coordinatewise",
        factory=storm_coordinatewise,
        family="variance_reduction",
        kind="optimizer",
        summary="STORM as in its authors' code: a rate for every coordinate, and a clipped estimate.",
        paper=_STORM,
        example={"learning_rate": 0.25},
        grid=0.3,
        needs=("grad_fn",),
        golden="storm",
    ),
    Method(
        name="storm_plus",
        factory=storm_plus,
        family="variance_reduction",
        kind="optimizer",
        summary="STORM whose weight and rate follow from the gradients so far.",
        paper=_STORM_PLUS,
        example={"learning_rate": 1.0},
        grid=1.0,
        needs=("grad_fn",),
    ),
    Method(
        name="svrg",
        factory=svrg,
        family="variance_reduction",
        kind="optimizer",
        summary="The gradient less its noise at an anchor with known full gradient; with a coefficient, alpha-SVRG.",
        paper=_SVRG,
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="spider",
        factory=spider,
        family="variance_reduction",
        kind="optimizer",
        summary="Steps of fixed length along a full gradient that is carried on by the batches' changes.",
        paper=_SPIDER,
        example={"learning_rate": 3e-3, "anchor_every": 2},
        grid=3e-2,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="spider_boost",
        factory=spider_boost,
        family="variance_reduction",
        kind="optimizer",
        summary="Gradient descent along SPIDER's estimator, at a constant rate.",
        paper=_SPIDER_BOOST,
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
    Method(
        name="page",
        factory=page,
        family="variance_reduction",
        kind="optimizer",
        summary="Gradient descent along an estimate that a coin replaces by the full gradient.",
        paper=_PAGE,
        example={"learning_rate": 2e-3, "probability": 0.3},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="harpg",
        factory=harpg,
        family="variance_reduction",
        kind="optimizer",
        summary="Momentum that a Hessian-vector product moves along with the gradient.",
        paper=_HARPG,
        example={"learning_rate": 2e-3, "eta": 0.1},
        grid=0.1,
        needs=("grad_fn",),
        variants={"normalized": Variant({"normalize": True, "learning_rate": 3e-3}, grid=3e-2)},
    ),
    Method(
        name="igt",
        factory=igt,
        family="variance_reduction",
        kind="optimizer",
        summary="Momentum on an average of past gradients, each taken ahead of the parameters so that it stays right.",
        paper=_IGT,
        example={"learning_rate": 1e-3, "averaging": "ata"},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
    Method(
        name="igt_adam",
        factory=igt_adam,
        family="variance_reduction",
        kind="optimizer",
        summary="Adam on an average of past gradients, each taken ahead of the parameters.",
        paper=_IGT,
        example={"learning_rate": 1e-3, "averaging": "ata", "interval": 10.0},
        grid=1e-3,
        eval_params=igt_eval_params,
        golden="igt",
    ),
    Method(
        name="nigt",
        factory=nigt,
        family="variance_reduction",
        kind="optimizer",
        summary="Normalized steps along a momentum whose gradients are taken ahead of the parameters.",
        paper=Paper("Momentum Improves Normalized SGD", "Cutkosky, Mehta", 2020, "2002.03305"),
        example={"learning_rate": 1e-2},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
    Method(
        name="discover",
        factory=discover,
        family="variance_reduction",
        kind="optimizer",
        summary="One momentum for each cluster of the data, as a control variate; momentum SGD on top.",
        paper=_DISCOVER,
        example={"learning_rate": 1e-3, "num_clusters": 4},
        grid=3e-2,
        rows="classes",
        variants={"qhm": Variant({"nu": 0.7}, grid=0.3)},
    ),
    Method(
        name="discover_igt",
        factory=discover_igt,
        family="variance_reduction",
        kind="optimizer",
        summary="Discover with a momentum whose gradients are taken ahead of the parameters.",
        paper=_DISCOVER,
        example={"learning_rate": 1e-3, "num_clusters": 4},
        grid=0.3,
        rows="classes",
        eval_params=igt_eval_params,
        golden="discover",
    ),
    Method(
        name="sgd_sai",
        factory=sgd_sai,
        family="variance_reduction",
        kind="optimizer",
        summary="Momentum with a learning rate for each leaf, set once by its first gradient's signal-to-noise ratio.",
        paper=Paper(
            "No More Adam: Learning Rate Scaling at Initialization is All You Need",
            "Xu, Xiang, Cai, Wen",
            2024,
            "2412.11768",
        ),
        example={"learning_rate": 1e-3, "weight_decay": 0.0},
        grid=1e-2,
    ),
    Method(
        name="adagrad_norm",
        factory=adagrad_norm,
        family="variance_reduction",
        kind="optimizer",
        summary="One step size for all parameters, which falls with the norms of all gradients so far.",
        paper=Paper(
            "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", "Ward, Wu, Bottou", 2018, "1806.01811"
        ),
        example={"learning_rate": 1.0},
        grid=1.0,
    ),
    Method(
        name="vr_sgd",
        factory=vr_sgd,
        family="variance_reduction",
        kind="optimizer",
        summary="SGD that slows down the coordinates in which workers or microbatches disagree.",
        paper=_GSNR,
        example={"learning_rate": 2e-3},
        grid=0.3,
        rows="microbatches",
    ),
    Method(
        name="vr_momentum",
        factory=vr_momentum,
        family="variance_reduction",
        kind="optimizer",
        summary="Momentum on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 2e-3},
        grid=0.1,
        rows="microbatches",
    ),
    Method(
        name="vr_adam",
        factory=vr_adam,
        family="variance_reduction",
        kind="optimizer",
        summary="AdamW on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1e-2},
        grid=3e-3,
        rows="microbatches",
    ),
    Method(
        name="vr_lars",
        factory=vr_lars,
        family="variance_reduction",
        kind="optimizer",
        summary="LARS on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1.0},
        grid=3.0,
        rows="microbatches",
    ),
    Method(
        name="vr_lamb",
        factory=vr_lamb,
        family="variance_reduction",
        kind="optimizer",
        summary="LAMB on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1e-2},
        grid=1e-2,
        rows="microbatches",
    ),
    Method(
        name="agvm",
        factory=_momentum_by_module,
        family="variance_reduction",
        kind="wrapper",
        summary="A factor on each module's learning rate (here momentum's) that makes all their updates equally noisy.",
        paper=Paper(
            "Large-batch Optimization for Dense Visual Predictions",
            "Xue, Liang, Song, Zhuo, Chen, Liu, Luo",
            2022,
            "2210.11078",
        ),
        example={"learning_rate": 2e-3, "start": 0, "interval": 2},
        grid=0.1,
        rows="microbatches",
    ),
    Method(
        name="gradient_noise_scale",
        factory=_measured_momentum,
        family="variance_reduction",
        kind="transformation",
        summary="Averages microbatches or workers and measures the batch size at which noise equals signal.",
        paper=_NOISE_SCALE,
        example={"learning_rate": 2e-3},
        grid=0.1,
        rows="microbatches",
    ),
    Method(
        name="gradient_noise_scale_over_steps",
        factory=_momentum_measured_over_steps,
        family="variance_reduction",
        kind="transformation",
        summary="Measures the same from the gradients of consecutive steps, for one worker.",
        paper=_NOISE_SCALE,
        example={"learning_rate": 2e-3, "window": 2},
        grid=0.1,
    ),
    Method(
        name="adaptive_batch_size",
        factory=_momentum_with_batch_size,
        family="variance_reduction",
        kind="transformation",
        summary="Averages samples or workers and says how large the next batch must be to pass a test of its noise.",
        paper=Paper(
            "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
            "Lau, Liu, Kolar",
            2024,
            "2402.11215",
        ),
        example={"learning_rate": 2e-3},
        grid=0.1,
        rows="microbatches",
        golden="batch_size_tests",
    ),
)
