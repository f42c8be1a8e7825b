"""Activation matching: reorders the units of other workers' networks to match a worker's own, then averages parameters.

Saadati, Pham, Saleem, Waite, Balu, Jiang, Hegde, Sarkar, "DIMAT: Decentralized Iterative Merging-And-Training for Deep
Learning Models", 2024, arXiv:2404.08079. Units are matched as in Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging
Models modulo Permutation Symmetries", 2022, arXiv:2209.04836.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, require_size
from optkit.decentralized.topology._topology import Round
from optkit.method import Method, Paper

__all__ = ["activation_matched_mix", "align_units", "match_units", "permute_units"]


class Activations(Protocol):
    """A function that maps a network's parameters to the activations of its units."""

    def __call__(self, params: Any, /) -> Mapping[str, jax.Array]:
        """Returns the activations of each group of units on the worker's own examples, the last axis over units."""
        ...


def match_units(own: jax.Array, other: jax.Array) -> jax.Array:
    """Finds the order of another layer's units that correlates best with the units of one's own layer.

    The rule, where activations are centered and scaled to length one for each unit::

        order = permutation that maximizes sum_i correlation(own_i, other_order(i))

    Use it when you want to compare or average the layers of two networks that were initialized independently. Avoid it
    in every step of training, because it solves an assignment problem, whose time is cubic in the number of units.

    Args:
        own: Activations of one's own layer on some examples, with the last axis over units: features of dense layers,
            channels of convolutions.
        other: Activations of the other layer on the same examples, of the same shape.

    Returns:
        For each of one's own units the number of the other layer's unit that corresponds to it; each number occurs
        once. If an activation is not finite, the order is arbitrary.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> own = jnp.array([[0.0, 1.0, 5.0], [1.0, 0.0, 6.0], [2.0, 3.0, 1.0]])
        >>> match_units(own, own[:, jnp.array([2, 0, 1])])
        Array([1, 2, 0], dtype=int32)

    Reference:
        arXiv:2209.04836.
    """
    if own.shape != other.shape or own.ndim < 2:
        raise ValueError(
            f"activations must have one shape, with axes over examples and units, got {own.shape}, {other.shape}"
        )
    correlation = jnp.einsum("ei,ej->ij", _standardize(own), _standardize(other), precision=jax.lax.Precision.HIGHEST)
    # With NaN the search for an assignment would not end.
    correlation = jnp.where(jnp.all(jnp.isfinite(correlation)), correlation, 0)
    rows, columns = optax.assignment.hungarian_algorithm(-correlation)
    return jnp.zeros(len(rows), jnp.int32).at[rows].set(columns.astype(jnp.int32))


def permute_units(params: Any, units: Any, orders: Mapping[str, jax.Array]) -> Any:
    """Puts the units of a network into another order.

    If all axes of a group of units are named, the function that the network computes stays the same.

    Use it when you have an order from `match_units`; `align_units` does both.

    Args:
        params: A tree of arrays.
        units: Which group of units each axis of each leaf belongs to: a tree of the structure of `params`, with a tuple
            for each leaf. The tuple has for each axis the name of a group, or None if the axis keeps its order. For a
            network of two dense layers it is `{"in": {"kernel": (None, "hidden"), "bias": ("hidden",)}, "out":
            {"kernel": ("hidden", None), "bias": (None,)}}`. Parameters of norm layers have the group of the layer
            before them; layers that are joined by a residual connection share one group.
        orders: For each group the numbers of its units in their new order. Groups that are missing keep their order.

    Returns:
        The tree of reordered arrays.

    Raises:
        ValueError: If a leaf has another number of axes than names, or an axis has another size than its order.

    Example:
        >>> permute_units({"bias": jnp.array([1.0, 2.0, 3.0])}, {"bias": ("hidden",)}, {"hidden": jnp.array([2, 0, 1])})
        {'bias': Array([3., 1., 2.], dtype=float32)}
    """

    def permute(path, x, names):
        if len(names) != x.ndim:
            raise ValueError(
                f"units must name each axis of the leaf {jax.tree_util.keystr(path)} of shape {x.shape}, got {names}"
            )
        for axis, name in enumerate(names):
            if name in orders:
                if len(orders[name]) != x.shape[axis]:
                    raise ValueError(
                        f"the group {name!r} has {len(orders[name])} units, but axis {axis} of the leaf"
                        f" {jax.tree_util.keystr(path)} has {x.shape[axis]}"
                    )
                x = jnp.take(x, orders[name], axis=axis)
        return x

    return jax.tree.map_with_path(permute, params, units)


def align_units(params: Any, others: Any, units: Any, activations: Activations) -> Any:
    """Puts the units of another network into the order of one's own network.

    Use it when you want to average two networks that were initialized independently. Avoid it in every step of
    training, because it solves an assignment problem for each layer, whose time is cubic in the number of units.

    Args:
        params: One's own parameters.
        others: The other network's parameters.
        units: See `permute_units`.
        activations: A function that maps parameters to the activations of each group of units, always on the same
            examples, with the last axis over units.

    Returns:
        The other network's parameters, reordered.

    Raises:
        ValueError: If shapes do not match.

    Example:
        >>> units = {"in": (None, "hidden"), "out": ("hidden", None)}
        >>> own = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> other = permute_units(own, units, {"hidden": jnp.array([1, 0])})
        >>> activations = lambda params: {"hidden": jnp.array([[1.0], [2.0]]) @ params["in"]}
        >>> align_units(own, other, units, activations)["out"].ravel()
        Array([3., 4.], dtype=float32)

    Reference:
        arXiv:2404.08079.
    """
    own, theirs = dict(activations(params)), dict(activations(others))
    return permute_units(others, units, map_equal_shapes(jax.vmap(match_units), own, theirs))


def activation_matched_mix(units: Any, activations: Activations) -> Mixing:
    """Makes a mixing that puts each neighbour's units into a worker's own order before it averages parameters (DIMAT).

    The rule, where P_ij puts the units of worker j into the order of worker i::

        x_i = x_i + sum_j W_ij * (P_ij(x_j) - x_i)

    Use it with `gossip` and `every`, for workers that were initialized independently. Avoid it when the workers began
    with the same parameters, because their units are in the same order already, and in every step, because it solves an
    assignment problem of cubic time for each layer and neighbour. It can mix only parameters, and it does not keep the
    mean over workers.

    Args:
        units: See `permute_units`.
        activations: A function that maps parameters to the activations of each group of units on this worker's own
            examples, with the last axis over units. Define it inside the traced step, or with fixed examples.

    Returns:
        A mixing that sends the parameters once in each round of the topology. Its `links` are those of `mix`.

    Example:
        >>> import optkit
        >>> units = {"in": (None, "hidden"), "out": ("hidden", None)}
        >>> activations = lambda params: {"hidden": jnp.array([[1.0], [2.0]]) @ params["in"]}
        >>> mixing = activation_matched_mix(units, activations)
        >>> kernels = jnp.array([[[1.0, -2.0]], [[-2.0, 1.0]]]), jnp.array([[[3.0], [4.0]], [[4.0], [3.0]]])
        >>> params = dict(zip(("in", "out"), kernels))
        >>> mixed = jax.vmap(lambda p: mixing(p, optkit.topology.ring(2), "workers"), axis_name="workers")(params)
        >>> mixed["in"].tolist()
        [[[1.0, -2.0]], [[-2.0, 1.0]]]

    Reference:
        arXiv:2404.08079.
    """

    def matched(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        require_size(topology, axis_name)

        def exchange(rounds):
            return lambda tree: _matched(
                tree, rounds, axis_name, links, lambda other: align_units(tree, other, units, activations)
            )

        return jax.lax.switch(step % topology.period, [exchange(rounds) for rounds in topology.rounds], tree)

    return matched


def _matched(
    tree: Any, rounds: tuple[Round, ...], axis_name: AxisName, links: jax.Array | None, aligned: Callable[[Any], Any]
) -> Any:
    """Returns the weighted mean with the neighbours, whose units were put into the worker's own order."""
    if not rounds:
        return tree
    worker, wide = jax.lax.axis_index(axis_name), widen(tree)
    senders = np.array([[sender for sender, _ in permutation] for permutation, _ in rounds])
    weights = np.array([weights for _, weights in rounds])
    heard = jnp.asarray(weights != 0)[:, worker]
    if links is not None:
        heard = heard & jnp.asarray(links)[worker, jnp.asarray(senders)[:, worker]]
    received = [jax.tree.map(lambda x, p=p: jax.lax.ppermute(x, axis_name, p), tree) for p, _ in rounds]

    def difference(heard_and_received):
        # A message that is not heard may be NaN.
        other = optax.tree.where(heard_and_received[0], heard_and_received[1], tree)
        return optax.tree.sub(widen(aligned(other)), wide)

    # One after the other: an assignment takes long to compile.
    differences = jax.lax.map(difference, (heard, jax.tree.map(lambda *x: jnp.stack(x), *received)))
    own_weights = jnp.asarray(weights)[:, worker]

    def moved(x, d, wide_x):
        return (wide_x + jnp.tensordot(own_weights.astype(d.dtype), d, 1)).astype(x.dtype)

    return jax.tree.map(moved, tree, differences, wide)


def _standardize(activations: jax.Array) -> jax.Array:
    """Shifts and scales each unit to mean zero and length one over all examples; a constant unit becomes zero."""
    flat = widen(activations).reshape(-1, activations.shape[-1])
    centered = flat - jnp.mean(flat, axis=0, keepdims=True)
    length = jnp.linalg.norm(centered, axis=0, keepdims=True)
    return centered / jnp.where(length > 0, length, 1)


METHODS = (
    Method(
        name="activation_matched_mix",
        factory=activation_matched_mix,
        kind="function",
        summary="Puts each neighbour's units into a worker's own order before it averages parameters.",
        paper=Paper(
            "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning Models",
            "Saadati et al.",
            2024,
            "2404.08079",
        ),
        also_known_as=("DIMAT", "decentralized iterative merging and training"),
        parts=(Activations, align_units),
    ),
    Method(
        name="match_units",
        factory=match_units,
        kind="function",
        summary="Finds the order of another layer's units that correlates best with the units of one's own layer.",
        paper=Paper(
            "Git Re-Basin: Merging Models modulo Permutation Symmetries",
            "Ainsworth, Hayase, Srinivasa",
            2022,
            "2209.04836",
        ),
        also_known_as=("Git Re-Basin", "activation matching", "permutation alignment"),
        parts=(permute_units,),
    ),
)
