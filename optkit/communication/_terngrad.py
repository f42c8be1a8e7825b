"""TernGrad: the mean of gradients whose entries are rounded at random to zero, or to plus or minus one scale.

Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", 2017, arXiv:1705.07878.
"""

import jax
import optax

from optkit.communication._channels import Layout
from optkit.communication._compressed_mean import compressed_mean
from optkit.compressors import ternary
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["terngrad"]


def terngrad(
    clip_factor: jax.typing.ArrayLike = 2.5, *, key: Key, axis_name: AxisName | None, layout: Layout | None = None
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients over workers whose entries are rounded at random to zero, or to plus or minus one scale.

    The update rule, for each entry of a leaf, where i is a worker and r is drawn uniformly from [0, 1)::

        y_i = clip(g_i, -clip_factor * std(g_i), clip_factor * std(g_i))
        s = max over all workers and entries of |y_i|
        u = mean_i s * sign(y_i) * [r * s < |y_i|]

    It is `compressed_mean(compressors.ternary(...))`. Give each worker its own gradients, not averaged.

    Use it in the place of `jax.lax.pmean` when two bits per entry are all that can be sent and there is no memory for
    error feedback. Avoid it with weight decay in the gradients, which would be rounded, too: put
    `optax.add_decayed_weights` after it. The authors left the last layer as it is (`optax.masked`).

    Args:
        clip_factor: Entries are clipped to so many standard deviations of their leaf, at least 0. Default: 2.5. Zero
            clips nothing.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        layout: How messages travel, see `compressed_mean`: 2 bits per entry to each of the other workers with "gather",
            and with "sum" less than 16 bits in all, or 32 with more than 127 workers. Default: None, whichever sends
            less.

    Returns:
        A transformation. Its state is that of `compressed_mean`, without numbers for each parameter.

    Raises:
        ValueError: If `clip_factor` is outside its range, or `layout` is unknown.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.terngrad(key=0, axis_name="workers")
        >>> step = optkit.on_workers(lambda g: tx.update(g, tx.init(g))[0], axis_name="workers", backend="vmap")
        >>> step(jnp.array([[2.0, -2.0], [2.0, 2.0]])).tolist()
        [[2.0, 0.0], [2.0, 0.0]]

    Reference:
        arXiv:1705.07878
    """
    return compressed_mean(ternary(clip_factor, key=key, axis_name=axis_name), axis_name=axis_name, layout=layout)


METHODS = (
    Method(
        name="terngrad",
        factory=terngrad,
        kind="transformation",
        summary="Averages gradients whose entries are rounded to zero or plus or minus one scale, in two bits each.",
        paper=Paper(
            "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning",
            "Wen et al.",
            2017,
            "1705.07878",
        ),
        also_known_as=("TernGrad", "ternary gradients"),
        example={"key": 0, "axis_name": "workers"},
        needs=("axis_name",),
        learning_rate=5e-4,
    ),
)
