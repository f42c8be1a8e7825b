"""What a decentralized run can be made of, by name as on the command line; a number follows a colon: `top_k:0.1`."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import optax

import optkit
from experiments import optimizers
from experiments.errors import UserError
from experiments.gradients import WORKERS
from optkit.compressors import Compressor, dithering_inf, identity, natural, qsgd, rand_k, scaled_sign, top_k
from optkit.decentralized import (
    accelerated_mix,
    chebyshev_mix,
    choco,
    dadam,
    dfedsam,
    exact_diffusion,
    extra,
    gossip,
    gradient_tracking,
    mix,
    nids,
    noise_robust_gradient_tracking,
    noisy_mix,
    qg_dadam,
    qg_dsgdm,
    relay_sum,
    repeated_mix,
    track_gradients,
)
from optkit.decentralized.topology import (
    Topology,
    binary_tree,
    complete,
    erdos_renyi,
    exponential,
    grid,
    hypercube,
    one_peer_exponential,
    path,
    random_matchings,
    ring,
    star,
    symmetric_exponential,
    torus,
)
from optkit.method import Method
from optkit.robust_aggregation import (
    krum,
    meamed,
    monna,
    nearest_neighbor_average,
    phocas,
    robust_mix,
    self_centered_clip,
    trimmed_mean,
)
from optkit.robust_aggregation.attacks import (
    a_little_is_enough,
    gaussian_noise,
    inner_product_manipulation,
    long_among_kept,
    mimic,
    send_nan,
    shifted_mean,
    sign_flip,
)
from optkit.typing import Mixing


class Pieces(NamedTuple):
    """What a decentralized method is built of.

    Attributes:
        inner: the optimizer that it wraps.
        learning_rate: for methods that have one of their own.
        topology: who hears whom.
        mixing: how values are mixed.
        compressor: for methods that compress what they send.
        gamma: how far workers move towards what they hear, for methods that have such a step.
        every: workers exchange in every so many steps only, for methods that have local steps.
    """

    inner: optax.GradientTransformation
    learning_rate: float
    topology: Topology
    mixing: Mixing
    compressor: Compressor
    gamma: float
    every: int = 1


class Decentralized(NamedTuple):
    """A decentralized method.

    Attributes:
        build: makes the method.
        learning_rate: where none is asked for; None for the one of the inner optimizer, which it wraps.
        mixes: whether it takes a mixing, so that workers can aggregate by other rules, and be attacked.
        mixing: name of the mixing where none is asked for.
        local_steps: whether it can have steps without an exchange.
    """

    build: Callable[[Pieces], optax.GradientTransformation]
    learning_rate: float | None = None
    mixes: bool = True
    mixing: str = "mix"
    local_steps: bool = False


def _wrapped(wrapper: Callable[..., optax.GradientTransformation], *, lazy: bool = False) -> Decentralized:
    def build(pieces):
        topology = pieces.topology.lazy() if lazy else pieces.topology
        return wrapper(pieces.inner, topology, axis_name=WORKERS, mixing=pieces.mixing)

    return Decentralized(build)


def _alone(factory: Callable[..., optax.GradientTransformation], learning_rate: float) -> Decentralized:
    def build(pieces):
        return factory(pieces.learning_rate, pieces.topology, axis_name=WORKERS, mixing=pieces.mixing)

    return Decentralized(build, learning_rate)


def _gossip(pieces: Pieces, *, order: Literal["atc", "cta"] = "atc") -> optax.GradientTransformation:
    return gossip(
        pieces.inner,
        pieces.topology,
        axis_name=WORKERS,
        mixing=pieces.mixing,
        order=order,
        every=pieces.every,
    )


def _dfedsam(pieces: Pieces) -> optax.GradientTransformation:
    return dfedsam(pieces.learning_rate, pieces.topology, pieces.every, axis_name=WORKERS, mixing=pieces.mixing)


def _monna(pieces: Pieces) -> optax.GradientTransformation:
    # Whom it leaves out is the mixing's affair.
    return monna(pieces.learning_rate, pieces.topology, 0, axis_name=WORKERS, mixing=pieces.mixing)


def _choco(pieces: Pieces) -> optax.GradientTransformation:
    return choco(pieces.inner, pieces.topology, pieces.compressor, axis_name=WORKERS, gamma=pieces.gamma)


def _diging(inner, topology, **arguments):
    inner = optax.chain(track_gradients(topology, **arguments), inner)
    return gossip(inner, topology, order="cta", **arguments)


def _noise_robust(pieces: Pieces) -> optax.GradientTransformation:
    return noise_robust_gradient_tracking(
        pieces.learning_rate, pieces.topology, axis_name=WORKERS, gamma=pieces.gamma, mixing=pieces.mixing
    )


def _relay_sum(pieces: Pieces) -> optax.GradientTransformation:
    return relay_sum(pieces.inner, pieces.topology, axis_name=WORKERS)


METHODS: Mapping[str, Decentralized] = {
    "gossip": Decentralized(_gossip, local_steps=True),
    "gossip:cta": Decentralized(functools.partial(_gossip, order="cta"), local_steps=True),
    "gradient_tracking": _wrapped(gradient_tracking),
    "diging": _wrapped(_diging),
    "exact_diffusion": _wrapped(exact_diffusion, lazy=True),
    "d2": _wrapped(exact_diffusion),
    "extra": _wrapped(extra),
    "relay_sum": Decentralized(_relay_sum, mixes=False),
    "choco": Decentralized(_choco, mixes=False),
    "nids": _alone(nids, 0.1),
    "qg_dsgdm": _alone(qg_dsgdm, 0.1),
    "qg_dadam": _alone(qg_dadam, 1e-3),
    "dadam": _alone(dadam, 1e-3),
    "dfedsam": Decentralized(_dfedsam, 0.1, local_steps=True),
    "monna": Decentralized(_monna, 0.1, mixing="nearest_neighbor_average"),
    "noise_robust_gradient_tracking": Decentralized(_noise_robust, 0.1),
}

# Drawn topologies are drawn with a fixed seed.
TOPOLOGIES: Mapping[str, Callable[..., Topology]] = {
    "ring": ring,
    "path": path,
    "grid": grid,
    "torus": torus,
    "hypercube": hypercube,
    "star": star,
    "binary_tree": binary_tree,
    "complete": complete,
    "exponential": exponential,
    "symmetric_exponential": symmetric_exponential,
    "one_peer_exponential": one_peer_exponential,
    "erdos_renyi": lambda size, probability=0.5: erdos_renyi(size, probability, seed=0),
    "random_matchings": lambda size, period=16: random_matchings(size, period, seed=0),
}

COMPRESSORS: Mapping[str, Callable[..., Compressor]] = {
    "identity": identity,
    "top_k": lambda density=0.1: top_k(density),
    "rand_k": lambda density=0.1: rand_k(density, key=0),
    "scaled_sign": scaled_sign,
    "qsgd": lambda levels=16: qsgd(levels, key=0),
    "dithering_inf": lambda levels=16: dithering_inf(levels, key=0),
    "natural": lambda: natural(key=0),
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
    "sign_flip": lambda _: lambda honest, _: sign_flip(honest),
    "inner_product_manipulation": lambda _, strength=0.1: (
        lambda honest, _: inner_product_manipulation(honest, strength)
    ),
    "a_little_is_enough": lambda _, deviations=1.5: lambda honest, _: a_little_is_enough(honest, deviations),
    "shifted_mean": lambda _, shift=0.1: lambda honest, _: shifted_mean(honest, shift),
    "mimic": lambda _, worker=0: lambda honest, _: mimic(honest, worker),
    "gaussian_noise": lambda _, scale=1.0: lambda honest, key: gaussian_noise(honest, scale, key),
    "long_among_kept": lambda byzantine: lambda honest, _: long_among_kept(honest, byzantine),
    "send_nan": lambda _: lambda honest, _: send_nan(honest),
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
