"""AGVM: a learning rate for each module of a network, such that all their updates are as noisy as the first one's.

Xue, Liang, Song, Zhuo, Chen, Liu, Luo, "Large-batch Optimization for Dense Visual Predictions", 2022, arXiv:2210.11078.
The rule is that of the authors' code (Sense-X/AGVM, agvm_optimizer_hook.py), which bounds the ratio of the noises where
the paper does not. Noise is one minus the cosine between the gradients of two halves of the batch.
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
        count: how many steps were taken, a scalar.
        scales: the factors on the modules' learning rates, a vector in the order of their sorted names.
        inner_state: that of the inner optimizer.
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
    """Multiplies the inner optimizer's updates of each module, so that all modules are as noisy as a reference.

    For networks of several modules with very different numbers of samples each (a detector's backbone, neck and heads),
    trained with large batches. It takes the gradients of an even number of equal parts of the batch and compares the
    mean of the first half with that of the second. **Do not average them before**: with `axis_name`, `update` takes
    each worker's own gradient and averages it itself. Clipping and coupled weight decay stand in `inner`, which gets
    the mean; a decoupled weight decay there is multiplied too. In the steps that adapt the factors, communication is
    twice that of plain data parallel training.

    Args:
        inner: a whole optimizer, learning rate included.
        labels: the module of each leaf: a tree of strings, a prefix of the parameters, or a function that makes it from
            them.
        reference: the module whose factor stays 1, in the paper the backbone.
        start: the first step with factors, from 0; default 500, to be some 100 after the end of the warm-up.
        stop: the last such step; default None, no end.
        interval: the factors adapt in steps that are multiples of it, at least 1; default 5.
        decay: how much of the factors stays when they adapt, in [0, 1]; default 0.97.
        min_ratio: the least ratio of the reference's noise to a module's, in (0, 1]; default 0.5.
        max_ratio: the largest, at least 1; default 10. The factor is the root of the ratio.
        eps: added to both noises, positive; default 1e-6.
        inner_b2: the inner optimizer's `b2`, if it is Adam or a relative: then the gradients that are compared are
            divided as it divides them, by the second moment `nu` in its state. Default None, plain gradients.
        inner_eps: the inner optimizer's epsilon then, at least 0; default 1e-8.
        follow: with `inner_b2`, `"code"` divides gradients once more by the number of parts before they are
            preconditioned, as the authors' code does, although the moment does not fit them then; default `"paper"`.
        axis_name: the axis over workers; default None: each leaf has a leading axis, over microbatches, which `update`
            removes.

    Returns:
        A transformation with an `AGVMState`.

    Raises:
        ValueError: if a hyperparameter is out of its range, no leaf has the label `reference`, or `inner` has no second
            moment; from `update`, if the number of parts is odd or one.

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
        Xue, Liang, Song, Zhuo, Chen, Liu, Luo, "Large-batch Optimization for Dense Visual Predictions", 2022,
        arXiv:2210.11078.
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
    """The names of all modules, sorted."""
    modules = set(jax.tree.leaves(names))
    if modules and reference not in modules:
        raise ValueError(f"reference must be one of the labels {sorted(modules)}, got {reference!r}")
    return sorted({reference, *modules})


def _leaves_of(module: str, names: Any, tree: Any) -> list[jax.Array]:
    return [x for name, x in zip(jax.tree.leaves(names), jax.tree.leaves(tree), strict=True) if name == module]


def _is_active(count: jax.Array, start: jax.typing.ArrayLike, stop: jax.typing.ArrayLike | None) -> jax.Array:
    """Whether a step has factors."""
    return (count >= start) if stop is None else (count >= start) & (count <= stop)


def _precondition(
    gradient: Any, nu: Any, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, divisor: jax.typing.ArrayLike
) -> Any:
    """Divides a gradient as Adam would, had it alone been the batch's, without the corrections of bias."""
    gradient = optax.tree.scale(1 / divisor, gradient)
    nu = optax.tree.update_moment_per_elem_norm(gradient, nu, b2, order=2)
    return jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), gradient, nu)


def _count_even_rows(row: Any, axis_name: AxisName) -> int:
    rows = count_rows(row, axis_name, "agvm")
    if rows % 2 and jax.tree.leaves(row):
        raise ValueError(f"agvm compares two halves of the batch and needs an even number of parts, got {rows}")
    return rows


def _halves(row: Any, mean: Any, axis_name: AxisName) -> tuple[Any, Any]:
    """The mean of the first half of the rows and that of the second, from the mean of all and one more sum.

    Sums over groups of workers would do, but `vmap` has none.
    """
    sign = jnp.where(2 * jax.lax.axis_index(axis_name) < jax.lax.axis_size(axis_name), 1, -1)
    half_difference = mean_over_rows(jax.tree.map(lambda g: sign.astype(g.dtype) * g, row), axis_name)
    return optax.tree.add(mean, half_difference), optax.tree.sub(mean, half_difference)


def _noise(*halves: list[jax.Array]) -> jax.Array:
    """One minus the cosine between two gradients, exact where they are almost parallel."""
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
        summary="A factor on each module's learning rate that makes all their updates equally noisy.",
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
