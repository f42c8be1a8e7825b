"""What the MARS optimizers share: the correction outside, and behind it one preconditioner for each kind of leaf."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from optkit.core.amsgrad import scale_by_amsgrad
from optkit.core.checks import check_range
from optkit.core.precision import in_float32
from optkit.core.trees import mask_tree, unmask_tree
from optkit.variance_reduction.mars import scale_by_mars_momentum


def is_matrix(tree: Any) -> Any:
    """Says of each leaf of a tree whether it has two axes."""
    return jax.tree.map(lambda x: x.ndim == 2, tree)


def adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    *,
    amsgrad: bool,
    mu_dtype: Any | None,
) -> optax.GradientTransformation:
    """Adam's preconditioner, over the largest second moment so far if `amsgrad`."""
    if amsgrad:
        return scale_by_amsgrad(b1, b2, eps, mu_dtype=mu_dtype)
    return optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)


def plain_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    weight_decay: float | jax.Array,
    *,
    learning_rate_ratio: jax.typing.ArrayLike,
    amsgrad: bool,
    mu_dtype: Any | None,
) -> optax.GradientTransformation:
    """AdamW for the leaves that are not corrected, `learning_rate_ratio` times as fast as the others."""
    check_range("weight_decay_1d", weight_decay, 0.0)
    check_range("learning_rate_ratio_1d", learning_rate_ratio, 0.0)
    return optax.chain(
        adam(b1, b2, eps, amsgrad=amsgrad, mu_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay),
        optax.scale(learning_rate_ratio),
        optax.scale_by_learning_rate(learning_rate),
    )


def fits_one_buffer(gamma: Any, max_norm: Any, exact: bool, first_step: str) -> bool:
    """Says whether `scale_by_mars_momentum` gives the momentum of these corrections."""
    return max_norm is None and not exact and first_step == "zero_reference" and not callable(gamma)


def momentum(
    b1: jax.typing.ArrayLike, gamma: Any, *, one_buffer: bool, mu_dtype: Any | None
) -> optax.GradientTransformation:
    """The momentum of corrected gradients; of raw ones, which it corrects itself, with `one_buffer`."""
    if one_buffer:
        return scale_by_mars_momentum(b1, gamma, mu_dtype=mu_dtype)
    return optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)


def label(tree: Any, masks: Mapping[str, Any], mask: Any | None) -> Any:
    """Labels the leaves of a tree.

    Args:
        tree: any tree.
        masks: masks by label, of which a later one goes over an earlier one; the first is None, for all leaves.
        mask: the leaves that the optimizer works on; the others are labelled `"outside"`.

    Returns:
        A tree of labels.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "frozen": jnp.ones(2)}
        >>> label(tree, {"vector": None, "matrix": is_matrix}, {"kernel": True, "bias": True, "frozen": False})
        {'bias': 'vector', 'frozen': 'outside', 'kernel': 'matrix'}
    """
    labels = tree
    for name, part in masks.items():
        labels = unmask_tree(jax.tree.map(lambda _, name=name: name, mask_tree(part, tree)), labels)
    outside = jax.tree.map(lambda _: "outside", tree)
    return unmask_tree(mask_tree(mask(tree) if callable(mask) else mask, labels), outside)


def corrected_chain(
    correction: Callable[..., optax.GradientTransformation],
    corrected: tuple[str, ...],
    transforms: Mapping[str, optax.GradientTransformation],
    masks: Mapping[str, Any],
    mask: Any | None,
) -> optax.GradientTransformationExtraArgs:
    """Corrects some leaves and gives each kind of leaf its own transformation.

    The correction sees the whole tree, since in its exact form it calls functions of all parameters; what stands behind
    it sees its own leaves only.

    Args:
        correction: builds the correction from the argument `mask`.
        corrected: labels of the leaves that it corrects; none leaves it out.
        transforms: what stands behind it, by label.
        masks: see `label`.
        mask: see `label`.

    Returns:
        An optimizer.
    """

    def labels(tree):
        return label(tree, masks, mask)

    def is_corrected(tree):
        return jax.tree.map(corrected.__contains__, labels(tree))

    preconditioner = optax.partition({**transforms, "outside": optax.identity()}, labels)
    return in_float32(optax.chain(correction(mask=is_corrected), preconditioner) if corrected else preconditioner)
