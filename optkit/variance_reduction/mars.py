"""MARS: a gradient corrected by its change since the last step, in front of any preconditioner.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. The rule is that of the authors' code (AGI-Arena/MARS), which parts from the paper's text: the first
gradient is corrected against zero, where the paper starts from two equal points and so corrects nothing; the correction
is clipped leaf by leaf, where Algorithm 1 clips it whole; and the second moment behind it sees the clipped correction,
where the repository's description puts the raw gradient.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.precision import widen
from optkit.core.trees import mask_tree, unmask_tree
from optkit.variance_reduction.recursion import kept_params, present_params, previous_gradients

ClipScope = Literal["leaf", "global"]
FirstStep = Literal["zero_reference", "no_correction"]


class ReduceVarianceState(NamedTuple):
    """State of `reduce_variance`.

    Attributes:
        count: number of updates so far, equal on all workers.
        reference: what the next gradient is compared with, shaped and sharded like the parameters: the last gradients,
            `optax.MaskedNode` outside the mask; in the exact form the last parameters, all of them; None where
            `prev_grads` is passed. Equal on all workers if the gradients are.
    """

    count: jax.typing.ArrayLike
    reference: Any


class ScaleByMarsMomentumState(NamedTuple):
    """State of `scale_by_mars_momentum`.

    Attributes:
        mu: exponential average of the uncorrected gradients, times `1 - gamma`; shaped and sharded like the parameters,
            in `mu_dtype`. Equal on all workers if the gradients are.
    """

    mu: optax.Updates


def _clip(correction: Any, max_norm: jax.typing.ArrayLike, scope: ClipScope) -> tuple[Any, Any]:
    """Shrinks each leaf to a largest norm; gives also the norms in units of the divisors, NaN if one is not finite."""
    if scope == "leaf":
        norms = jax.tree.map(optax.tree.norm, correction)
    else:
        norm = optax.tree.norm(correction)
        norms = jax.tree.map(lambda _: norm, correction)
    divisors = jax.tree.map(lambda norm: jnp.maximum(norm, max_norm), norms)
    clipped = jax.tree.map(lambda c, divisor: c * (max_norm / divisor), correction, divisors)
    return clipped, jax.tree.map(jnp.divide, norms, divisors)


def reduce_variance(
    gamma: optax.ScalarOrSchedule = 0.025,
    b1: jax.typing.ArrayLike = 0.95,
    *,
    max_norm: jax.typing.ArrayLike | None = 1.0,
    clip_scope: ClipScope = "leaf",
    exact: bool = False,
    keep_params: bool = True,
    first_step: FirstStep = "zero_reference",
    mask: Any | None = None,
    reference_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Corrects the gradient by its change since the last step: MARS, for any preconditioner with momentum behind it.

    In exact form the change is that between two points on the same batch, so that the momentum behind it follows the
    gradient without the noise of old batches (with `gamma=1` and without clipping: STORM with `a = 1 - b1`); it costs a
    second gradient. In approximate form it is the change between two batches, which costs one number a parameter.

    Clipping to a norm makes the optimizer sensitive to the loss's scale, unlike Adam alone. More is not better: with
    `gamma` near one the estimate can be worse than without. Clip or centralize the raw gradients before it, and in
    exact form those of `grad_fn` likewise; dropout and augmentation must be the same at both points.

    Args:
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025. 0 corrects nothing.
        b1: decay of the momentum behind it, in [0, 1); default 0.95. The change counts `gamma * b1 / (1 - b1)` times.
        max_norm: largest norm of the corrected gradient, above 0; default 1. None does not clip.
        clip_scope: `"leaf"` (default, the authors' code) clips each leaf by itself, `"global"` (the paper) all leaves
            that it sees together. After a correction without a finite norm the next one compares with zero.
        exact: compares with this batch's gradient at the last parameters. Off by default: with the last gradient.
        keep_params: in exact form, whether the last parameters are kept and `update` takes
            `grad_fn` (default); otherwise it takes `prev_grads`, and nothing is kept.
        first_step: `"zero_reference"` (default, the authors' code) compares the first gradient with zero, so that it
            counts `1 + gamma * b1 / (1 - b1)` times; `"no_correction"` (the paper) leaves it as it is.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that are corrected. All by
            default. The others pass through.
        reference_dtype: dtype of the gradients that are kept, that of the parameters by default.

    Returns:
        A transformation with a `ReduceVarianceState`: one number a parameter, or none with `prev_grads`. In exact form
        it sees the whole tree: it cannot stand inside `optax.masked` or `optax.partition`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import optkit
        >>> tx = optax.chain(
        ...     optkit.reduce_variance(gamma=0.025, b1=0.95),
        ...     optax.scale_by_adam(b1=0.95, b2=0.99),
        ...     optax.scale_by_learning_rate(3e-3),
        ... )
        >>> correction = optkit.reduce_variance(gamma=0.5, b1=0.5, max_norm=None)
        >>> params = jnp.zeros(2)
        >>> state = correction.init(params)
        >>> _, state = correction.update(jnp.array([1.0, 1.0]), state, params)
        >>> correction.update(jnp.array([1.0, 3.0]), state, params)[0]  # g + 0.5 * (g - the last g)
        Array([1., 4.], dtype=float32)

    Reference:
        Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
        arXiv:2411.10438.
    """
    check_range("gamma", gamma, 0.0)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("max_norm", max_norm, 0.0, low_open=True)
    if clip_scope not in ("leaf", "global"):
        raise ValueError(f"clip_scope must be 'leaf' or 'global', got {clip_scope!r}")
    if first_step not in ("zero_reference", "no_correction"):
        raise ValueError(f"first_step must be 'zero_reference' or 'no_correction', got {first_step!r}")

    method = "reduce_variance"

    def init_fn(params):
        if not exact:
            reference = optax.tree.zeros_like(mask_tree(mask, params), dtype=reference_dtype)
        else:
            copies = kept_params(params, method)
            reference = copies if keep_params else None
        return ReduceVarianceState(count=jnp.zeros([], jnp.int32), reference=reference)

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = mask_tree(mask, updates)
        weight = (gamma(state.count) if callable(gamma) else gamma) * b1 / (1 - b1)
        is_first = state.count == 0
        known = 1.0
        if exact:
            previous = previous_gradients(method, mask, state.reference, grad_fn, prev_grads)
            reference = present_params(params, method) if keep_params else None
            known = jnp.where(is_first, 0.0, 1.0)
        else:
            previous = widen(state.reference)
            reference = optax.tree.cast_like(gradients, state.reference)
        if first_step == "no_correction":
            weight, known = jnp.where(is_first, 0.0, weight), 1.0
        correction = jax.tree.map(lambda g, p: g + weight * (g - known * p), widen(gradients), previous)  # Alg. 1, c_t
        if max_norm is not None:
            correction, shares = _clip(correction, max_norm, clip_scope)  # Alg. 1, c_t of norm 1 at most
            if not exact:
                # XLA overwrites the old reference in place only where the new one waits for the last use of the old:
                # this condition, with the division in the shares, spares copies of both.
                reference = jax.tree.map(lambda g, share: jnp.where(jnp.isfinite(share), g, 0), reference, shares)
        corrected = unmask_tree(optax.tree.cast_like(correction, gradients), updates)
        return corrected, ReduceVarianceState(count=optax.safe_increment(state.count), reference=reference)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_mars_momentum(
    b1: jax.typing.ArrayLike = 0.95, gamma: jax.typing.ArrayLike = 0.025, *, mu_dtype: Any | None = None
) -> optax.GradientTransformation:
    """Replaces the gradient by the momentum of its MARS correction, in one buffer.

    The numbers are those of `optax.ema(b1, debias=False)` behind `reduce_variance(gamma, b1, max_norm=None)`, whose two
    buffers only ever appear in one combination. It holds for a constant `gamma`, for the approximate form without
    clipping, and for momentum only: Adam's second moment needs the correction itself.

    Args:
        b1: decay of the momentum, in [0, 1); default 0.95.
        gamma: strength of the correction, at least 0; default 0.025. A number: no schedule.
        mu_dtype: dtype of the buffer, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByMarsMomentumState`: one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: if `gamma` is a schedule.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_mars_momentum(b1=0.5, gamma=0.5)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([4.0, 8.0]), tx.init(params), params)[0]
        Array([3., 6.], dtype=float32)

    Reference:
        Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
        arXiv:2411.10438; the form in one buffer is that of the authors' memory-efficient code.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("gamma", gamma, 0.0)
    if callable(gamma):
        raise TypeError(
            "scale_by_mars_momentum needs a constant gamma; for a schedule take reduce_variance and optax.ema"
        )

    def init_fn(params):
        return ScaleByMarsMomentumState(mu=optax.tree.zeros_like(params, dtype=mu_dtype))

    def update_fn(updates, state, params=None):
        del params
        mu = jax.tree.map(
            lambda g, n: b1 * n + (1 - b1) * (1 - gamma) * g, widen(updates), state.mu
        )  # n_t = m_t - gamma g_t
        momentum = jax.tree.map(lambda g, n: gamma * g + n, widen(updates), mu)  # m_t
        new_state = ScaleByMarsMomentumState(mu=optax.tree.cast_like(mu, state.mu))
        return optax.tree.cast_like(momentum, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)
