"""Cautious optimizers: only the coordinates in which an optimizer's update descends along the gradient move.

Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
The rules are those of the authors' code (C-Optim), whose AdamW and Lion rescale the mask differently. The paper's text
has the second way, its Algorithm 1 the first with an epsilon in place of the threshold.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import EpsPlacement, scale_by_adam
from optkit.core.checks import check_option, check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, DTypeLike, Mask
from optkit.core.workers import collectives
from optkit.method import Method, Paper
from optkit.sign_momentum._lion_kappa import scale_by_lion_kappa

__all__ = ["cautious", "cautious_adamw", "cautious_lion"]

Rescaling = Literal["mean_clamp", "numel_plus_one", "none"]


def _rescaling(
    mask: jax.Array, scale: Rescaling, threshold: jax.typing.ArrayLike, axis_name: AxisName | None
) -> jax.typing.ArrayLike:
    """The factor that makes up for the coordinates that were stopped, those where `mask` is 0 and not 1."""
    if scale == "none":
        return 1.0
    # Numbers, not booleans: XLA for CPUs counts those at half the speed.
    dtype = jnp.promote_types(mask.dtype, jnp.float32)
    moving_share = collectives.pmean(jnp.mean(mask, dtype=dtype), axis_name)
    if scale == "mean_clamp":
        return 1 / jnp.maximum(moving_share, threshold)
    # A float: the integer may not fit into 32 bits.
    size = float(mask.size) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    return size / (moving_share * size + 1)


def cautious(
    inner: optax.GradientTransformation,
    *,
    scale: Rescaling = "mean_clamp",
    threshold: jax.typing.ArrayLike = 1e-3,
    before_learning_rate: bool = False,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stops the coordinates in which the inner update does not descend along the gradient, and rescales the others.

    It compares with the raw gradient that enters it; of complex numbers the real part of `conj(gradient) * update`
    decides. Weight decay inside `inner` is masked too: the authors keep it outside.

    Args:
        inner: any transformation or optimizer.
        scale: the factor on the coordinates that move, per leaf: `"mean_clamp"` (default), one over the moving share
            of the leaf; `"numel_plus_one"`, the leaf's size over one more than the number that moves; or `"none"`.
        threshold: the smallest share that `"mean_clamp"` divides by, in (0, 1]; default 1e-3.
        before_learning_rate: whether the updates of `inner` still point along the gradient, as those of a
            `scale_by_adam` that stands before `scale_by_learning_rate` do. By default `inner` is a whole optimizer,
            whose updates point against it.
        axis_name: the axis over which every leaf is sharded inside `jax.shard_map`, so that shares and sizes are those
            of whole leaves. None (default) where leaves are whole, or sharded by `jit`.

    Returns:
        A transformation with the state of `inner`.

    Raises:
        ValueError: if `scale` is unknown or `threshold` out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious(optax.sgd(0.1, momentum=0.9))
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> _, state = tx.update(jnp.array([1.0, 1.0]), state, params)
        >>> updates, state = tx.update(jnp.array([1.0, -0.5]), state, params)  # the second gradient turned
        >>> updates
        Array([-0.38, -0.  ], dtype=float32)

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
    """
    check_range("threshold", threshold, 0.0, 1.0, low_open=True)
    check_option("scale", scale, Rescaling)
    inner = optax.with_extra_args_support(inner)
    direction = 1 if before_learning_rate else -1

    def stop_and_rescale(update, gradient):
        agreement = direction * jnp.real(jnp.conj(jnp.sign(gradient)) * update)
        mask = jnp.sign(jnp.maximum(agreement, 0))  # Alg. 1, m: 1, 0, or NaN where there is one
        rescaling = _rescaling(mask, scale, threshold, axis_name)
        return (update * mask * rescaling).astype(update.dtype)  # Alg. 1, u * m / (m.mean() + eps)

    def update_fn(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(stop_and_rescale, inner_updates, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def cautious_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
    bias_correction: bool = True,
    eps_placement: EpsPlacement = "pre",
) -> optax.GradientTransformationExtraArgs:
    """AdamW whose update stops the coordinates in which momentum and gradient disagree.

    The authors' code has two paths that place epsilon differently. The defaults here follow the loop over single
    parameters (`foreach=False`), whose numbers the recordings hold; `eps_placement="post"` follows the other path
    (`foreach=True`, which their constructor takes by default and which always corrects the bias).

    Args:
        learning_rate: a positive number or a schedule; AdamW's.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which is not masked, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.
        bias_correction: whether the zero start of both moments is corrected; on by default.
        eps_placement: `"pre"` (default, the authors' loop) adds epsilon before the bias correction, `"post"` (their
            `foreach=True`, and `optax.adamw`) after it.

    Returns:
        An optimizer; its state is two numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious_adamw(0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(2)
        Array([ 2.5, -3.5], dtype=float32)

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    adam = scale_by_adam(b1, b2, eps, eps_placement=eps_placement, bias_correction=bias_correction, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            cautious(adam, before_learning_rate=True),
            add_decay("cautious_adamw", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def cautious_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.98,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion that stops the coordinates in which its sign and the gradient's disagree.

    Args:
        learning_rate: a positive number or a schedule; Lion's.
        b1: weight of the momentum in the interpolation with the gradient, in [0, 1]; default 0.95.
        b2: decay of the momentum, in [0, 1]; default 0.98.
        weight_decay: strength of the decoupled decay, which is not masked, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        mu_dtype: dtype of the momentum; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.cautious_lion(0.1)
        >>> params = jnp.array([3.0, -4.0, 5.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates  # all three move: the leaf's size over the number that moves plus one is 3/4
        Array([-0.075,  0.075, -0.075], dtype=float32)

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    lion = scale_by_lion_kappa(b1, b2, mu_dtype=mu_dtype)
    return in_float32(
        optax.chain(
            cautious(lion, scale="numel_plus_one", before_learning_rate=True),
            add_decay("cautious_lion", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


_CAUTIOUS = Paper(
    "Cautious Optimizers: Improving Training with One Line of Code", "Liang, Chen, Liu, Liu", 2024, "2411.16085"
)


METHODS = (
    Method(
        name="cautious",
        factory=cautious,
        kind="wrapper",
        summary="Stops the coordinates in which an optimizer's update and the gradient disagree.",
        paper=_CAUTIOUS,
        also_known_as=("cautious optimizers", "C-Optim"),
        grid=0.1,
        golden="c_adamw",
    ),
    Method(
        name="cautious_adamw",
        factory=cautious_adamw,
        kind="optimizer",
        summary="AdamW that stops the coordinates in which its update and the gradient disagree.",
        paper=_CAUTIOUS,
        also_known_as=("C-AdamW", "C-Adam"),
        example={"learning_rate": 1e-2},
        grid=3e-3,
        golden="c_adamw",
    ),
    Method(
        name="cautious_lion",
        factory=cautious_lion,
        kind="optimizer",
        summary="Lion that stops the coordinates in which its update and the gradient disagree.",
        paper=_CAUTIOUS,
        also_known_as=("C-Lion",),
        example={"learning_rate": 1e-2},
        grid=1e-3,
        golden="c_lion",
    ),
)
