"""The wrapper that finds a new subspace every so many steps, and gives it to an inner transformation."""

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
        count: Number of updates so far, equal on all workers.
        key: Raw data of the key for the next draw of projections, equal on all workers; None if projections are not
            drawn.
        projections: Tree with the projection of each leaf. For projections along vectors, a pair of such trees, for
            vectors on the left and on the right, with None on a side without vectors. Sharded as the projector's module
            describes; equal on all workers if the gradients are.
        inner: State of the inner transformation.
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
    """Finds new projections from the gradient every `update_gap` steps, and gives them to an inner transformation.

    Args:
        inner: Transformation with the extra arguments `projections`, a tree with one projection for each leaf, and
            `refreshed`, whether they are new. As arguments, they can also come from a recorded run.
        projector: Chooses the subspaces.
        update_gap: Number of steps for which projections are kept, at least 1.
        key: Seed of the random draws, an integer or a JAX key. None for projectors without random draws.
        short_first_period: Whether the second projections are found one step early.

    Returns:
        A transformation with an `AlongProjectionsState`.

    Raises:
        ValueError: If `update_gap` is not a positive integer, or if `key` is missing for a projector with random draws.
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
    """Runs one transformation on the projected leaves and another one on the other leaves.

    Args:
        method: Public name of the transformation, for messages.
        projected: Transformation for the leaves with a subspace, which it sees as matrices if the projector takes
            matrices.
        other: Transformation for the leaves that are not projected.
        projector: Its `is_empty` determines which subspaces have dimension zero.
        leaves: Which leaves are projected, see `chosen_leaves`. If the projector takes matrices, leaves that are not
            matrices are never projected.
        weight_dimension_numbers: See `leaf_views`.
        without_subspace: Transformation for projected leaves whose subspace has dimension zero; None stands for
            `other`.

    Returns:
        The transformation that runs all of them.
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
