"""Claims about orthonormalized updates, and what those about language models share."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optkit.catalog import METHODS
from optkit.comparison.baselines import BASELINES


def beside_adamw(
    method: str,
    scale: optax.GradientTransformation,
    learning_rate: float | jax.Array,
    hidden_matrices: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Gives hidden matrices to a method for matrices, and embeddings, the last layer, biases and scales to AdamW.

    One learning rate serves both: AdamW's is as many times the method's as the centre of its grid is that of the
    method's.

    Args:
        method: the method's name in the catalog.
        scale: what makes its updates, up to the learning rate.
        learning_rate: of the hidden matrices.
        hidden_matrices: as a task has it.

    Returns:
        The optimizer.
    """

    def labels(params):
        return jax.tree.map(
            lambda _, numbers: "others" if numbers is None else "matrices", params, hidden_matrices(params)
        )

    adamw = BASELINES["adamw"]
    others = adamw.factory(learning_rate * (adamw.grid / METHODS[method].grid), weight_decay=0.0)
    matrices = optax.chain(scale, optax.scale_by_learning_rate(learning_rate))
    return optax.partition({"matrices": matrices, "others": others}, labels)
