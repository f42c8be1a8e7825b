"""The wrapper that finds new subspaces now and then, for an inner transformation to work along."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count
from optkit.core.keys import key_data, split
from optkit.core.stacking import unzip
from optkit.core.trees import copy, with_whole_tree
from optkit.core.types import Key
from optkit.core.workers import collectives
from optkit.memory_efficient._matrices import chosen_leaves, leaf_views, matrix_shape, on_matrices
from optkit.memory_efficient._projector import Projector


class AlongProjectionsState(NamedTuple):
    """State of `along_projections`.

    Attributes:
        count: number of updates so far, equal on all workers.
        key: raw data of the key to draw the next projections with, equal on all workers; None if they are not drawn.
        projections: tree with the projection of each leaf, or a pair of trees for projections along vectors on the left
            and on the right, None where there are none; sharded as its module says; equal on all workers if the
            gradients are.
        inner: state of the transformation that works along them.
    """

    count: jax.typing.ArrayLike
    key: Any
    projections: Any
    inner: optax.OptState


def along_projections(
    inner: optax.GradientTransformationExtraArgs,
    projector: Projector,
    update_gap: int | jax.Array,
    *,
    key: Key | None,
    short_first_period: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Finds new projections from the gradient every `update_gap` steps, for an inner transformation to work along.

    Args:
        inner: takes the extra arguments `projections`, a tree with one for each leaf, and `refreshed`, whether they are
            new. So recorded runs can be replayed.
        projector: chooses the subspaces.
        update_gap: number of steps for which projections stay, at least 1.
        key: for projectors that draw.
        short_first_period: finds the second projections a step early.

    Returns:
        A transformation with an `AlongProjectionsState`.

    Raises:
        ValueError: if `update_gap` is no positive integer, or a projector that draws has no key.
    """
    check_count("update_gap", update_gap)
    if projector.draws and key is None:
        raise ValueError("the projector draws at random: give key, an integer or a JAX key")

    def init_fn(params):
        return AlongProjectionsState(
            count=jnp.zeros([], jnp.int32),
            key=key_data(key) if projector.draws and key is not None else None,
            projections=_apart(projector, params, jax.tree.map(projector.start, params)),
            inner=inner.init(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        step, gap = state.count + int(short_first_period), jnp.asarray(update_gap, jnp.int32)
        refreshed = (state.count == 0) | (step % gap == 0)

        def find(projections, data):
            data, fresh = (None, None) if key is None or data is None else split(data, key)
            return projector.find(updates, projections, step // gap, fresh), data

        def keep(projections, data):
            return projections, data

        last = _together(projector, updates, state.projections)
        projections, data = collectives.cond(refreshed, find, keep, last, state.key)
        updates, inner_state = inner.update(
            updates, state.inner, params, projections=projections, refreshed=refreshed, **extra_args
        )
        count = optax.safe_increment(state.count)
        kept = _apart(projector, updates, projections)
        return updates, AlongProjectionsState(count=count, key=data, projections=kept, inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# A pair at a parameter's place would be taken for a tree of parameters, by `flax.nnx.Optimizer` for example.
def _apart(projector: Projector, like: Any, projections: Any) -> Any:
    return unzip(like, projections, 2) if projector.of_vectors else projections


def _together(projector: Projector, like: Any, kept: Any) -> Any:
    return jax.tree.map(lambda _, *pair: pair, like, *kept) if projector.of_vectors else kept


def in_and_outside(
    method: str,
    projected: optax.GradientTransformationExtraArgs,
    other: optax.GradientTransformation,
    projector: Projector,
    leaves: Any | None,
    weight_dimension_numbers: Any | None,
    without_subspace: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives the leaves that are projected to one transformation and the others to another.

    Args:
        method: the public name of the transformation, for messages.
        projected: for the leaves with a subspace, as matrices if the projector takes these.
        other: for those that are not projected.
        projector: says whose subspace is empty.
        leaves: the leaves that are projected, as in `chosen_leaves`, as far as they are matrices if the projector takes
            these.
        weight_dimension_numbers: how they are seen as matrices, as in `leaf_views`.
        without_subspace: for projected leaves whose subspace is empty; default `other`.

    Returns:
        The partition.
    """

    def label(inside, x, view):
        if not inside or (projector.of_matrices and view is None):
            return "other"
        shape = matrix_shape(view) if projector.of_matrices else x.shape
        return "without_subspace" if projector.is_empty(shape) else "projected"

    def inside(tree):
        return chosen_leaves(method, "leaves", leaves, tree, weight_dimension_numbers)

    def build(inside, weight_dimension_numbers):
        def labels(tree):
            views = leaf_views(tree, weight_dimension_numbers)
            return jax.tree.map(lambda x, inside, view: label(inside, x, view), tree, inside, views)

        transforms: dict[Any, optax.GradientTransformation] = {
            "projected": on_matrices(projected, weight_dimension_numbers) if projector.of_matrices else projected,
            "other": other,
            "without_subspace": without_subspace or other,
        }
        return optax.partition(transforms, labels)

    whole = with_whole_tree(build, inside=inside, weight_dimension_numbers=weight_dimension_numbers)

    def init_fn(params):
        # Shapes alone cannot be seen as matrices.
        params = jax.tree.map(lambda p: copy(p) if isinstance(p, jax.ShapeDtypeStruct) else p, params)
        return whole.init(params)

    return optax.GradientTransformationExtraArgs(init_fn, whole.update)
