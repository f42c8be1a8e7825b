"""SGD-SaI: momentum whose step in each leaf is scaled once, by the signal-to-noise ratio of the first gradient.

Xu, Xiang, Cai, Wen, "No More Adam: Learning Rate Scaling at Initialization is All You Need", 2024, arXiv:2412.11768.
The rule is that of the authors' code (SGD_SaI), whose momentum begins as the first gradient. That code divides by a
standard deviation of zero, and scales a leaf by zero for ever if its first gradient is zero; here this happens with
`follow="code"` only.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, scalar_dtype, widen
from optkit.core.types import Mask
from optkit.core.workers import collectives
from optkit.method import Method, Paper

__all__ = ["scale_by_sai", "sgd_sai"]

Follow = Literal["code", "paper"]
ConstantScale = Literal["one", "norm"]


class ScaleBySaiState(NamedTuple):
    """State of `scale_by_sai`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        momentum: Exponential average of the gradients, shaped and sharded like the parameters.
        gsnr: Scale of each leaf, a scalar in float32 at least, 0 until it is measured. Equal on all workers if the
            gradients are.
    """

    count: jax.typing.ArrayLike
    momentum: optax.Updates
    gsnr: Any


def _signal_to_noise(
    gradient: jax.Array, eps: jax.typing.ArrayLike, follow: Follow, constant_scale: ConstantScale
) -> jax.Array:
    """Returns a leaf's norm over the standard deviation of its entries; 0 for a gradient of zero."""
    if not gradient.size:
        return jnp.ones([], gradient.real.dtype)
    norm = optax.tree.norm(gradient)
    # A single entry has no standard deviation; the authors' code sets it to 0.
    deviation = jnp.std(gradient, ddof=1) if gradient.size > 1 else jnp.zeros_like(norm)
    ratio = norm / (deviation + eps)  # g-SNR
    if follow == "code":
        return ratio
    # Rounding makes the standard deviation of equal entries a little more than zero.
    constant = jnp.max(gradient) == jnp.min(gradient)
    return jnp.where(constant, jnp.sign(norm) if constant_scale == "one" else norm, ratio)


def scale_by_sai(
    momentum: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    follow: Follow = "paper",
    constant_scale: ConstantScale = "one",
) -> optax.GradientTransformation:
    """Scales a momentum, leaf by leaf, by the signal-to-noise ratio of the first gradient.

    The update rule, where s is measured only once, at the first gradient of a leaf that is not zero, and m begins as
    the first gradient::

        s = |g| / (std(g) + eps)         # std over the entries of the leaf
        m = momentum * m + (1 - momentum) * g
        u = s * m

    The ratio s is mostly the square root of the leaf's size, or more if the entries share a sign, whatever the scale of
    the gradient.

    Use it with a decoupled weight decay and a learning rate to train with the state of momentum SGD, half of Adam's.
    Avoid it in place of Adam when the gradients of leaves differ in scale, because their updates then differ in the
    same way.

    Args:
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.9. The momentum begins as the first gradient.
        eps: Added to the standard deviation, at least 0. Default: 1e-8.
        follow: `"paper"` measures each leaf's first gradient that is not all zeros and keeps all scales finite.
            `"code"` does as the authors' code: a leaf whose first gradient is zero never moves, and the scale of a leaf
            whose entries are all equal, such as a scalar, is the norm over `eps`. Default: `"paper"`.
        constant_scale: Scale of a leaf whose entries are all equal, with `follow="paper"`: `"one"`, which is 1, or
            `"norm"`, the norm of the gradient. Default: `"one"`.

    Returns:
        A transformation. Its state is one number per parameter and one per leaf.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_sai(momentum=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, -1.0]), tx.init(params), params)
        >>> state.gsnr, updates  # a norm of sqrt(2) over a standard deviation of sqrt(2)
        (Array(1., dtype=float32), Array([ 1., -1.], dtype=float32))
        >>> tx.update(jnp.zeros(2), state, params)[0]
        Array([ 0.5, -0.5], dtype=float32)

    Reference:
        arXiv:2412.11768
    """
    refuse_arrays(follow=follow, constant_scale=constant_scale)
    check_option("follow", follow, Follow)
    check_option("constant_scale", constant_scale, ConstantScale)
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)

    def init_fn(params):
        return ScaleBySaiState(
            count=jnp.zeros([], jnp.int32),
            momentum=optax.tree.zeros_like(params),
            gsnr=jax.tree.map(lambda p: jnp.zeros([], scalar_dtype(p)), params),
        )

    def measure(gsnr, updates):
        def leaf_gsnr(old, g):
            new = _signal_to_noise(g, eps, follow, constant_scale).astype(old.dtype)
            return jnp.where(old == 0, new, old)

        return jax.tree.map(leaf_gsnr, gsnr, widen(updates))

    def update_fn(updates, state, params=None):
        del params
        if follow == "code":
            missing = state.count == 0
        else:
            missing = jnp.any(jnp.array([gsnr == 0 for gsnr in jax.tree.leaves(state.gsnr)], bool))
        gsnr = collectives.cond(missing, measure, lambda gsnr, _: gsnr, state.gsnr, updates)
        newest = jnp.where(state.count == 0, 1, 1 - momentum)
        average = optax.incremental_update(updates, state.momentum, newest)  # m_t
        direction = jax.tree.map(lambda s, m, g: (s * m).astype(g.dtype), gsnr, average, updates)
        count = optax.safe_increment(state.count)
        return direction, ScaleBySaiState(count, optax.tree.cast_like(average, state.momentum), gsnr)

    return optax.GradientTransformation(init_fn, update_fn)


def sgd_sai(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 1e-2,
    mask: Mask | None = None,
    *,
    follow: Follow = "paper",
) -> optax.GradientTransformationExtraArgs:
    """Momentum with a learning rate for each leaf, set once by the signal-to-noise ratio of its first gradient.

    The update rule, where u comes from `scale_by_sai`::

        x = x - lr * (u + wd * x)

    Use it in place of AdamW when state must be small (one number per parameter). Avoid it when the gradients of leaves
    differ in scale, because the updates then differ in the same way, as they do not with Adam.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use that of momentum SGD, divided by about
            the square root of the size of a layer.
        momentum: Decay rate of the momentum, in [0, 1). Default: 0.9.
        eps: See `scale_by_sai`. Default: 1e-8.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.01. It is not scaled by the ratio.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        follow: See `scale_by_sai`. Default: `"paper"`.

    Returns:
        An optimizer. Its state is one number per parameter and one per leaf.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.sgd_sai(0.1, weight_decay=0.0)
        >>> params = jnp.array([1.0, -1.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        Array([ 0.9, -0.9], dtype=float32)

    Reference:
        arXiv:2412.11768
    """
    refuse_arrays(mask=mask)
    return in_float32(
        optax.chain(
            scale_by_sai(momentum, eps, follow=follow),
            add_decay("sgd_sai", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


METHODS = (
    Method(
        name="sgd_sai",
        factory=sgd_sai,
        kind="optimizer",
        summary="Momentum with a learning rate for each leaf, set once by its first gradient's signal-to-noise ratio.",
        paper=Paper(
            "No More Adam: Learning Rate Scaling at Initialization is All You Need",
            "Xu, Xiang, Cai, Wen",
            2024,
            "2412.11768",
        ),
        also_known_as=("SGD-SaI", "SGD with scaling at initialization", "g-SNR"),
        parts=(scale_by_sai,),
        example={"learning_rate": 1e-3, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
