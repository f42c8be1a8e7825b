"""MicroAdam: Adam on the largest entries of the last gradients, with error feedback in four bits for the rest.

Modoranu et al., "MicroAdam: Accurate Adaptive Optimization with Low Space Overhead and Provable Convergence", 2024,
arXiv:2405.15593. The rule is that of the authors' code (IST-DASLab/ISTA-DASLab-Optimizers), for gradients of any dtype.
Where their code divides by zero, for a block of equal errors, these errors are kept exactly. What the dtype of the
window rounds off stays in the error here; the authors' gradients have that dtype themselves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.adam import bias_factor
from optkit.core.checks import check_count, check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import in_float32, widen
from optkit.core.stacking import map_equal_shapes
from optkit.core.top_k import add, first_in_blocks, places_in_whole, take, top_k_in_blocks
from optkit.core.types import DTypeLike, Mask
from optkit.memory_efficient._kept_errors import Bits, error_codec
from optkit.method import Method, Paper

__all__ = ["micro_adam", "scale_by_micro_adam"]


class ScaleByMicroAdamState(NamedTuple):
    """State of `scale_by_micro_adam`: equal on all workers, and replicated over mesh axes unless stated otherwise.

    Attributes:
        count: Number of updates so far.
        places: Places of the entries in the window: for each parameter, one row for each of the last gradients. They
            are counted from the start of their block, as integers of 16 bits if blocks have at most 32,768 entries,
            otherwise of 32 bits.
        values: Values of these entries, in `state_dtype`.
        error: What has not reached the window so far: a `Quantized` of three trees, or an `Unquantized` if `bits` is
            "whole".
    """

    count: jax.typing.ArrayLike
    places: Any
    values: Any
    error: Any


class MicroAdamWithResidualState(NamedTuple):
    """State of `micro_adam` with `add_residual`.

    Attributes:
        micro_adam: State of the moments and errors.
        behind: State of weight decay and learning rate.
    """

    micro_adam: Any
    behind: optax.OptState


class _Rule(NamedTuple):
    """`init` makes the state; `step` returns directions, residuals and the next state, from updates and state."""

    init: optax.TransformInitFn
    step: Callable[[Any, Any], tuple[Any, Any, ScaleByMicroAdamState]]


class _Step(NamedTuple):
    """Results of an update for one leaf; the residual is what quantization removes from the error."""

    direction: Any
    residual: Any
    places: Any
    values: Any
    error: Any


def _moments_of_window(places: jax.Array, values: jax.Array, weights: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """Sums values and squared values at their places, each row with its two weights."""

    # Row after row, since no place is twice in a row: sums then do not depend on the order of parallel threads.
    def add_row(moments, row):
        (mu, nu), (places, values, (weight1, weight2)) = moments, row
        return (add(mu, places, weight1 * values), add(nu, places, weight2 * values**2)), None

    zeros = jnp.zeros([size], values.dtype)
    return jax.lax.scan(add_row, (zeros, zeros), (places, values, weights))[0]


def _each(kind: Any, tree: Any, like: Any) -> Any:
    """Turns a tree with a tuple at each leaf of `like` into a tuple of trees."""
    return kind(*(jax.tree.map(lambda _, parts, i=i: parts[i], like, tree) for i in range(len(kind._fields))))


def _rule(
    window: int | None,
    density: float | None,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    alpha: float | None,
    block_size: int | None,
    bits: Bits | None,
    quantization_block_size: int | None,
    state_dtype: DTypeLike | None,
) -> _Rule:
    """Makes the rule of `scale_by_micro_adam` from its arguments."""
    refuse_arrays(
        window=window,
        density=density,
        alpha=alpha,
        block_size=block_size,
        bits=bits,
        quantization_block_size=quantization_block_size,
        state_dtype=state_dtype,
    )
    window = 10 if window is None else window
    density = 0.01 if density is None else density
    alpha = 0.0 if alpha is None else alpha
    block_size = 16_384 if block_size is None else block_size
    bits = 4 if bits is None else bits
    quantization_block_size = 100_000 if quantization_block_size is None else quantization_block_size
    state_dtype = jnp.bfloat16 if state_dtype is None else state_dtype
    check_count("window", window)
    check_range("density", density, 0.0, 1.0, low_open=True)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0, low_open=True)
    check_range("alpha", alpha, 0.0, 1.0, high_open=True)
    check_count("block_size", block_size)
    check_count("quantization_block_size", quantization_block_size)
    codec = error_codec(bits, quantization_block_size, state_dtype)

    def init_fn(params):
        places = jax.tree.map(lambda p: jnp.tile(first_in_blocks(p.size, block_size, density), (window, 1)), params)
        return ScaleByMicroAdamState(
            count=jnp.zeros([], jnp.int32),
            places=places,
            values=optax.tree.zeros_like(places, dtype=state_dtype),
            error=_each(codec.kind, jax.tree.map(codec.zeros, params), params),
        )

    def update_leaf(count, g, all_places, all_values, *kept):
        flat = replicate(widen(g)).ravel()
        accumulated = flat + codec.decode(codec.kind(*kept), flat)  # Alg. 1, line 4
        places = top_k_in_blocks(accumulated, block_size, density)  # line 5
        whole = places_in_whole(places, flat.size, block_size, density)
        values = take(accumulated, whole).astype(state_dtype)
        left = add(accumulated, whole, -values.astype(flat.dtype))  # line 6
        kept = codec.encode(left, g)  # lines 7 and 8
        row = (count - 1) % window
        all_places, all_values = all_places.at[row].set(places), all_values.at[row].set(values)  # line 9

        age = ((row - jnp.arange(window)) % window).astype(flat.dtype)
        weights = tuple((b**age * (1 - b) / bias_factor(b, count, flat)).astype(flat.dtype) for b in (b1, b2))
        whole = places_in_whole(all_places, flat.size, block_size, density)
        mu, nu = _moments_of_window(whole, all_values.astype(flat.dtype), weights, flat.size)  # lines 10 and 11
        direction = mu / (jnp.sqrt(nu) + eps)  # line 12
        # Errors that are not finite stay, and would block all but the largest entries without a sign of it.
        direction = jnp.where(jnp.all(jnp.isfinite(all_values)), direction, jnp.nan)

        error = codec.decode(kept, flat)
        residual = left - error
        if alpha > 0:  # the authors' form for pre-training
            direction, kept = direction + alpha * error, codec.encode((1 - alpha) * error, g)
        direction, residual = (shard_like(x.reshape(g.shape), g).astype(g.dtype) for x in (direction, residual))
        return _Step(direction, residual, all_places, all_values, kept)

    def step_fn(updates, state):
        count = optax.safe_increment(state.count)

        # One after another, so that temporary arrays are those of one parameter.
        def update_leaves(*rows):
            return jax.lax.map(lambda row: update_leaf(count, *row), rows)

        results = map_equal_shapes(update_leaves, updates, state.places, state.values, *state.error)
        steps = _each(_Step, results, updates)
        error = optax.tree.cast_like(_each(codec.kind, steps.error, updates), state.error)
        return steps.direction, steps.residual, ScaleByMicroAdamState(count, steps.places, steps.values, error)

    return _Rule(init_fn, step_fn)


def _only_direction(rule: _Rule) -> optax.GradientTransformation:
    def update_fn(updates, state, params=None):
        del params
        directions, _, state = rule.step(updates, state)
        return directions, state

    return optax.GradientTransformation(rule.init, update_fn)


def _with_residual(rule: _Rule, behind: optax.GradientTransformation) -> optax.GradientTransformation:
    """Makes an optimizer that subtracts the residual after the learning rate, so that it is not multiplied by it."""

    def init_fn(params):
        return MicroAdamWithResidualState(micro_adam=rule.init(params), behind=behind.init(params))

    def update_fn(updates, state, params=None):
        directions, residuals, micro_adam_state = rule.step(updates, state.micro_adam)
        steps, behind_state = behind.update(directions, state.behind, params)
        return optax.tree.sub(steps, residuals), MicroAdamWithResidualState(micro_adam_state, behind_state)

    return optax.GradientTransformation(init_fn, update_fn)


def scale_by_micro_adam(
    window: int | None = None,
    density: float | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    alpha: float | None = None,
    block_size: int | None = None,
    bits: Bits | None = None,
    quantization_block_size: int | None = None,
    state_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales like Adam by the largest entries of the last gradients, with error feedback for the other entries.

    The update rule, where top_k keeps the `density` largest entries of each block, Q quantizes to 4 bits, e is the
    error that is fed back, W_i is what the gradient of i steps ago put into the window, and t counts the steps from 1::

        a = g + e
        W_0 = top_k(a)
        e = Q(a - W_0)
        m = (1 - b1) / (1 - b1^t) * sum_i b1^i * W_i
        v = (1 - b2) / (1 - b2^t) * sum_i b2^i * W_i^2
        u = m / (sqrt(v) + eps)

    The bias is corrected as if the window reached back to the first step. Long after the window is full, an entry that
    is in the whole window and does not change gets `(1 - b1**window) / sqrt(1 - b2**window)` instead of Adam's 1, which
    is 6.5 with the defaults. So the learning rate must be lower than Adam's. Only parameters with an entry in the
    window move, unless `alpha` is positive.

    Use it when Adam's state does not fit into memory: with the defaults its state is 0.9 bytes per parameter. Avoid it
    when Adam's state fits, or when parameters are sharded over 8 devices or more, because it gathers flattened
    gradients and its own state is not sharded. After a NaN in the gradient of a parameter, all updates of that
    parameter are NaN: put `optax.apply_if_finite` around the optimizer if gradients can contain NaN.

    Args:
        window: Number of gradients in the window, at least 1. Default: None, which stands for 10.
        density: Share of each block's entries that a gradient puts into the window, in (0, 1]. Default: None, which
            stands for 0.01. The number is rounded up.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, above 0. Default: 1e-8.
        alpha: Share of the error that is added to the update instead of being kept, in [0, 1). Default: None, which
            stands for 0. The authors pre-train with 0.1; then all parameters move.
        block_size: Number of neighbouring entries of the flattened parameter in a block, at least 1. Default: None,
            which stands for 16,384. The authors take as many as fit into a GPU's shared memory, 10,000 to 20,000. A
            smaller parameter is one block.
        bits: Number of bits of an error: 1, 2, 4, 8 or "whole". Default: None, which stands for 4. "whole" keeps errors
            without quantization, which shows what quantization costs.
        quantization_block_size: Number of neighbouring entries whose errors share a range, at least 1. Default: None,
            which stands for 100,000. The authors also use 32 and 64.
        state_dtype: Dtype of the window's values and of the ranges of errors. Default: None, which stands for bfloat16.

    Returns:
        A transformation. Its state is `bits / 8 + 4 * window * density + 4 / quantization_block_size` bytes per
        parameter, which is 0.9 with the defaults.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_micro_adam(density=0.5)
        >>> params = jnp.zeros(4)
        >>> updates, state = tx.update(jnp.array([1.0, -2.0, 3.0, 0.5]), tx.init(params), params)
        >>> updates.round(2).tolist()
        [0.0, -1.0, 1.0, 0.0]
        >>> updates, state = tx.update(jnp.zeros(4), state, params)
        >>> (updates[0] > 0).item()
        True

    Reference:
        arXiv:2405.15593
    """
    rule = _rule(window, density, b1, b2, eps, alpha, block_size, bits, quantization_block_size, state_dtype)
    return only_real("scale_by_micro_adam", _only_direction(rule))


def micro_adam(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    density: float | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    alpha: float | None = None,
    add_residual: bool = False,
    block_size: int | None = None,
    bits: Bits | None = None,
    quantization_block_size: int | None = None,
    state_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW on the largest entries of the last gradients, with less than one byte of state per parameter.

    The update rule is `x = x - lr * (u + wd * x)`, with u from `scale_by_micro_adam`.

    Use it when Adam's state does not fit into memory: with the defaults its state is 0.9 bytes per parameter, where
    Adam's is 8. Avoid it when Adam's state fits, or when parameters are sharded over 8 devices or more, because it
    gathers flattened gradients and its own state is not sharded. The learning rate must be lower than Adam's: with the
    defaults, an entry that is in the whole window and does not change moves by up to 6.5 learning rates (see
    `scale_by_micro_adam`). After a NaN in the gradient of a parameter, all updates of that parameter are NaN: put
    `optax.apply_if_finite` around the optimizer if gradients can contain NaN.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The authors fine-tune language models with
            1e-5 to 1e-4.
        window: See `scale_by_micro_adam`. Default: None, which stands for 10.
        density: See `scale_by_micro_adam`. Default: None, which stands for 0.01.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, above 0. Default: 1e-8.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        alpha: See `scale_by_micro_adam`. Default: None, which stands for 0.
        add_residual: Whether the part of the errors that quantization removes is subtracted from the parameters at
            once, without the learning rate; the authors' `alpha=-2`. Default: False. It is gradient descent at rate 1
            on that part, and diverges unless gradients are far smaller than parameters.
        block_size: See `scale_by_micro_adam`. Default: None, which stands for 16,384.
        bits: See `scale_by_micro_adam`. Default: None, which stands for 4.
        quantization_block_size: See `scale_by_micro_adam`. Default: None, which stands for 100,000.
        state_dtype: See `scale_by_micro_adam`. Default: None, which stands for bfloat16.

    Returns:
        An optimizer. Its state is `bits / 8 + 4 * window * density + 4 / quantization_block_size` bytes per parameter,
        which is 0.9 with the defaults.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.micro_adam(1e-3)
        >>> optkit.cost(tx, {"w": jnp.zeros((1000, 1000))}, state_only=True).state_bytes
        900444

    Reference:
        arXiv:2405.15593
    """
    refuse_arrays(mask=mask)
    rule = _rule(window, density, b1, b2, eps, alpha, block_size, bits, quantization_block_size, state_dtype)
    decay = add_decay("micro_adam", weight_decay, mask)
    behind = optax.chain(decay, optax.scale_by_learning_rate(learning_rate))
    tx = _with_residual(rule, behind) if add_residual else optax.chain(_only_direction(rule), behind)
    return only_real("micro_adam", in_float32(tx))


METHODS = (
    Method(
        name="micro_adam",
        factory=micro_adam,
        kind="optimizer",
        summary="Adam on the largest entries of the last 10 gradients, with error feedback in 4 bits for the rest.",
        paper=Paper(
            "MicroAdam: Accurate Adaptive Optimization with Low Space Overhead and Provable Convergence",
            "Modoranu et al.",
            2024,
            "2405.15593",
        ),
        also_known_as=("MicroAdam",),
        parts=(scale_by_micro_adam,),
        example={"learning_rate": 1e-2},
        grid=1e-3,
        golden="microadam",
    ),
)
