"""GaLore: AdamW in a subspace of each matrix's entries, no movement outside it.

Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", 2024, arXiv:2403.03507. Algorithm
2; the rule is that of the authors' code (jiaweizzhao/GaLore): epsilon is added before the bias correction, the decay is
applied after the step, and the moments are kept when the subspace changes. `optax.contrib.galore` uses singular vectors
on the other side of the matrix, the option `"reverse_std"` of the authors' code.
"""

from typing import Any

import jax
import optax

from optkit.core.adam import scale_by_adam
from optkit.core.decay import decayed_after_step
from optkit.core.injection import refuse_arrays
from optkit.core.types import DTypeLike, Key, Mask
from optkit.memory_efficient._frugal import frugal_named
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Paper

__all__ = ["galore_adamw"]


def galore_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    scale: jax.typing.ArrayLike = 0.25,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW in the subspace of each matrix's largest singular vectors; the part outside does not move.

    The update rule, where down(g) are the gradient's coordinates in the subspace of its matrix, up is the way back, and
    t counts the steps from 1::

        c = down(g)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c^2
        d = m / (1 - b1^t) * sqrt(1 - b2^t) / (sqrt(v) + eps)
        x = (x - lr * scale * up(d)) * (1 - lr * wd)

    Every `update_gap` steps a new subspace is chosen from the gradient; m and v are kept as they are. Leaves that are
    not projected follow AdamW without `scale`.

    Use it when Adam's state does not fit into memory and gradients have low rank. Avoid it when gradients have high
    rank or much noise, because the part outside the subspace never reaches the parameters: `frugal_adamw` moves it too.
    The default projector computes a singular value decomposition of every matrix for each new subspace.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6. It is added before the bias
            correction.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        projector: How the subspaces are chosen, from `subspace_projector`. Default: None,
            `subspace_projector("svd", rank=128)`.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200.
        scale: Factor of the updates of projected leaves, at least 0. Default: 0.25.
        leaves: Which leaves are projected: see `frugal`. Default: None, the leaves with dimension numbers; without any
            dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `frugal`. Default: None, the layout of Flax's dense layers.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. For an m x n matrix with m >= n, and r singular vectors, its state is `2 m r + n r` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.galore_adamw(1.0, scale=1.0, projector=optkit.subspace_projector("svd", rank=1))
        >>> params = jnp.array([[3.0, 0.0], [0.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[-1., -0.],
               [-0., -0.]], dtype=float32)

    Reference:
        arXiv:2403.03507
    """
    refuse_arrays(mask=mask, mu_dtype=mu_dtype)
    direction = frugal_named(
        "galore_adamw",
        scale_by_adam(b1, b2, eps, eps_placement="pre", mu_dtype=mu_dtype),
        subspace_projector("svd", rank=128) if projector is None else projector,
        update_gap,
        rest=None,
        rest_scale=1.0,
        scale=scale,
        reset=False,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )
    return decayed_after_step("galore_adamw", learning_rate, direction, weight_decay, mask)


METHODS = (
    Method(
        name="galore_adamw",
        factory=galore_adamw,
        kind="optimizer",
        summary="AdamW in the subspace of each matrix's largest singular vectors; the part outside does not move.",
        paper=Paper(
            "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", "Zhao et al.", 2024, "2403.03507"
        ),
        also_known_as=("GaLore", "GaLoreAdamW", "gradient low-rank projection"),
        example={"learning_rate": 3e-2, "projector": subspace_projector("svd", rank=2), "update_gap": 50},
        grid=1e-2,
        tunable={"scale": (0.05, 2.0, "log")},
    ),
)
