"""MuLoCo: DiLoCo with Muon on each worker.

Therien, Huang, Rish, Belilovsky, "MuLoCo: Muon is a practical inner optimizer for DiLoCo", 2025, arXiv:2505.23725. Its
authors' code scales convolutions by the first two of their four axes; here, as in `muon`, all axes of a matrix count.
"""

from typing import Any

import jax
import optax

from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.local_training._local_updates import local_updates, local_updates_eval_params
from optkit.local_training._periods import Every
from optkit.method import Method, Paper
from optkit.orthonormalization._muon import muon

__all__ = ["muloco"]


def muloco(
    learning_rate: optax.ScalarOrSchedule,
    every: Every = 30,
    outer_learning_rate: optax.ScalarOrSchedule = 0.9,
    outer_momentum: float | jax.Array = 0.8,
    momentum: float | jax.Array = 0.9,
    weight_decay: float | jax.Array = 1e-4,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    weight_dimension_numbers: Any | None = None,
    mean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MuLoCo: Muon on each worker, and every few steps a step of Nesterov's momentum along their mean.

    The update rule, where i is a worker, y_i its parameters, and x the anchor that all share::

        y_i = y_i + muon(g_i)
        d = mean over i of (x - y_i)                    # every H steps
        m = outer_momentum * m + d
        x = x - outer_lr * (d + outer_momentum * m)
        y_i = x

    Use it in place of `diloco` for models whose hidden layers are matrices; the paper finds that it needs fewer
    synchronizations, and that its outer gradients can be compressed further. Avoid it where Muon is to be avoided:
    see `muon`. Report `local_updates_eval_params`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of Muon.
        every: Number of steps H from one synchronization to the next, an integer, at least 1, or a function, see
            `local_updates`. Default: 30.
        outer_learning_rate: See `diloco`. Default: 0.9.
        outer_momentum: See `diloco`. Default: 0.8.
        momentum: Decay rate of Muon's momentum, in [0, 1). Default: 0.9.
        weight_decay: Strength of the decoupled weight decay, at least 0. Only the matrices decay. Default: 1e-4.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        labels: See `muon`. Default: the leaves with exactly two axes are matrices.
        others: The optimizer of all other parameters; the authors use AdamW with decay rates 0.9 and 0.99. Default:
            that of `muon`, AdamW with `learning_rate`, decay rates 0.9 and 0.95, and no weight decay.
        weight_dimension_numbers: See `muon`. Default: inputs first, as in Flax.
        mean: See `local_updates`. Default: None, the plain mean.

    Returns:
        An optimizer. Its state is that of `muon`, the anchor, the outer momentum and counters. A synchronization sends
        the parameters once, in float32 at least. `update` takes the extra argument `weight`, see `local_updates`.

    Raises:
        ValueError: If a hyperparameter is out of its range; see also `muon`.
        TypeError: If `others` is not a transformation.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.muloco(0.02, every=30, axis_name=None)
        >>> state = tx.init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})

    Reference:
        arXiv:2505.23725
    """
    inner = muon(
        learning_rate,
        momentum,
        weight_decay,
        mask,
        labels=labels,
        others=others,
        nesterov=False,
        ema=False,
        scale="spectral",
        weight_dimension_numbers=weight_dimension_numbers,
    )
    outer = optax.sgd(outer_learning_rate, outer_momentum, nesterov=True)
    return in_float32(local_updates(inner, outer, mean, every, axis_name=axis_name))


METHODS = (
    Method(
        name="muloco",
        factory=muloco,
        kind="optimizer",
        summary="DiLoCo with Muon on each worker.",
        paper=Paper("MuLoCo: Muon is a practical inner optimizer for DiLoCo", "Therien et al.", 2025, "2505.23725"),
        also_known_as=("Muon DiLoCo", "DiLoCo with Muon"),
        parts=(local_updates_eval_params,),
        example={"learning_rate": 5e-3, "every": 4, "axis_name": "workers"},
        grid=1e-2,
        needs=("axis_name",),
        eval_params=local_updates_eval_params,
    ),
)
