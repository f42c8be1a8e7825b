"""Lion with any convex kappa: the update is a subgradient of kappa at Lion's average of momentum and gradient.

Chen, Liu, Liang, Liu, "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts", 2023, arXiv:2310.05898.
The paper accumulates the negative gradient. All kappas here except the log-sum-exp are even, so the sign does not
matter.
The comments name lines of Lion's Algorithm 2 in Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023,
arXiv:2302.06675, in which kappa takes the place of the sign.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay, proximal_decay
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32, widen
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Variant
from optkit.sign_momentum.kappa import (
    LION_KAPPA,
    Kappa,
    group,
    half_squared_l2,
    huber,
    l1,
    linf,
    log_cosh,
    lp,
    nuclear,
    relativistic,
    soft,
    top_k,
)

__all__ = ["lion_kappa", "scale_by_lion_kappa"]


class ScaleByLionKappaState(NamedTuple):
    """State of `scale_by_lion_kappa`.

    Attributes:
        mu: Exponential average of the gradients, shaped and sharded like the parameters, in `mu_dtype`.
    """

    mu: optax.Updates


def scale_by_lion_kappa(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    kappa: Kappa | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient by a subgradient of a convex function at Lion's average of momentum and gradient.

    The update rule, where kappa' is a subgradient of kappa::

        u = kappa'(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g

    Infinite gradients are treated as NaN, because the sign of an infinite momentum would move a parameter at every
    later step.

    Use it to build your own optimizer in a chain, and `lion_kappa` otherwise. Avoid it when gradients are mostly noise,
    because the sign of a small average moves a parameter as far as that of a large one.

    Args:
        b1: Weight of the momentum when it is averaged with the gradient, in [0, 1]. Default: 0.9.
        b2: Decay rate of the momentum, in [0, 1]. The paper's proof needs `b1 <= b2`. Default: 0.99.
        kappa: A function that maps a leaf to a subgradient of the same shape. It is called in at least float32.
            `optax.inject_hyperparams` mistakes functions for schedules: name it in `static_args`, or use
            `optkit.inject_hyperparams`. Default: `kappa.l1()`, the sign, which gives Lion.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByLionKappaState`: one number per parameter.

    Raises:
        ValueError: If `b1` or `b2` is outside [0, 1].
        TypeError: If `kappa` is an array, as `optax.inject_hyperparams` makes it. From `init`: if there are complex
            parameters and `kappa` accepts only real ones.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_lion_kappa(kappa=optkit.kappa.huber(0.1))
        >>> params = jnp.zeros(3)
        >>> updates, state = tx.update(jnp.array([5.0, 0.5, 0.0]), tx.init(params), params)
        >>> updates
        Array([1. , 0.5, 0. ], dtype=float32)

    Reference:
        arXiv:2310.05898
    """
    refuse_arrays(kappa=kappa, mu_dtype=mu_dtype)
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    kappa = l1() if kappa is None else kappa

    def init_fn(params):
        # A kappa for real numbers only raises its error here, and not in the first update.
        jax.eval_shape(functools.partial(jax.tree.map, kappa), list(filter(_is_complex, jax.tree.leaves(params))))
        return ScaleByLionKappaState(mu=optax.tree.zeros_like(params, dtype=mu_dtype))

    def update_fn(updates, state, params=None):
        del params
        gradients = nan_for_infinite(updates)  # The sign of an infinite average would move x for ever.
        interpolation = optax.tree.update_moment(gradients, state.mu, b1, order=1)  # Alg. 2, c_t
        direction = jax.tree.map(kappa, widen(interpolation))  # Alg. 2, sign(c_t), of any kappa
        mu = optax.tree.update_moment(gradients, state.mu, b2, order=1)  # Alg. 2, m_t
        new_state = ScaleByLionKappaState(mu=nan_for_infinite(optax.tree.cast_like(mu, state.mu)))
        return optax.tree.cast_like(direction, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def _is_complex(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def lion_kappa(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    kappa: Kappa | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
    implicit_decay: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lion with any convex function kappa in place of the absolute value.

    The update rule, where kappa' is a subgradient of kappa::

        c = b1 * m + (1 - b1) * g
        m = b2 * m + (1 - b2) * g
        x = x - lr * (kappa'(c) + wd * x)

    It solves `min f(x) + kappa*(wd * x) / wd`, where kappa* is the convex conjugate of kappa. If kappa is a norm, this
    is `min f(x)` under the constraint that the dual norm of `x` is at most `1 / wd`: the parameters enter that ball and
    stay in it. The default kappa gives `optax.lion` with the same weight decay.

    Use it when the state must be small (one number per parameter), or when a norm of the parameters must stay bounded.
    Avoid it when gradients are mostly noise, because the sign of a small average moves a parameter as far as that of a
    large one. Its first steps are as long as all others, so warm the learning rate up.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For the default kappa take a third to a tenth
            of AdamW's.
        b1: See `scale_by_lion_kappa`. Default: 0.9.
        b2: See `scale_by_lion_kappa`. Default: 0.99.
        kappa: A function that maps a leaf to a subgradient, from `optkit.kappa` or your own: see `kappa.lp`,
            `kappa.linf`, `kappa.soft`, `kappa.top_k`, `kappa.huber`, `kappa.half_squared_l2`, `kappa.group`,
            `kappa.nuclear`, `kappa.relativistic`, `kappa.log_cosh` and `kappa.log_sum_exp`. Default: `kappa.l1()`, the
            sign.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. With 0 there is no constraint.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32.
        implicit_decay: Whether the decay is implicit, `x = (x - lr * u) / (1 + lr * wd)`, which is the form that the
            paper analyses. Default: False.

    Returns:
        An optimizer. Its state is one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.lion_kappa(0.1, kappa=optkit.kappa.lp(2.0), weight_decay=0.5)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        Array([2.79, 3.72], dtype=float32)

    Reference:
        arXiv:2310.05898
        arXiv:2302.06675 (for the default kappa)
    """
    refuse_arrays(mask=mask)
    check_range("weight_decay", weight_decay, 0.0)
    direction = scale_by_lion_kappa(b1, b2, kappa, mu_dtype=mu_dtype)
    scale = optax.scale_by_learning_rate(learning_rate)
    if implicit_decay:
        return in_float32(
            optax.chain(direction, scale, proximal_decay(learning_rate, weight_decay, mask, method="lion_kappa"))
        )
    return in_float32(optax.chain(direction, add_decay("lion_kappa", weight_decay, mask), scale))


METHODS = (
    Method(
        name="lion_kappa",
        factory=lion_kappa,
        kind="optimizer",
        summary="Lion with any convex kappa; weight decay keeps parameters in the ball of kappa's dual norm.",
        paper=LION_KAPPA,
        also_known_as=("Lion", "Lion-K", "Lion-kappa", "EvoLved Sign Momentum", "generalized Lion"),
        parts=(scale_by_lion_kappa,),
        example={"learning_rate": 1e-2, "kappa": lp(2.0)},
        grid=3e-2,
        variants={
            "l1": Variant({"kappa": l1()}, grid=1e-3),
            "linf": Variant({"kappa": linf()}, grid=3e-2),
            "soft": Variant({"kappa": soft(1e-4)}, grid=1e-3),
            "top_k": Variant({"kappa": top_k(64)}, grid=3e-3),
            "huber": Variant({"kappa": huber(1e-2)}, grid=3e-3),
            "half_squared_l2": Variant({"kappa": half_squared_l2(), "learning_rate": 2e-3}, grid=0.3),
            "group": Variant({"kappa": group()}, grid=1e-2),
            "nuclear": Variant({"kappa": nuclear()}, grid=1e-2),
            "relativistic": Variant({"kappa": relativistic(1e-2)}, grid=3e-3),
            "log_cosh": Variant({"kappa": log_cosh(1e-2)}, grid=3e-3),
        },
        golden="lion_k",
    ),
)
