"""DRCGD: decentralized conjugate gradients over matrices with orthonormal columns, the Stiefel manifold.

Chen, Ye, Wang, Huang, Dai, Tsang, Liu, "Decentralized Riemannian Conjugate Gradient Method on the Stiefel Manifold",
2023, arXiv:2308.10547. Iterates come back to the manifold by the polar factor, directions to its tangent space by
projection; there is no other retraction or transport. The paper's code was not at hand: the rule is its Algorithm 1.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.svd import svd
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import mask_tree, resolve, unmask_tree
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing, overwrite
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["drcgd"]

Beta = Literal["fletcher_reeves", "polak_ribiere", "zero"]


class DrcgdState(NamedTuple):
    """State of `drcgd`; all but the count are each worker's own.

    Attributes:
        count: number of updates so far, equal on all workers.
        direction: the direction of the last step, shaped like the parameters.
        squared_norm: of the last steepest ascent, over all leaves.
        steepest: the last steepest ascent; None where only its norm matters.
        gradient: the last Riemannian gradient; None unless gradients are tracked.
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
    """Descends along conjugate directions over orthonormal matrices, whose workers hear their neighbours only (DRCGD).

    Start each worker from matrices with orthonormal columns; they have them after every step. It comes last in a chain,
    since it overwrites parameters. Do not count on conjugate directions to beat `beta="zero"`, the plain projected
    gradient: on small principal component problems they were ahead while the rate fell, and never settled where it did
    not.

    Args:
        learning_rate: a positive number, as in the paper's experiments, or a schedule: its theory lets it fall.
        topology: who hears whom; symmetric in the paper.
        axis_name: the axis over workers.
        mixing: how parameters, directions and tracked gradients are mixed; None: `mix`. The paper's theory needs
            several rounds, `repeated_mix`.
        beta: how much of the last direction stays: "fletcher_reeves" (default), "polak_ribiere" (not less than zero),
            or "zero".
        track: whether each worker follows the mean of all workers' gradients in place of its own; default False, as in
            the paper. Where workers' data differ, a constant rate leaves a bias; with `beta="zero"` this makes it many
            times smaller, not zero, since what is tracked is projected anew at each point. Conjugate directions of
            tracked gradients did not settle.
        stiefel: tree of booleans, a prefix of the parameters, or a function that makes it from them: the leaves that
            are matrices with orthonormal columns, by their last two axes; False is none. The others move freely. By
            default all leaves of at least two axes that are not wider than high.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. Its state is one number a parameter; one more
        with "polak_ribiere", two more with `track`. A step sends two numbers a parameter, three with `track`, in each
        round of the topology and each of `mixing`.

    Raises:
        ValueError: if `beta` is unknown, or `axis_name` is not one name; from `init`, if a leaf of `stiefel` is no
            matrix or wider than high.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

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
        Chen et al., "Decentralized Riemannian Conjugate Gradient Method on the Stiefel Manifold", 2023,
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
    """The leaves that can have orthonormal columns."""
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
    """Applies a function to the leaves on the manifold, and gives the last tree's leaves elsewhere."""
    trees = (tree, *rest)
    return unmask_tree(function(*(mask_tree(stiefel, each) for each in trees)), trees[-1])


def _project(x: jax.Array, u: jax.Array) -> jax.Array:
    """Projects vectors on the tangent space at x, `u - x sym(x'u)`."""
    product = jnp.einsum("...ij,...ik->...jk", jnp.conj(x), u)
    return u - jnp.einsum("...ij,...jk->...ik", x, (product + jnp.conj(product.mT)) / 2)


def _polar(x: jax.Array) -> jax.Array:
    """Gives the nearest matrices with orthonormal columns, `UV'` of the singular value decomposition."""
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
