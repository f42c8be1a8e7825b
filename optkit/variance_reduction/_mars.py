"""MARS: corrects the gradient by its change since the last step, before any preconditioner.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. The rule is that of the authors' code (AGI-Arena/MARS), which differs from the paper in two points.
The code corrects the first gradient against zero, whereas the paper starts from two equal points and so does not
correct it. The code clips the correction leaf by leaf, whereas Algorithm 1 clips all leaves together. The second moment
that follows sees the clipped correction, although the description of the repository says that it sees the raw gradient.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import matrix_view
from optkit.core.precision import widen
from optkit.core.schedules import value_at
from optkit.core.trees import mask_tree, unmask_tree, with_whole_tree
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import Scope, kept_params, present_params, previous_gradients

__all__ = ["MarsCorrection", "reduce_variance"]

ClipScope = Literal["leaf", "global"]
FirstStep = Literal["zero_reference", "no_correction"]


class MarsCorrection(NamedTuple):
    """The options of the MARS correction apart from its strength; the defaults are those of the authors' code.

    Attributes:
        max_norm: Largest norm of the corrected gradient, above 0. None does not clip. Default: 1.
        clip_scope: What is clipped together. `"leaf"` (the authors' code) clips each leaf by itself, and each matrix of
            a leaf that contains several. `"global"` (the paper) clips all corrected leaves together. If the norm of a
            correction is not finite, the next gradient is compared with zero. Default: `"leaf"`.
        exact: Whether the gradient is compared with the gradient of the same batch at the last parameters, instead of
            the gradient of the last batch. Default: False.
        keep_params: Only with `exact`. Whether the state keeps the last parameters, so that `update` takes `grad_fn`.
            With False nothing is kept and `update` takes `prev_grads`. Default: True.
        first_step: `"zero_reference"` (the authors' code) compares the first gradient with zero, so that it counts
            `1 + gamma * b1 / (1 - b1)` times. `"no_correction"` (the paper) leaves the first gradient as it is.
            Default: `"zero_reference"`.
        reference_dtype: Dtype of the gradients that are kept. Default: that of the parameters, but at least float32
            inside the named optimizers. bfloat16 loses nothing if the gradients are bfloat16.

    Example:
        >>> import optkit
        >>> unclipped = optkit.mars_lion(1e-3, correction=optkit.MarsCorrection(max_norm=None))
    """

    max_norm: float | None = 1.0
    clip_scope: ClipScope = "leaf"
    exact: bool = False
    keep_params: bool = True
    first_step: FirstStep = "zero_reference"
    reference_dtype: DTypeLike | None = None


class ReduceVarianceState(NamedTuple):
    """State of `reduce_variance`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        reference: What the next gradient is compared with, shaped and sharded like the parameters. In the approximate
            form it holds the last gradients, and `optax.MaskedNode` for leaves that are not corrected. In the exact
            form it holds the last parameters, all of them, or None if `prev_grads` is passed. Equal on all workers if
            the gradients are.
    """

    count: jax.typing.ArrayLike
    reference: Any


def reduce_variance(
    gamma: optax.ScalarOrSchedule = 0.025,
    b1: jax.typing.ArrayLike = 0.95,
    *,
    applies_to: Mask | None = None,
    correction: MarsCorrection | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Corrects the gradient by its change since the last step, for any preconditioner with momentum.

    The update rule, where g_last is the gradient of the last step (0 in the first step) and the norm is that of each
    leaf::

        c = g + gamma * b1 / (1 - b1) * (g - g_last)
        u = c / max(1, |c|)

    In this approximate form g_last comes from another batch. With `correction=MarsCorrection(exact=True)` g_last is the
    gradient of the same batch at the last parameters. The momentum that follows then tracks the gradient without the
    noise of old batches; with `gamma=1` and without clipping it is STORM with `a = 1 - b1`.

    Use it before Adam, Lion or Muon, with the `b1` of their momentum. Avoid it when the scale of the loss is arbitrary,
    because the clipping makes the optimizer sensitive to that scale, which Adam alone is not. A larger `gamma` is not
    always better: near one the estimate can be worse than without the correction. The approximate form keeps one number
    per parameter. The exact form needs a second gradient in each step, and dropout and augmentation must be the same at
    both points.

    In the exact form, transformations that come before it in a chain, such as clipping, do not see the gradients of
    `grad_fn`: clip in `preprocess_gradients` instead. Inside `optax.MultiSteps`, `grad_fn` must return the gradient of
    all parts of the batch together and is called once for each part; it is better to add the parts up with
    `jax.lax.scan`, as in the second example.

    Args:
        gamma: Strength of the correction, at least 0, a number or a schedule. 0 does not correct. Default: 0.025.
        b1: Decay rate of the momentum that follows, in [0, 1). The change of the gradient counts
            `gamma * b1 / (1 - b1)` times. Default: 0.95.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.
        correction: The other options, a `MarsCorrection`. Default: `MarsCorrection()`, the authors' choices.

    Returns:
        A transformation with a `ReduceVarianceState`: one number per parameter, or none with `prev_grads`. In the exact
        form it needs the whole tree, so it cannot stand inside `optax.masked` or `optax.partition`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If `applies_to` is an array, or if `correction` is not a `MarsCorrection`.

    Example:
        >>> import optkit
        >>> tx = optax.chain(
        ...     optkit.reduce_variance(gamma=0.025, b1=0.95),
        ...     optax.scale_by_adam(b1=0.95, b2=0.99),
        ...     optax.scale_by_learning_rate(3e-3),
        ... )
        >>> correction = optkit.reduce_variance(gamma=0.5, b1=0.5, correction=optkit.MarsCorrection(max_norm=None))
        >>> params = jnp.zeros(2)
        >>> state = correction.init(params)
        >>> _, state = correction.update(jnp.array([1.0, 1.0]), state, params)
        >>> correction.update(jnp.array([1.0, 3.0]), state, params)[0]  # g + 0.5 * (g - the last g)
        Array([1., 4.], dtype=float32)

        >>> # A clipped gradient at both points, of a batch in two parts.
        >>> tx = optkit.reduce_variance(correction=optkit.MarsCorrection(exact=True))
        >>> tx = optkit.preprocess_gradients(tx, optax.clip_by_global_norm(1.0))
        >>> loss = lambda point, part: jnp.mean((point - part) ** 2)
        >>> parts = jnp.ones((2, 8, 2))
        >>> def grad_fn(point):
        ...     add = lambda total, part: (optax.tree.add(total, jax.grad(loss)(point, part)), None)
        ...     return optax.tree.scale(1 / len(parts), jax.lax.scan(add, optax.tree.zeros_like(point), parts)[0])
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    Reference:
        arXiv:2411.10438
    """
    refuse_arrays(applies_to=applies_to)
    shape = checked(correction)

    def build(applies_to):
        return correct("reduce_variance", gamma, b1, shape, applies_to)

    build(None)
    return with_whole_tree(build, applies_to=applies_to)


def checked(correction: MarsCorrection | None) -> MarsCorrection:
    """Returns the correction, with the authors' defaults for None, and raises an error if it is not valid.

    Args:
        correction: The argument of the user.

    Returns:
        The correction.

    Raises:
        TypeError: If it has another type.
        ValueError: If a field is out of its range.

    Example:
        >>> checked(None).clip_scope
        'leaf'
    """
    if correction is None:
        return MarsCorrection()
    if not isinstance(correction, MarsCorrection):
        raise TypeError(f"correction must be an optkit.MarsCorrection or None, got {correction!r}")
    check_range("max_norm", correction.max_norm, 0.0, low_open=True)
    check_option("clip_scope", correction.clip_scope, ClipScope)
    check_option("first_step", correction.first_step, FirstStep)
    return correction


def correct(
    method: str,
    gamma: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike,
    correction: MarsCorrection,
    applies_to: Mask,
    weight_dimension_numbers: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Builds `reduce_variance` as a part of a named optimizer.

    Args:
        method: The public name of the optimizer, for error messages.
        gamma: See `reduce_variance`.
        b1: See `reduce_variance`.
        correction: See `reduce_variance`.
        applies_to: A tree of booleans, one for each parameter, or None for all.
        weight_dimension_numbers: A tree of `MuonDimensionNumbers`, with None for leaves that are not matrices. If a
            leaf contains several matrices, each is clipped by itself. None clips all leaves whole.

    Returns:
        The transformation.

    Raises:
        ValueError: If `gamma` or `b1` is out of its range.
    """
    check_range("gamma", gamma, 0.0)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    scope = Scope(method, applies_to)
    exact, max_norm = correction.exact, correction.max_norm
    numbers = weight_dimension_numbers
    if applies_to is not None and numbers is not None:
        numbers = jax.tree.map(lambda keep, own: own if keep else optax.MaskedNode(), applies_to, numbers)

    def init_fn(params):
        if not exact:
            reference = optax.tree.zeros_like(mask_tree(applies_to, params), dtype=correction.reference_dtype)
        else:
            copies = kept_params(scope, params)
            reference = copies if correction.keep_params else None
        return ReduceVarianceState(count=jnp.zeros([], jnp.int32), reference=reference)

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = mask_tree(applies_to, updates)
        weight = (value_at(gamma, state.count)) * b1 / (1 - b1)
        is_first = state.count == 0
        known = 1.0
        if exact:
            previous = previous_gradients(scope, state.reference, grad_fn, prev_grads)
            reference = present_params(scope, params) if correction.keep_params else None
            known = jnp.where(is_first, 0.0, 1.0)
        else:
            previous = widen(state.reference)
            reference = optax.tree.cast_like(gradients, state.reference)
        if correction.first_step == "no_correction":
            weight, known = jnp.where(is_first, 0.0, weight), 1.0
        corrected = jax.tree.map(lambda g, p: g + weight * (g - known * p), widen(gradients), previous)  # Alg. 1, c_t
        if max_norm is not None:
            # Alg. 1, c_t of norm 1 at most
            corrected, shares = _clip(corrected, max_norm, _norms(corrected, correction.clip_scope, numbers))
            if not exact:
                # XLA overwrites the old reference in place only where the new one waits for the last use of the old:
                # this condition, with the division in the shares, spares copies of both.
                reference = jax.tree.map(lambda g, share: jnp.where(jnp.isfinite(share), g, 0), reference, shares)
        whole = unmask_tree(optax.tree.cast_like(corrected, gradients), updates)
        return whole, ReduceVarianceState(count=optax.safe_increment(state.count), reference=reference)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _clip(tree: Any, max_norm: float, norms: Any) -> tuple[Any, Any]:
    """Shrinks leaves to a largest norm; also returns norm over divisor, NaN if the norm is not finite."""
    divisors = jax.tree.map(lambda norm: jnp.maximum(norm, max_norm), norms)
    clipped = jax.tree.map(lambda x, divisor: x * (max_norm / divisor), tree, divisors)
    return clipped, jax.tree.map(jnp.divide, norms, divisors)


def _norms(tree: Any, scope: ClipScope, weight_dimension_numbers: Any) -> Any:
    """Returns the norm of each leaf, of each matrix of a leaf (with axes of size one), or of the whole tree."""
    if scope == "global":
        whole = optax.tree.norm(tree)
        return jax.tree.map(lambda _: whole, tree)
    if weight_dimension_numbers is None:
        return jax.tree.map(optax.tree.norm, tree)

    def norm(x, numbers):
        view = None if numbers is None else matrix_view(x.shape, numbers)
        if view is None or not view.batch:
            return optax.tree.norm(x)
        squares = jnp.real(x * x.conj())
        return jnp.sqrt(jnp.sum(squares, axis=(*view.rows, *view.columns), keepdims=True))

    return jax.tree.map(norm, tree, weight_dimension_numbers)


MARS = Paper(
    "MARS: Unleashing the Power of Variance Reduction for Training Large Models", "Yuan et al.", 2024, "2411.10438"
)

METHODS = (
    Method(
        name="reduce_variance",
        factory=reduce_variance,
        kind="transformation",
        summary="Corrects the gradient by its change since the last step, before any preconditioner.",
        paper=MARS,
        also_known_as=("MARS", "Make vAriance Reduction Shine"),
        parts=(MarsCorrection,),
        example={"correction": MarsCorrection(max_norm=None)},
        grid=0.1,
        tunable={"gamma": (0.001, 0.1, "log")},
        golden="mars",
    ),
)
