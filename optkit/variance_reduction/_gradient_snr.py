"""VRGD: each coordinate of the mean gradient times its signal-to-noise ratio over the workers or microbatches.

Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
arXiv:2309.13681. No code was published; the ratio is that of the paper's Algorithm 1, a layer of its is a leaf here.
Its VR-Adam and VR-LAMB smooth the ratio; that the average is corrected for its zero start is inferred from the hat.

The paper's ratio is infinite where all rows agree. Here a variance below the rounding error of the gradient counts as
that error, so that all noise-free coordinates weigh the same, and nothing overflows or underflows at any scale.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, widen
from optkit.core.trees import with_whole_tree
from optkit.core.types import AxisName, Mask
from optkit.core.workers.rows import count_rows, mean_over_rows, over_rows, require_reduced, require_rows
from optkit.method import Method, Paper


def _mean_and_noise(row: Any, *, axis_name: AxisName, method: str) -> tuple[Any, Any]:
    """The mean over rows, and each coordinate's variance over rows in units of its squared mean."""
    count_rows(row, axis_name, method)
    mean = mean_over_rows(row, axis_name)

    def squared_deviation(g, m):
        return jnp.where(m == 0, jnp.inf, (g - m) / jnp.where(m == 0, 1, m)) ** 2

    # Deviations from the mean, not the mean of squares less the square of the mean: small variances stay exact.
    return mean, mean_over_rows(jax.tree.map(squared_deviation, row, mean), axis_name)


def _clipped_ratio(noise: jax.Array, gamma: jax.typing.ArrayLike) -> jax.Array:
    """The weights of a leaf's coordinates, in [gamma, 1], from their noise in units of the signal."""
    ratio = 1 / (noise + jnp.finfo(noise.dtype).eps ** 2)  # the ratio r of squared mean and variance
    layer_mean = jnp.mean(ratio)
    ratio = jnp.where(layer_mean > 0, ratio / layer_mean, 1)  # r with a mean of 1 over the layer
    return jnp.clip(ratio, gamma, 1)  # r clipped to [gamma, 1]


def scale_by_gradient_snr(
    gamma: jax.typing.ArrayLike = 0.1,
    b3: float | jax.Array | None = None,
    *,
    debias: bool = True,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformation:
    """Averages gradients and slows down the coordinates in which they disagree.

    It takes the gradients of at least two equal parts of the batch; the paper takes 8 or more, of 8 to 64 samples each.
    **Do not average them before**: with `axis_name`, `update` takes each worker's own gradient and averages it itself.
    Communication is twice that of plain data parallel training.

    Most coordinates of a noisy leaf end at `gamma`: the steps are 2 to 10 times shorter, so raise the learning rate. A
    coordinate without any noise (say, one that only an L2 penalty acts on) takes all the weight of its leaf: keep
    penalties out of these gradients. Scalars are averaged only.

    Args:
        gamma: the smallest weight of a coordinate relative to its leaf's best, in [0, 1]; default 0.1; 1 averages only.
        b3: decay of an average of the weights over the steps, in [0, 1); default None, no such average and no state.
        debias: whether that average is corrected for its start at zero.
        axis_name: the axis over workers; default None: each leaf has a leading axis, over microbatches or samples,
            which `update` removes.

    Returns:
        A transformation. Its state is empty, or with `b3` an `optax.EmaState`: one number a parameter, in float32 at
        least, equal on all workers.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_gradient_snr(gamma=0.1)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 6.0], [1.2, -4.0]])  # two microbatches, which disagree in the second one
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([1.1, 0.1], dtype=float32)

    Reference:
        Jiang, Liu, Ding, Guo, Lin, "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681.
    """
    return _scale_by_gradient_snr("scale_by_gradient_snr", gamma, b3, debias=debias, axis_name=axis_name)


def _scale_by_gradient_snr(
    method: str,
    gamma: jax.typing.ArrayLike,
    b3: float | jax.Array | None = None,
    *,
    debias: bool = True,
    axis_name: AxisName | None,
) -> optax.GradientTransformation:
    """The rule, for `scale_by_gradient_snr` and the named optimizers."""
    refuse_arrays(axis_name=axis_name)
    check_range("gamma", gamma, 0.0, 1.0)
    check_range("b3", b3, 0.0, 1.0, high_open=True)
    smoothing = optax.identity() if b3 is None else optax.ema(b3, debias)
    noise_of_rows = over_rows(functools.partial(_mean_and_noise, method=method), axis_name)

    def init_fn(params):
        refuse_complex(params, method)
        return smoothing.init(widen(params))

    def update_fn(updates, state, params=None):
        if axis_name is None:
            require_rows(updates, method)
        mean, noise = noise_of_rows(widen(updates))
        require_reduced(mean, params, method)
        ratio = jax.tree.map(functools.partial(_clipped_ratio, gamma=gamma), noise)
        ratio, new_state = smoothing.update(ratio, state)  # p and its correction, VR-Adam and VR-LAMB
        scaled = optax.tree.cast_like(optax.tree.mul(ratio, mean), updates)
        return scaled, optax.tree.cast_like(new_state, state)

    return optax.GradientTransformation(init_fn, update_fn)


def vr_sgd(
    learning_rate: optax.ScalarOrSchedule, gamma: jax.typing.ArrayLike = 0.1, *, axis_name: AxisName | None = None
) -> optax.GradientTransformationExtraArgs:
    """VR-SGD: gradient descent that slows down the coordinates in which workers or microbatches disagree.

    Its paper wants it for very large batches. At equal learning rates it is slower than SGD, since no coordinate moves
    faster. See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule; 2 to 10 times SGD's where gradients are noisy.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer without state.

    Raises:
        ValueError: if `gamma` is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_sgd(0.5)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 6.0], [1.0, -4.0]])  # two microbatches, which disagree in the second one
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Algorithm 1.
    """
    ratio = _scale_by_gradient_snr("vr_sgd", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, optax.sgd(learning_rate)))


def vr_momentum(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float | jax.Array = 0.9,
    gamma: jax.typing.ArrayLike = 0.1,
    *,
    nesterov: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-Momentum: `optax.sgd` with momentum, after `scale_by_gradient_snr`.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule.
        momentum: decay of the momentum, in [0, 1]; default 0.9.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        nesterov: whether the momentum is Nesterov's.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_momentum(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0]
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    ratio = _scale_by_gradient_snr("vr_momentum", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, optax.sgd(learning_rate, momentum, nesterov)))


def vr_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: float | jax.Array | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    debias_ratio: bool = True,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-Adam: `optax.adamw`, both moments of it, after `scale_by_gradient_snr` with weights averaged over the steps.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule; the paper scales Adam's with the root of the batch size.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        b3: decay of the average of the weights, in [0, 1); default 0.9; None for no average.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        debias_ratio: whether the average of the weights is corrected for its start at zero.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is three numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_adam(0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.5, -0.5], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Section 4.2.
    """
    refuse_arrays(mask=mask)
    _check_adam(b1, b2, eps, weight_decay)
    return in_float32(
        optax.chain(
            _scale_by_gradient_snr("vr_adam", gamma, b3, debias=debias_ratio, axis_name=axis_name),
            optax.scale_by_adam(b1, b2, eps),
            add_decay("vr_adam", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def vr_lars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    eps: jax.typing.ArrayLike = 0.0,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    trust_ratio_mask: Any | None = None,
    nesterov: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-LARS: `optax.lars` after `scale_by_gradient_snr`.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch. LARS divides by the
    norm of a leaf's gradient, so only the relative weights of the coordinates matter.

    Args:
        learning_rate: a positive number or a schedule.
        momentum: decay of the momentum, in [0, 1]; default 0.9.
        trust_coefficient: how far a leaf moves relative to its norm, positive; default 0.001.
        eps: added to the norm of the gradient, at least 0; default 0.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decay, which is added to the gradient, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        trust_ratio_mask: the same for the leaves whose steps are relative to their norm. All by default.
        nesterov: whether the momentum is Nesterov's.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_lars(1.0, trust_coefficient=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(2)
        Array([-0.5 , -0.05], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("trust_coefficient", trust_coefficient, 0.0, low_open=True)
    check_range("eps", eps, 0.0)
    check_range("weight_decay", weight_decay, 0.0)
    refuse_arrays(mask=mask, trust_ratio_mask=trust_ratio_mask)

    def trust(trust_ratio_mask):
        ratio = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps)
        return ratio if trust_ratio_mask is None else optax.masked(ratio, lambda _: trust_ratio_mask)

    base = optax.chain(
        add_decay("vr_lars", weight_decay, mask),
        with_whole_tree(trust, trust_ratio_mask=trust_ratio_mask),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum, nesterov),
    )
    ratio = _scale_by_gradient_snr("vr_lars", gamma, axis_name=axis_name)
    return in_float32(optax.chain(ratio, _relative_to_params("vr_lars", base)))


def vr_lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: float | jax.Array | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    gamma: jax.typing.ArrayLike = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    debias_ratio: bool = True,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """VR-LAMB: `optax.lamb`, both moments of it, after `scale_by_gradient_snr` with weights averaged over the steps.

    See `scale_by_gradient_snr` for the gradients that it takes: one for each part of the batch.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        b3: decay of the average of the weights, in [0, 1); default 0.9; None for no average.
        eps: added to the root of the second moment, at least 0; default 1e-6.
        gamma: the smallest weight of a coordinate, in [0, 1]; default 0.1.
        weight_decay: strength of the decay, inside the trust ratio, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        debias_ratio: whether the average of the weights is corrected for its start at zero.
        axis_name: the axis over workers; default None: gradients have a leading axis, over microbatches or samples.

    Returns:
        An optimizer; its state is three numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `update`, if there is one part of the batch only.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.vr_lamb(0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> tx.update(jnp.array([[1.0, 6.0], [1.0, -4.0]]), tx.init(params), params)[0].round(3)
        Array([-0.354, -0.354], dtype=float32)

    Reference:
        Jiang et al., "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)", 2023,
        arXiv:2309.13681. Section 4.2.
    """
    refuse_arrays(mask=mask)
    _check_adam(b1, b2, eps, weight_decay)
    base = optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        add_decay("vr_lamb", weight_decay, mask),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(learning_rate),
    )
    ratio = _scale_by_gradient_snr("vr_lamb", gamma, b3, debias=debias_ratio, axis_name=axis_name)
    return in_float32(optax.chain(ratio, _relative_to_params("vr_lamb", base)))


def _relative_to_params(
    method: str, tx: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """Says that a transformation needs the parameters, by the name of the whole."""

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, method)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def _check_adam(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, weight_decay: float | jax.Array
) -> None:
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    check_range("weight_decay", weight_decay, 0.0)


_GSNR = Paper(
    "Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)",
    "Jiang, Liu, Ding, Guo, Lin",
    2023,
    "2309.13681",
)

METHODS = (
    Method(
        name="vr_sgd",
        factory=vr_sgd,
        kind="optimizer",
        summary="SGD that slows down the coordinates in which workers or microbatches disagree.",
        paper=_GSNR,
        example={"learning_rate": 2e-3},
        grid=0.3,
        stacked="microbatches",
    ),
    Method(
        name="vr_momentum",
        factory=vr_momentum,
        kind="optimizer",
        summary="Momentum on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 2e-3},
        grid=0.1,
        stacked="microbatches",
    ),
    Method(
        name="vr_adam",
        factory=vr_adam,
        kind="optimizer",
        summary="AdamW on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1e-2},
        grid=3e-3,
        stacked="microbatches",
    ),
    Method(
        name="vr_lars",
        factory=vr_lars,
        kind="optimizer",
        summary="LARS on gradients whose coordinates weigh by their signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1.0},
        grid=3.0,
        stacked="microbatches",
    ),
    Method(
        name="vr_lamb",
        factory=vr_lamb,
        kind="optimizer",
        summary="LAMB on gradients whose coordinates weigh by their smoothed signal-to-noise ratio.",
        paper=_GSNR,
        example={"learning_rate": 1e-2},
        grid=1e-2,
        stacked="microbatches",
    ),
)
