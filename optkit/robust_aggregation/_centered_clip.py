"""Centered clipping: averages the rows' differences from a center, each clipped to a radius.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", 2020, arXiv:2012.10333: the center is
the last aggregate, and workers send momenta.
"""

from typing import Any, NamedTuple

import jax
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, check_layout, over_all_rows
from optkit.core.workers.rows import require_reduced
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import count_active
from optkit.robust_aggregation._clip_around import clip_around

__all__ = ["centered_clip"]


class CenteredClipState(NamedTuple):
    """State of `centered_clip`.

    Attributes:
        center: The last aggregate, shaped like the parameters. It is equal on all workers.
    """

    center: Any


def centered_clip(
    radius: jax.typing.ArrayLike,
    iterations: int | None = None,
    *,
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Adds to the last aggregate the mean of the rows' differences from it, each clipped to a radius.

    The rule, for n rows g_i and the last aggregate v, which starts at zero::

        clip(z) = z * min(1, radius / ||z||)
        v = v + (clip(g_1 - v) + ... + clip(g_n - v)) / n        (`iterations` times)

    No row moves the aggregate further than `iterations * radius / n`, whatever it contains. A row that is not finite
    does not move it. If no row is finite, the aggregate is NaN in this and all later steps.

    Use it when the number of attackers is unknown, and let the workers send momenta (`robust_sgd`, or `optax.ema`
    before this rule in each worker's chain): clipping alone does not withstand attacks that hide in the noise of the
    gradients. Avoid it when no scale of the gradients is known, because a radius that is far too small makes the
    aggregate lag: it moves by at most `iterations * radius` per step. It keeps one number per parameter.

    Args:
        radius: The largest length of a difference, above 0, in the unit of the rows. Take about the distance between
            honest rows. The authors' script takes 100 for sums of gradients with `b1=0.9`, which is 10 for averages.
        iterations: How often the center is moved per step, at least 1. Default: 1.
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator with a `CenteredClipState`. Its `update` takes the extra argument `active`: an array of booleans,
        one per row, that says which rows have arrived. The others do not move the center, but still count in n.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.centered_clip(radius=3.0)
        >>> gradients = jnp.array([[1.0, 2.0], [2.0, 1.0], [3e6, 4e6]])
        >>> updates, state = aggregator.update(gradients, aggregator.init(jnp.zeros(2)))
        >>> [round(float(x), 3) for x in updates]
        [1.6, 1.8]

    Reference:
        arXiv:2012.10333
    """
    check_range("radius", radius, 0.0, low_open=True)
    refuse_arrays(iterations=iterations)
    check_count("iterations", iterations)
    check_layout(axis_name, layout)
    moves = 1 if iterations is None else iterations

    def init_fn(params):
        refuse_complex(params, "centered_clip")
        return CenteredClipState(center=optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, *, active=None, total=None, **extra_args):
        del params, extra_args

        def rule(rows, center, *, total):
            if not jax.tree.leaves(rows):
                return rows
            require_reduced(jax.tree.map(lambda x: x[0], rows), center, "centered_clip")
            divisor = count_active(rows, None, 1, "centered_clip")  # absent rows too: they count as the center
            return clip_around(rows, widen(center), radius, moves, divisor, active, total)

        center = over_all_rows("centered_clip", rule, axis_name, layout)(updates, state.center, total=total)
        return center, CenteredClipState(center=optax.tree.cast_like(center, state.center))

    return aggregating.Aggregator(init_fn, update_fn)


HISTORY = Paper("Learning from History for Byzantine Robust Optimization", "Karimireddy, He, Jaggi", 2020, "2012.10333")

METHODS = (
    Method(
        name="centered_clip",
        factory=centered_clip,
        kind="aggregator",
        summary="Adds to the last aggregate the workers' differences from it, each clipped to a radius.",
        paper=HISTORY,
        also_known_as=("centered clipping", "CClip", "CC"),
        example={"radius": 10.0},
        grid=0.1,
        tunable={"radius": (0.1, 100.0, "log")},
        stacked="microbatches",
        golden="centered_clipping",
    ),
)
