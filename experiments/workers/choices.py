"""How a method is made of its pieces."""

import inspect
import numbers
from typing import Any, NamedTuple

import numpy as np
import optax

import optkit
from experiments.optimizers import takes
from optkit import catalog
from optkit.comparison.gradients import WORKERS
from optkit.compressors import Compressor
from optkit.decentralized import gossip
from optkit.decentralized.topology import Topology
from optkit.method import Method
from optkit.typing import Mixing


class Pieces(NamedTuple):
    """What a method is built of, by the names of its arguments.

    Attributes:
        inner: the optimizer that it wraps, or that takes its mean.
        learning_rate: for methods that have one of their own.
        topology: who hears whom.
        mixing: how values are mixed.
        compressor: for methods that compress what they send.
        feedback: for methods that remember what messages left out, from `optkit.feedback`.
        mean: how gradients are averaged, for methods that take any mean; None for the plain one.
        gamma: how far workers move towards what they hear, for methods that have such a step.
        every: workers exchange in every so many steps only, for methods that have local steps; None for each one's own.
        byzantine: how many workers attack, for methods that leave out as many.
        key: of the draws.
    """

    inner: optax.GradientTransformation
    learning_rate: float
    topology: Topology
    mixing: Mixing
    compressor: Compressor
    feedback: Any = None
    mean: optax.GradientTransformation | None = None
    gamma: float = 0.3
    every: int | None = None
    byzantine: int = 0
    key: int = 0


def build(method: Method, pieces: Pieces) -> optax.GradientTransformation:
    """Makes a method of those pieces that it takes; all else is as in its entry, or the method's own default.

    Args:
        method: a wrapper, an optimizer, or what stands before the inner optimizer: a mean of the gradients, or, where
            it has a topology, a transformation while parameters are mixed first.
        pieces: what to make it of. A method whose entry has a lazy topology gets the lazy one.

    Returns:
        An optimizer.
    """
    if "topology" in method.example and _is_lazy(method.example["topology"]):
        pieces = pieces._replace(topology=pieces.topology.lazy())
    given = {"axis_name": WORKERS, **pieces._asdict()}
    if pieces.every is None:
        del given["every"]
    if pieces.mean is None:
        del given["mean"]
    if method.tuned != "learning_rate":
        given[method.tuned] = method.grid
    taken = {name: given[name] for name in takes(method) & set(given)}
    if "rates" in takes(method):
        taken["rates"] = optkit.uniform_rates(pieces.topology)
    made = method.factory(**{**_without_numbers(method), **taken})
    if method.kind not in ("transformation", "aggregator"):
        return made
    inner = optax.chain(made, pieces.inner)
    if "topology" not in taken:
        return inner
    return gossip(inner, pieces.topology, axis_name=WORKERS, mixing=pieces.mixing, order="cta")


def mean(compressor: Compressor, feedback: Any) -> optax.GradientTransformation:
    """Makes the mean of methods that take any mean, with compressed messages."""
    return optkit.compressed_mean(compressor, feedback, axis_name=WORKERS)


def _without_numbers(method: Method) -> dict[str, Any]:
    """Returns an entry's arguments less those numbers, chosen for the contract's problems, that have a default.

    Numbers that make a variant what it is stay.
    """
    parameters = inspect.signature(method.factory).parameters
    name, variant, _ = method.name.partition(":")
    usual = catalog.METHODS[name].example if variant else method.example
    own = {name: value for name, value in method.example.items() if name in parameters}
    return {
        name: value
        for name, value in own.items()
        if isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or parameters[name].default is inspect.Parameter.empty
        or value != usual.get(name)
    }


def mixing_of(method: Method) -> str:
    """Returns the name of the mixing where none is asked for: one that leaves attackers out, if the method does so."""
    return "nearest_neighbor_average" if {"byzantine", "mixing"} <= takes(method) else "mix"


def _is_lazy(topology: Topology) -> bool:
    """Says whether every worker's own value counts for half at least, so that no eigenvalue is negative."""
    return bool(np.all(np.diagonal(topology.matrices, axis1=1, axis2=2) >= 0.5))
