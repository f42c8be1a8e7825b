"""AGVM: a learning rate for each module of a network, so that all their updates are as noisy as a reference's.

Xue, Liang, Song, Zhuo, Chen, Liu, Luo, "Large-batch Optimization for Dense Visual Predictions", 2022, arXiv:2210.11078.
The rule is that of the authors' code (Sense-X/AGVM, agvm_optimizer_hook.py), which bounds the ratio of the noises,
whereas the paper does not. The noise is one minus the cosine between the gradients of two halves of the batch.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype, widen
from optkit.core.trees import resolve
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.rows import count_rows, mean_over_rows, over_rows, require_reduced, require_rows
from optkit.method import Method, Paper

__all__ = ["AGVMState", "agvm"]

NORM_EPS = 1e-8  # below it, a gradient has no direction: PyTorch's cosine_similarity


class AGVMState(NamedTuple):
    """State of `agvm`, equal on all workers.

    Attributes:
        count: Number of steps so far, a scalar.
        scales: The factors on the modules' learning rates, a vector in the order of the modules' sorted names.
        inner_state: State of the inner optimizer.
    """

    count: jax.Array
    scales: jax.Array
    inner_state: Any


def agvm(
    inner: optax.GradientTransformation,
    labels: Any,
    reference: str,
    *,
    start: int | jax.Array = 500,
    stop: int | jax.Array | None = None,
    interval: int | jax.Array = 5,
    decay: jax.typing.ArrayLike = 0.97,
    min_ratio: jax.typing.ArrayLike = 0.5,
    max_ratio: jax.typing.ArrayLike = 10.0,
    eps: jax.typing.ArrayLike = 1e-6,
    inner_b2: float | jax.Array | None = None,
    inner_eps: jax.typing.ArrayLike = 1e-8,
    follow: Literal["code", "paper"] = "paper",
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the updates of each module by a factor, so that all modules are as noisy as a reference.

    The update rule, where g1 and g2 are the mean gradients of a module over the two halves of the batch, and noise_ref
    is the noise of the module `reference`::

        noise = 1 - cosine(g1, g2)
        ratio = clip((noise_ref + eps) / (noise + eps), min_ratio, max_ratio)
        s = decay * s + (1 - decay) * sqrt(ratio)     # in steps that are multiples of interval, s starts at 1
        x = x + s * u                                 # u is the update of inner

    Use it to train networks of several modules with very different numbers of samples each (the backbone, neck and
    heads of a detector) with large batches. Avoid it when the batch cannot be split into an even number of equal parts,
    because it compares the mean gradient of the first half with that of the second. In the steps that adapt the
    factors, communication is twice that of plain data parallel training.

    **Do not average the gradients before it**: with `axis_name`, `update` takes each worker's own gradient and averages
    it itself. Put clipping and coupled weight decay inside `inner`, which gets the mean. Decoupled weight decay in
    `inner` is multiplied by the factor too.

    Args:
        inner: The optimizer that is wrapped, with its learning rate.
        labels: The module of each leaf: a tree of strings, which may be a prefix of the parameters, or a function that
            makes it from them.
        reference: The module whose factor stays 1; in the paper it is the backbone.
        start: The first step with factors, counted from 0. Default: 500. It should be about 100 steps after the end of
            the warm-up.
        stop: The last step with factors. Default: None, which is never.
        interval: The factors adapt in steps that are multiples of it, at least 1. Default: 5.
        decay: How much of the factors stays when they adapt, in [0, 1]. Default: 0.97.
        min_ratio: Lower bound on the ratio of the reference's noise to that of a module, in (0, 1]. Default: 0.5.
        max_ratio: Upper bound on that ratio, at least 1. Default: 10. The factor is the square root of the ratio.
        eps: Added to both noises, above 0. Default: 1e-6.
        inner_b2: The inner optimizer's `b2`, if it is Adam or a relative. The compared gradients are then divided as it
            divides them, by the second moment `nu` in its state. Default: None, plain gradients.
        inner_eps: The inner optimizer's epsilon in that case, at least 0. Default: 1e-8.
        follow: Only with `inner_b2`. `"code"` divides gradients once more by the number of parts before they are
            preconditioned, as the authors' code does, although the second moment does not fit them then. Default:
            `"paper"`.
        axis_name: Name of the axis over workers. None (the default): each leaf of the gradients has a leading axis, one
            row per microbatch, which `update` removes.

    Returns:
        A transformation with an `AGVMState`.

    Raises:
        ValueError: If a hyperparameter is out of its range, if no leaf has the label `reference`, or if `inner` has no
            second moment. From `update`, if the number of parts is odd.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> labels = {"backbone": "backbone", "head": "head"}
        >>> tx = optkit.agvm(optax.sgd(1.0), labels, "backbone", start=0, decay=0.0)
        >>> params = {"backbone": jnp.zeros(2), "head": jnp.zeros(2)}
        >>> halves = {"backbone": jnp.array([[1.0, 0.0], [3.0, 4.0]]), "head": jnp.array([[1.0, 0.0], [4.0, 3.0]])}
        >>> updates, state = tx.update(halves, tx.init(params), params)
        >>> state.scales.round(3)  # cosines of 0.6 and 0.8: the head has half the noise
        Array([1.   , 1.414], dtype=float32)

    Reference:
        arXiv:2210.11078
    """
    refuse_arrays(labels=labels, reference=reference, follow=follow, axis_name=axis_name)
    check_option("follow", follow, Literal["code", "paper"])
    check_range("interval", interval, 1)
    check_range("decay", decay, 0.0, 1.0)
    check_range("min_ratio", min_ratio, 0.0, 1.0, low_open=True)
    check_range("max_ratio", max_ratio, 1.0)
    check_range("eps", eps, 0.0, low_open=True)
    check_range("inner_b2", inner_b2, 0.0, 1.0, high_open=True)
    check_range("inner_eps", inner_eps, 0.0)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        inner_state = inner.init(params)
        if inner_b2 is not None:
            _second_moment(inner_state)
        modules = _modules(_label_leaves(labels, params), reference)
        return AGVMState(jnp.zeros([], jnp.int32), jnp.ones(len(modules), scalar_dtype(params)), inner_state)

    def adapt(scales, halves):
        names = _label_leaves(labels, halves[0])
        modules = _modules(names, reference)
        noise = jnp.stack([_noise(*(_leaves_of(module, names, half) for half in halves)) for module in modules])
        ratio = (noise[modules.index(reference)] + eps) / (noise + eps)
        new_scales = jnp.sqrt(jnp.clip(ratio, min_ratio, max_ratio))  # the authors' new factors
        return (decay * scales + (1 - decay) * new_scales).astype(scales.dtype)

    def mean_and_scales(row, state, *, axis_name):
        rows = _count_even_rows(row, axis_name)
        mean = mean_over_rows(row, axis_name)

        def compare(scales):
            halves = _halves(row, mean, axis_name)
            if inner_b2 is not None:
                nu, divisor = _second_moment(state.inner_state), rows if follow == "code" else 1
                halves = tuple(_precondition(half, nu, inner_b2, inner_eps, divisor) for half in halves)
            return adapt(scales, halves)

        due = _is_active(state.count, start, stop) & (state.count % interval == 0)
        return mean, collectives.cond(due, compare, lambda scales: scales, state.scales)

    def update_fn(updates, state, params=None, **extra_args):
        if axis_name is None:
            require_rows(updates, "agvm")
        mean, scales = over_rows(mean_and_scales, axis_name)(widen(updates), state)
        require_reduced(mean, params, "agvm")
        mean = optax.tree.cast_like(mean, updates)
        inner_updates, inner_state = inner.update(mean, state.inner_state, params, **extra_args)
        factors = jnp.where(_is_active(state.count, start, stop), scales, 1)
        names = _label_leaves(labels, inner_updates)
        factor_of = dict(zip(_modules(names, reference), factors, strict=True))

        def scale(update, module):
            return (factor_of[module] * update).astype(update.dtype)

        scaled = jax.tree.map(scale, inner_updates, names)
        return scaled, AGVMState(jnp.asarray(optax.safe_increment(state.count)), scales, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _label_leaves(labels: Any, tree: Any) -> Any:
    """Labels every leaf with its module."""
    return resolve("labels", labels, tree)


def _modules(names: Any, reference: str) -> list[str]:
    """Returns the sorted names of all modules."""
    modules = set(jax.tree.leaves(names))
    if modules and reference not in modules:
        raise ValueError(f"reference must be one of the labels {sorted(modules)}, got {reference!r}")
    return sorted({reference, *modules})


def _leaves_of(module: str, names: Any, tree: Any) -> list[jax.Array]:
    return [x for name, x in zip(jax.tree.leaves(names), jax.tree.leaves(tree), strict=True) if name == module]


def _is_active(count: jax.Array, start: jax.typing.ArrayLike, stop: jax.typing.ArrayLike | None) -> jax.Array:
    """Returns whether a step has factors."""
    return (count >= start) if stop is None else (count >= start) & (count <= stop)


def _precondition(
    gradient: Any, nu: Any, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, divisor: jax.typing.ArrayLike
) -> Any:
    """Divides a gradient as Adam would if the batch had that gradient, without bias correction."""
    gradient = optax.tree.scale(1 / divisor, gradient)
    nu = optax.tree.update_moment_per_elem_norm(gradient, nu, b2, order=2)
    return jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), gradient, nu)


def _count_even_rows(row: Any, axis_name: AxisName) -> int:
    rows = count_rows(row, axis_name, "agvm")
    if rows % 2 and jax.tree.leaves(row):
        raise ValueError(f"agvm compares two halves of the batch and needs an even number of parts, got {rows}")
    return rows


def _halves(row: Any, mean: Any, axis_name: AxisName) -> tuple[Any, Any]:
    """Returns the mean of the first half of the rows and that of the second, from the mean of all and one more sum.

    Sums over groups of workers would be simpler, but `vmap` does not support them.
    """
    sign = jnp.where(2 * jax.lax.axis_index(axis_name) < jax.lax.axis_size(axis_name), 1, -1)
    half_difference = mean_over_rows(jax.tree.map(lambda g: sign.astype(g.dtype) * g, row), axis_name)
    return optax.tree.add(mean, half_difference), optax.tree.sub(mean, half_difference)


def _noise(*halves: list[jax.Array]) -> jax.Array:
    """Returns one minus the cosine between two gradients, exact if they are almost parallel."""
    norms = [optax.tree.norm(half) for half in halves]
    units = [optax.tree.scale(1 / jnp.maximum(norm, NORM_EPS), half) for norm, half in zip(norms, halves, strict=True)]
    missing = sum(1 - jnp.minimum(norm / NORM_EPS, 1) ** 2 for norm in norms)
    return (optax.tree.norm(optax.tree.sub(*units), squared=True) + missing) / 2


def _second_moment(inner_state: Any) -> Any:
    found = optax.tree.get_all_with_path(inner_state, "nu")
    if len(found) != 1:
        raise ValueError(f"with inner_b2, the state of inner must have one second moment nu, got {len(found)}")
    return found[0][1]


def _first_leaf_and_rest(tree):
    """Labels the first leaf "reference" and all others "rest"."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(["reference" if index == 0 else "rest" for index in range(len(leaves))])


METHODS = (
    Method(
        name="agvm",
        factory=agvm,
        kind="wrapper",
        summary="Multiplies each module's updates by a factor that makes all modules equally noisy.",
        paper=Paper(
            "Large-batch Optimization for Dense Visual Predictions",
            "Xue, Liang, Song, Zhuo, Chen, Liu, Luo",
            2022,
            "2210.11078",
        ),
        also_known_as=("adaptive gradient variance modulator",),
        parts=(AGVMState,),
        example={"labels": _first_leaf_and_rest, "reference": "reference", "start": 0, "interval": 2},
        grid=0.1,
        stacked="microbatches",
    ),
)
