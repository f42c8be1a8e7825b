"""What a decentralized run can be made of, by name as on the command line; a number follows a colon: `top_k:0.1`."""

import difflib
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

import optkit
from experiments import optimizers
from experiments.errors import UserError
from experiments.gradients import WORKERS
from optkit import attacks, compressors, topology
from optkit.catalog import with_variants
from optkit.compressors import Compressor
from optkit.decentralized import accelerated_mix, chebyshev_mix, gossip, mix, noisy_mix, repeated_mix
from optkit.decentralized.topology import Topology
from optkit.method import Method
from optkit.robust_aggregation import (
    krum,
    meamed,
    nearest_neighbor_average,
    phocas,
    robust_mix,
    self_centered_clip,
    trimmed_mean,
)
from optkit.typing import Mixing

# What a step of a decentralized run gives beside the gradients.
_PASSED = {"axis_name", "grad_fn"}


class Pieces(NamedTuple):
    """What a decentralized method is built of, by the names of its arguments.

    Attributes:
        inner: the optimizer that it wraps.
        learning_rate: for methods that have one of their own.
        topology: who hears whom.
        mixing: how values are mixed.
        compressor: for methods that compress what they send.
        gamma: how far workers move towards what they hear, for methods that have such a step.
        every: workers exchange in every so many steps only, for methods that have local steps.
        byzantine: how many workers attack, for methods that leave out as many.
    """

    inner: optax.GradientTransformation
    learning_rate: float
    topology: Topology
    mixing: Mixing
    compressor: Compressor
    gamma: float
    every: int = 1
    byzantine: int = 0


def methods() -> Mapping[str, Method]:
    """Returns the decentralized methods of the catalog, variants included, by name: those that take a topology."""
    return {
        name: method
        for name, method in with_variants().items()
        if "topology" in takes(method) and set(method.needs) <= _PASSED
    }


def takes(method: Method) -> set[str]:
    """Returns the names of a method's arguments."""
    return set(inspect.signature(method.factory).parameters)


def build(method: Method, pieces: Pieces) -> optax.GradientTransformation:
    """Makes a method of those pieces that it takes; all else is as in its entry, or the method's own default.

    Args:
        method: a wrapper, an optimizer, or a transformation, which stands before the inner optimizer while parameters
            are mixed first.
        pieces: what to make it of. A method whose entry has a lazy topology gets the lazy one.

    Returns:
        An optimizer.
    """
    if _is_lazy(method.example["topology"]):
        pieces = pieces._replace(topology=pieces.topology.lazy())
    given = {"axis_name": WORKERS, **pieces._asdict()}
    taken = {name: given[name] for name in takes(method) & set(given)}
    made = method.factory(**{**_without_numbers(method), **taken})
    if method.kind != "transformation":
        return made
    inner = optax.chain(made, pieces.inner)
    return gossip(inner, pieces.topology, axis_name=WORKERS, mixing=pieces.mixing, order="cta")


def _without_numbers(method: Method) -> dict[str, Any]:
    """Returns an entry's arguments less those numbers, chosen for the contract's problems, that have a default."""
    parameters = inspect.signature(method.factory).parameters
    return {
        name: value
        for name, value in method.example.items()
        if isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or parameters[name].default is inspect.Parameter.empty
    }


def mixing_of(method: Method) -> str:
    """Returns the name of the mixing where none is asked for: one that leaves attackers out, if the method does so."""
    return "nearest_neighbor_average" if "byzantine" in takes(method) else "mix"


def _is_lazy(topology: Topology) -> bool:
    """Says whether every worker's own value counts for half at least, so that no eigenvalue is negative."""
    return bool(np.all(np.diagonal(topology.matrices, axis1=1, axis2=2) >= 0.5))


# Drawn topologies are drawn with a fixed seed.
TOPOLOGIES: Mapping[str, Callable[..., Topology]] = {
    "ring": topology.ring,
    "path": topology.path,
    "grid": topology.grid,
    "torus": topology.torus,
    "hypercube": topology.hypercube,
    "star": topology.star,
    "binary_tree": topology.binary_tree,
    "complete": topology.complete,
    "exponential": topology.exponential,
    "symmetric_exponential": topology.symmetric_exponential,
    "one_peer_exponential": topology.one_peer_exponential,
    "erdos_renyi": lambda size, probability=0.5: topology.erdos_renyi(size, probability, seed=0),
    "random_matchings": lambda size, period=16: topology.random_matchings(size, period, seed=0),
}

COMPRESSORS: Mapping[str, Callable[..., Compressor]] = {
    "identity": compressors.identity,
    "top_k": lambda density=0.1: compressors.top_k(density),
    "rand_k": lambda density=0.1: compressors.rand_k(density, key=0),
    "scaled_sign": compressors.scaled_sign,
    "qsgd": lambda levels=16: compressors.qsgd(levels, key=0),
    "dithering_inf": lambda levels=16: compressors.dithering_inf(levels, key=0),
    "natural": lambda: compressors.natural(key=0),
}

# What robust rules leave out is a number of workers; by default, that of those that attack.
MIXINGS: Mapping[str, Callable[..., Mixing]] = {
    "mix": lambda _: mix,
    "repeated_mix": lambda _, rounds=2: repeated_mix(rounds),
    "chebyshev_mix": lambda _, rounds=2: chebyshev_mix(rounds),
    "accelerated_mix": lambda _, rounds=2: accelerated_mix(rounds),
    "noisy_mix": lambda _, scale=1e-3: noisy_mix(scale, key=0),
    "trimmed_mean": lambda byzantine, left_out=None: robust_mix(trimmed_mean(_first(left_out, byzantine))),
    "coordinate_median": lambda _: robust_mix(optkit.coordinate_median(nan_policy="omit")),
    "geometric_median": lambda _: robust_mix(optkit.geometric_median(nan_policy="omit")),
    "meamed": lambda byzantine, left_out=None: robust_mix(meamed(_first(left_out, byzantine))),
    "phocas": lambda byzantine, left_out=None: robust_mix(phocas(_first(left_out, byzantine))),
    "krum": lambda byzantine, left_out=None: robust_mix(krum(_first(left_out, byzantine))),
    "nearest_neighbor_average": lambda byzantine, left_out=None: robust_mix(
        nearest_neighbor_average(_first(left_out, byzantine))
    ),
    "self_centered_clip": lambda _, radius=1.0: robust_mix(self_centered_clip(radius)),
}

# Functions of the honest workers' values and of a key.
ATTACKS: Mapping[str, Callable[..., Callable[[Any, Any], Any]]] = {
    "sign_flip": lambda _: lambda honest, _: attacks.sign_flip(honest),
    "inner_product_manipulation": lambda _, strength=0.1: (
        lambda honest, _: attacks.inner_product_manipulation(honest, strength)
    ),
    "a_little_is_enough": lambda _, deviations=1.5: lambda honest, _: attacks.a_little_is_enough(honest, deviations),
    "shifted_mean": lambda _, shift=0.1: lambda honest, _: attacks.shifted_mean(honest, shift),
    "mimic": lambda _, worker=0: lambda honest, _: attacks.mimic(honest, worker),
    "gaussian_noise": lambda _, scale=1.0: lambda honest, key: attacks.gaussian_noise(honest, scale, key),
    "long_among_kept": lambda byzantine: lambda honest, _: attacks.long_among_kept(honest, byzantine),
    "send_nan": lambda _: lambda honest, _: attacks.send_nan(honest),
}
LABEL_FLIP = "label_flip"


def look_up(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Looks one choice up.

    Args:
        kind: what it is.
        name: its name.
        table: all of them.

    Returns:
        What stands there.

    Raises:
        UserError: if there is none of this name.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(table)}"
        raise UserError(f"unknown {kind} {name!r}; {hint}")
    return table[name]


def make(kind: str, text: str, table: Mapping[str, Callable[..., Any]], *given: Any) -> Any:
    """Makes what a text names.

    Args:
        kind: what it is.
        text: `name`, or `name:number`.
        table: functions of `given` and, where they take one, of that number.
        *given: what all of them are called with.

    Returns:
        What the function gives.

    Raises:
        UserError: if there is none of this name, or it takes no number, or not this one.
    """
    name, colon, number = text.partition(":")
    function = look_up(kind, name, table)
    if colon and len(inspect.signature(function).parameters) == len(given):
        raise UserError(f"{kind} {name!r} takes no number, got {text!r}")
    try:
        numbers = [int(number) if number.lstrip("+-").isdigit() else float(number)] if colon else []
        return function(*given, *numbers)
    except ValueError as error:
        raise UserError(f"{kind} {text!r}: {error}") from error


def find_inner(name: str) -> Method:
    """Looks up the optimizer that wrappers wrap: one of those that can be compared and need gradients only.

    Args:
        name: its name.

    Returns:
        Its entry.

    Raises:
        UserError: if there is none of this name.
    """
    plain = {
        known: method
        for known, method in optimizers.comparable().items()
        if not method.needs and method.stacked is None and method.tuned == "learning_rate"
    }
    (method,) = optimizers.look_up([name], plain)
    return method


def _first(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given
