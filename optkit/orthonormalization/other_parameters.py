"""A method for matrices beside AdamW or Lion for all other parameters."""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.matrix_view import matrix_views
from optkit.core.precision import in_float32


def with_other_parameters(
    name: str,
    matrices: optax.GradientTransformation,
    *,
    labels: Any,
    weight_dimension_numbers: Any,
    mask: Any,
    adamw_learning_rate: optax.ScalarOrSchedule,
    adamw_b1: jax.typing.ArrayLike,
    adamw_b2: jax.typing.ArrayLike,
    adamw_eps: jax.typing.ArrayLike,
    adamw_weight_decay: float | jax.Array,
    lion_learning_rate: optax.ScalarOrSchedule,
    lion_b1: jax.typing.ArrayLike,
    lion_b2: jax.typing.ArrayLike,
    lion_weight_decay: float | jax.Array,
    mu_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    """Gives each leaf its optimizer, all in float32 at least.

    Args:
        name: the label of leaves that `matrices` takes.
        matrices: a whole optimizer.
        labels: tree of words, a prefix of the parameters, or a function that makes it from them: `name`, "adamw" or
            "lion". With None, leaves that are matrices by `weight_dimension_numbers` have `name`, all others "adamw".
        weight_dimension_numbers: see `optkit.core.matrix_view.matrix_views`.
        mask: of the leaves that decay.
        adamw_learning_rate: AdamW's.
        adamw_b1: decay of AdamW's first moment.
        adamw_b2: decay of AdamW's second moment.
        adamw_eps: AdamW's.
        adamw_weight_decay: strength of AdamW's decoupled decay.
        lion_learning_rate: Lion's.
        lion_b1: weight of Lion's momentum in its direction.
        lion_b2: decay of Lion's momentum.
        lion_weight_decay: strength of Lion's decoupled decay.
        mu_dtype: dtype of the momenta.

    Returns:
        An optimizer.

    Raises:
        ValueError: if a decay is negative.

    Reference:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675, for Lion.
    """
    check_range("adamw_weight_decay", adamw_weight_decay, 0.0)
    check_range("lion_weight_decay", lion_weight_decay, 0.0)
    transforms = {
        name: matrices,
        "adamw": optax.chain(
            optax.scale_by_adam(adamw_b1, adamw_b2, adamw_eps, mu_dtype=mu_dtype),
            optax.add_decayed_weights(adamw_weight_decay, mask),
            optax.scale_by_learning_rate(adamw_learning_rate),
        ),
        "lion": optax.chain(
            optax.scale_by_lion(lion_b1, lion_b2, mu_dtype),
            optax.add_decayed_weights(lion_weight_decay, mask),
            optax.scale_by_learning_rate(lion_learning_rate),
        ),
    }

    def by_shape(params):
        views = matrix_views(params, weight_dimension_numbers)
        return jax.tree.map(lambda _, view: "adamw" if view is None else name, params, views)

    return in_float32(optax.partition({**transforms}, by_shape if labels is None else labels))
