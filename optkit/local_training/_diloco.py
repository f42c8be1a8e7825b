"""DiLoCo: AdamW on each worker, and Nesterov's momentum on what they agree on.

Douillard, Feng, Rusu, Chhaparia, Donchev, Kuncoro, Ranzato, Szlam, Shen, "DiLoCo: Distributed Low-Communication
Training of Language Models", 2023, arXiv:2311.08105. Algorithm 1. Its streaming form is that of Douillard et al.,
"Streaming DiLoCo with overlapping communication: Towards a Distributed Free Lunch", 2025, arXiv:2501.18512, as
MaxText has it, but with a signed counter: with MaxText's unsigned one a fragment is mixed with the first parameters at
the start of a run if the delay is 2 or more.
"""

from typing import Any

import jax
import optax

from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.local_training._local_updates import local_updates, local_updates_eval_params
from optkit.local_training._periods import Every
from optkit.method import Method, Paper

__all__ = ["diloco", "streaming_diloco"]


def diloco(
    learning_rate: optax.ScalarOrSchedule,
    every: Every = 500,
    outer_learning_rate: optax.ScalarOrSchedule = 0.7,
    outer_momentum: float | jax.Array = 0.9,
    weight_decay: float | jax.Array = 0.1,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.95,
    eps: float | jax.Array = 1e-8,
    mean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """DiLoCo: AdamW on each worker, and every few hundred steps a step of Nesterov's momentum along their mean.

    The update rule, where i is a worker, y_i its parameters, and x the anchor that all share::

        y_i = y_i + AdamW(g_i)
        d = mean over i of (x - y_i)                    # every H steps
        m = outer_momentum * m + d
        x = x - outer_lr * (d + outer_momentum * m)
        y_i = x

    Other inner and outer optimizers are `local_updates(inner, outer, ...)`. With one worker, `outer_learning_rate=1`
    and `outer_momentum=alpha` this is accelerated preference optimization (arXiv:2410.06293), where the caller makes
    its reference from the parameters after each outer step.

    Use it to train on machines that are far apart. Avoid it when the network is fast enough for an average in every
    step, which needs fewer steps. Report `local_updates_eval_params`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of AdamW; the paper uses a peak of
            4e-4.
        every: Number of steps H from one synchronization to the next, an integer, at least 1, or a function, see
            `local_updates`. Default: 500.
        outer_learning_rate: The learning rate of the anchor, a positive number or a schedule of the number of
            synchronizations. Default: 0.7.
        outer_momentum: Decay rate of the outer momentum, in [0, 1). Default: 0.9.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.1.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.95.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
        mean: See `local_updates`; for example `optkit.compressed_mean(...)`. Default: None, the plain mean.

    Returns:
        An optimizer. Its state is that of AdamW, the anchor, the outer momentum and counters: four numbers per
        parameter. A synchronization sends the parameters once, in float32 at least. `update` takes the extra argument
        `weight`, see `local_updates`.

    Raises:
        ValueError: If a hyperparameter is out of its range; from `update`, if parameters are missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.diloco(4e-4, every=500, axis_name="workers")
        >>> params = {"kernel": jnp.ones((4, 2, 3))}  # of four workers
        >>> state = optkit.on_workers(tx.init, axis_name="workers", backend="vmap")(params)
        >>> optkit.local_updates_eval_params(state, params)["kernel"].shape
        (4, 2, 3)

    Reference:
        arXiv:2311.08105
    """
    inner = optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)
    outer = optax.sgd(outer_learning_rate, outer_momentum, nesterov=True)
    return in_float32(local_updates(inner, outer, mean, every, axis_name=axis_name))


def streaming_diloco(
    learning_rate: optax.ScalarOrSchedule,
    every: int | jax.Array = 36,
    outer_learning_rate: optax.ScalarOrSchedule = 0.3,
    outer_momentum: float | jax.Array = 0.9,
    weight_decay: float | jax.Array = 0.1,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    fragments: Any | None = None,
    delay: int | None = None,
    alpha: float | jax.Array = 0.0,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.95,
    eps: float | jax.Array = 1e-8,
    mean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Streaming DiLoCo: DiLoCo that synchronizes a part of the parameters at a time, and waits for it.

    The update rule is that of `diloco` for each fragment f in turn, every `every / fragments` steps, and, `delay` steps
    after a fragment was sent::

        y_i[f] = alpha * y_i[f] + (1 - alpha) * x[f]

    It sends as many bytes as `diloco` in all, but only a part of the parameters at a time. Inside one XLA program the
    delay by itself hides no latency: it does so only where the collective runs beside the steps that follow.

    Use it in place of `diloco` when a synchronization of all parameters at once takes too long. Avoid it on a fast
    network.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of AdamW.
        every: Number of steps in which each fragment is synchronized once, a multiple of the number of fragments.
            Default: 36, which is MaxText's.
        outer_learning_rate: See `diloco`. Default: 0.3, which is MaxText's.
        outer_momentum: See `diloco`. Default: 0.9.
        weight_decay: See `diloco`. Default: 0.1.
        mask: See `diloco`. Default: all leaves decay.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        fragments: See `local_updates`. Default: None, which stands for 4.
        delay: See `local_updates`. Default: None, which stands for 0.
        alpha: See `local_updates`. Default: 0.
        b1: See `diloco`. Default: 0.9.
        b2: See `diloco`. Default: 0.95.
        eps: See `diloco`. Default: 1e-8.
        mean: See `local_updates`. Default: None.

    Returns:
        An optimizer with the state of `diloco`, whose outer momentum is cut into fragments.

    Raises:
        ValueError: If a hyperparameter is out of its range, or `every` is no multiple of the number of fragments; from
            `update`, if parameters are missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.streaming_diloco(4e-4, every=6, fragments={"kernel": 0, "bias": 1}, axis_name=None)
        >>> state = tx.init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})

    Reference:
        arXiv:2501.18512
    """
    refuse_arrays(fragments=fragments)
    inner = optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)
    outer = optax.sgd(outer_learning_rate, outer_momentum, nesterov=True)
    fragments = 4 if fragments is None else fragments
    return in_float32(
        local_updates(inner, outer, mean, every, axis_name=axis_name, fragments=fragments, delay=delay, alpha=alpha)
    )


METHODS = (
    Method(
        name="diloco",
        factory=diloco,
        kind="optimizer",
        summary="AdamW on each worker; every few hundred steps a step of Nesterov's momentum along their mean.",
        paper=Paper(
            "DiLoCo: Distributed Low-Communication Training of Language Models", "Douillard et al.", 2023, "2311.08105"
        ),
        also_known_as=(
            "Distributed Low-Communication training",
            "OpenDiLoCo",
            "accelerated preference optimization",
            "APO",
            "pseudo-gradient",
            "outer optimizer",
        ),
        parts=(local_updates_eval_params,),
        example={"learning_rate": 1e-3, "every": 4, "axis_name": "workers"},
        grid=1e-3,
        needs=("axis_name",),
        eval_params=local_updates_eval_params,
    ),
    Method(
        name="streaming_diloco",
        factory=streaming_diloco,
        kind="optimizer",
        summary="DiLoCo that synchronizes a part of the parameters at a time, and may wait for it.",
        paper=Paper(
            "Streaming DiLoCo with overlapping communication: Towards a Distributed Free Lunch",
            "Douillard et al.",
            2025,
            "2501.18512",
        ),
        also_known_as=("DiLoCo with fragments", "overlapped DiLoCo"),
        example={
            "learning_rate": 1e-3,
            "every": 4,
            "outer_learning_rate": 0.7,
            "fragments": 2,
            "delay": 1,
            "axis_name": "workers",
        },
        grid=1e-3,
        needs=("axis_name",),
        eval_params=local_updates_eval_params,
    ),
)
