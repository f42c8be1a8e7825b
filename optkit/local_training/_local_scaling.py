"""SAVIC: local SGD whose steps all workers scale by one diagonal, which changes only where they are together.

Chezhegov, Skorik, Khachaturov, Shalagin, Avetisyan, Takac, Kholodov, Beznosikov, "Local Methods with Adaptivity via
Scaling", 2024, arXiv:2406.00846, with one diagonal for all workers. The diagonals are those of Beznosikov et al.,
"Stochastic Gradient Methods with Preconditioned Updates", 2022, arXiv:2206.00285. When in a round the diagonal is
refreshed is our reading: in its first step, at the averaged parameters.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core import keys
from optkit.core.checks import check_option, check_period, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import require_params, require_whole_tree
from optkit.core.hessian_products import hessian_products_at
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.trees import mask_tree, unmask_tree
from optkit.core.types import AxisName, Key, Mask
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import check_axis_name
from optkit.local_training._due import average_due
from optkit.method import Method, Paper, Variant

__all__ = ["local_scaling"]

ScalingKind = Literal["adam", "rmsprop", "oasis"]
ScalingClip = Literal["max", "add"]


class LocalScalingState(NamedTuple):
    """State of `local_scaling`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        diagonal: The average of squared gradients, or with the kind "oasis" of the Hessian's diagonal, in float32 at
            least. It is equal on all workers.
        key: Raw data of the key for the next random signs, equal on all workers. None unless the kind is "oasis".
    """

    count: jax.typing.ArrayLike
    diagonal: optax.Updates
    key: Any


def local_scaling(
    learning_rate: optax.ScalarOrSchedule,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 0.1,
    key: Key = 0,
    *,
    axis_name: AxisName | None,
    every: int | jax.Array = 16,
    kind: ScalingKind = "adam",
    clip: ScalingClip = "max",
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Local SGD whose steps all workers scale by one diagonal, which changes only where they are together.

    The update rule of worker i, where g is the mean of the workers' gradients, H of their Hessians, z a random vector
    of signs that all workers draw alike, and p counts refreshes from 0::

        S = g^2 and D^2 = b_p * D^2 + (1 - b_p) * S     # in the first of `every` steps; "rmsprop": b_p = b2,
                                                        # "adam": b_p = (b2 - b2^(p+1)) / (1 - b2^(p+1))
        D = b2 * D + (1 - b2) * z * (H z)               # in the same step, if kind="oasis"
        x_i = x_i - lr * g_i / max(|D|, eps)            # in every step; clip="add": |D| + eps
        x_i = mean over workers of x_i                  # in the last of `every` steps

    The first refresh has b_p = 0. Give each worker its own gradients, not averaged. In a chain it must be the last
    transformation, because it overwrites the parameters.

    Use it where coordinates have very different scales, and averaging gradients in every step takes too long: workers
    that all scale alike find the same minimum, and need no memory but the diagonal. Avoid it where gradients are noisy
    and `every` is large, because a diagonal of one batch then scales many steps; `mt_dao` averages over all of them.

    What it sends: the gradients (with "oasis" the products) in the first of `every` steps, and the parameters in the
    last, each as large as the parameters, in one collective under a conditional, which needs temporary memory for one
    copy of them.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b2: Decay rate of the second moment, or of the Hessian's diagonal, in [0, 1), for each refresh. Default: 0.95.
        eps: Added to the magnitude of the diagonal, or with `clip="max"` its least value, above 0. Default: 0.1. The
            smaller it is, the longer are the steps of coordinates whose gradient was near zero in a refresh.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers. Only the kind
            "oasis" draws.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        every: Number of steps from one average of the parameters to the next, an integer, at least 1. Default: 16.
        kind: What the diagonal is: the root of an average of squared gradients, with ("adam") or without ("rmsprop")
            Adam's bias correction, or an average of estimates of the Hessian's diagonal ("oasis"). Default: "adam".
        clip: How the diagonal is kept away from zero: "max" with `eps` takes the greater, "add" adds. Default: "max".
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all.

    Returns:
        An optimizer. Its state holds a number per parameter. With the kind "oasis", `update` needs the extra argument
        `hvp_fn(vector)`, this worker's Hessian times a vector at the parameters, or `grad_fn(params)`, this worker's
        gradient, which is then differentiated by `jax.jvp`; it is called in the steps that refresh only.

    Raises:
        ValueError: If a hyperparameter is out of its range, a word is unknown, or `axis_name` is not one name.
        TypeError: If `trainable` is an array. With the kind "oasis", if parameters are complex; from `update`, if
            `hvp_fn` and `grad_fn` are missing, or inside `optax.masked` or `optax.partition`.

    Example:
        >>> import optkit
        >>> tx = optkit.local_scaling(0.5, axis_name="workers", every=1)
        >>> def first_update(gradient):
        ...     params = jnp.zeros([])
        ...     return tx.update(gradient, tx.init(params), params)[0]
        >>> step = optkit.on_workers(first_update, axis_name="workers", backend="vmap")
        >>> step(jnp.array([20.0, -60.0]))
        Array([0.5, 0.5], dtype=float32)

    Reference:
        arXiv:2406.00846
    """
    refuse_arrays(kind=kind, clip=clip, trainable=trainable)
    scaled = local_scaling_by_draws(learning_rate, b2, eps, axis_name, every, kind, clip)
    draws = kind == "oasis"

    def inside(tree):
        return mask_tree(trainable, tree, "trainable")

    def init_fn(params):
        if draws:
            refuse_complex(params, "local_scaling", functions=True)
        return first_state(inside(params), keys.key_data(key) if draws else None)

    def update_fn(updates, state, params=None, *, grad_fn: Any = None, hvp_fn: Any = None, **extra_args):
        del extra_args
        require_params(params, "local_scaling")
        own = inside(params)

        def draw():
            key_data, fresh = keys.split(state.key, key)
            return optax.tree.random_like(fresh, own, jax.random.rademacher), key_data

        def product(vector):
            whole = unmask_tree(vector, optax.tree.zeros_like(params))
            if hvp_fn is not None:
                return inside(hvp_fn(whole))
            return inside(hessian_products_at("local_scaling", grad_fn, None)(params, whole))

        if draws:
            require_whole_tree(updates, "local_scaling")
        moved, next_state = scaled.update(inside(updates), state, own, draw=draw, product=product)
        return unmask_tree(moved, optax.tree.zeros_like(updates)), next_state

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def first_state(params: Any, key_data: Any) -> LocalScalingState:
    """Returns the state before the first step."""
    return LocalScalingState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), key_data)


def local_scaling_by_draws(
    learning_rate: optax.ScalarOrSchedule,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    axis_name: AxisName | None,
    every: int | jax.Array,
    kind: ScalingKind,
    clip: ScalingClip,
) -> optax.GradientTransformationExtraArgs:
    """Builds `local_scaling` for signs that the caller draws.

    Args:
        learning_rate: The learning rate.
        b2: Decay rate of the diagonal.
        eps: What keeps it away from zero.
        axis_name: Name of the axis over workers, or None.
        every: Number of steps between two averages.
        kind: What the diagonal is.
        clip: How it is kept away from zero.

    Returns:
        An optimizer. With the kind "oasis", its `update` takes `draw()`, which returns signs and the next key of the
        state, and `product(vector)`, the Hessian times a vector.
    """
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0, low_open=True)
    check_period("every", every)
    check_option("kind", kind, ScalingKind)
    check_option("clip", clip, ScalingClip)
    if axis_name is not None:
        check_axis_name(axis_name)

    def init_fn(params):
        return first_state(params, None)

    def update_fn(updates, state, params=None, *, draw: Any = None, product: Any = None, **extra_args):
        del extra_args
        gradient, period = nan_for_infinite(updates), jnp.asarray(every, state.count.dtype)

        def refreshed():
            decay, key_data = decay_at(state.count // period, params), state.key
            if kind == "oasis":
                signs, key_data = draw()
                fresh = jax.tree.map(jnp.multiply, signs, product(signs))  # z * (H z)
                diagonal = optax.tree.update_moment(collectives.pmean(fresh, axis_name), state.diagonal, decay, 1)
            else:
                mean = collectives.pmean(gradient, axis_name)
                diagonal = optax.tree.update_moment_per_elem_norm(mean, state.diagonal, decay, 2)
            return optax.tree.cast_like(diagonal, state.diagonal), key_data

        if not isinstance(every, jax.Array) and every == 1:
            diagonal, key_data = refreshed()
        else:
            kept = state.diagonal, state.key
            diagonal, key_data = collectives.cond(state.count % period == 0, refreshed, lambda: kept)
        rate = value_at(learning_rate, state.count)
        new = jax.tree.map(
            lambda x, g, d: x - (rate * g / scale(d)).astype(x.dtype), params, gradient, diagonal
        )  # x_i - lr g_i / D
        count = optax.safe_increment(state.count)
        (new,) = average_due([new], [every], count, axis_name)
        return overwrite(new, params), LocalScalingState(count, diagonal, key_data)

    def decay_at(refreshes, params):
        """Returns b_p, which is 0 in the first refresh."""
        if kind != "adam":
            return jnp.where(refreshes == 0, 0.0, b2)
        power = jnp.power(b2, jnp.asarray(refreshes + 1, scalar_dtype(params)))
        return (b2 - power) / (1 - power)

    def scale(diagonal):
        size = jnp.abs(diagonal) if kind == "oasis" else jnp.sqrt(jnp.abs(diagonal))
        least = jnp.asarray(eps, size.dtype)
        return jnp.maximum(size, least) if clip == "max" else size + least

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


METHODS = (
    Method(
        name="local_scaling",
        factory=local_scaling,
        kind="optimizer",
        summary="Local SGD whose steps all workers scale by one diagonal, which changes only where they are together.",
        paper=Paper("Local Methods with Adaptivity via Scaling", "Chezhegov et al.", 2024, "2406.00846"),
        also_known_as=("SAVIC", "local Adam with scaling", "local OASIS", "preconditioned local SGD"),
        example={"learning_rate": 1e-3, "axis_name": "workers"},
        grid=1e-2,
        needs=("axis_name",),
        variants={"rmsprop": Variant({"kind": "rmsprop", "b2": 0.9, "clip": "add", "every": 4}, grid=1e-2)},
    ),
)
