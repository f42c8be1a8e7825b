"""DRCGD: decentralized conjugate gradients over matrices with orthonormal columns, the Stiefel manifold.

Chen, Ye, Wang, Huang, Dai, Tsang, Liu, "Decentralized Riemannian Conjugate Gradient Method on the Stiefel Manifold",
2023, arXiv:2308.10547. The polar factor maps iterates back to the manifold, and a projection maps directions to its
tangent space; there is no other retraction or transport. The authors' code was not available: the rule is Algorithm 1
of the paper.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.svd import svd
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import mask_tree, resolve, unmask_tree
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["drcgd"]

Beta = Literal["fletcher_reeves", "polak_ribiere", "zero"]


class DrcgdState(NamedTuple):
    """State of `drcgd`. All but the count are each worker's own.

    Attributes:
        count: Number of updates so far, equal on all workers.
        direction: The direction of the last step, shaped like the parameters.
        squared_norm: Squared norm of the last steepest ascent, over all leaves.
        steepest: The last steepest ascent. None if only its norm is needed.
        gradient: The last Riemannian gradient. None unless gradients are tracked.
    """

    count: jax.typing.ArrayLike
    direction: optax.Updates
    squared_norm: jax.Array
    steepest: Any
    gradient: Any


def drcgd(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    beta: Beta = "fletcher_reeves",
    track: bool = False,
    stiefel: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Decentralized conjugate gradients over matrices with orthonormal columns (DRCGD).

    The update rule, where i and j are workers, W is the mixing matrix of the topology, P_x projects on the tangent
    space at x, polar returns the nearest matrix with orthonormal columns, and norms are over all leaves::

        s_i = P_x(g_i)
        a_i = |s_i|^2 / |s_i of the last step|^2                     # 0 in the first step
        d_i = -s_i + a_i * P_x(sum_j W_ij * d_j)
        x_i = polar(sum_j W_ij * x_j + lr * d_i)

    Start each worker from matrices with orthonormal columns; they keep this property in every step. Give each worker
    its own gradients, not averaged. In a chain it must be the last transformation, because it overwrites the
    parameters.

    Use it when parameters are matrices that must have orthonormal columns, for example in principal component analysis.
    Avoid conjugate directions when the learning rate is constant: on small principal component problems they were ahead
    of `beta="zero"`, the plain projected gradient, while the rate fell, and never settled where it did not. The method
    sends two numbers per parameter, twice as many as `gossip`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The paper's experiments have a constant; its
            theory requires one that falls.
        topology: Which workers exchange messages, from `optkit.topology`. It is symmetric in the paper.
        axis_name: Name of the axis over workers.
        mixing: How workers mix parameters, directions and tracked gradients. The paper's theory needs several rounds,
            `repeated_mix`. Default: `mix`, one weighted mean with the neighbours.
        beta: Rule for the weight a_i of the last direction: "fletcher_reeves", "polak_ribiere" (but not below zero), or
            "zero". Default: "fletcher_reeves".
        track: Whether each worker follows the mean of all workers' gradients instead of its own. If the data of the
            workers differ, a constant learning rate leaves a bias. With `beta="zero"` tracking makes it many times
            smaller, but not zero, because the tracked gradient is projected again at each point. Conjugate directions
            of tracked gradients did not settle. Default: False, as in the paper.
        stiefel: Which leaves are matrices with orthonormal columns, by their last two axes: a tree of booleans (a
            prefix of the parameters is enough), or a function that makes it from the parameters. False stands for none.
            The other leaves move freely. Default: all leaves of at least two axes with at least as many rows as
            columns.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step sends two
        numbers per parameter, three with `track`, in each round of the topology and of `mixing`. Its state is one
        number per parameter; one more with "polak_ribiere", two more with `track`.

    Raises:
        ValueError: If `beta` is unknown, or `axis_name` is not one name. From `init` if a leaf of `stiefel` is not a
            matrix or has more columns than rows.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import optkit
        >>> tx = optkit.drcgd(0.1, optkit.topology.ring(4), axis_name="workers")
        >>> def step(params, grads):
        ...     updates, _ = tx.update(grads, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> params = step(jnp.tile(jnp.eye(3, 2), (4, 1, 1)), jnp.ones((4, 3, 2)))
        >>> bool(jnp.allclose(params.mT @ params, jnp.eye(2), atol=1e-6))
        True

    Reference:
        arXiv:2308.10547.
    """
    check_option("beta", beta, Beta)
    refuse_arrays(stiefel=stiefel)
    mixing = choose_mixing(mixing, topology, axis_name)

    def on_manifold(params):
        if isinstance(stiefel, bool):
            return jax.tree.map(lambda _: stiefel, params)
        return resolve("stiefel", _tall if stiefel is None else stiefel, params)

    def init_fn(params):
        _require_tall(mask_tree(on_manifold(params), params))
        return DrcgdState(
            count=jnp.zeros([], jnp.int32),
            direction=optax.tree.zeros_like(params),
            squared_norm=jnp.zeros([], scalar_dtype(params)),
            steepest=optax.tree.zeros_like(params) if track or beta == "polak_ribiere" else None,
            gradient=optax.tree.zeros_like(params) if track else None,
        )

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "drcgd")
        rate = value_at(learning_rate, state.count)
        inside = on_manifold(params)

        def tangent(vectors):
            return _inside(inside, lambda x, u: map_equal_shapes(_project, x, u), params, vectors)

        sent = (params, state.direction, state.steepest if track else None)
        mixed, last, tracked = mixing(sent, topology, axis_name, step=state.count, links=links)
        gradient = steepest = tangent(updates)
        if track:
            steepest = tangent(jax.tree.map(lambda s, g, old: s + g - old, tracked, gradient, state.gradient))
        squared_norm = jnp.asarray(optax.tree.norm(steepest, squared=True), state.squared_norm.dtype)
        change = squared_norm
        if beta == "polak_ribiere":
            product = jnp.real(optax.tree.vdot(steepest, state.steepest)).astype(squared_norm.dtype)
            change = jnp.maximum(squared_norm - product, 0)
        known = (state.squared_norm > 1e-30) & (beta != "zero")
        weight = jnp.where(known, change / jnp.where(known, state.squared_norm, 1), 0)  # the conjugate parameter
        direction = jax.tree.map(lambda s, d: weight.astype(s.dtype) * d - s, steepest, tangent(last))
        moved = jax.tree.map(lambda x, d: x + jnp.asarray(rate, x.dtype) * d, mixed, direction)
        new = _inside(inside, lambda x: map_equal_shapes(_polar, x), moved)
        new_state = DrcgdState(
            count=optax.safe_increment(state.count),
            direction=direction,
            squared_norm=squared_norm,
            steepest=None if state.steepest is None else steepest,
            gradient=gradient if track else None,
        )
        return overwrite(new, params), new_state

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _tall(params: Any) -> Any:
    """Returns which leaves can have orthonormal columns."""
    return jax.tree.map(lambda x: x.ndim >= 2 and x.size > 0 and x.shape[-2] >= x.shape[-1], params)


def _require_tall(matrices: Any) -> None:
    def require(path, x):
        if x.ndim < 2 or x.shape[-2] < x.shape[-1]:
            raise ValueError(
                f"stiefel must name matrices that are not wider than high, got the leaf {jax.tree_util.keystr(path)} of"
                f" shape {x.shape}"
            )

    jax.tree.map_with_path(require, matrices)


def _inside(stiefel: Any, function: Any, tree: Any, *rest: Any) -> Any:
    """Applies a function to the leaves on the manifold, and returns the last tree's leaves elsewhere."""
    trees = (tree, *rest)
    return unmask_tree(function(*(mask_tree(stiefel, each) for each in trees)), trees[-1])


def _project(x: jax.Array, u: jax.Array) -> jax.Array:
    """Projects vectors on the tangent space at x, `u - x sym(x'u)`."""
    product = jnp.einsum("...ij,...ik->...jk", jnp.conj(x), u)
    return u - jnp.einsum("...ij,...jk->...ik", x, (product + jnp.conj(product.mT)) / 2)


def _polar(x: jax.Array) -> jax.Array:
    """Returns the nearest matrices with orthonormal columns, `UV'` of the singular value decomposition."""
    left, _, right = svd(x)
    return jnp.einsum("...ij,...jk->...ik", left, right)


METHODS = (
    Method(
        name="drcgd",
        factory=drcgd,
        kind="optimizer",
        summary="Decentralized conjugate gradients over matrices with orthonormal columns.",
        paper=Paper(
            "Decentralized Riemannian Conjugate Gradient Method on the Stiefel Manifold",
            "Chen et al.",
            2023,
            "2308.10547",
        ),
        also_known_as=("decentralized Riemannian conjugate gradient",),
        example={
            "learning_rate": 8e-4,
            "topology": ring(8),
            "axis_name": "workers",
            "beta": "polak_ribiere",
            "stiefel": False,
        },
        grid=0.03,
        needs=("axis_name",),
    ),
)
