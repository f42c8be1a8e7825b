"""Self-centered clipping: moves a worker's value by its neighbours' differences from it, each clipped to a radius.

He, Karimireddy, Jaggi, "Byzantine-Robust Decentralized Learning via ClippedGossip", 2022, arXiv:2202.01545, in the form
of the code of Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", 2022,
arXiv:2209.10931, which has equal weights and several iterations.
"""

import jax
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.workers.aggregation import over_all_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import count_active
from optkit.robust_aggregation._clip_around import clip_around

__all__ = ["self_centered_clip"]


def self_centered_clip(radius: jax.typing.ArrayLike, iterations: int | None = None) -> aggregating.Aggregator:
    """Adds to a worker's value the mean of the received values' differences from it, each clipped to a radius.

    The rule, for h values x_j that a worker receives, its own value x included::

        clip(z) = z * min(1, radius / ||z||)
        x = x + (clip(x_1 - x) + ... + clip(x_h - x)) / h        (`iterations` times)

    Values that are not finite, or were not received, do not move x. If none is finite, the result is NaN.

    Use it for gossip, as `robust_mix(self_centered_clip(radius))`, which passes the worker's own value. Avoid it when
    no distance between honest workers is known, because a radius that is far too small keeps them apart, and one that
    is too large admits attacks. Avoid it also when there is a server, because the results of workers differ; take
    `centered_clip` there.

    Args:
        radius: The largest length of a difference, above 0, in the unit of the parameters.
        iterations: How often the value is moved, at least 1. Default: 1.

    Returns:
        An aggregator of stacked rows, without state. Its `update` needs the extra argument `own`, a tree shaped like a
        row, and takes `active`, an array of booleans, one per row, that says which rows take part.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `update`, if `own` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.self_centered_clip(radius=3.0)
        >>> heard = jnp.array([[0.0, 0.0], [3e6, 4e6], [0.6, 0.0]])
        >>> aggregator.update(heard, aggregator.init(None), own=heard[0])[0].round(3)
        Array([0.8, 0.8], dtype=float32)

    Reference:
        arXiv:2202.01545
    """
    check_range("radius", radius, 0.0, low_open=True)
    refuse_arrays(iterations=iterations)
    check_count("iterations", iterations)
    moves = 1 if iterations is None else iterations

    def update_fn(updates, state, params=None, *, own=None, active=None, total=None, **extra_args):
        del extra_args
        own = required(own, "own", "self_centered_clip", "own=value")

        def rule(rows, own, *, total):
            if not jax.tree.leaves(rows):
                return rows
            heard = count_active(rows, active, 1, "self_centered_clip")
            return clip_around(rows, widen(own), radius, moves, heard, active, total)

        return over_all_rows("self_centered_clip", rule, None)(updates, own, params=params, total=total), state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


CLIPPED_GOSSIP = Paper(
    "Byzantine-Robust Decentralized Learning via ClippedGossip", "He, Karimireddy, Jaggi", 2022, "2202.01545"
)

METHODS = (
    Method(
        name="self_centered_clip",
        factory=self_centered_clip,
        kind="function",
        summary="Adds to a worker's value its neighbours' clipped differences from it, for gossip with `robust_mix`.",
        paper=CLIPPED_GOSSIP,
        also_known_as=("ClippedGossip", "SSClip", "self-centered clipping"),
    ),
)
