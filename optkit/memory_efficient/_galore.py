"""GaLore: AdamW in a subspace of each matrix's entries, nothing in the rest.

Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", 2024, arXiv:2403.03507.
Algorithm 2; the rule is that of the authors' code (jiaweizzhao/GaLore): epsilon is added before the bias is corrected,
decay comes after the step, and the moments stay as they are when the subspace changes. `optax.contrib.galore` has the
subspaces of the other side, the code's `"reverse_std"`.
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
    """AdamW in the subspace of each matrix's largest singular vectors; what is outside of it does not move.

    Do not take it where gradients have high rank or noise: `frugal_adamw` moves what this leaves in place.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment before its bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces; default `subspace_projector("svd", rank=128)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        scale: factor on the updates of projected leaves, at least 0; default 0.25.
        leaves: those that are projected, as in `frugal`. By default those with dimension numbers, and without any
            numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `frugal`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.

    Returns:
        An optimizer; for an m x n matrix, m at least n, and r singular vectors its state is `2 m r + n r` numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

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
        Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", 2024, arXiv:2403.03507.
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
        summary="AdamW in the subspace of each matrix's largest singular vectors, nothing in the rest.",
        paper=Paper(
            "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", "Zhao et al.", 2024, "2403.03507"
        ),
        also_known_as=("GaLore", "GaLoreAdamW", "gradient low-rank projection"),
        example={"learning_rate": 3e-2, "projector": subspace_projector("svd", rank=2), "update_gap": 50},
        grid=1e-2,
    ),
)
