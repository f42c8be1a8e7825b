"""Activation matching: units of other workers' networks are put into one's own order before parameters are averaged.

Saadati, Pham, Saleem, Waite, Balu, Jiang, Hegde, Sarkar, "DIMAT: Decentralized Iterative Merging-And-Training for Deep
Learning Models", 2024, arXiv:2404.08079; matching as in Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging Models
modulo Permutation Symmetries", 2022, arXiv:2209.04836.
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
    """A function that says what the units of a network do."""

    def __call__(self, params: Any, /) -> Mapping[str, jax.Array]:
        """Gives for each group of units the activations on one's own examples, the last axis over units."""
        ...


def match_units(own: jax.Array, other: jax.Array) -> jax.Array:
    """Finds the order of another layer's units that correlates best with one's own.

    Args:
        own: activations on some examples, the last axis over units: features of dense layers, channels of
            convolutions.
        other: those of the other layer, on the same examples.

    Returns:
        For each of one's own units the number of the other's unit that goes with it, each number once. Any order where
        an activation is not finite.

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> own = jnp.array([[0.0, 1.0, 5.0], [1.0, 0.0, 6.0], [2.0, 3.0, 1.0]])
        >>> match_units(own, own[:, jnp.array([2, 0, 1])])
        Array([1, 2, 0], dtype=int32)

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", 2022,
        arXiv:2209.04836.
    """
    if own.shape != other.shape or own.ndim < 2:
        raise ValueError(
            f"activations must be alike and have axes over examples and units, got {own.shape}, {other.shape}"
        )
    correlation = jnp.einsum("ei,ej->ij", _standardize(own), _standardize(other), precision=jax.lax.Precision.HIGHEST)
    # No assignment of NaN comes to an end.
    correlation = jnp.where(jnp.all(jnp.isfinite(correlation)), correlation, 0)
    rows, columns = optax.assignment.hungarian_algorithm(-correlation)
    return jnp.zeros(len(rows), jnp.int32).at[rows].set(columns.astype(jnp.int32))


def permute_units(params: Any, units: Any, orders: Mapping[str, jax.Array]) -> Any:
    """Puts units of a network into another order. With all axes of a group named, the network's function stays.

    Args:
        params: a tree of arrays.
        units: what each leaf's axes go over: a tree of that structure, with a tuple for each leaf that has for each
            axis the name of a group of units, or None where it keeps its order. For a network of two dense layers
            `{"in": {"kernel": (None, "hidden"), "bias": ("hidden",)}, "out": {"kernel": ("hidden", None), "bias":
            (None,)}}`. Parameters of norm layers have the group of the layer that they follow; layers joined by a
            residual connection share one.
        orders: for each group the numbers of its units, in the order in which they are wanted. Groups that are missing
            stay.

    Returns:
        The tree of reordered arrays.

    Raises:
        ValueError: if a leaf has another number of axes than names, or an axis another size than its order.

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
    """Puts another network's units into the order of one's own.

    Args:
        params: one's own.
        others: the other network's.
        units: see `permute_units`.
        activations: called with parameters, gives for each group of units the activations on the same examples, the
            last axis over units.

    Returns:
        The other network's parameters, reordered.

    Example:
        >>> units = {"in": (None, "hidden"), "out": ("hidden", None)}
        >>> own = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> other = permute_units(own, units, {"hidden": jnp.array([1, 0])})
        >>> activations = lambda params: {"hidden": jnp.array([[1.0], [2.0]]) @ params["in"]}
        >>> align_units(own, other, units, activations)["out"].ravel()
        Array([3., 4.], dtype=float32)

    Reference:
        Saadati et al., "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning Models", 2024,
        arXiv:2404.08079.
    """
    own, theirs = dict(activations(params)), dict(activations(others))
    return permute_units(others, units, map_equal_shapes(jax.vmap(match_units), own, theirs))


def activation_matched_mix(units: Any, activations: Activations) -> Mixing:
    """Makes a mixing that puts each neighbour's units into one's own order before it averages (DIMAT).

    Give it to `gossip` with `every`, since matching costs an assignment, of cubic time, for each layer and neighbour.
    It is for workers that were initialized apart. Do not take it for those that began together: their units are in one
    order already. It is no mixing of anything but parameters, and does not keep the mean over workers.

    Args:
        units: see `permute_units`.
        activations: called with parameters, gives for each group of units the activations on this worker's own
            examples, the last axis over units: a function of the traced step, or of fixed examples.

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
        Saadati et al., "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning Models", 2024,
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
    """Takes the weighted mean with neighbours that were put into one's own order."""
    if not rounds:
        return tree
    worker, wide = jax.lax.axis_index(axis_name), widen(tree)
    senders = np.array([[sender for sender, _ in permutation] for permutation, _ in rounds])
    weights = np.array([weights for _, weights in rounds])
    heard = jnp.asarray(weights != 0)[:, worker]
    if links is not None:
        heard = heard & links[worker, jnp.asarray(senders)[:, worker]]
    received = [jax.tree.map(lambda x, p=p: jax.lax.ppermute(x, axis_name, p), tree) for p, _ in rounds]

    def difference(heard_and_received):
        # What is not heard may be NaN.
        other = optax.tree.where(heard_and_received[0], heard_and_received[1], tree)
        return optax.tree.sub(widen(aligned(other)), wide)

    # One after the other: an assignment takes long to compile.
    differences = jax.lax.map(difference, (heard, jax.tree.map(lambda *x: jnp.stack(x), *received)))
    own_weights = jnp.asarray(weights)[:, worker]

    def moved(x, d, wide_x):
        return (wide_x + jnp.tensordot(own_weights.astype(d.dtype), d, 1)).astype(x.dtype)

    return jax.tree.map(moved, tree, differences, wide)


def _standardize(activations: jax.Array) -> jax.Array:
    """Gives each unit mean zero and length one over all examples; a constant one is zero."""
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
        summary="Finds the order of another layer's units that correlates best with one's own.",
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
