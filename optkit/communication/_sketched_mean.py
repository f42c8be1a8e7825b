"""The mean of gradients by linear sketches, which the network can add up.

Song, Wang, Yu, Zhang, "Sketching for First Order Method: Efficient Algorithm for Low-Bandwidth Channel and
Vulnerability", 2022, arXiv:2210.08371.
"""

from typing import Literal

import optax

from optkit.communication._compressed_mean import compressed_mean
from optkit.compressors import count_sketch, gaussian_sketch, srht_sketch
from optkit.compressors._sketches import SKETCHING
from optkit.core.checks import check_option
from optkit.core.types import AxisName, Key
from optkit.method import Method

__all__ = ["sketched_mean"]

Sketch = Literal["count", "srht", "gaussian"]
_SKETCHES = {"count": count_sketch, "srht": srht_sketch, "gaussian": gaussian_sketch}


def sketched_mean(
    size: int, sketch: Sketch = "count", *, key: Key, axis_name: AxisName | None
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients over workers by a few random sums of their entries, which the network can add up.

    The update rule, where i is a worker and R, with `size` rows and `E R'R = I`, is drawn anew in each step, alike on
    all workers::

        u = R' mean_i R g_i

    It is `compressed_mean` with one of the sketches of `optkit.compressors`. Give each worker its own gradients, not
    averaged.

    Use it in the place of `jax.lax.pmean` with many workers and a very slow network: a step sends less than twice
    `size` numbers, however many workers there are, and nothing has to be remembered. Avoid it otherwise: the mean is
    unbiased, but its variance is `omega` times the squared gradient, about d / size for d entries, so that learning
    rates must be smaller by the factor `1 + omega`.

    Args:
        size: Number of sums, at least 1.
        sketch: Which sketch: "count" takes one addition per entry, "srht" spreads its error more evenly, "gaussian" is
            the one that theory likes best and the slowest. Default: "count".
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. None means that there is only one worker.

    Returns:
        A transformation. Its state is that of `compressed_mean`, without numbers for each parameter.

    Raises:
        ValueError: If `size` is not a positive integer, or `sketch` is unknown.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.sketched_mean(8, "srht", key=0, axis_name="workers")
        >>> step = optkit.on_workers(lambda g: tx.update(g, tx.init(g))[0], axis_name="workers", backend="vmap")
        >>> step(jnp.array([[2.0, -2.0], [2.0, 4.0]])).round(5).tolist()  # no fewer sums than entries: the mean itself
        [[2.0, 1.0], [2.0, 1.0]]

    Reference:
        arXiv:2210.08371
    """
    check_option("sketch", sketch, Sketch)
    return compressed_mean(_SKETCHES[sketch](size, key=key), axis_name=axis_name, layout="sum")


METHODS = (
    Method(
        name="sketched_mean",
        factory=sketched_mean,
        kind="transformation",
        summary="Averages gradients by a few random sums of their entries, which the network can add up.",
        paper=SKETCHING,
        also_known_as=("sketching", "FetchSGD without feedback", "count sketch", "SRHT"),
        example={"size": 64, "key": 0, "axis_name": "workers"},
        needs=("axis_name",),
        golden="sketch",
        learning_rate=2e-4,
    ),
)
