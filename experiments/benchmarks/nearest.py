"""Which methods are measured, and what of Optax is nearest to each."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import optax

import optkit
from optkit.catalog import METHODS, with_variants
from optkit.comparison.entries import look_up
from optkit.method import Method

LEARNING_RATE = 1e-3
# Variants that are only measured: `compare` has no use for them.
CAUTIOUS_ADAMW = "cautious:adamw"
MARS_UNCLIPPED = "mars_adamw:unclipped"
LION_KAPPA_L1 = "lion_kappa:l1"  # Lion itself


class Nearest(NamedTuple):
    """An optimizer of Optax.

    Attributes:
        name: what it is called in tables.
        factory: builds it from a learning rate.
    """

    name: str
    factory: Callable[[float], optax.GradientTransformation]


SGD = Nearest("sgd", optax.sgd)
MOMENTUM = Nearest("sgd(momentum)", functools.partial(optax.sgd, momentum=0.9))
ADAM = Nearest("adam", optax.adam)
ADAMW = Nearest("adamw", optax.adamw)
LION = Nearest("lion", optax.lion)
SIGNUM = Nearest("signum", optax.signum)
LARS = Nearest("lars", optax.lars)
LAMB = Nearest("lamb", optax.lamb)
MUON = Nearest("muon", optax.contrib.muon)
ADAGRAD = Nearest("adagrad", optax.adagrad)
RMSPROP = Nearest("rmsprop", optax.rmsprop)
# With the rank and the gap of the catalog's example.
GALORE = Nearest("galore", functools.partial(optax.contrib.galore, rank=2, update_proj_gap=50))
CLIPPED_SGD = Nearest(
    "clip, sgd(momentum)", lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate, momentum=0.9))
)

# Methods that are not named here are measured beside what has as much state: `by_state`.
NEAREST: Mapping[str, Nearest] = {
    "adagrad_sn": ADAGRAD,
    "adagrad_snsm": ADAGRAD,
    "adam_sn": ADAMW,
    "adam_snsm": ADAMW,
    "add_cautious_decayed_weights": ADAMW,
    CAUTIOUS_ADAMW: ADAMW,
    "cautious_lion": LION,
    "clipped_sgd": CLIPPED_SGD,
    "dion": MUON,
    "dion2": MUON,
    "frugal_adamw": ADAMW,
    "frugal_lion": LION,
    "galore_adamw": GALORE,
    "igt_adam": ADAM,
    "lion_kappa": LION,
    "mars_adamw": ADAMW,
    "mars_lion": LION,
    "mars_m": MUON,
    "mars_shampoo": MUON,
    "micro_adam": ADAMW,
    "muon": MUON,
    "nordion2": MUON,
    "normuon": MUON,
    "rmsprop_sn": RMSPROP,
    "sgd_sm": MOMENTUM,
    "signum": SIGNUM,
    "vr_adam": ADAM,
    "vr_lamb": LAMB,
    "vr_lars": LARS,
}

# How many arrays as large as the parameters a rule must read once more, since it needs a norm, a mean or a count of all
# entries before it can write the first: of the gradient and the last one, or of the gradient and the update.
READ_AGAIN: Mapping[str, int] = {
    "cautious": 2,
    "cautious_adamw": 2,
    "cautious_lion": 2,
    "clipped_sgd": 1,
    "mars_adamw": 2,
    "mars_lion": 2,
    "mars_m": 2,
    "mars_shampoo": 2,
    MARS_UNCLIPPED: 0,
}

# What a step does that takes far longer than the bytes that it must move.
_PRODUCTS = "a product of a matrix and its subspace takes 2 to 8 times as long as a copy of the matrix"
_LINES = "gathers the chosen lines of each matrix, and adds them in a transposed layout"
_ROWS_TWICE = "reads the rows for the mean, then for the spread around it: twice, lest small variances be lost"
_NOISE = f"{_ROWS_TWICE}; the ratio waits for its mean over the leaf"
_MOMENTA_TWICE = "moves 200 bytes a parameter: three loops subtract momenta from rows, and read a copy of the momenta"
WHY: Mapping[str, str] = {
    "adagrad_snsm": _LINES,
    "adam_snsm": _PRODUCTS,
    "adaptive_batch_size": _ROWS_TWICE,
    "agvm": _ROWS_TWICE,
    "class_normalized": "reads the rows for their norms before it reads them for the sum",
    "clip_by_quantile": "counts all entries 31 times, once a bit: exact, without a sort, and without gathering shards",
    "discover": _MOMENTA_TWICE,
    "discover_igt": _MOMENTA_TWICE,
    "frugal_adamw": "three products of each matrix with its subspace, of half its width: 790 operations a parameter",
    "frugal_adamw:columns": _LINES,
    "frugal_lion": "scatters chosen entries into whole matrices, which XLA for CPUs does one number at a time",
    "galore_adamw": _PRODUCTS,
    "geometric_median": "each iteration reads all rows; inner products of rows would lose half of the digits",
    "gradient_noise_scale": _ROWS_TWICE,
    "micro_adam": "finds the largest entries of each block by top_k, and scatters its window into whole arrays",
    "online_to_nonconvex": "moves 80 bytes a parameter: XLA copies old arrays before it overwrites them",
    "proximal_median": "8 passes of one step a row, each of which needs a norm before it can move",
    "sgd_sm": _PRODUCTS,
    "sparse_ggt": "finds the largest entries of the whole tree by one top_k",
    "sparse_m_fac": "finds the largest entries of the whole tree by one top_k",
    "storm_coordinatewise": "moves 120 bytes a parameter: XLA copies old arrays before it overwrites them; cube roots",
    "vr_adam": _NOISE,
    "vr_lamb": _NOISE,
    "vr_lars": _NOISE,
    "vr_momentum": _NOISE,
    "vr_sgd": _NOISE,
}


def by_state(arrays: float) -> Nearest:
    """Returns the optimizer of Optax that keeps about as many numbers a parameter: none, one, or two and more."""
    return (SGD, MOMENTUM, ADAMW)[min(round(arrays), 2)]


def nearest(method: Method, arrays: float) -> Nearest:
    """Returns the optimizer of Optax that is nearest to a method.

    Args:
        method: the method, or a variant of it.
        arrays: how many numbers a parameter it keeps.

    Returns:
        The one named in `NEAREST` or, for other methods, that of `by_state`.
    """
    return NEAREST.get(_key(method, NEAREST), by_state(arrays))


def arrays_read_again(method: Method) -> int:
    """Returns how many arrays as large as the parameters a method must read twice, as far as `READ_AGAIN` says."""
    return READ_AGAIN.get(_key(method, READ_AGAIN), 0)


def _key(method, table):
    """A variant's own name if the table has it, otherwise the method's."""
    return method.name if method.name in table else method.name.split(":")[0]


def measurable() -> dict[str, Method]:
    """Returns all methods whose update one worker can take, variants included, by name."""
    cautious, mars = METHODS["cautious"], METHODS["mars_adamw"]
    entries = {
        **with_variants(),
        CAUTIOUS_ADAMW: dataclasses.replace(
            cautious,
            name=CAUTIOUS_ADAMW,
            kind="optimizer",
            factory=_cautious_adamw,
            example={"learning_rate": 1e-3},
            variants={},
        ),
        MARS_UNCLIPPED: dataclasses.replace(
            mars,
            name=MARS_UNCLIPPED,
            example={**mars.example, "correction": optkit.MarsCorrection(max_norm=None)},
            variants={},
        ),
    }
    kinds = ("transformation", "wrapper", "optimizer", "aggregator")
    return {name: entry for name, entry in entries.items() if entry.kind in kinds and "axis_name" not in entry.needs}


def find(names: tuple[str, ...] | None) -> list[Method]:
    """Looks methods up.

    Args:
        names: names as on the command line; None for all methods, without the catalog's variants.

    Returns:
        Their entries.

    Raises:
        ComparisonError: if there is none of a name.
    """
    methods = measurable()
    if names is None:
        names = tuple(name for name in methods if name in (*METHODS, CAUTIOUS_ADAMW, MARS_UNCLIPPED, LION_KAPPA_L1))
    return look_up(dict.fromkeys(names), methods)


def _cautious_adamw(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optkit.cautious(optax.adamw(learning_rate))
