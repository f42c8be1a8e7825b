"""The parts of a run on many workers, by their names on the command line; a number follows a colon, as in `top_k:0.1`.

The functions take optkit as their first argument, so that names can be checked before it is imported.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from experiments.errors import UserError, check_name

Table = Mapping[str, Callable[..., Any]]

# Functions of the number of workers. Drawn topologies are drawn with a fixed seed.
TOPOLOGIES: Table = {
    "ring": lambda optkit, size: optkit.topology.ring(size),
    "path": lambda optkit, size: optkit.topology.path(size),
    "grid": lambda optkit, size: optkit.topology.grid(size),
    "torus": lambda optkit, size: optkit.topology.torus(size),
    "hypercube": lambda optkit, size: optkit.topology.hypercube(size),
    "star": lambda optkit, size: optkit.topology.star(size),
    "binary_tree": lambda optkit, size: optkit.topology.binary_tree(size),
    "complete": lambda optkit, size: optkit.topology.complete(size),
    "exponential": lambda optkit, size: optkit.topology.exponential(size),
    "symmetric_exponential": lambda optkit, size, base=4: optkit.topology.symmetric_exponential(size, base),
    "one_peer_exponential": lambda optkit, size: optkit.topology.one_peer_exponential(size),
    "erdos_renyi": lambda optkit, size, probability=0.5: optkit.topology.erdos_renyi(size, probability, seed=0),
    "random_matchings": lambda optkit, size, period=16: optkit.topology.random_matchings(size, period, seed=0),
}

COMPRESSORS: Table = {
    "identity": lambda optkit: optkit.compressors.identity(),
    "top_k": lambda optkit, density=0.1: optkit.compressors.top_k(density),
    "global_top_k": lambda optkit, density=0.1: optkit.compressors.global_top_k(density),
    "top_k_in_chunks": lambda optkit, number=32: optkit.compressors.top_k_in_chunks(number),
    "hard_threshold": lambda optkit, threshold=1e-3: optkit.compressors.hard_threshold(threshold),
    "rand_k": lambda optkit, density=0.1: optkit.compressors.rand_k(density, key=0),
    "scaled_sign": lambda optkit: optkit.compressors.scaled_sign(),
    "ternary": lambda optkit, clip_factor=2.5: optkit.compressors.ternary(clip_factor, key=0),
    "qsgd": lambda optkit, levels=16: optkit.compressors.qsgd(levels, key=0),
    "dithering_inf": lambda optkit, levels=16: optkit.compressors.dithering_inf(levels, key=0),
    "natural": lambda optkit: optkit.compressors.natural(key=0),
    "natural_dithering": lambda optkit, levels=8: optkit.compressors.natural_dithering(levels, key=0),
    "wangni_sparsify": lambda optkit, density=0.1: optkit.compressors.wangni_sparsify(density, key=0),
    "gaussian_sketch": lambda optkit, size=64: optkit.compressors.gaussian_sketch(size, key=0),
    "srht_sketch": lambda optkit, size=64: optkit.compressors.srht_sketch(size, key=0),
    "count_sketch": lambda optkit, size=64: optkit.compressors.count_sketch(size, key=0),
    "low_rank": lambda optkit, rank=2: optkit.compressors.low_rank(rank),
}

FEEDBACK: Table = {
    "none": lambda _: None,
    "ef14": lambda optkit, decay=1.0: optkit.feedback.ef14(decay),
    "double_ef": lambda optkit: optkit.feedback.double_ef(),
    "ef21": lambda optkit: optkit.feedback.ef21(),
    "ef21_sgdm": lambda optkit, eta=0.1: optkit.feedback.ef21_sgdm(eta),
    "econtrol": lambda optkit, eta=0.1: optkit.feedback.econtrol(eta),
    "diana": lambda optkit, alpha=0.1: optkit.feedback.diana(alpha),
}


def _leaving_out(name):
    """A rule that leaves out some workers: as many as asked for or, by default, as attack."""

    def make(optkit, byzantine, left_out=None):
        return optkit.robust_mix(getattr(optkit, name)(byzantine if left_out is None else left_out))

    return make


# Functions of the number of workers that attack.
MIXINGS: Table = {
    "mix": lambda optkit, _: optkit.mix,
    "repeated_mix": lambda optkit, _, rounds=2: optkit.repeated_mix(rounds),
    "chebyshev_mix": lambda optkit, _, rounds=2: optkit.chebyshev_mix(rounds),
    "accelerated_mix": lambda optkit, _, rounds=2: optkit.accelerated_mix(rounds),
    "noisy_mix": lambda optkit, _, scale=1e-3: optkit.noisy_mix(scale, key=0),
    "trimmed_mean": _leaving_out("trimmed_mean"),
    "coordinate_median": lambda optkit, _: optkit.robust_mix(optkit.coordinate_median(nan_policy="omit")),
    "geometric_median": lambda optkit, _: optkit.robust_mix(optkit.geometric_median(nan_policy="omit")),
    "meamed": _leaving_out("meamed"),
    "phocas": _leaving_out("phocas"),
    "krum": _leaving_out("krum"),
    "nearest_neighbor_average": _leaving_out("nearest_neighbor_average"),
    "self_centered_clip": lambda optkit, _, radius=1.0: optkit.robust_mix(optkit.self_centered_clip(radius)),
}

# Functions of the number of workers that attack; they give functions of the honest workers' values and of a key.
ATTACKS: Table = {
    "sign_flip": lambda optkit, _: lambda honest, _: optkit.attacks.sign_flip(honest),
    "inner_product_manipulation": lambda optkit, _, strength=0.1: (
        lambda honest, _: optkit.attacks.inner_product_manipulation(honest, strength)
    ),
    "a_little_is_enough": lambda optkit, _, deviations=1.5: (
        lambda honest, _: optkit.attacks.a_little_is_enough(honest, deviations)
    ),
    "shifted_mean": lambda optkit, _, shift=0.1: lambda honest, _: optkit.attacks.shifted_mean(honest, shift),
    "mimic": lambda optkit, _, worker=0: lambda honest, _: optkit.attacks.mimic(honest, worker),
    "gaussian_noise": lambda optkit, _, scale=1.0: (
        lambda honest, key: optkit.attacks.gaussian_noise(honest, scale, key)
    ),
    "long_among_kept": lambda optkit, byzantine: lambda honest, _: optkit.attacks.long_among_kept(honest, byzantine),
    "send_nan": lambda optkit, _: lambda honest, _: optkit.attacks.send_nan(honest),
}
# An attack on the attackers' own data.
LABEL_FLIP = "label_flip"


def check(kind: str, text: str, table: Table) -> tuple[str, list[float]]:
    """Reads what a text names.

    Args:
        kind: what it is.
        text: `name`, or `name:number`.
        table: all that there are.

    Returns:
        The name, and the number if there is one.

    Raises:
        UserError: if there is none of this name, or it takes no number, or what follows the colon is none.
    """
    name, colon, number = text.partition(":")
    check_name(kind, name, table)
    if not colon:
        return name, []
    if all(parameter.default is parameter.empty for parameter in inspect.signature(table[name]).parameters.values()):
        raise UserError(f"{kind} {name!r} takes no number, got {text!r}")
    try:
        return name, [int(number) if number.lstrip("+-").isdigit() else float(number)]
    except ValueError as error:
        raise UserError(f"{kind} {text!r}: {error}") from error


def make(kind: str, text: str, table: Table, *given: Any) -> Any:
    """Makes what a text names.

    Args:
        kind: what it is.
        text: `name`, or `name:number`.
        table: all that there are.
        *given: what all of them are called with.

    Returns:
        What stands there.

    Raises:
        UserError: if `check` refuses the text, or what it names refuses the number.
    """
    import optkit  # noqa: PLC0415

    name, number = check(kind, text, table)
    try:
        return table[name](optkit, *given, *number)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{kind} {text!r}: {error}") from error
