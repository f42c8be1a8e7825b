"""Mixing: workers replace what they hold by weighted means of what they hear.

A `Mixing` is a function of one worker's values, to be called where the workers' axis is named. Methods take one as an
argument, so that any of them runs with any other.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized.topology import Topology
from optkit.decentralized.topology._topology import Round, require_topology
from optkit.method import Method

__all__ = ["mix"]

# Arrays of at most so many bytes travel together: each message costs as much as some thousand numbers more.
_SMALL = 2**14


class Mixing(Protocol):
    """How workers mix what they hold: `mix`, or what `repeated_mix`, `chebyshev_mix` and others make."""

    def __call__(
        self,
        tree: Any,
        topology: Topology,
        axis_name: AxisName,
        /,
        *,
        step: int | jax.Array = 0,
        links: jax.Array | None = None,
    ) -> Any:
        """Gives one worker's mixed values, in the dtypes of those that it held.

        Args:
            tree: arrays, one worker's.
            topology: who hears whom.
            axis_name: the axis over workers.
            step: number of exchanges so far, an integer that is equal on all workers.
            links: which messages arrive, see `mix`.

        Returns:
            A tree of the same structure.
        """
        ...


def mix(
    tree: Any,
    topology: Topology,
    axis_name: AxisName,
    *,
    step: int | jax.Array = 0,
    links: jax.Array | None = None,
) -> Any:
    """Takes one weighted mean with the neighbours, `x_i <- x_i + sum_j W_ij (x_j - x_i)`.

    The mean over workers stays, but for rounding. Sums are in float32 at least; messages have the values' own dtype. In
    the compiled program a worker sends its values once, by `collective-permute`, for each of `topology.rounds`; small
    arrays of one dtype travel as one. Where everyone hears everyone it is one `all-reduce`, in float32 at least, or one
    `all-gather` if weights differ or links fail, for which each worker holds the values of all.

    Args:
        tree: arrays, one worker's; those that are no floating-point numbers stay as they are.
        topology: who hears whom.
        axis_name: the axis over workers.
        step: number of exchanges so far, an integer that must be equal on all workers: says which of a periodic
            topology's steps this is.
        links: shape (workers, workers), booleans that are equal on all workers: whether worker i (the row) hears worker
            j in this step; all do by default. What is not heard counts like the receiver's own value, and may be NaN.
            The mean stays only where the topology and links are symmetric: where a link fails in both directions. See
            `links_among` and `lossy_links`.

    Returns:
        The mixed tree, in the tree's dtypes.

    Raises:
        ValueError: if the axis has another size than the topology, or `links` another shape.

    Example:
        >>> import jax
        >>> from optkit.decentralized.topology import ring
        >>> over_workers = jax.vmap(lambda x: mix(x, ring(4), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([0.0, 0.0, 3.0, 0.0]))
        Array([0., 1., 1., 1.], dtype=float32)
    """
    require_size(topology, axis_name)
    if links is not None and links.shape != (topology.size, topology.size):
        raise ValueError(f"links must have shape {(topology.size, topology.size)}, got {links.shape}")
    if topology.size == 1:
        return tree
    messages, unpack = _pack(tree)
    phases = [_phase(topology, index, axis_name, links) for index in range(topology.period)]
    if topology.period == 1:
        return unpack(phases[0](messages))
    return unpack(collectives.switch(step % topology.period, phases, messages))


def choose_mixing(mixing: Mixing | None, topology: Topology, axis_name: AxisName) -> Mixing:
    """Returns the mixing that a method was given, or `mix`, and checks what it is to be called with.

    Args:
        mixing: the method's argument; None is `mix`.
        topology: the method's argument.
        axis_name: the method's argument.

    Returns:
        The mixing.

    Raises:
        TypeError: if `topology` is no `Topology`, or `mixing` is no function, as `optax.inject_hyperparams` makes it.
        ValueError: if `axis_name` is not one name.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> choose_mixing(None, ring(4), "workers") is mix
        True
    """
    require_topology(topology)
    check_axis_name(axis_name)
    return require_mixing(mixing)


def require_mixing(mixing: Mixing | None) -> Mixing:
    """Returns the mixing that was given, or `mix`, or raises if it is none.

    Raises:
        TypeError: if it is no function.
    """
    refuse_arrays(mixing=mixing)
    if mixing is not None and not callable(mixing):
        raise TypeError(f"mixing must be a function, such as mix or chebyshev_mix(4), got {mixing!r}")
    return mix if mixing is None else mixing


def links_by_round(links: jax.Array | None, rounds: int) -> jax.Array | None:
    """Gives the links of each round of a mixing, whether they are the same in all rounds or not.

    Args:
        links: as for `mix`, or of shape (rounds, workers, workers), one for each round.
        rounds: how many there are.

    Returns:
        Links of shape (rounds, workers, workers), or None.

    Raises:
        ValueError: if there are links for another number of rounds.
    """
    if links is None or links.ndim == 2:
        return None if links is None else jnp.broadcast_to(links, (rounds, *links.shape))
    if links.ndim != 3 or links.shape[0] != rounds:
        allowed = f"(workers, workers) or ({rounds}, workers, workers), one for each round"
        raise ValueError(f"links must have shape {allowed}, got {links.shape}")
    return jnp.asarray(links)


def extrapolate(new: Any, old: Any, weight: jax.typing.ArrayLike) -> Any:
    """Gives `old + weight (new - old)` of floating-point arrays, in their dtypes, and `new` of all others."""

    def between(x, y):
        return y + jnp.asarray(weight, y.dtype) * (x - y) if jnp.issubdtype(y.dtype, jnp.inexact) else x

    return jax.tree.map(between, new, old)


def require_size(topology: Topology, axis_name: AxisName) -> None:
    """Raises unless the topology has as many workers as the axis.

    Raises:
        ValueError: if it has not, or `axis_name` is not one name.
        TypeError: if it is no topology.
    """
    require_topology(topology)
    check_axis_name(axis_name)
    workers = jax.lax.axis_size(axis_name)
    if workers != topology.size:
        raise ValueError(f"the topology joins {topology.size} workers, but the axis {axis_name!r} has {workers}")


def add_update(x: jax.Array, update: jax.Array) -> jax.Array:
    """Adds an update to a value in float32 at least, in the value's dtype."""
    return x + update.astype(x.dtype)


def overwrite(new: Any, params: Any) -> Any:
    """Gives the updates that replace parameters, `new - params`, computed in float32 at least, in their dtypes."""
    return jax.tree.map(lambda x, p: (widen(x) - widen(p)).astype(p.dtype), new, params)


def _pack(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Turns a tree into few messages.

    Returns:
        Arrays of floating-point numbers, the small ones of a dtype in one vector; and the function that makes the tree
        of mixed ones.
    """
    leaves, structure = jax.tree.flatten(tree)
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
    groups: dict[Any, list[int]] = {}
    for i in floating:
        groups.setdefault(leaves[i].dtype if _is_small(leaves[i]) else i, []).append(i)

    def message(group):
        return leaves[group[0]] if len(group) == 1 else jnp.concatenate([leaves[i].ravel() for i in group])

    def unpack(messages):
        mixed = list(leaves)
        for group, x in zip(groups.values(), messages, strict=True):
            ends = np.cumsum([leaves[i].size for i in group])[:-1].tolist()
            for i, part in zip(group, jnp.split(x, ends) if len(group) > 1 else [x], strict=True):
                mixed[i] = part.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, mixed)

    return [message(group) for group in groups.values()], unpack


def _is_small(x: jax.Array) -> bool:
    """Says whether an array may travel with others: those that are sharded over explicit axes cannot be joined."""
    sharded = any(axis is not None for axis in jax.typeof(x).sharding.spec)
    return math.prod(x.shape) * x.dtype.itemsize <= _SMALL and not sharded


def _phase(
    topology: Topology, index: int, axis_name: AxisName, links: jax.Array | None
) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Makes one step's exchange."""
    matrix, rounds = topology.matrices[index], topology.rounds[index]
    if not np.all(matrix + np.eye(topology.size)):
        exchange = _by_permutations(rounds, links, axis_name)
    elif links is None and np.allclose(matrix, 1 / topology.size, rtol=0, atol=1e-12):
        exchange = _by_reduction(axis_name)
    else:
        exchange = _by_gathering(matrix, links, axis_name)
    return lambda messages: [exchange(x).astype(x.dtype) for x in messages]


def _by_reduction(axis_name: AxisName) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.lax.pmean(widen(x), axis_name)


def _by_gathering(matrix: np.ndarray, links: jax.Array | None, axis_name: AxisName) -> Callable[[jax.Array], jax.Array]:
    def exchange(x):
        worker, own = jax.lax.axis_index(axis_name), widen(x)
        change = widen(jax.lax.all_gather(x, axis_name)) - own[None]
        weights = jnp.asarray(matrix, own.dtype)[worker]
        if links is not None:
            change = jnp.where(jnp.expand_dims(links[worker], range(1, change.ndim)), change, 0)
        return own + jnp.tensordot(weights, change, 1, precision="highest")

    return exchange


def _by_permutations(
    rounds: tuple[Round, ...], links: jax.Array | None, axis_name: str
) -> Callable[[jax.Array], jax.Array]:
    def exchange(x):
        worker, own = jax.lax.axis_index(axis_name), widen(x)
        change = jnp.zeros_like(own)
        for permutation, weights in rounds:
            difference = widen(jax.lax.ppermute(x, axis_name, permutation)) - own
            if links is None and np.all(weights == weights[0]):
                change = change + float(weights[0]) * difference
                continue
            # What has no weight may be NaN: a worker that others do not hear.
            heard = jnp.asarray(weights != 0)[worker]
            if links is not None:
                senders = np.array([sender for sender, _ in permutation])
                heard = heard & links[worker, jnp.asarray(senders)[worker]]
            change = change + jnp.where(heard, jnp.asarray(weights, own.dtype)[worker] * difference, 0)
        return own + change

    return exchange


METHODS = (
    Method(
        name="mix",
        factory=mix,
        kind="function",
        summary="Takes one weighted mean of a worker's values with its neighbours'.",
        also_known_as=(
            "gossip averaging",
            "partial averaging",
            "neighbor_allreduce",
            "neighbor averaging",
            "consensus step",
        ),
        parts=(Mixing,),
    ),
)
