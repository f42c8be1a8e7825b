"""SparseLoCo: DiLoCo whose outer gradients are sparse, with error feedback in the place of the outer momentum.

Sarfi, Therien, Lidin, Belilovsky, "Communication Efficient LLM Pre-training with SparseLoCo", 2025, arXiv:2508.15706.
The rule is that of the authors' code for its predecessor CCLoco, where the outer learning rate enters twice: before the
error, and in the step.
"""

import jax
import optax

from optkit.communication._compressed_mean import compressed_mean
from optkit.communication.feedback import ef14
from optkit.compressors import Compressor, bin_values, top_k_in_chunks
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.local_training._local_updates import local_updates, local_updates_eval_params
from optkit.local_training._periods import Every
from optkit.method import Method, Paper

__all__ = ["sparseloco"]


def sparseloco(
    learning_rate: optax.ScalarOrSchedule,
    every: Every = 15,
    outer_learning_rate: float | jax.Array = 1.0,
    error_decay: float | jax.Array = 0.95,
    weight_decay: float | jax.Array = 0.1,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    compressor: Compressor | None = None,
    outer_momentum: float | jax.Array | None = None,
    error_feedback_alpha: float | jax.Array = 1.0,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.95,
    eps: float | jax.Array = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """SparseLoCo: AdamW on each worker, whose progress is compressed to a few entries of few bits in each round.

    The update rule, where i is a worker, y_i its parameters, x the anchor that all share, and e_i an error that starts
    at zero::

        y_i = y_i + AdamW(g_i)
        e_i = error_decay * e_i + outer_lr * (x - y_i)           # every H steps
        q_i = compress(e_i)
        e_i = e_i - error_feedback_alpha * q_i
        x   = x - outer_lr * (mean of q_i over the workers that sent an entry)
        y_i = x

    Use it to train over the internet: a round sends about 2 bits and a place for each of 1 to 3 percent of the entries.
    Avoid it with few workers and rounds, where `diloco` needs no error. Report `local_updates_eval_params`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of AdamW.
        every: Number of steps H from one synchronization to the next, an integer, at least 1, or a function, see
            `local_updates`. Default: 15.
        outer_learning_rate: The outer learning rate, above 0. Default: 1.
        error_decay: Share of the error that is kept from round to round, in [0, 1]. Default: 0.95.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.1.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        compressor: Compresses what a worker sends. Default: None, `bin_values(top_k_in_chunks(32, 64))`: 32 entries of
            each chunk of 64 by 64, with 2 bits for each value.
        outer_momentum: Decay rate of an outer momentum, in [0, 1). Default: None, no momentum.
        error_feedback_alpha: Share of the message that counts as sent, in [0, 1]. Default: 1.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.95.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.

    Returns:
        An optimizer. Its state is that of AdamW, the anchor, the error and counters: four numbers per parameter.
        `update` takes the extra argument `weight`, see `local_updates`; it counts workers here, so that it must be 0 or
        1.

    Raises:
        ValueError: If a hyperparameter is out of its range; from `update`, if parameters are missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.sparseloco(1e-3, every=15, axis_name=None)
        >>> state = tx.init({"kernel": jnp.ones((64, 64))})

    Reference:
        arXiv:2508.15706
    """
    refuse_arrays(compressor=compressor)
    inner = optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)
    compressor = bin_values(top_k_in_chunks(32, 64)) if compressor is None else compressor
    feedback = ef14(error_decay, error_feedback_alpha)
    mean = optax.chain(
        optax.scale_by_learning_rate(outer_learning_rate, flip_sign=False),
        compressed_mean(compressor, feedback, axis_name=axis_name, count="senders"),
    )
    outer = optax.sgd(outer_learning_rate, outer_momentum)
    return in_float32(local_updates(inner, outer, mean, every, axis_name=axis_name))


METHODS = (
    Method(
        name="sparseloco",
        factory=sparseloco,
        kind="optimizer",
        summary="DiLoCo whose outer gradients are a few entries of few bits, with error feedback as outer momentum.",
        paper=Paper("Communication Efficient LLM Pre-training with SparseLoCo", "Sarfi et al.", 2025, "2508.15706"),
        also_known_as=("CCLoco", "sparse DiLoCo"),
        parts=(local_updates_eval_params,),
        example={
            "learning_rate": 5e-2,
            "every": 4,
            "compressor": top_k_in_chunks(8, 8),
            "axis_name": "workers",
        },
        grid=1e-3,
        needs=("axis_name",),
        eval_params=local_updates_eval_params,
    ),
)
