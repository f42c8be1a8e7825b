"""Adam-SNSM: Adam with momentum in a subspace and one second moment for each subset of a matrix's entries.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.decay import decayed_after_step
from optkit.core.types import Key, Mask
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN, scale_by_subset_norm_named
from optkit.memory_efficient._subset_sums import SubsetSize
from optkit.memory_efficient._subspace_momentum import subspace_momentum_named
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Variant

__all__ = ["adam_snsm"]


def adam_snsm(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    subset_size: SubsetSize = "heuristics",
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    bias_correction: bool = True,
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with momentum in a subspace and one second moment for each row or column: a fifth of its state and less.

    The bias correction of the first moment enlarges the whole numerator, in the first steps also the part that has no
    momentum: warm up. Do not take it where Adam's state fits into memory.

    Args:
        learning_rate: a positive number or a schedule, about 10 times Adam's.
        b1: decay of the momentum, in [0, 1); default 0.9.
        b2: decay of the second moments, in [0, 1); default 0.999.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces, as in `subspace_momentum`; default `subspace_projector("svd", rank=128)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200. With new ones the momentum begins
            anew; what the published code does in place of that is an option of `subspace_momentum`.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        leaves: those with a subspace and subsets, as in `subspace_momentum`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `subspace_momentum`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.
        bias_correction: corrects the zero start of both moments. On by default.

    Returns:
        An optimizer; for an m x n matrix and r singular vectors its state is `r (m + n) + max(m, n)` numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adam_snsm(10.0, projector=optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[  -6.,   -0.],
               [  -8., -100.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    momentum = subspace_momentum_named(
        "adam_snsm",
        b1,
        projector,
        update_gap,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        debias=bias_correction,
        reset="before",
        key=key,
    )
    direction = scale_by_subset_norm_named(
        "adam_snsm",
        b2,
        eps,
        subset_size,
        subset_leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=momentum,
        bias_correction=bias_correction,
    )
    return decayed_after_step("adam_snsm", learning_rate, direction, weight_decay, mask)


METHODS = (
    Method(
        name="adam_snsm",
        factory=adam_snsm,
        kind="optimizer",
        summary="Adam with momentum in a subspace and one second moment for each row or column of a matrix.",
        paper=LEAN_AND_MEAN,
        also_known_as=("Adam-SNSM", "AdamSNSM", "AdamW-SNSM", "SNSM", "subset-norm and subspace-momentum"),
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", rank=2)},
        grid=3e-2,
        variants={"uniform": Variant({"projector": subspace_projector("uniform", rank=2), "key": 0}, grid=3e-2)},
    ),
)
