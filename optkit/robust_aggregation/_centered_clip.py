"""Centered clipping: a mean of differences from a center, each clipped to a radius.

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
        center: the last aggregate, shaped like the parameters; equal on all workers.
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

    No row moves the aggregate further than `iterations * radius / n`, whatever it holds; one that is not finite does
    not move it, and where none is finite the aggregate is NaN from then on. Let workers send momenta (`robust_sgd`, or
    `optax.ema` before it in each worker's chain): clipping alone does not withstand attacks that hide in the noise. The
    aggregate follows at most `iterations * radius` a step: a radius that is far too small makes it lag.

    Args:
        radius: how far a row may pull, above 0, in units of the rows: the distance between honest rows. The authors'
            script takes 100 for sums of gradients with `b1=0.9`, which is as much as 10 for averages.
        iterations: how often the center is moved, at least 1. None: 1.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator with a `CenteredClipState`; `update` takes the extra argument `active`, booleans that say which
        rows have arrived: the others do not move the center.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.centered_clip(radius=3.0)
        >>> gradients = jnp.array([[1.0, 2.0], [2.0, 1.0], [3e6, 4e6]])
        >>> updates, state = aggregator.update(gradients, aggregator.init(jnp.zeros(2)))
        >>> [round(float(x), 3) for x in updates]
        [1.6, 1.8]

    Reference:
        Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", 2020, arXiv:2012.10333.
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
        stacked="microbatches",
        golden="centered_clipping",
    ),
)
